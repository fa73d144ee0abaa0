"""Runs in MLflow and the registry of models, in one SQLite store."""

import math
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

from pipelines import registry, tracking
from pipelines.config import Experiment, validate
from pipelines.tracking import Run
from rtnet.errors import UserError


def _experiment(storage: Path | str, **tracked: str) -> Experiment:
    sections = {
        "name": "toy",
        "storage": str(storage),
        "data": {"sources": {"a": {"layout": "davis16", "path": "a", "sequences": ["dog", "cat"]}}, "dataset": "b"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        "tracking": tracked,
    }
    return validate(sections, "test")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return _experiment(tmp_path_factory.mktemp("a store"))


@pytest.fixture(scope="module")
def run(experiment: Experiment) -> Run:
    return tracking.start_run(experiment, "toy", tags={"dataset": "0f0f"})


@pytest.fixture(scope="module")
def client(run: Run) -> MlflowClient:
    return MlflowClient(run.uri)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    (tmp_path / registry.MODEL_FILE).write_bytes(b"weights of " + str(tmp_path).encode())
    (tmp_path / "recipe.yaml").write_text("name: toy")
    return tmp_path


def test_a_run_tells_the_callers_tags_the_commit_and_the_versions(client: MlflowClient, run: Run) -> None:
    tags = client.get_run(run.run_id).data.tags
    assert tags["dataset"] == "0f0f"
    assert tags["version.ray"].startswith("2.")
    assert "code.changed" in tags or "mlflow.source.git.commit" not in tags


def test_artifacts_lie_in_the_storage_and_not_in_the_working_folder(
    client: MlflowClient, run: Run, experiment: Experiment
) -> None:
    run.log_bytes(b"\xff\xd8", "pictures/one.jpg")
    (kept,) = (Path(experiment.storage) / "mlartifacts").rglob("one.jpg")
    assert kept.read_bytes() == b"\xff\xd8"
    assert [entry.path for entry in client.list_artifacts(run.run_id, "pictures")] == ["pictures/one.jpg"]


def test_parameters_are_the_experiments_fields_and_a_later_change_becomes_a_tag(client: MlflowClient, run: Run) -> None:
    first = _experiment("runs")
    run.log_params(first)
    run.log_params(first.model_copy(update={"seed": 7}))
    found = client.get_run(run.run_id).data
    assert found.params["seed"] == "0"
    assert found.params["data.sources.a.sequences"] == '["dog", "cat"]'
    assert found.params["tracking.alias"] == "best"
    assert {key: value for key, value in found.tags.items() if key.startswith("changed.")} == {"changed.seed": "7"}


def test_a_series_longer_than_one_request_arrives_whole_with_steps_and_times(client: MlflowClient, run: Run) -> None:
    run.log_series(("loss", step / 7, step, 1000 + step) for step in range(1003))
    history = client.get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(s, s / 7, 1000 + s) for s in range(1003)]


def test_a_value_that_is_not_a_number_is_kept_as_such(client: MlflowClient, run: Run) -> None:
    run.log_metrics({"odd": math.nan}, step=2)
    (metric,) = client.get_metric_history(run.run_id, "odd")
    assert math.isnan(metric.value)


def test_a_handle_survives_pickling_and_continues_the_same_run(
    client: MlflowClient, run: Run, experiment: Experiment
) -> None:
    again = tracking.start_run(experiment, "toy", run_id=pickle.loads(pickle.dumps(run)).run_id)
    assert again == run
    again.finish()
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_continuing_a_run_that_the_store_lacks_names_it(experiment: Experiment, run: Run) -> None:
    with pytest.raises(UserError, match="0123abcd"):
        tracking.start_run(experiment, "toy", run_id="0123abcd")


def test_registering_the_same_file_of_the_same_run_twice_gives_one_version(run: Run, model_folder: Path) -> None:
    first = registry.register_model(run, model_folder, "twice", "best", tags={"J": 0.5})
    assert registry.register_model(run, model_folder, "twice", "best") == first
    (only,) = registry.list_versions(run.uri, "twice")
    assert (only.aliases, only.tags, only.run_id) == (("best",), {"J": "0.5"}, run.run_id)


