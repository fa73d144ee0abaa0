"""A cluster's job server, over HTTP: a client that waits for nobody long, and says what is wrong in one line."""

import argparse
import http.client
import ipaddress
import logging
import os
import platform
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.credentials import refuse_credentials
from pipelines.packages import OLDEST_PYTHON
from pipelines.session import TOKEN_PLACE, choose_authentication
from rtnet.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_LIMITS = (5.0, 50.0)  # seconds for a connection, and for the first byte of an answer from a loaded machine


class UnreachableError(UserError):
    """Nobody answers, or not in time, or not now."""


class UnknownJobError(UserError):
    """The cluster knows no such job."""


class TakenError(UserError):
    """There is a job of that name."""


def add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="URL",
        default=argparse.SUPPRESS,  # else one given before an action would be lost behind it
        help=f"the cluster's dashboard (default: {' or '.join(_ADDRESS_VARIABLES)}, else {_DEFAULT_ADDRESS})",
    )


def open_client(options: argparse.Namespace) -> "JobSubmissionClient":
    """A client of the cluster at `--address`.

    Raises UserError where it is no URL, where nobody or no Ray answers, where the token is missing or wrong, and where
    the cluster's Ray is of another release than ours, for which the code that is sent was not made. What the client
    itself raises is a UserError too, and UnreachableError where trying again may help.
    """
    address = _address(options)
    choose_authentication(local=False)
    import ray

    try:
        client = _client_class()(address)
        theirs = str(client._server_ray_version)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(_token_trouble(address, error)) from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(_no_dashboard(address, reason(error))) from error
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise UserError(
            f"the cluster at {address} runs Ray {theirs}, and this is Ray {ray.__version__}: "
            "a job needs the same release on both sides"
        )
    warn_of_plain_http(address)
    return client


def check_cluster(client: "JobSubmissionClient") -> None:
    """UserError where the cluster's Python is too old for this code; says where it is another, and no tokens are asked.

    A job runs with the cluster's Python and packages. `packages.check_packages` looks at these when it begins.
    """
    if client._do_request("GET", "/api/authentication_mode").json().get("authentication_mode") == "disabled":
        print(
            f"warning: the cluster at {client.get_address()} asks for no token: who reaches it may run anything there; "
            "start it with RAY_AUTH_MODE=token",
            file=sys.stderr,
        )
    theirs = str(client._do_request("GET", "/api/v0/cluster_metadata").json()["data"]["pythonVersion"])
    version = tuple(int(part) for part in theirs.split(".")[:2])
    if version < OLDEST_PYTHON:
        raise UserError(
            f"the cluster at {client.get_address()} runs Python {theirs}, and this code needs "
            f"{'.'.join(map(str, OLDEST_PYTHON))} or newer: start the cluster with a newer one"
        )
    if version != sys.version_info[:2]:
        print(f"note: the cluster runs Python {theirs}, here it is {platform.python_version()}", flush=True)


def reason(error: BaseException) -> str:
    """What was at the bottom of it, in one line."""
    error = _bottom(error)
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def _bottom(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


def _no_dashboard(address: str, why: str) -> str:
    return f"what answers at {address} is no Ray dashboard ({why}): give the dashboard's URL, whose port is mostly 8265"


def _address(options: argparse.Namespace) -> str:
    """Also put where Ray's client looks first: it would prefer its variables to what it is given."""
    origin = "--address"
    address = getattr(options, "address", None)
    if address is None:
        origin = next((name for name in _ADDRESS_VARIABLES if os.environ.get(name)), "")
        address = os.environ[origin] if origin else _DEFAULT_ADDRESS
    refuse_credentials({origin: address}, "")
    if not re.match(r"https?://[^/]", address):
        raise UserError(f"{origin} {address}: give the URL of the cluster's dashboard, such as {_DEFAULT_ADDRESS}")
    os.environ[_ADDRESS_VARIABLES[0]] = address
    return str(address)


def warn_of_plain_http(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme == "http" and os.environ.get("RAY_AUTH_MODE") == "token" and not _is_loopback(parts.hostname or ""):
        print(
            f"warning: the token and the code go to {parts.hostname} unencrypted: on a network that others can read, "
            "use https, or a tunnel such as ssh -L or kubectl port-forward",
            file=sys.stderr,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _client_class() -> Any:
    """Made late: Ray reads how to authenticate when it is imported."""
    import ray
    import requests
    from ray.job_submission import JobSubmissionClient

    for chatty in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{chatty}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's, with time limits, and with errors in the user's words."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            try:
                return super()._do_request(method, endpoint, timeout=_LIMITS, **options)
            except ray.exceptions.AuthenticationError as error:
                raise UserError(_token_trouble(self._address, error)) from error
            except requests.exceptions.InvalidURL as error:
                raise UserError(f"{self._address} is no URL ({reason(error)})") from error
            except requests.exceptions.RequestException as error:
                if isinstance(_bottom(error), http.client.HTTPException) and not isinstance(
                    _bottom(error), http.client.RemoteDisconnected
                ):
                    raise UserError(_no_dashboard(self._address, "it speaks no HTTP")) from error
                raise UnreachableError(
                    f"nobody answers at {self._address} ({reason(error)}): start the cluster there, "
                    "or give its dashboard's URL with --address"
                ) from error

        def _raise_error(self, response: Any) -> None:
            # Of tracebacks, of which one may hold another, the last line that says something.
            lines = [line for line in response.text.splitlines() if re.search(r"\w", line)]
            said = lines[-1] if lines else f"status {response.status_code}"
            kinds = {"already exists": TakenError, "does not exist": UnknownJobError}
            kind = next((kind for words, kind in kinds.items() if words in said), None)
            if kind is None and response.status_code >= 500:
                raise UnreachableError(f"the cluster at {self._address} can't do it now: {said}")
            raise (kind or UserError)(f"the cluster at {self._address}: {said}")

    return Client


def _token_trouble(address: str, error: Exception) -> str:
    said = str(error).splitlines()[0].split(". ")[0]
    return f"the cluster at {address}: {said}: {TOKEN_PLACE}"
