"""MLflow: runs with their parameters, curves and files. The only module that imports it; registry.py builds on it.

One process at a time writes to a run. `open_store` migrates an SQLite store once, before others touch it: processes
that open a fresh file together break it for good.
"""

import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml

from pipelines.code_version import code_tags, environment
from pipelines.config import Experiment
from pipelines.credentials import refuse_credentials
from pipelines.storage import absolute
from pipelines.store_errors import HOW_TO_NAME, unless_there
from pipelines.store_errors import explained as explained
from pipelines.store_errors import impatient as impatient
from rtnet.errors import UserError

# Read by MLflow when it is imported, so it is imported late.
_SETTINGS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # nothing of ours needs one
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

PARENT = "mlflow.parentRunId"  # MLflow's own name for the tag of a nested run

_KEY = "rtnet_key"

_SQLITE = "sqlite:///"


def tracking_uri(experiment: Experiment) -> str:
    """Where the experiment is tracked, from any working folder: the recipe's URI, else an SQLite file in `storage`."""
    uri = experiment.tracking.uri
    if uri is not None:
        return absolute_store(uri)
    if "://" in experiment.storage:
        raise UserError(f"storage {experiment.storage} can't hold an SQLite file: give tracking.uri, an MLflow server")
    return f"{_SQLITE}{absolute(experiment.storage)}/mlflow.db"


def absolute_store(uri: str) -> str:
    """A tracking URI whose SQLite file, if it is one, has an absolute path.

    Raises UserError where it is no URI, and where it holds credentials: it is written down with every run, prediction
    and evaluation.
    """
    refuse_credentials({"tracking URI": uri}, "")
    if "://" not in uri and uri != "databricks":
        raise UserError(f"tracking URI {uri}: give http://HOST:PORT of an MLflow server, or sqlite:///FILE")
    return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).resolve()}" if uri.startswith(_SQLITE) else uri


def open_store(uri: str, create: bool = False) -> None:
    """Checks that the store answers, and migrates it where it is a database.

    create: makes an SQLite file that is not there. Raises UserError where it is not, or where a server does not answer.
    """
    if uri.startswith(_SQLITE):
        file = Path(uri.removeprefix(_SQLITE))
        if create and not file.is_file():
            _create_database(file)
        elif not file.is_file():
            raise UserError(
                f"no MLflow store at {uri}: train first, register a file with `rtnet models import`, or name the store "
                f"that is meant ({HOW_TO_NAME})"
            )
    with impatient(), explained(uri):
        client(uri).search_experiments(max_results=1)


def reach_store(uri: str) -> None:
    """Checks, before long work, that the store answers; an SQLite file that is not there yet is none to check."""
    if not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).is_file():
        open_store(uri)


@dataclass(frozen=True)
class Run:
    """A tracked run. Picklable: whoever writes opens its own connection."""

    uri: str
    run_id: str

    def log_params(self, experiment: Experiment) -> None:
        """The whole experiment, one parameter per field. What a continued run changes becomes a `changed.FIELD` tag."""
        from mlflow.entities import Param

        before = client(self.uri).get_run(self.run_id).data.params
        now = _flat(experiment.model_dump(mode="json"))
        fresh = iter([Param(key, value) for key, value in now.items() if key not in before])
        while chunk := list(islice(fresh, 100)):
            client(self.uri).log_batch(self.run_id, params=chunk)
        self.set_tags({f"changed.{key}": now[key] for key in now.keys() & before if now[key] != before[key]})

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Values of one step, stamped with the present time."""
        now = time.time_ns() // 1_000_000
        self.log_series((name, value, step, now) for name, value in values.items())

    def log_series(self, series: Iterable[tuple[str, float, int, int]]) -> None:
        """Any number of (name, value, step, milliseconds since 1970), in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        metrics = (Metric(name, float(value), stamp, step) for name, value, step, stamp in series)
        while chunk := list(islice(metrics, 1000)):
            client(self.uri).log_batch(self.run_id, metrics=chunk)

    def log_bytes(self, data: bytes, file: str) -> None:
        """Data as the run's artifact `file`, such as pictures/0001.jpg; one of that name is replaced."""
        client(self.uri).log_stream(self.run_id, io.BytesIO(data), file)

    def log_missing(self, files: Mapping[str, bytes]) -> None:
        """Those of the files that are not among the run's artifacts yet; a kill may have come before any of them."""
        for file, data in files.items():
            folder = file.rpartition("/")[0]
            if file not in {artifact.path for artifact in client(self.uri).list_artifacts(self.run_id, folder or None)}:
                self.log_bytes(data, file)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """A file as an artifact of its own name, in `folder` of the run's artifacts."""
        client(self.uri).log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        entries = iter([RunTag(key, str(value)) for key, value in tags.items()])
        while chunk := list(islice(entries, 100)):
            client(self.uri).log_batch(self.run_id, tags=chunk)

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        client(self.uri).set_terminated(self.run_id, status)

    def try_finish(self, status: Literal["FAILED", "KILLED"]) -> None:
        """After a failure, which is to be told and not that of a store that doesn't answer either."""
        with suppress(Exception), impatient():
            self.finish(status)


