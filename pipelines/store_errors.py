"""What MLflow and its server refuse, as one line that says what to do about it; and no waiting for minutes."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rtnet.errors import UserError

Made = TypeVar("Made")

HOW_TO_NAME = "--tracking, or tracking.uri in a recipe"

_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

# A server's status, in the words of MLflow's REST calls, of its artifacts' calls, and of calls that were repeated.
_STATUS = re.compile(r"failed with error code (\d{3})|^(\d{3}) \w+ Error|too many (\d{3}) error responses")
_PATH = re.compile(r"(?:endpoint|url:) (?:https?://[^/\s]+)?/?(?:api/\d\.\d/)?(?:mlflow/)?([^\s?]+)")

_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_lock = threading.Lock()
_impatient = 0  # so many are
_before: dict[str, str] = {}  # their values when the first of them came


@contextmanager
def explained(where: str) -> Iterator[None]:
    """What MLflow refuses, as one line. where: its URI, and what was asked of it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # what MLflow lets through of a damaged database

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise UserError(_in_words(where, str(error).strip() or type(error).__name__)) from error


def unless_there(make: Callable[[], Made]) -> Made | None:
    """What `make` gives; None where it is there, as others may be making it at this moment."""
    from mlflow.exceptions import MlflowException

    try:
        return make()
    except MlflowException as error:
        # Of aliases MLflow does not expect it, and lets its database speak: PostgreSQL, or SQLite.
        words = ("duplicate key value", "UNIQUE constraint failed")
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not any(word in str(error) for word in words):
            raise
    return None


@contextmanager
def impatient() -> Iterator[None]:
    """MLflow waits minutes for a server that does not answer; the first request of a command does not.

    For all threads of the process, as MLflow reads its limits from the environment. There they stay, at the values that
    MLflow has without them: a variable must not vanish while another thread goes through the environment, as every
    HTTP request does to look for proxies.
    """
    global _impatient
    with _lock:
        if _impatient == 0:
            patient = _patience()
            _before.update({name: os.environ.get(name, patient[name]) for name in _LIMITS})
            os.environ.update({name: _LIMITS[name] for name in _LIMITS if _before[name] == patient[name]})
        _impatient += 1
    try:
        yield
    finally:
        with _lock:
            _impatient -= 1
            if _impatient == 0:
                os.environ.update(_before)


def _patience() -> dict[str, str]:
    """MLflow's own limits; who sets others means them."""
    from mlflow import environment_variables

    return {name: str(getattr(environment_variables, name).default) for name in _LIMITS}


def _in_words(where: str, said: str) -> str:
    found = _STATUS.search(said)
    status = next(filter(None, found.groups())) if found else ""
    path = _PATH.search(said)
    asked = f" ({path[1].rstrip('.')})" if path else ""
    user = os.environ.get(_USER)
    if "Invalid Host header" in said:
        return f"the MLflow server does not let itself be called as {where}: add that host:port to its --allowed-hosts"
    if status == "401" and not (user and os.environ.get(_PASSWORD)):
        return f"MLflow at {where} asks who you are: set {_USER} and {_PASSWORD}"
    if status == "401":
        return f"MLflow at {where} has no user '{user}' with this password: mend {_USER} and {_PASSWORD}"
    if status == "403":
        return (
            f"MLflow at {where} does not allow user '{user}' to do this{asked}: READ is enough to look up and to "
            "predict, EDIT of the experiment to train, EDIT of the model to register and promote"
        )
    if status.startswith("5"):
        cause = ", whether it has its S3 credentials and bucket" if "mlflow-artifacts" in said else ""
        return f"the MLflow server at {where} fails with {status}{asked}: its log says why{cause}"
    if re.search("failed with (timeout )?exception", said):  # MLflow's words for a request without response
        return f"no MLflow server answers at {where}: start it, or name another store ({HOW_TO_NAME})"
    return f"MLflow at {where}: {said.splitlines()[0][:300]}"
