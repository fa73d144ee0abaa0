"""A sweep on Ray: nested runs, a trial that fails, a kill of all that repeats nothing, a table, the best registered."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from pipelines import cli, prepare, tune
from pipelines.config import load_experiment, validate
from pipelines.registry import resolve_model
from pipelines.run_folder import RunFolder
from pipelines.sweep import Sweep, load_sweep, trial_experiment
from pipelines.tracking import start_run, tracking_uri
from pipelines.trials import SweepFolder, Trial
from rtnet.data.clip import write_clip

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RECIPE = """
name: tiny
data: {{sources: {{clip: {{layout: davis16, path: {root}/clip}}}}, dataset: {root}/dataset}}
flow: {{preset: ultrafast}}
model: {{backbone: mobilenet_v3_large}}
training:
  phases: [{{last_epoch: 2, rate: 1e-2}}]
  heights: [32]
  steps_per_epoch: 2
validation: {{height: 32, pictures: 0}}
scaling: {{num_workers: 1, cpus_per_worker: 0.25, threads_per_worker: 1}}
"""
SWEEP = """
name: rates
recipe: tiny.yaml
overrides: {{storage: {root}/runs}}
space:
  training.phases.0.rate: {{grid: [1e-2, 1e+30, 1e-3]}}
at_once: 2
scheduler: {{method: none}}
"""


@pytest.fixture(scope="module")
def sweep(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three trials, of which the second can't but fail, and its dataset."""
    root = tmp_path_factory.mktemp("tune")
    write_clip(root / "clip", {"train": ["a"], "val": ["b"]}, frames=4, height=32, width=56)
    for name, text in (("tiny.yaml", RECIPE), ("rates.yaml", SWEEP)):
        (root / name).write_text(text.format(root=root))
    prepare.run(load_experiment(root / "tiny.yaml"))
    return root / "rates.yaml"


def _folder(sweep: Path) -> SweepFolder:
    return SweepFolder(str(sweep.parent / "runs" / "rates"))


def _trial(sweep: Path, number: int) -> Trial | None:
    return next((trial for trial in _folder(sweep).trials() if trial.name.startswith(f"{number:03d}-")), None)


@pytest.fixture(scope="module")
def killed(sweep: Path) -> float:
    """The sweep is killed once its third trial has begun; when the first trial's last checkpoint was written."""
    driver = subprocess.Popen([sys.executable, "-m", "pipelines.cli", "tune", str(sweep)], start_new_session=True)
    try:
        run = RunFolder(str(sweep.parent / "runs" / "rates.002-0.001"))
        deadline = time.monotonic() + 540
        while not run.epochs() or any(_outcome(sweep, number) in (None, "begun") for number in (0, 1)):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    return _written(sweep)


def _outcome(sweep: Path, number: int) -> str | None:
    trial = _trial(sweep, number)
    return trial.outcome if trial else None


def _written(sweep: Path) -> float:
    return (sweep.parent / "runs" / "rates.000-0.01" / "epoch-0002" / "checkpoint.pt").stat().st_mtime


@pytest.fixture(scope="module")
def table(sweep: Path, killed: float) -> list[dict[str, str]]:
    """What is left after the sweep was continued."""
    assert cli.main(["tune", str(sweep)]) == 0
    return list(csv.DictReader((sweep.parent / "runs" / "rates" / "trials.csv").open()))


def _runs(sweep: Path) -> tuple[Any, dict[str, Any], MlflowClient]:
    """(the sweep's run, {name: a trial's run})."""
    client = MlflowClient(tracking_uri(load_sweep(sweep)[1]))
    found = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(nested) == len(found) - 1
    return parent, {run.info.run_name: run for run in nested}, client


def test_a_killed_sweep_knows_how_its_trials_ended(sweep: Path, killed: float) -> None:
    first, second, third = (_trial(sweep, number) for number in range(3))
    assert first is not None and second is not None and third is not None
    assert (first.outcome, second.outcome, third.outcome) == ("finished", "failed", "begun")
    assert "loss is not finite" in second.reason


def test_continued_it_repeats_no_trial_that_ended_and_ends_the_one_that_was_begun(
    sweep: Path, killed: float, table: list[dict[str, str]]
) -> None:
    assert _written(sweep) == killed
    assert sorted((row["trial"], row["outcome"], row["epochs"]) for row in table) == [
        ("000-0.01", "finished", "2"),
        ("001-1e30", "failed", "0"),
        ("002-0.001", "finished", "2"),
    ]
    assert "loss is not finite" in table[2]["reason"] and "\n" not in table[2]["reason"]


def test_trials_are_runs_nested_in_the_sweeps_run(sweep: Path, table: list[dict[str, str]]) -> None:
    parent, nested, client = _runs(sweep)
    assert {name: run.info.status for name, run in nested.items()} == {
        "rates.000-0.01": "FINISHED",
        "rates.001-1e30": "FAILED",
        "rates.002-0.001": "FINISHED",
    }
    assert "loss is not finite" in nested["rates.001-1e30"].data.tags["trial.reason"]
    assert parent.info.status == "FINISHED"
    assert {"trials.csv", "parallel_coordinates.png", "sweep.json"} <= {
        artifact.path for artifact in client.list_artifacts(parent.info.run_id)
    }
    assert parent.data.metrics["best/validation/JF"] == float(table[0]["validation/JF"])


