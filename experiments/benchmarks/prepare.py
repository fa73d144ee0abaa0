"""How fast `rtnet prepare` is, what memory it takes, and how it scales with cores and with data.

    python -m experiments.benchmarks.prepare --data ../shared/data/davis-256

Runs the command as a user does, in processes of its own: on one core, on two, and on two with the data several times
over. Views are made of every frame, with DIS. Memory is each process's own (USS), looked at every two seconds: a look
costs processor time, which a run on both cores has to share. Shared memory is Ray's object store. The last
line is the rate on two cores over that on one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

_MIB = 2**20
_LOOK_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class Outcome:
    frames: int
    views: int
    seconds: float
    peaks: dict[str, float]  # the most that one process of each kind took, MiB
    total: float  # the most that all took together, MiB
    shared: float  # the most shared memory in use, MiB


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder in DAVIS 2016's layout")
    parser.add_argument("--sequences", help="a comma-separated list; default: all")
    parser.add_argument(
        "--times", type=int, default=4, help="how many times the data for the last run; 1 leaves it out"
    )
    parser.add_argument("--preset", default="medium", help="of DIS")
    options = parser.parse_args(arguments)
    names = options.sequences.split(",") if options.sequences else None
    one = _run("one core", options.data, names, options.preset, cores=1)
    two = _run("two cores", options.data, names, options.preset, cores=2)
    if options.times > 1:
        many = _run(
            f"{options.times} times the data", options.data, names, options.preset, cores=2, times=options.times
        )
        print(
            f"peak of all processes with {options.times} times the data: {many.total / two.total:.2f} of that with once"
        )
    print(f"ratio: {(two.views / two.seconds) / (one.views / one.seconds):.2f}")


def _run(title: str, data: Path, names: list[str] | None, preset: str, cores: int, times: int = 1) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.yaml"
        source = {"layout": "davis16", "path": str(data.resolve()), "sequences": names}
        recipe.write_text(
            json.dumps(
                {
                    "name": "benchmark",
                    "data": {"sources": {f"copy{n}": source for n in range(times)}, "dataset": f"{scratch}/dataset"},
                    "flow": {"preset": preset},
                    "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
                }
            )
        )
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "prepare", str(recipe)],
            preexec_fn=lambda: os.sched_setaffinity(0, range(cores)),
            stdout=subprocess.DEVNULL,
        )
        peaks, total, shared = _watch(process)
        seconds = time.monotonic() - started
        if process.returncode:
            raise SystemExit(f"{title}: `rtnet prepare` ended with status {process.returncode}")
        import pyarrow.parquet as pq

        index = pq.read_table(f"{scratch}/dataset/index.parquet", columns=["view"])
        views = index.num_rows
        frames = sum(view == "as_is" for view in index["view"].to_pylist())
    outcome = Outcome(frames, views, seconds, peaks, total, shared)
    print(
        f"{title}: {frames} frames, {views} views in {seconds / 60:.2f} min: {views / seconds:.1f} views/s; "
        f"peak memory {total:.0f} MiB of all, {shared:.0f} MiB shared"
    )
    for kind, peak in sorted(peaks.items(), key=lambda item: -item[1]):
        print(f"    {kind}: {peak:.0f} MiB")
    sys.stdout.flush()
    return outcome


def _watch(process: subprocess.Popen[bytes]) -> tuple[dict[str, float], float, float]:
    peaks: dict[str, float] = defaultdict(float)
    total = shared = 0.0
    before = _shared()
    while process.poll() is None:
        now = 0.0
        for each in _tree(process.pid):
            try:
                own, kind = each.memory_full_info().uss / _MIB, _kind(each)
            except psutil.Error:
                continue
            peaks[kind] = max(peaks[kind], own)
            now += own
        total, shared = max(total, now), max(shared, _shared() - before)
        time.sleep(_LOOK_EVERY)
    return dict(peaks), total, shared


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    text = " ".join(words)
    if "pipelines.cli" in text:
        return "driver"
    for name in ("raylet", "gcs_server", "dashboard", "log_monitor", "ray::IDLE", "ray::Map", "runtime_env", "monitor"):
        if name in text:
            return "worker" if name.startswith("ray::") else name
    return "worker" if words and words[0].startswith("ray::") else "other"


def _shared() -> float:
    return float(psutil.virtual_memory().shared) / _MIB


if __name__ == "__main__":
    main()
