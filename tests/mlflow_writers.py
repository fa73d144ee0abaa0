"""Trials that write to one MLflow store at once: python -m tests.mlflow_writers URI PARENT MODEL GO NUMBER...

A process with a thread for each NUMBER; they begin when the file GO is there. Prints, as JSON by number, each trial's
run, version and whether a look-up by its own alias gives that version.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines import registry, tracking
from pipelines.config import Experiment, validate

EPOCHS, STEPS = 3, 700  # an epoch's series are longer than one request
LOSSES = ("loss/main", "loss/side")


def experiment(uri: str, number: int) -> Experiment:
    sections = {
        "name": f"trial-{number:02d}",
        "storage": "/nowhere",
        "seed": number,
        "data": {"sources": {"a": {"layout": "davis16", "path": "a"}}, "dataset": "b"},
        "training": {"phases": [{"last_epoch": EPOCHS, "rate": 0.1 + number}]},
        "tracking": {"uri": uri},
    }
    return validate(sections, "test")


def series(number: int, epoch: int) -> Iterator[tuple[str, float, int, int]]:
    """What trial `number` logs at the end of an epoch: (name, value, step, milliseconds since 1970)."""
    for step in range((epoch - 1) * STEPS, epoch * STEPS):
        for place, name in enumerate(LOSSES):
            yield name, number + step / 7 + place / 3, step, 1_000_000 + step


def weights(number: int) -> bytes:
    return f"weights of trial {number}".encode() * 1000


def write_trial(uri: str, parent: str, model: str, number: int) -> dict[str, object]:
    """As a trial of a sweep does: a nested run, its parameters, curves and pictures, a version with aliases."""
    recipe = experiment(uri, number)
    run = tracking.start_run(recipe, recipe.name, tags={tracking.PARENT: parent}, key=f"{model}-{number}")
    run.log_params(recipe)
    for epoch in range(1, EPOCHS + 1):
        run.log_series(series(number, epoch))
        run.log_bytes(f"picture {number} {epoch}".encode(), f"validation/epoch-{epoch:04d}/one.jpg")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / registry.MODEL_FILE).write_bytes(weights(number))
        version = registry.register_model(run, Path(folder), model, "best", {"J": number / 100})
    own = registry.resolve_model(uri, f"{model}/{version}")
    registry.set_alias(uri, own, f"trial-{number}")
    run.finish()
    found = registry.resolve_model(uri, f"models:/{model}@trial-{number}").version == version
    return {"run": run.run_id, "version": version, "found": found}


def main(uri: str, parent: str, model: str, go: str, *numbers: str) -> None:
    tracking.client(uri)  # MLflow's import takes seconds
    together = threading.Barrier(len(numbers), action=lambda: _wait_for(Path(go)))

    def trial(number: str) -> dict[str, object]:
        together.wait()
        return write_trial(uri, parent, model, int(number))

    with ThreadPoolExecutor(len(numbers)) as threads:
        print(json.dumps(dict(zip(numbers, threads.map(trial, numbers), strict=True))))


def _wait_for(go: Path) -> None:
    print("ready", file=sys.stderr, flush=True)
    while not go.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