def test_the_best_trial_is_registered(sweep: Path, table: list[dict[str, str]]) -> None:
    version = resolve_model(tracking_uri(load_sweep(sweep)[1]), "models:/rtnet@best")
    _, nested, _ = _runs(sweep)
    assert version.version == 1
    assert version.run_id == nested[f"rates.{table[0]['trial']}"].info.run_id
    assert float(version.tags["JF"]) == max(float(row["validation/JF"]) for row in table if row["validation/JF"])


def test_a_finished_sweep_does_nothing_and_says_so(
    sweep: Path, table: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tune", str(sweep)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    kept = json.loads((sweep.parent / "runs" / "rates" / "finished.json").read_text())
    assert kept["trial"] == table[0]["trial"]


@pytest.mark.parametrize(
    ("replaced", "override", "words"),
    [
        ("", "training.momentum=0.5", ["training.momentum = 0.9, now it is 0.5"]),
        ("", "data.dataset=nowhere", ["nowhere", "rtnet prepare"]),
        ("name: other", "scaling.cpus_per_worker=64", ["129 CPUs", "lower at_once", "scaling.cpus_per_worker"]),
        ("name: other\nat_once: 99", "seed=1", ["in 99 trials at once", "lower at_once"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_two(
    sweep: Path, replaced: str, override: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep.with_name("mistaken.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(sweep.read_text()) | (yaml.safe_load(replaced) or {})))
    assert cli.main(["tune", str(path), override]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rtnet tune: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines


def _drawn(sweep: Path, **search: Any) -> Sweep:
    values = yaml.safe_load(sweep.read_text()) | {"search": search, "scheduler": {"reduction_factor": 2}}
    values["space"] = {
        "training.phases.0.rate": {"loguniform": [1e-4, 1e-1]},
        "model.backbone": {"choice": ["mobilenet_v3_large"]},
    }
    path = sweep.with_name("drawn.yaml")
    path.write_text(yaml.safe_dump(values))
    return load_sweep(path)[0]


def _ended(number: int, rate: float, score: float) -> Trial:
    overrides = {"training.phases.0.rate": rate, "model.backbone": "mobilenet_v3_large"}
    return Trial(f"{number:03d}", overrides, "stopped", reports=[{"epoch": 1, "validation/JF": score}])


def test_the_scheduler_knows_what_trials_reached_before_the_kill(sweep: Path) -> None:
    from pipelines import trial_search  # with Ray, which reads settings of the session when it is imported

    known = [_ended(number, 1e-3, score) for number, score in enumerate((0.7, 0.8, 0.9))]
    fresh = SimpleNamespace(trial_id="fresh")
    for trials, decision in ((known, "STOP"), ([], "CONTINUE")):
        scheduler = trial_search.scheduler_of(_drawn(sweep, method="random"), 5, trials)
        assert scheduler is not None
        scheduler.on_trial_add(None, fresh)
        assert scheduler.on_trial_result(None, fresh, {"epoch": 1, "validation/JF": 0.1}) == decision


def test_optuna_goes_on_with_what_was_begun_and_goes_by_what_was_reached(sweep: Path) -> None:
    from pipelines import trial_search

    drawn = _drawn(sweep, method="optuna", trials=30)
    known = [
        _ended(n, rate, -abs(math.log10(rate / 1e-2))) for n, rate in enumerate(np.geomspace(1e-4, 1e-1, 20).tolist())
    ]
    begun = Trial("020", {"training.phases.0.rate": 0.05, "model.backbone": "mobilenet_v3_large"})
    search = trial_search.optuna_of(drawn, [*known, begun])
    assert search.suggest("first") == {"overrides": begun.overrides}
    rates = [search.suggest(str(n))["overrides"]["training.phases.0.rate"] for n in range(10)]
    assert len({*rates, *(trial.overrides["training.phases.0.rate"] for trial in known)}) == 30
    assert 3e-3 < float(np.median(rates)) < 3e-2  # the best were about 0.01, the space's middle is 0.003


def test_a_trial_that_is_stopped_before_its_last_epoch_is_logged_has_all_of_them(tmp_path: Path) -> None:
    values = RECIPE.format(root=tmp_path).replace("name: tiny", f"name: rates\nstorage: {tmp_path}/runs")
    values = values.replace("1e-2", "0.01")  # which plain YAML takes for a word
    base = validate(yaml.safe_load(values), "test")
    trial = Trial("000-x", {}, "stopped")
    experiment = trial_experiment(base, trial.name, trial.overrides)
    run, folder = start_run(experiment, experiment.name), RunFolder.of(experiment)
    folder.write("tracking.json", json.dumps({"uri": run.uri, "run_id": run.run_id}).encode())
    for epoch in (1, 2):
        measured = {"values": {"loss": epoch / 2}, "time": 1000 + epoch, "losses": [], "steps": []}
        folder.write_measured(epoch, measured, {"one.jpg": b"picture"})
        folder.write(f"epoch-{epoch:04d}/checkpoint.pt", b"")
    folder.mark_tracked(1)
    tune._close_run(base, trial)
    client = MlflowClient(run.uri)
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(2, 1.0)]
    assert client.list_artifacts(run.run_id, "validation/epoch-0002")
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert folder.untracked() == []


def test_a_reason_tells_no_password_of_a_uri() -> None:
    from pipelines.trial_reports import reason_of

    said = reason_of(OSError("no answer from http://ada:secret@proxy:3128/x"))
    assert said == "OSError: no answer from http://***@proxy:3128/x"
