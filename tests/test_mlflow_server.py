"""MLflow as a server, with its own users, on PostgreSQL and an object store: many writers, refusals, promotion."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli, promotion, registry, tracking
from pipelines.lineage import lineage_of
from pipelines.tracking import Run
from rtnet.checkpoint import load_network, save_model
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.network import build_network
from tests import mlflow_writers as writers
from tests.services import ObjectStore, Server, missing_postgresql, mlflow_server, object_store, postgresql
from tests.services import postgresql_programs as programs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WRITERS, THREADS = 16, 4  # as threads of four processes, since each process takes seconds to import MLflow
MODEL = "many"


@dataclass(frozen=True)
class Cluster:
    """What a cluster has: a database, a bucket, and MLflow's server in front of both."""

    database: str
    store: ObjectStore
    artifacts: str
    server: Server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing := missing_postgresql():
        pytest.skip(f"left out: {missing}")
    folder = tmp_path_factory.mktemp("services")
    with postgresql(folder) as database, object_store() as store:
        bucket = store.bucket("mlflow")
        with mlflow_server(folder, backend=database, artifacts=bucket, environment=store.environment()) as server:
            for user in ("trainer", "reader"):
                server.add_user(user)
            yield Cluster(database, store, bucket, server)


@pytest.fixture
def uri(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's, for the user `trainer`."""
    _become(cluster.server, "trainer", monkeypatch)
    return cluster.server.uri


def _become(server: Server, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment(user).items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Written:
    """The sweep's run, and what each of its trials says of itself."""

    parent: Run
    trials: dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def written(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Sixteen trials, all at once; neither their model nor its aliases were there before."""
    go = tmp_path_factory.mktemp("writers") / "go"
    with pytest.MonkeyPatch.context() as patch:
        _become(cluster.server, "trainer", patch)
        tracking.open_store(cluster.server.uri)
        parent = tracking.start_plain_run(cluster.server.uri, "sweep", {})
        processes = []
        for first in range(0, WRITERS, THREADS):
            command = [sys.executable, "-m", "tests.mlflow_writers", parent.uri, parent.run_id, MODEL, str(go)]
            command += [str(number) for number in range(first, first + THREADS)]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT))
        for process in processes:
            assert process.stderr is not None
            while (line := process.stderr.readline()) != "ready\n":
                assert line, "a writer ended before it began"
        go.touch()
        said = [process.communicate(timeout=300) for process in processes]
    failed = [error for process, (_, error) in zip(processes, said, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)
    return Written(parent, {int(number): facts for out, _ in said for number, facts in json.loads(out).items()})


def test_of_sixteen_trials_that_write_at_once_every_value_of_every_step_is_kept(uri: str, written: Written) -> None:
    client = tracking.client(uri)
    for number, facts in written.trials.items():
        logged = [entry for epoch in range(1, writers.EPOCHS + 1) for entry in writers.series(number, epoch)]
        for name in writers.LOSSES:
            kept = [(m.value, m.step, m.timestamp) for m in client.get_metric_history(facts["run"], name)]
            assert kept == [entry[1:] for entry in logged if entry[0] == name]


def test_their_runs_are_nested_and_whole(uri: str, written: Written) -> None:
    client = tracking.client(uri)
    place = client.get_experiment_by_name("rtnet").experiment_id
    runs = client.search_runs([place], f"tags.`{tracking.PARENT}` = '{written.parent.run_id}'")
    assert {run.info.run_id for run in runs} == {facts["run"] for facts in written.trials.values()}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == WRITERS
    for run in runs:
        number = int(run.data.params["seed"])
        recipe = writers.experiment(uri, number)
        assert run.info.run_name == recipe.name
        assert json.loads(run.data.params["training.phases"])[0]["rate"] == recipe.training.phases[0].rate
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files == {"recipe.yaml", "environment.txt", "validation", "models"}
        pictures = client.list_artifacts(run.info.run_id, "validation")
        assert len(pictures) == writers.EPOCHS


def test_every_version_has_a_number_and_weights_of_its_own(uri: str, written: Written, tmp_path: Path) -> None:
    versions = {version.version: version for version in registry.list_versions(uri, MODEL)}
    assert sorted(versions) == list(range(1, WRITERS + 1))
    for number, facts in written.trials.items():
        version = versions[facts["version"]]
        assert facts["found"]
        assert version.run_id == facts["run"]
        assert f"trial-{number}" in version.aliases
        folder = tmp_path / str(number)
        assert registry.download_model(uri, version, folder).read_bytes() == writers.weights(number)
    assert sum("best" in version.aliases for version in versions.values()) == 1


def test_an_experiment_that_several_begin_at_once_is_one(uri: str) -> None:
    def begin(number: int) -> str:
        run = tracking.start_plain_run(uri, f"run {number}", {}, experiment="at once")
        return str(tracking.client(uri).get_run(run.run_id).info.experiment_id)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(begin, range(8)))) == 1


def test_an_alias_that_several_set_at_once_is_one_of_theirs(uri: str, written: Written) -> None:
    versions = registry.list_versions(uri, MODEL)
    with ThreadPoolExecutor(len(versions)) as threads:
        for number in range(8):  # of sixteen that make it, MLflow refuses some in about every third try
            aliases = [f"fresh-{number}"] * len(versions)
            list(threads.map(registry.set_alias, [uri] * len(versions), versions, aliases))
    found = registry.list_versions(uri, MODEL)
    for number in range(8):
        assert sum(f"fresh-{number}" in version.aliases for version in found) == 1


def test_nothing_that_mlflow_holds_has_a_password_or_a_key(cluster: Cluster, written: Written) -> None:
    folder = programs()
    assert folder is not None
    dump = subprocess.run([folder / "pg_dump", cluster.database], capture_output=True, check=True).stdout
    held = dump + b"".join(_objects(cluster))
    assert b"trial-07" in held and b"name: trial-07" in held
    passwords = [*cluster.server.passwords.values(), cluster.store.secret, cluster.database.split(":")[2].split("@")[0]]
    assert not [password for password in passwords if password.encode() in held]


def _objects(cluster: Cluster) -> Iterator[bytes]:
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.store.environment().items():
            patch.setenv(name, value)
        bucket = boto3.resource("s3").Bucket(cluster.artifacts.removeprefix("s3://"))
        for entry in bucket.objects.all():
            yield entry.get()["Body"].read()


def _rtnet(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status, and what was said on both streams."""
    status = cli.main(words)
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.fixture
def trained(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The name of a model of which version 1 scores 0.7, 2 scores 0.6 and 3 scores 0.8."""
    name = f"model {request.node.name}"
    for number, score in enumerate((0.7, 0.6, 0.8)):
        (tmp_path / registry.MODEL_FILE).write_bytes(f"{name} {number}".encode())
        run = tracking.start_plain_run(uri, name, {})
        version = registry.register_model(run, tmp_path, name)
        facts = {"J": score, "F": score, "JF": score, "frames": 40, "content": "digest"}
        registry.record_evaluation(uri, registry.resolve_model(uri, f"{name}/{version}"), "val", facts)
    return name


def test_the_gate_holds_for_who_may_promote_and_others_may_not_at_all(
    cluster: Cluster, uri: str, trained: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = ("models", "promote", "--tracking", uri)
    assert _rtnet(capsys, *promote, f"{trained}/1", "champion")[0] == 0
    status, said = _rtnet(capsys, *promote, f"{trained}/2", "champion")
    assert status == 2 and "0.6000" in said and "0.7000" in said
    _become(cluster.server, "reader", monkeypatch)
    status, said = _rtnet(capsys, *promote, f"{trained}/3", "champion")
    assert status == 2 and len(said.splitlines()) == 1
    assert "'reader'" in said and "EDIT of the model" in said
    assert _rtnet(capsys, *promote, f"{trained}/2", "champion", "--force")[0] == 2
    assert registry.resolve_model(uri, f"{trained}@champion").version == 1


def test_with_a_model_for_releases_who_trains_can_not_promote(
    cluster: Cluster, uri: str, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = f"{trained} released"
    _become(cluster.server, "admin", monkeypatch)
    tracking.client(uri).create_registered_model(release)
    copied = tracking.client(uri).copy_model_version(f"models:/{trained}/3", release)
    released = registry.resolve_model(uri, f"{release}/{copied.version}")
    promotion.promote(uri, released, "champion")
    _become(cluster.server, "trainer", monkeypatch)
    with pytest.raises(UserError, match=r"'trainer'.*EDIT of the model"):
        promotion.promote(uri, released, "other")
    found = registry.resolve_model(uri, f"{release}@champion")
    assert registry.download_model(uri, found, tmp_path / "there").read_bytes() == f"{trained} 2".encode()
    assert found.evaluations["val"]["JF"] == 0.8


def test_who_may_read_looks_up_and_fetches_and_does_not_train(
    cluster: Cluster, uri: str, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _become(cluster.server, "reader", monkeypatch)
    number = 7
    found = registry.resolve_model(uri, f"models:/{MODEL}@trial-{number}")
    assert lineage_of(uri, found).recipe["seed"] == str(number)
    assert registry.download_model(uri, found, tmp_path).read_bytes() == writers.weights(number)
    with pytest.raises(UserError, match=r"'reader'.*EDIT of the experiment") as refused:
        tracking.start_run(writers.experiment(uri, 99), "mine")
    assert "\n" not in str(refused.value)
    assert tracking.find_run(uri, "0123abcd" * 4) is None


def test_every_node_looks_the_same_models_up(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other processes in other folders have the credentials alone, and do so at the same time."""
    save_model(tmp_path / "small.safetensors", build_network(RTNetConfig("resnet18", "appearance")))
    imported = ("import", str(tmp_path / "small.safetensors"), "--name", "node", "--alias", "best")
    assert _rtnet(capsys, "models", *imported, "--tracking", uri)[0] == 0
    model = "node-appearance"
    nodes = []
    for words in (("show", f"{model}@best"), ("export", f"{model}/1", "out.safetensors")):
        node = tmp_path / words[0]
        node.mkdir()
        command = [sys.executable, "-m", "pipelines.cli", "models", *words]
        outer = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
        nodes.append(subprocess.Popen(command, cwd=node, env=outer, stdout=subprocess.PIPE, text=True))
    for words in (("list", model), ("compare", f"{model}/1", f"{model}@best")):
        status, said = _rtnet(capsys, "models", *words, "--tracking", uri)
        assert status == 0 and model in said
    shown, exported = (node.communicate(timeout=300)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0]
    assert f"models:/{model}/1" in shown and "out.safetensors" in exported
    assert load_network(tmp_path / "export" / "out.safetensors").config.backbone == "resnet18"


def test_a_wrong_password_or_none_is_one_line(cluster: Cluster, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(UserError, match=f"MLflow at {uri} has no user 'trainer' with this password") as refused:
        tracking.open_store(uri)
    assert "wrong" not in str(refused.value)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(UserError, match=f"{uri} asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_P"):
        tracking.open_store(uri)


def test_a_name_that_the_server_is_not_allowed_is_named_with_the_option(uri: str) -> None:
    with pytest.raises(UserError, match="--allowed-hosts"):
        tracking.open_store(uri.replace("127.0.0.1", "localhost"))


def test_a_server_without_credentials_for_its_bucket_says_so_at_once(
    cluster: Cluster, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": cluster.store.endpoint}
    with mlflow_server(tmp_path, backend=cluster.database, artifacts=cluster.artifacts, environment=nowhere) as server:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"fails with 500.*S3 credentials") as refused:
            tracking.start_run(writers.experiment(server.uri, 98), "mine")
        assert time.monotonic() - began < 30
        assert "\n" not in str(refused.value)
