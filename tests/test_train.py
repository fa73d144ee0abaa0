"""Training on Ray: two workers, a tracked run, a registered model, and a kill that costs nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from pipelines import cli, prepare, train
from pipelines.config import expand_stages, load_experiment
from pipelines.fit import drop_torn_snapshot, lost_workers
from pipelines.initial_weights import initial_state
from pipelines.lock import sole_writer
from pipelines.registry import download_model, list_versions, resolve_model
from pipelines.run_folder import RunFolder
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
model: {{backbone: mobilenet_v3_large}}
training:
  phases:
    - {{last_epoch: 1, rate: 1e-3, trained: interaction}}
    - {{last_epoch: 2, rate: 1e-2}}
  heights: [32, 64]
  steps_per_epoch: 3
validation: {{height: 64, pictures: 2, every: 2}}
scaling: {{num_workers: 2, cpus_per_worker: 0.25, threads_per_worker: 1}}
"""


STAGES = """
stages:
  appearance:
    model.streams: appearance
    training.phases: [{last_epoch: 1, rate: 1e-3}]
    training.steps_per_epoch: 2
  motion:
    model.streams: motion
    model.start_from: stage:appearance
    training.phases: [{last_epoch: 1, rate: 1e-3}]
    training.accumulate: 2
    training.steps_per_epoch: 1
  joint:
    model.start_from: [stage:appearance, stage:motion]
    training.phases: [{last_epoch: 1, rate: 1e-3, trained: interaction}]
    training.steps_per_epoch: 1
"""
PORT = 25117  # of an MLflow server