def start_run(
    experiment: Experiment,
    name: str,
    run_id: str | None = None,
    tags: Mapping[str, object] | None = None,
    key: str | None = None,
) -> Run:
    """A new run of the recipe's MLflow experiment, or the one of `run_id` continued; opens the store first.

    key: of no other run; where the store has a run that was begun with it, that one is continued. The tags given join
    those of the code's commit and the libraries' versions; the recipe and the environment become artifacts. Raises
    UserError where the store does not answer or does not have the run.
    """
    uri = tracking_uri(experiment)
    open_store(uri, create=True)
    with explained(uri):
        # On an object store MLflow needs a library of its own: what an SQLite file is about lies beside it then.
        beside = uri.startswith(_SQLITE) and "://" in experiment.storage
        storage = str(Path(uri.removeprefix(_SQLITE)).parent) if beside else experiment.storage
        place = _experiment_id(uri, experiment.tracking.experiment, storage)
        if run_id is None and key is not None:
            found = client(uri).search_runs([place], f"tags.{_KEY} = '{key}'", max_results=1)
            run_id = found[0].info.run_id if found else None
        if run_id is None:
            run_id = client(uri).create_run(place, run_name=name, tags={_KEY: key} if key else None).info.run_id
        elif find_run(uri, run_id) is None:
            raise UserError(
                f"run {run_id} of {name} is not in {uri}, or not for this user: "
                "name the store that has it, or another run"
            )
        else:
            client(uri).update_run(run_id, status="RUNNING")
        run = Run(uri, run_id)
        run.set_tags({**code_tags(), **(tags or {})})
        recipe = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
        with impatient():  # the first files, so a server that can't store any says so at once
            run.log_missing({"recipe.yaml": recipe.encode(), "environment.txt": environment().encode()})
    return run


def start_plain_run(uri: str, name: str, tags: Mapping[str, object], experiment: str = "rtnet") -> Run:
    """A new run of no recipe, in an MLflow experiment that is made where it is missing; the store must be open."""
    with explained(uri):
        # A database's files lie beside it, as they do where a recipe names no store.
        place = _experiment_id(uri, experiment, str(Path(uri.removeprefix(_SQLITE)).parent))
        run = Run(uri, client(uri).create_run(place, run_name=name).info.run_id)
        run.set_tags({**code_tags(), **tags})
    return run


def find_run(uri: str, run_id: str) -> Run | None:
    """The run of this id, or None where the store has none that is not deleted, or none for this user."""
    from mlflow.exceptions import MlflowException

    try:
        found = client(uri).get_run(run_id)
    except MlflowException as error:
        # A server with users does not say whether there is one that they may not read.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            return None
        raise
    return Run(uri, run_id) if found.info.lifecycle_stage == "active" else None


def _create_database(file: Path) -> None:
    """Aside, then moved: a kill in the seconds that MLflow takes would leave a database that it never opens again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{os.getpid()}.part")
    with explained(f"{_SQLITE}{file}"):
        client(f"{_SQLITE}{aside}").search_experiments(max_results=1)
    if not file.is_file():
        aside.rename(file)


def client(uri: str) -> Any:
    """MLflow's client of a store; cheap, as MLflow keeps the connection."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def fetch(uri: str, artifact: str, folder: Path) -> Path:
    """Copies an artifact (runs:/RUN/PATH) into a local folder; where it then lies."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact, dst_path=str(folder), tracking_uri=uri))


def _experiment_id(uri: str, name: str, storage: str) -> str:
    store = client(uri)
    found = store.get_experiment_by_name(name)
    if found is None:
        # A server chooses the place itself; a database leaves it to us, and its default depends on the working folder.
        place = None if uri.startswith(("http", "databricks")) else f"{absolute(storage)}/mlartifacts"
        made = unless_there(lambda: store.create_experiment(name, artifact_location=place))
        if made is not None:
            return str(made)
        found = store.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(f"MLflow experiment '{name}' in {uri} is deleted: restore it or change tracking.experiment")
    return str(found.experiment_id)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
