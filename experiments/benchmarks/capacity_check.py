"""What capacity.py says of four verbs on this machine, and what they take.

    python -m experiments.benchmarks.capacity_check --data ../shared/data/davis-480p

Each verb is a process of its own, from its start to its end. Without --data it works on generated clips.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path

import cv2
import yaml

from experiments.benchmarks.capacity import verbs
from experiments.benchmarks.capacity_demand import Row
from experiments.benchmarks.capacity_inputs import DataSet, Footage, Plan, load_plan
from rtnet.data.clip import write_clip
from rtnet.data.layouts import Sequence, read_layout

_SOURCE = "davis16"
_RECIPE = {
    "name": "check",
    "model": {"backbone": "resnet34"},
    "training": {
        "phases": [{"last_epoch": 1, "rate": 1e-3}],
        "batch_size": 1,
        "heights": [192],
        "steps_per_epoch": 40,
    },
    "validation": {"height": 192},
    "scaling": {"num_workers": 2, "cpus_per_worker": 0.5, "threads_per_worker": 1},
    "prediction": {"height": 256, "actors": 2},
    "evaluation": {"saliency": True},
}
# The rows of capacity.py that a verb's time is made of.
_ROWS = {"prepare": ("prepare",), "train": ("train", "validate"), "predict": ("predict",), "evaluate": ("evaluate",)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder in DAVIS 2016's layout; default: generated clips")
    data = parser.parse_args(arguments).data
    with tempfile.TemporaryDirectory(prefix="capacity-check-") as scratch:
        if data is None:
            data = Path(scratch, "clip")
            write_clip(data, {"train": ["a", "b", "c"], "val": ["d", "e"]}, frames=20, height=480, width=854)
        recipe = _write_recipe(Path(scratch), data.resolve())
        rows = verbs(_plan(recipe, read_layout("davis16", data, _SOURCE)))
        print("| verb | said s | of it before and after the work | took s | took / said |\n|---|---|---|---|---|")
        for verb, names in _ROWS.items():
            _show(verb, [row for row in rows if row.name.startswith(names)], _run(verb, recipe))


def _show(verb: str, rows: Items[Row], took: float) -> None:
    said, start = sum(row.seconds for row in rows), sum(row.start_s for row in rows)
    print(f"| {verb} | {said:.1f} | {start:.1f} | {took:.1f} | {took / said:.2f} |", flush=True)


def _write_recipe(folder: Path, data: Path) -> Path:
    here = {
        "storage": str(folder / "runs"),
        "data": {"sources": {_SOURCE: {"layout": "davis16", "path": str(data)}}, "dataset": str(folder / "dataset")},
    }
    recipe = folder / "check.yaml"
    recipe.write_text(yaml.safe_dump(_RECIPE | here))
    return recipe


def _plan(recipe: Path, sequences: list[Sequence]) -> Plan:
    """For this machine and these sequences."""
    plan = load_plan(str(recipe), "davis16", "laptop", [f"cluster.cores={len(os.sched_getaffinity(0))}"])
    splits = dict.fromkeys(sequence.split for sequence in sequences)
    return replace(plan, dataset=DataSet(parts=[_footage(split, sequences) for split in splits]))


def _footage(split: str, sequences: list[Sequence]) -> Footage:
    those = [sequence for sequence in sequences if sequence.split == split]
    frames = [frame for sequence in those for frame in sequence.frames]
    picture = cv2.imread(str(frames[0].image))
    assert picture is not None
    return Footage(
        source=_SOURCE,
        split=split,
        videos=len(those),
        frames=len(frames),
        annotated=sum(frame.annotation is not None for frame in frames),
        height=picture.shape[0],
        width=picture.shape[1],
    )


def _run(verb: str, recipe: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", verb, str(recipe)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{verb} ended with status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