@pytest.fixture(scope="module")
def recipe(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recipe and its prepared dataset."""
    root = tmp_path_factory.mktemp("train")
    write_clip(root / "clip", {"train": ["a", "b"], "val": ["c"]}, frames=6, height=64, width=112)
    path = root / "tiny.yaml"
    path.write_text(RECIPE.format(clip=root / "clip", root=root))
    prepare.run(load_experiment(path))
    return path


def _undisturbed(recipe: Path) -> list[str]:
    return [f"storage={recipe.parent}/undisturbed", f"tracking.uri=http://127.0.0.1:{PORT}"]


@pytest.fixture(scope="module")
def vanished(recipe: Path) -> Iterator[str]:
    """What a training says at its end whose MLflow server vanished when it began. The server is back."""
    experiment = load_experiment(recipe, _undisturbed(recipe))
    folder = RunFolder.of(experiment)
    begun = threading.Event()

    def vanish() -> None:
        with _mlflow_server(recipe.parent):
            begun.set()
            while folder.epochs() != [0]:
                time.sleep(0.1)

    server = threading.Thread(target=vanish)
    server.start()
    assert begun.wait(120)
    with pytest.raises(UserError) as ended:
        train.run(experiment)
    server.join()
    with _mlflow_server(recipe.parent):
        yield str(ended.value)


@pytest.fixture(scope="module")
def trained_at(recipe: Path, vanished: str) -> list[int]:
    """When its checkpoints were written."""
    folder = RunFolder.of(load_experiment(recipe, _undisturbed(recipe)))
    return [Path(folder.checkpoint(epoch)).stat().st_mtime_ns for epoch in folder.epochs()]


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, trained_at: list[int]) -> RunFolder:
    """That training, all of it tracked: nothing but its server was ever disturbed."""
    experiment = load_experiment(recipe, _undisturbed(recipe))
    train.run(experiment)
    return RunFolder.of(experiment)


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[None]:
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--port", str(PORT), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2):
                break
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _losses(folder: RunFolder, epoch: int) -> list[list[float]]:
    return [losses for _, _, losses in folder.measured(epoch)["steps"]]


def test_the_run_is_tracked_with_parameters_curves_and_pictures(recipe: Path, undisturbed: RunFolder) -> None:
    experiment = load_experiment(recipe, _undisturbed(recipe))
    client = MlflowClient(tracking_uri(experiment))
    (run,) = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps_per_epoch"] == "3"
    for name in LOSSES:
        history = client.get_metric_history(run.info.run_id, f"step/{name}")
        assert sorted(point.step for point in history) == list(range(6))
    rates = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "rate")}
    assert rates == {1: 1e-3, 2: 1e-2}
    for score in ("J", "F", "JF"):
        assert 0 <= run.data.metrics[f"validation/{score}"] <= 1
    pictures = client.list_artifacts(run.info.run_id, "validation/epoch-0002")
    assert len(pictures) == 2
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"recipe.yaml", "environment.txt", "dataset"} <= kept
    assert run.data.tags["checkpoints"] == undisturbed.uri
    assert run.data.metrics["speed/pairs_per_s"] > 0
    assert undisturbed.untracked() == []


def test_the_best_epoch_is_the_model_of_the_alias_to_the_last_bit(
    recipe: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    uri = tracking_uri(load_experiment(recipe, _undisturbed(recipe)))
    version = resolve_model(uri, "models:/rtnet@best")
    model = load_model(download_model(uri, version, tmp_path))
    epoch, values = train.best_epoch(undisturbed)
    assert int(version.tags["epoch"]) == epoch
    assert float(version.tags["JF"]) == values["validation/JF"]
    assert version.tags["recipe"] == "tiny" and {"J", "F", "commit", "dataset.digest"} <= version.tags.keys()
    kept = undisturbed.read_epoch(epoch)["model"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def test_only_the_interaction_modules_move_in_the_first_phase(undisturbed: RunFolder) -> None:
    before, after, later = (undisturbed.read_epoch(epoch)["model"] for epoch in (0, 1, 2))
    interaction = ("exchanges.", "fusions.")
    for name, tensor in before.items():
        if not tensor.is_floating_point() or "running" in name:
            continue
        if not name.startswith(interaction):
            assert torch.equal(tensor, after[name]), name
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith(interaction))
    assert any(not torch.equal(after[n], later[n]) for n in before if not n.startswith(interaction))
    assert not torch.equal(before["appearance.stem.0.1.running_mean"], after["appearance.stem.0.1.running_mean"])


def test_a_finished_run_does_nothing_and_says_so(
    recipe: Path, undisturbed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(load_experiment(recipe, _undisturbed(recipe)))
    assert "nothing to do" in capsys.readouterr().out


def test_a_run_is_not_continued_with_other_settings(recipe: Path, undisturbed: RunFolder) -> None:
    overrides = [*_undisturbed(recipe), "training.momentum=0.5"]
    with pytest.raises(UserError, match=r"training\.momentum = 0\.9"):
        train.run(load_experiment(recipe, overrides))


@pytest.fixture(scope="module")
def disk(recipe: Path) -> Iterator[Path]:
    """A folder, for root on a disk of its own."""
    folder = recipe.parent / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _on_disk(recipe: Path, disk: Path) -> list[str]:
    return [f"storage={disk}", f"tracking.uri=sqlite:///{recipe.parent}/disk.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_at_a_checkpoint_is_one_line(
    recipe: Path, undisturbed: RunFolder, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Path(undisturbed.checkpoint(0)).stat().st_size
    # Room for the weights before the first step, not for those and the optimizer after it.
    subprocess.run(["mount", "-o", f"remount,size={2 * first}", str(disk)], check=True)
    assert cli.main(["train", str(recipe), *_on_disk(recipe, disk)]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("rtnet train: ")]
    assert "can't be written (No space left on device)" in line
    assert RunFolder.of(load_experiment(recipe, _on_disk(recipe, disk))).epochs() == [0]
    subprocess.run(["mount", "-o", f"remount,size={9 * first}", str(disk)], check=True)


def test_with_more_room_killed_and_run_again_it_gives_the_losses_and_weights_of_an_undisturbed_run(
    recipe: Path, undisturbed: RunFolder, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within an epoch, so that what is lost there is the epoch's beginning if it is not kept."""
    overrides = [*_on_disk(recipe, disk), "training.checkpoint_every=1"]
    folder = RunFolder.of(load_experiment(recipe, overrides))
    command = [sys.executable, "-m", "pipelines.cli", "train", str(recipe), *overrides]
    driver = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while max(folder.steps(), default=0) <= 3:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert folder.read("finished.json") is None
    train.run(load_experiment(recipe, overrides))
    printed = capsys.readouterr().out
    assert "models:/rtnet/1" in printed
    assert not folder.steps() and not list(Path(folder.uri).rglob("*.part"))
    assert folder.epochs() == [0, 1, 2]
    for epoch in (1, 2):
        assert _losses(folder, epoch) == _losses(undisturbed, epoch)
    ours, theirs = (run.read_epoch(2)["model"] for run in (folder, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    mlflow.set_tracking_uri(None)


def test_a_training_on_an_object_store_gives_the_weights_and_measures_of_one_on_a_disk(
    recipe: Path, undisturbed: RunFolder, bucket: str
) -> None:
    overrides = [f"storage={bucket}/runs", f"data.dataset={bucket}/train/dataset", "training.checkpoint_every=2"]
    experiment = load_experiment(recipe, [*overrides, f"tracking.uri=sqlite:///{recipe.parent}/s3.db"])
    prepare.run(experiment)
    train.run(experiment)
    folder = RunFolder.of(experiment)
    assert folder.uri == f"{bucket}/runs/tiny" and folder.epochs() == [0, 1, 2] and not folder.steps()
    for epoch in (1, 2):
        assert _losses(folder, epoch) == _losses(undisturbed, epoch)
        ours, theirs = (run.read_epoch(epoch)["model"] for run in (folder, undisturbed))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert folder.pictures(2) == undisturbed.pictures(2)
    assert json.loads(folder.read("finished.json") or b"")["model"] == "models:/rtnet/1"
    tracked = MlflowClient(f"sqlite:///{recipe.parent}/s3.db").get_experiment_by_name("rtnet")
    assert tracked.artifact_location == f"{recipe.parent}/mlartifacts"


def test_a_training_begins_with_the_registered_model_that_it_names(recipe: Path, undisturbed: RunFolder) -> None:
    overrides = [*_undisturbed(recipe), "model.start_from=models:/rtnet@best"]
    begun = initial_state(load_experiment(recipe, overrides))["model"]
    kept = undisturbed.read_epoch(train.best_epoch(undisturbed)[0])["model"]
    assert all(torch.equal(begun[name], tensor) for name, tensor in kept.items())


def test_the_second_of_two_trainers_of_one_run_says_so(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"storage={tmp_path}"]
    folder = RunFolder.of(load_experiment(recipe, overrides))
    with sole_writer(*folder.place, "the run"):
        assert cli.main(["train", str(recipe), *overrides]) == 2
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err
    assert not folder.epochs()


def test_stages_follow_one_another_and_each_begins_where_those_before_ended(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = recipe.with_name("staged.yaml")
    staged.write_text(recipe.read_text().replace("name: tiny", "name: staged") + STAGES)
    overrides = [f"storage={recipe.parent}/staged", "scaling.num_workers=1"]
    experiment = load_experiment(staged, overrides)
    train.run(experiment)
    folders = {stage.name: RunFolder.of(stage) for stage in expand_stages(experiment)}
    assert list(folders) == ["staged.appearance", "staged.motion", "staged.joint"]
    ended = {
        name: folder.read_epoch(json.loads(folder.read("finished.json") or b"")["epoch"])
        for name, folder in folders.items()
    }
    begun = {name: folder.read_epoch(0)["model"] for name, folder in folders.items()}
    for stream in ("appearance", "motion"):
        for name, value in ended[f"staged.{stream}"]["model"].items():
            assert torch.equal(begun["staged.joint"][f"{stream}.{name}"], value), name
    stem = ended["staged.appearance"]["model"]["stem.0.0.weight"]
    assert torch.equal(begun["staged.motion"]["stem.0.0.weight"], torch.cat([stem, stem], 1) / 2)
    uri = tracking_uri(experiment)
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    assert len(runs) == 3 and any("system/cpu_utilization_percentage" in run.data.metrics for run in runs)
    assert {version.name for version in list_versions(uri)} == {"rtnet", "rtnet-appearance", "rtnet-motion"}
    capsys.readouterr()
    train.run(load_experiment(staged, [*overrides, "stage=motion"]))
    assert "nothing to do" in capsys.readouterr().out


def test_a_damaged_part_of_the_dataset_ends_the_training_with_its_name(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(recipe.parent / "dataset", tmp_path / "dataset")
    for part in (tmp_path / "dataset").rglob("parts/**/train/**/*.parquet"):
        part.write_bytes(part.read_bytes()[:5000])
    overrides = [f"storage={tmp_path}", f"data.dataset={tmp_path}/dataset", "scaling.num_workers=1"]
    assert cli.main(["train", str(recipe), *overrides]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("rtnet train: ")]
    assert "is cut short" in line and ".parquet" in line and "rtnet prepare" in line


def test_an_mlflow_server_that_vanishes_does_not_stop_the_training_and_misses_nothing(
    vanished: str, trained_at: list[int], undisturbed: RunFolder
) -> None:
    assert "all epochs are trained" in vanished and str(PORT) in vanished
    assert trained_at == [Path(undisturbed.checkpoint(epoch)).stat().st_mtime_ns for epoch in (0, 1, 2)]
    client = MlflowClient(f"http://127.0.0.1:{PORT}")
    (run,) = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    assert run.info.status == "FINISHED"
    for name in LOSSES:
        history = client.get_metric_history(run.info.run_id, f"step/{name}")
        assert sorted(point.step for point in history) == list(range(6))
    assert len(client.list_artifacts(run.info.run_id, "validation/epoch-0002")) == 2


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
        ("model.start_from=models:/rtnet@best", ["MLflow store", "train first", "rtnet models import", "tracking.uri"]),
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
    assert "other.safetensors" in error and "resnet34" in error and "mobilenet_v3_large" in error


def test_a_mistake_that_is_mended_does_not_bind_the_run(recipe: Path, tmp_path: Path) -> None:
    overrides = [f"storage={tmp_path}", "model.start_from=nowhere.pth"]
    assert cli.main(["train", str(recipe), *overrides]) == 2
    folder = RunFolder.of(load_experiment(recipe, overrides))
    assert folder.read("recipe.json") is None and not folder.epochs()


def test_training_begins_with_the_weights_it_is_given(recipe: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    model = RTNet(RTNetConfig("mobilenet_v3_large"))
    save_model(tmp_path / "start.safetensors", model)
    experiment = load_experiment(recipe, [f"model.start_from={tmp_path}/start.safetensors"])
    state = initial_state(experiment)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_workers_that_are_lost_for_good_are_told_in_one_line(recipe: Path) -> None:
    import ray
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, WorkerGroupError

    class Worker:
        def work(self) -> None:
            os._exit(1)

    with pytest.raises(RayActorError) as lost:
        ray.get(ray.remote(num_cpus=0)(Worker).remote().work.remote())
    for failure in (ControllerError(lost.value), WorkerGroupError("one of them", {0: lost.value})):
        said = lost_workers(failure)
        assert "worker process has died" in said and "\n" not in said and "actor_id" not in said
    assert not lost_workers(WorkerGroupError("their own code", {0: ValueError("no")}))


def test_a_list_of_checkpoints_torn_by_a_kill_is_put_aside(recipe: Path, tmp_path: Path) -> None:
    folder = RunFolder.of(load_experiment(recipe, [f"storage={tmp_path}"]))
    name = "checkpoint_manager_snapshot.json"
    folder.write(name, b'{"checkpoint_results": [')
    drop_torn_snapshot(folder)
    assert folder.read(name) is None
    folder.write(name, json.dumps({}).encode())
    drop_torn_snapshot(folder)
    assert folder.read(name) == b"{}"
