"""A training that is killed again and again against one that is left alone: the same weights, and nothing left behind.

    python -m experiments.benchmarks.faults --kills 24 --seed 0

Both train a small network on generated clips with four workers. Of the second, by a seeded choice, in every part of
its run: a worker of Ray Train, the driver, the raylet or the GCS is killed by SIGKILL, or the driver gets SIGTERM or
SIGINT; where the command has ended it is given again, at once. Then are compared: weights and optimizer of every kept
epoch bit for bit, the registered model, each step's loss in MLflow, and looked for: processes, half files. The last
line is the killed training's wall time over the other's; exit status 1 where anything is not as it should be.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.faults_run import PARTS, VICTIMS, FaultRun, Kill, Struck, left_behind
from pipelines.config import Experiment, load_experiment
from pipelines.registry import list_versions
from pipelines.run_folder import RunFolder
from pipelines.tracking import client, tracking_uri
from rtnet.data.clip import write_clip
from rtnet.training import LOSSES

EPOCHS, STEPS = 9, 6
_PATIENCE_S = 60.0  # for processes to end after the last command


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="a folder for all that is written; default: it is deleted")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started ends with it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell begins behind itself ignores Ctrl-C
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        return _compare(options, (options.keep or Path(scratch)).resolve(), scratch)


def _compare(options: argparse.Namespace, root: Path, scratch: str) -> int:
    recipe = _write_recipe(root, options.workers)
    # Sessions of Ray lie where they are deleted with the rest; a running cluster has no part in this.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": scratch, "RAY_DEDUP_LOGS": "0", "PYTHONUNBUFFERED": "1"}
    subprocess.run(_command("prepare", recipe), check=True, env=environment)
    alone, killed = (
        FaultRun(
            _command("train", recipe, f"storage={root / name}"),
            environment,
            RunFolder.of(load_experiment(recipe, [f"storage={root / name}"])),
            STEPS,
            EPOCHS,
            root / f"{name}.log",
        )
        for name in ("alone", "killed")
    )
    seconds = [_timed(alone, []), _timed(killed, _plan(options.kills, options.seed))]
    left = left_behind(_PATIENCE_S)
    _print_kills(killed.struck)
    print(f"\nalone {seconds[0]:.0f} s; killed {seconds[1]:.0f} s, by {killed.starts} commands; nothing is left:")
    checks = {
        "processes": not left,
        "half files": not [path for path in root.rglob("*.part*") if path.is_file()],
        "checkpoints within epochs": not killed.folder.steps(),
    }
    print("\n".join(f"  {_word(holds)} {what}" for what, holds in checks.items()), *left, sep="\n  ")
    equal = _equalities(*(load_experiment(recipe, [f"storage={root / name}"]) for name in ("alone", "killed")))
    print("the same as of the run alone:\n" + "\n".join(f"  {_word(holds)} {what}" for what, holds in equal.items()))
    print(f"ratio: {seconds[1] / seconds[0]:.2f}")
    return 0 if all(checks.values()) and all(equal.values()) else 1


def _timed(run: FaultRun, kills: list[Kill]) -> float:
    started = time.monotonic()
    run.run(kills)
    return time.monotonic() - started


def _plan(kills: int, seed: int) -> list[Kill]:
    """As many as asked for, spread evenly over the parts and over those who are killed, in an order that is drawn.

    The first comes in the first start-up, when there is nothing yet; those of the registration are the last.
    """
    draw = random.Random(seed)
    parts = [part for part, _ in zip(itertools.cycle(PARTS), range(kills), strict=False)]
    middle = [part for part in parts[1:] if part != "registration"]
    draw.shuffle(middle)
    late = parts.count("registration")
    victims = [victim for victim, _ in zip(itertools.cycle(VICTIMS), range(kills - late), strict=False)]
    draw.shuffle(victims)
    victims += [draw.choice(("driver", "SIGTERM", "SIGINT")) for _ in range(late)]  # there is no Ray then
    order = [*parts[:1], *middle, *["registration"] * late]
    return [Kill(part, victim, draw.random()) for part, victim in zip(order, victims, strict=True)]


def _equalities(alone: Experiment, killed: Experiment) -> dict[str, bool]:
    folders = [RunFolder.of(experiment) for experiment in (alone, killed)]
    kept = [folder.epochs() for folder in folders]
    states = [folder.read_epoch(EPOCHS) for folder in folders]
    tracked = [_Tracked(experiment) for experiment in (alone, killed)]
    return {
        f"epochs kept: {kept[0]}": kept[0] == kept[1],
        "weights of the last epoch": _equal(states[0]["model"], states[1]["model"]),
        "state of its optimizer": _equal(states[0]["optimizer"], states[1]["optimizer"]),
        "weights of the other kept epochs": all(
            _equal(*(folder.read_epoch(epoch)["model"] for folder in folders)) for epoch in set(kept[0]) & set(kept[1])
        ),
        "one tracked run, finished": [t.statuses for t in tracked] == [["FINISHED"]] * 2,
        "each step's losses, once": tracked[0].losses == tracked[1].losses and tracked[1].complete,
        "one registered version, of the same file": tracked[0].digests == tracked[1].digests
        and len(tracked[1].digests) == 1,
    }


class _Tracked:
    """What MLflow knows of an experiment's only run."""

    def __init__(self, experiment: Experiment) -> None:
        uri = tracking_uri(experiment)
        store = client(uri)
        (place,) = store.search_experiments(filter_string=f"name = '{experiment.tracking.experiment}'")
        runs = store.search_runs([place.experiment_id])
        self.statuses = [run.info.status for run in runs]
        self.losses = {
            name: sorted((p.step, p.value) for p in store.get_metric_history(runs[0].info.run_id, f"step/{name}"))
            for name in LOSSES
        }
        self.complete = all([s for s, _ in each] == list(range(EPOCHS * STEPS)) for each in self.losses.values())
        self.digests = [version.digest for version in list_versions(uri)]


