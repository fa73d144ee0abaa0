"""What cluster/mlflow/README.md says of backups: a dump of the database, then a copy of the bucket, are all."""

import subprocess
from pathlib import Path

import pytest
from pyarrow import fs

from pipelines import registry, tracking
from rtnet.errors import UserError
from tests.services import ObjectStore, Server, missing_postgresql, mlflow_server, object_store, postgresql
from tests.services import postgresql_programs as programs

pytestmark = pytest.mark.slow


def test_a_server_on_the_restored_dump_and_the_copied_bucket_has_users_runs_models_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After both of the first server's stores are gone."""
    if missing := missing_postgresql():
        pytest.skip(f"left out: {missing}")
    first, second, dump = tmp_path / "first", tmp_path / "second", tmp_path / "dump.sql"
    first.mkdir()
    second.mkdir()
    with object_store() as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        artifacts, copy = store.bucket("mlflow"), store.bucket("copy")
        with (
            postgresql(first) as database,
            mlflow_server(first, backend=database, artifacts=artifacts, environment=store.environment()) as server,
        ):
            server.add_user("ada")
            run_id = _train_as("ada", server, tmp_path, monkeypatch, b"weights 1")
            subprocess.run([f"{programs()}/pg_dump", f"--file={dump}", database], check=True)
            # What is written between the dump and the copy is no part of the backup, and does it no harm.
            _train_as("ada", server, tmp_path, monkeypatch)
            _move(store, "mlflow", "copy")
        with postgresql(second) as database:
            restore = [f"{programs()}/psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(dump), database]
            subprocess.run(restore, check=True, stdout=subprocess.DEVNULL)
            with mlflow_server(second, backend=database, artifacts=copy, environment=store.environment()) as restored:
                restored.passwords["ada"] = server.passwords["ada"]
                _become("ada", restored, monkeypatch)
                found = registry.resolve_model(restored.uri, "rtnet@best")
                assert found.version == 1 and found.run_id == run_id
                assert tracking.find_run(restored.uri, run_id) is not None
                (tmp_path / "fetched").mkdir()
                fetched = registry.download_model(restored.uri, found, tmp_path / "fetched")
                assert fetched.read_bytes() == b"weights 1"
                with pytest.raises(UserError, match="no version 2"):
                    registry.resolve_model(restored.uri, "rtnet/2")
                _train_as("ada", restored, tmp_path, monkeypatch)
                assert registry.resolve_model(restored.uri, "rtnet@best").version == 2


def _train_as(
    user: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes = b"others"
) -> str:
    """Registers a model; its run."""
    _become(user, server, monkeypatch)
    (folder / registry.MODEL_FILE).write_bytes(weights)
    run = tracking.start_plain_run(server.uri, "training", {})
    registry.register_model(run, folder, "rtnet", alias="best")
    run.finish()
    return run.run_id


def _become(user: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment(user).items():
        monkeypatch.setenv(name, value)


def _move(store: ObjectStore, bucket: str, target: str) -> None:
    environment = store.environment()
    system = fs.S3FileSystem(
        access_key=environment["AWS_ACCESS_KEY_ID"],
        secret_key=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=store.endpoint,
    )
    fs.copy_files(bucket, target, source_filesystem=system, destination_filesystem=system)
    system.delete_dir_contents(bucket)
