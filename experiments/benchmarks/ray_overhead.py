"""The whole Ray Train loop against the same steps under bare torchrun with the data already in memory.

    python -m experiments.benchmarks.ray_overhead --data ../shared/data/davis-256

`rtnet train` with four CPU workers that read parquet through Ray Data; the rival takes the same steps on the same
pairs with its batches resized and normalised in memory (ray_overhead_rival.py). Compared are pairs per second of one
epoch's steps, from step WARM_UP to the last: start-up, validation and checkpoints are shown beside. The training is
one of many epochs, so that reading ahead goes on through the whole of the one that is timed; after it, it is stopped.
The losses of both are compared as proof of the same work. Rounds take turns; the last line is the ratio of the medians.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import load_experiment
from pipelines.run_folder import RunFolder
from rtnet.data.clip import write_clip

WORKERS = 4
WARM_UP = 15  # steps: in the first of them the reading tasks fill what may lie ahead


@dataclass(frozen=True)
class Round:
    stamps: list[int]  # milliseconds since 1970 at the end of each step
    losses: list[list[float]]  # of each step, means over all workers
    start_up: float  # seconds from the command to the end of the first step
    validation: float = 0.0  # seconds, of the epoch's end
    checkpoint: float = 0.0

    @property
    def steps_per_second(self) -> float:
        return (len(self.stamps) - 1 - WARM_UP) / (self.stamps[-1] - self.stamps[WARM_UP]) * 1000


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        recipe = _write_recipe(options, Path(scratch))
        _run_verb("prepare", recipe)
        rounds: dict[str, list[Round]] = {"rtnet train": [], "torchrun": []}
        for number in range(options.rounds):
            rounds["rtnet train"].append(_train(recipe, Path(scratch) / f"train-{number}"))
            rounds["torchrun"].append(_train_barely(recipe, Path(scratch) / f"torchrun-{number}.json"))
    _report(rounds, options)


def _train(recipe: Path, storage: Path) -> Round:
    """`rtnet train` until its first epoch is whole, then SIGINT."""
    started = time.time()
    driver = _start_verb("train", recipe, f"storage={storage}")
    folder = RunFolder.of(load_experiment(recipe, [f"storage={storage}"]))
    try:
        while 1 not in folder.epochs():
            if driver.poll() is not None:
                raise SystemExit(f"`rtnet train` ended with status {driver.returncode}")
            time.sleep(1)
        whole = time.time()
    finally:
        driver.send_signal(signal.SIGINT)
        driver.wait()
    kept = folder.measured(1)
    stamps = [stamp for _, stamp, _ in kept["steps"]]
    validation = (kept["time"] - stamps[-1]) / 1000
    return Round(
        stamps, [losses for *_, losses in kept["steps"]], stamps[0] / 1000 - started, validation,
        whole - kept["time"] / 1000,
    )  # fmt: skip


def _train_barely(recipe: Path, output: Path) -> Round:
    started = time.time()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORKERS)]
    rival = ["--module", "experiments.benchmarks.ray_overhead_rival", str(recipe), str(output)]
    subprocess.run([*torchrun, *rival], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    kept = json.loads(output.read_text())
    return Round(kept["stamps"], kept["losses"], kept["stamps"][0] / 1000 - started)


def _report(rounds: dict[str, list[Round]], options: argparse.Namespace) -> None:
    print(f"{WORKERS} workers, {options.backbone}, {options.height} rows, {options.steps} steps of {WORKERS} pairs\n")
    print("| loop | pairs/s | each round | s a step | start-up s | validation s | checkpoint s |\n" + 7 * "|---" + "|")
    speeds = {}
    for name, each in rounds.items():
        found = [WORKERS * r.steps_per_second for r in each]
        speeds[name] = statistics.median(found)
        beside = [statistics.median(getattr(r, f) for r in each) for f in ("start_up", "validation", "checkpoint")]
        cells = [name, f"{speeds[name]:.3f}", ", ".join(f"{f:.3f}" for f in found), f"{WORKERS / speeds[name]:.2f}"]
        print(f"| {' | '.join(cells + [f'{seconds:.1f}' for seconds in beside])} |")
    ours, bare = (each[0].losses for each in rounds.values())
    apart = max(abs(a - b) / abs(b) for x, y in zip(ours, bare, strict=True) for a, b in zip(x, y, strict=True))
    print(f"\nlosses of both, first step {ours[0]} and {bare[0]}")
    print(f"last step {ours[-1]} and {bare[-1]}; largest relative difference of all steps {apart:.1e}")
    print(f"ratio: {speeds['rtnet train'] / speeds['torchrun']:.2f}")


def _write_recipe(options: argparse.Namespace, scratch: Path) -> Path:
    data = options.data
    if data is None:
        data = scratch / "clips"
        write_clip(data, {"train": ["a", "b", "c", "d"], "val": ["e"]}, frames=30, height=256, width=448)
    names = options.sequences.split(",") if options.sequences else None
    values: dict[str, Any] = {
        "name": "overhead",
        "data": {
            "sources": {"davis16": {"layout": "davis16", "path": str(data.resolve()), "sequences": names}},
            "dataset": str(scratch / "dataset"),
        },
        "flow": {"preset": "ultrafast"},
        "model": {"backbone": options.backbone},
        "training": {
            "phases": [{"last_epoch": 100, "rate": 1e-3}],
            "heights": [options.height],
            "steps_per_epoch": options.steps,
        },
        "validation": {"height": options.height},
        "scaling": {"num_workers": WORKERS, "cpus_per_worker": 0.25, "threads_per_worker": 1},
    }
    path = scratch / "overhead.yaml"
    path.write_text(json.dumps(values))
    return path


def _start_verb(verb: str, recipe: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipelines.cli", verb, str(recipe), *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def _run_verb(verb: str, recipe: Path, *overrides: str) -> None:
    if status := _start_verb(verb, recipe, *overrides).wait():
        raise SystemExit(f"`rtnet {verb}` ended with status {status}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder in DAVIS 2016's layout; default: generated clips")
    parser.add_argument("--sequences", help="of it; a comma-separated list")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--height", type=int, default=128, help="rows of the network's input")
    parser.add_argument("--steps", type=int, default=75)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
