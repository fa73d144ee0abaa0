"""Training on Ray: four workers, a tracked run, a registered model, and a kill that costs nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from pipelines import cli, prepare, train
from pipelines.config import load_experiment
from pipelines.registry import download_model, resolve_model
from pipelines.run_folder import RunFolder
from pipelines.session import ray_session
from pipelines.tracking import tracking_uri
from rtnet.checkpoint import load_model, save_model
from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.training import LOSSES

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RECIPE = """
name: tiny
seed: 3
data: {{sources: {{clip: {{layout: davis16, path: {clip}}}}}, dataset: {root}/dataset}}
flow: {{preset: ultrafast}}
model: {{backbone: resnet18}}
training:
  phases:
    - {{last_epoch: 1, rate: 1e-3, trained: interaction}}
    - {{last_epoch: 2, rate: 1e-2}}
  heights: [32, 64]
  steps_per_epoch: 2
validation: {{height: 64, pictures: 2, every: 2}}
scaling: {{num_workers: 4, cpus_per_worker: 0.25, threads_per_worker: 1}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny recipe and its prepared dataset, in one Ray session for all tests here."""
    root = tmp_path_factory.mktemp("train")
    write_clip(root / "clip", {"train": ["a", "b"], "val": ["c"]}, frames=6, height=64, width=112)
    path = root / "tiny.yaml"
    path.write_text(RECIPE.format(clip=root / "clip", root=root))
    with ray_session():
        prepare.run(load_experiment(path))
        yield path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> RunFolder:
    experiment = load_experiment(recipe, [f"storage={recipe.parent}/undisturbed"])
    train.run(experiment)
    return RunFolder.of(experiment)


def _losses(folder: RunFolder, epoch: int) -> list[list[float]]:
    return [losses for _, _, losses in folder.metrics(epoch)["steps"]]


def test_the_run_is_tracked_with_parameters_curves_and_pictures(recipe: Path, undisturbed: RunFolder) -> None:
    experiment = load_experiment(recipe, [f"storage={recipe.parent}/undisturbed"])
    client = MlflowClient(tracking_uri(experiment))
    (run,) = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps_per_epoch"] == "2"
    for name in LOSSES:
        history = client.get_metric_history(run.info.run_id, f"step/{name}")
        assert sorted(point.step for point in history) == list(range(4))
    rates = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "rate")}
    assert rates == {1: 1e-3, 2: 1e-2}
    for score in ("J", "F", "JF"):
        assert 0 <= run.data.metrics[f"validation/{score}"] <= 1
    pictures = client.list_artifacts(run.info.run_id, "validation/epoch-0002")
    assert len(pictures) == 2


def test_the_best_epoch_is_the_model_of_the_alias_to_the_last_bit(
    recipe: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    uri = tracking_uri(load_experiment(recipe, [f"storage={recipe.parent}/undisturbed"]))
    version = resolve_model(uri, "models:/rtnet@best")
    model = load_model(download_model(uri, version, tmp_path))
    epoch, values = train.best_epoch(undisturbed)
    assert int(version.tags["epoch"]) == epoch
    assert float(version.tags["JF"]) == values["validation/JF"]
    kept = undisturbed.read_checkpoint(epoch)["model"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def test_only_the_interaction_modules_move_in_the_first_phase(undisturbed: RunFolder) -> None:
    before, after, later = (undisturbed.read_checkpoint(epoch)["model"] for epoch in (0, 1, 2))
    interaction = ("exchanges.", "fusions.")
    for name, tensor in before.items():
        if not tensor.is_floating_point() or "running" in name:
            continue
        if not name.startswith(interaction):
            assert torch.equal(tensor, after[name]), name
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith(interaction))
    assert any(not torch.equal(after[n], later[n]) for n in before if not n.startswith(interaction))
    assert not torch.equal(before["appearance.stem.norm.running_mean"], after["appearance.stem.norm.running_mean"])


def test_a_finished_run_does_nothing_and_says_so(
    recipe: Path, undisturbed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(load_experiment(recipe, [f"storage={recipe.parent}/undisturbed"]))
    assert "nothing to do" in capsys.readouterr().out


def test_a_run_is_not_continued_with_other_settings(recipe: Path, undisturbed: RunFolder) -> None:
    overrides = [f"storage={recipe.parent}/undisturbed", "training.momentum=0.5"]
    with pytest.raises(UserError, match=r"training\.momentum = 0\.9"):
        train.run(load_experiment(recipe, overrides))


def test_killed_and_run_again_it_gives_the_losses_and_weights_of_an_undisturbed_run(
    recipe: Path, undisturbed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"storage={recipe.parent}/killed"]
    folder = RunFolder.of(load_experiment(recipe, overrides))
    command = [sys.executable, "-m", "pipelines.cli", "train", str(recipe), *overrides]
    driver = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while folder.epochs() != [0, 1]:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert folder.read("finished.json") is None
    train.run(load_experiment(recipe, overrides))
    assert "models:/rtnet/1" in capsys.readouterr().out
    for epoch in (1, 2):
        assert _losses(folder, epoch) == _losses(undisturbed, epoch)
    ours, theirs = (run.read_checkpoint(2)["model"] for run in (folder, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.dataset=nowhere", ["nowhere", "rtnet prepare"]),
        ("scaling.cpus_per_worker=64", ["scaling.cpus_per_worker"]),
        ("scaling.use_gpu=true", ["scaling.use_gpu"]) if not torch.cuda.is_available() else ("data.dataset=no", []),
        ("training.split=test", ["'test'", "train, val"]),
        ("training.batch_size=1000", ["training.batch_size"]),
        ("model.backbone=resnet17", ["resnet17", "resnet18"]),
        ("model.start_from=nowhere.pth", ["nowhere.pth"]),
        ("model.encoder_weights=nowhere.pth", ["nowhere.pth"]),
        ("model.start_from=models:/rtnet@best", ["MLflow store", "train first"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_two(
    recipe: Path, tmp_path: Path, override: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(recipe), f"storage={tmp_path}", override]) == 2
    lines = capsys.readouterr().err.splitlines()
    mine = [line for line in lines if line.startswith("rtnet train: ")]
    assert len(mine) == 1 and all(word in mine[0] for word in words)


def test_a_checkpoint_of_another_variant_is_refused_by_name(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "other.safetensors", RTNet(RTNetConfig("resnet34")))
    overrides = [f"storage={tmp_path}", f"model.start_from={tmp_path}/other.safetensors"]
    assert cli.main(["train", str(recipe), *overrides]) == 2
    error = capsys.readouterr().err
    assert "other.safetensors" in error and "resnet34" in error and "resnet18" in error


def test_a_mistake_that_is_mended_does_not_bind_the_run(recipe: Path, tmp_path: Path) -> None:
    overrides = [f"storage={tmp_path}", "model.start_from=nowhere.pth"]
    assert cli.main(["train", str(recipe), *overrides]) == 2
    folder = RunFolder.of(load_experiment(recipe, overrides))
    assert folder.read("recipe.json") is None and not folder.epochs()


def test_training_begins_with_the_weights_it_is_given(recipe: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    model = RTNet(RTNetConfig("resnet18"))
    save_model(tmp_path / "start.safetensors", model)
    experiment = load_experiment(recipe, [f"model.start_from={tmp_path}/start.safetensors"])
    state = train.initial_state(experiment)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_list_of_checkpoints_torn_by_a_kill_is_put_aside(recipe: Path, tmp_path: Path) -> None:
    folder = RunFolder.of(load_experiment(recipe, [f"storage={tmp_path}"]))
    name = "checkpoint_manager_snapshot.json"
    folder.write(name, b'{"checkpoint_results": [')
    train.drop_torn_snapshot(folder)
    assert folder.read(name) is None
    folder.write(name, json.dumps({}).encode())
    train.drop_torn_snapshot(folder)
    assert folder.read(name) == b"{}"