def test_an_alias_moves_to_the_newest_version_and_the_older_file_stays(
    run: Run, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    old = (model_folder / registry.MODEL_FILE).read_bytes()
    assert registry.register_model(run, model_folder, "moves", "best") == 1
    (model_folder / registry.MODEL_FILE).write_bytes(b"newer weights")
    assert registry.register_model(run, model_folder, "moves", "best") == 2
    assert registry.resolve_model(run.uri, "models:/moves@best").version == 2
    first = registry.resolve_model(run.uri, "moves/1")
    target = tmp_path_factory.mktemp("download")
    assert registry.download_model(run.uri, first, target).read_bytes() == old


def test_a_model_file_changed_after_registration_is_refused(
    run: Run, model_folder: Path, tmp_path: Path, experiment: Experiment
) -> None:
    registry.register_model(run, model_folder, "tampered", "best")
    found = registry.resolve_model(run.uri, "models:/tampered@best")
    (kept,) = Path(experiment.storage).rglob(f"{found.digest[:12]}/{registry.MODEL_FILE}")
    kept.write_bytes(kept.read_bytes() + b"!")
    with pytest.raises(UserError, match=r"models:/tampered/1.*changed"):
        registry.download_model(run.uri, found, tmp_path / "download")
    kept.unlink()
    with pytest.raises(UserError, match="models:/tampered/1"):
        registry.download_model(run.uri, found, tmp_path / "download")


def test_a_missing_alias_version_or_model_is_named_with_those_that_exist(run: Run, model_folder: Path) -> None:
    registry.register_model(run, model_folder, "known", "best")
    with pytest.raises(UserError, match=r"'known'.*no alias 'worst'.*1 \(best\)"):
        registry.resolve_model(run.uri, "models:/known@worst")
    with pytest.raises(UserError, match=r"'known'.*no version 9.*1 \(best\)"):
        registry.resolve_model(run.uri, "models:/known/9")
    with pytest.raises(UserError, match=r"no model 'unknown'.*known"):
        registry.resolve_model(run.uri, "models:/unknown@best")
    with pytest.raises(UserError, match=r"models:/NAME@ALIAS"):
        registry.resolve_model(run.uri, "known")


def test_a_version_registered_by_something_else_is_refused(run: Run, client: MlflowClient, tmp_path: Path) -> None:
    run.log_bytes(b"?", f"foreign/{registry.MODEL_FILE}")
    client.create_registered_model("foreign")
    client.create_model_version("foreign", f"runs:/{run.run_id}/foreign", run.run_id)
    found = registry.resolve_model(run.uri, "foreign/1")
    with pytest.raises(UserError, match="registered was none"):
        registry.download_model(run.uri, found, tmp_path)


def test_the_store_is_an_sqlite_file_in_the_storage_unless_the_recipe_names_another(tmp_path: Path) -> None:
    assert tracking.tracking_uri(_experiment(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.tracking_uri(_experiment(tmp_path, uri="http://mlflow:5000")) == "http://mlflow:5000"
    assert tracking.tracking_uri(_experiment(tmp_path, uri="sqlite:///a.db")) == f"sqlite:///{Path('a.db').resolve()}"
    with pytest.raises(UserError, match=r"tracking\.uri"):
        tracking.tracking_uri(_experiment("s3://bucket/runs"))


def test_a_store_that_is_not_there_or_no_store_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.db"):
        tracking.open_store(f"sqlite:///{tmp_path}/nowhere.db")
    assert not list(tmp_path.iterdir())
    (tmp_path / "rubbish.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"rubbish\.db.*not a database"):
        tracking.open_store(f"sqlite:///{tmp_path}/rubbish.db")


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """Takes connections and closes them without a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_a_server_that_does_not_answer_is_one_line_that_names_it(deaf_server: str) -> None:
    how = r"start it, or name another store \(--tracking, or tracking\.uri in a recipe\)"
    with pytest.raises(UserError, match=f"no MLflow server answers at {deaf_server}: {how}"):
        tracking.open_store(deaf_server)


def test_a_tracking_uri_with_a_password_is_refused_and_not_repeated() -> None:
    for uri in ("http://ada:secret@mlflow:5000", "postgresql://ada:secret@db/mlflow"):
        with pytest.raises(UserError, match=r"tracking URI.*in the environment") as refused:
            tracking.absolute_store(uri)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["mlflow:5000", "runs/mlflow.db", "./mlruns"])
def test_a_tracking_uri_that_is_none_says_what_one_is(uri: str) -> None:
    with pytest.raises(UserError, match=rf"{uri}: give http://HOST:PORT .* or sqlite:///FILE"):
        tracking.absolute_store(uri)


def test_impatience_ends_with_the_last_who_is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = MLFLOW_HTTP_REQUEST_MAX_RETRIES
    monkeypatch.delenv(limit.name, raising=False)
    first, second = tracking.impatient(), tracking.impatient()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert limit.get() == 1
    second.__exit__(None, None, None)
    assert limit.get() == limit.default
    with tracking.impatient():
        assert limit.get() == 1
    monkeypatch.setenv(limit.name, "3")  # who sets it means it
    with tracking.impatient():
        assert limit.get() == 3
    assert limit.get() == 3


def test_no_variable_vanishes_from_under_a_thread_that_goes_through_the_environment() -> None:
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            with tracking.impatient():
                pass

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(3000):
            dict(os.environ)
    finally:
        stop.set()
        changing.join()