def _equal(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _print_kills(struck: list[Struck]) -> None:
    print(f"\n{len(struck)} kills; each with the step of the newest checkpoint\n")
    print(f"| part of the run | {' | '.join(VICTIMS)} |\n" + (1 + len(VICTIMS)) * "|---" + "|")
    for part in PARTS:
        cells = [", ".join(str(s.step) for s in struck if (s.part, s.victim) == (part, victim)) for victim in VICTIMS]
        print(f"| {part} | {' | '.join(cells)} |")
    count = Counter(s.victim for s in struck)
    print(f"| kills | {' | '.join(str(count[victim]) for victim in VICTIMS)} |")
    ends = [
        f"{max((s.seconds for s in struck if s.victim == victim), default=0):.1f}"
        for victim in VICTIMS
        if victim != "worker"
    ]
    print(f"| longest until the command had ended, s | - | {' | '.join(ends)} |")
    statuses = [
        Counter(str(s.status) for s in struck if s.victim == victim) for victim in VICTIMS if victim != "worker"
    ]
    print(f"| its status | - | {' | '.join(', '.join(each) for each in statuses)} |")


def _word(holds: bool) -> str:
    return "yes" if holds else "NO "


def _command(verb: str, recipe: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", verb, str(recipe), *overrides]


def _write_recipe(root: Path, workers: int) -> Path:
    write_clip(root / "clips", {"train": ["a", "b"], "val": ["c"]}, frames=24, height=96, width=168)
    values = {
        "name": "faults",
        "data": {
            "sources": {"clips": {"layout": "davis16", "path": str(root / "clips")}},
            "dataset": str(root / "dataset"),
        },
        "flow": {"preset": "ultrafast"},
        "model": {"backbone": "resnet18"},
        "training": {
            "phases": [
                {"last_epoch": EPOCHS * 2 // 3, "rate": 1e-3, "trained": "interaction"},
                {"last_epoch": EPOCHS, "rate": 5e-3},
            ],
            "heights": [32, 64],
            "steps_per_epoch": STEPS,
            "checkpoint_every": 2,
        },
        "validation": {"height": 96, "pictures": 2},
        "scaling": {"num_workers": workers, "cpus_per_worker": 0.25, "threads_per_worker": 1},
    }
    path = root / "faults.yaml"
    path.write_text(json.dumps(values))
    return path


if __name__ == "__main__":
    sys.exit(main())
