"""One Ray session per command: the cluster of RAY_ADDRESS (a submitted job has one), else one of this machine."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rtnet.errors import UserError

# Read by Ray when it starts, so they are set before it is imported.
_SETTINGS = {
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # V2 starts 32 actors for every read
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "1800",  # hosts that are lost may come back, or others
    # A call to a host that is cut off is to fail after 60 + 20 seconds, for its task to begin elsewhere; Ray's own are
    # 300 + 120. The three hosts' tests of `prepare` and `predict` have passed with these, too, once.
    # Nodes that were started without this take more frequent pings than one a minute for an attack.
    "RAY_grpc_client_keepalive_time_ms": "60000",
    "RAY_grpc_client_keepalive_timeout_ms": "20000",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line of a worker twice
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_SCHEDULER_EVENTS": "0",  # an autoscaler's complaints, again and again: `resources` says what matters
    "RAY_USAGE_STATS_ENABLED": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # DDP's advice in every worker about an option that the frozen phase needs
}
# Makes the node's address 127.0.0.1, as it is on other systems than Linux, and all of its processes listen there alone.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

TOKEN_PLACE = "its token belongs in ~/.ray/auth_token, in RAY_AUTH_TOKEN_PATH's file or, before both, in RAY_AUTH_TOKEN"

_ANSWERS = 20.0  # seconds that a cluster's head may take


@contextmanager
def ray_session() -> Iterator[None]:
    """Connects, and shuts down what it started; does nothing where a session is already open.

    Raises UserError where the cluster of RAY_ADDRESS can't be reached, or is of another Ray or Python.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    if address is not None and "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address}: a verb runs on a node of its cluster: give that node's RAY_ADDRESS=auto or "
            "HOST:6379, or send the verb there by `rtnet submit`"
        )
    for name, value in (_SETTINGS | (_LOOPBACK if address is None else {})).items():
        os.environ.setdefault(name, value)
    choose_authentication(local=address is None)
    import ray

    if ray.is_initialized():
        yield
        return
    terminated = signal.getsignal(signal.SIGTERM)
    if address is None:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
        _start_local()
    else:
        try:
            _ask_once(address)
            ray.init(address=address, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            raise UserError(no_cluster(address, str(error))) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray's own way prints its stack
    quieten_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def _ask_once(address: str) -> None:
    """ConnectionError where no cluster answers, or not to us: Ray itself asks again and again, and prints each time."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.services import canonicalize_bootstrap_address
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    with init_grpc_channel(canonicalize_bootstrap_address(address)) as channel:
        try:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=_ANSWERS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise ConnectionError(f"{error.details()}: {TOKEN_PLACE}") from error
            raise ConnectionError(" ".join(str(error.details()).split())) from error


def no_cluster(address: str, said: str) -> str:
    """In one line why Ray did not connect."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", said)
    if "Version mismatch" in said and len(versions) == 2:
        theirs, ours = (f"Ray {ray} with Python {python}" for ray, python in versions)
        return f"the cluster at RAY_ADDRESS={address} runs {theirs}, and this is {ours}: both must be the same"
    return f"no Ray cluster at RAY_ADDRESS={address}: {said.splitlines()[0]}"


def choose_authentication(local: bool) -> None:
    """Ray wants one mode everywhere, and reads it when it is imported; a client of a cluster looks for no token itself.

    local: Ray is to be started on this machine, and makes a token where there is none.
    """
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if local or named or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    _refuse_odd_token()


def _refuse_odd_token() -> None:
    """UserError for what no HTTP header can hold: whoever refuses it else may print it."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return
    where, token = "RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", "").encode(errors="surrogateescape")
    if not token:
        where = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
        with suppress(OSError):
            token = Path(where).expanduser().read_bytes()
    if token and not re.fullmatch(rb"[\x21-\x7e]+", token.strip()):
        raise UserError(f"{where} holds no token, which is a word of ASCII: `ray get-auth-token --generate` makes one")


def _start_local() -> None:
    """The dashboard runs too: Train and Tune need it to clean up, jobs to be submitted. It listens on loopback only."""
    import ray

    for attempt in (1, 2, 3):
        try:
            with _known_to_its_processes():
                ray.init(address="local", dashboard_host="127.0.0.1", logging_level=logging.WARNING)
            return
        except Exception:  # start-up has fixed time limits that a loaded machine exceeds; Ray raises many types
            ray.shutdown()
            if attempt == 3:
                raise


@contextmanager
def _known_to_its_processes() -> Iterator[None]:
    """A part of Train looks its own Ray up, and fails where there are several on the machine: they inherit which."""
    import ray

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    inherited = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}
    os.environ.update(inherited)
    try:
        yield
    finally:
        for name in inherited:
            del os.environ[name]


def quieten_ray_data() -> None:
    """The verbs print their own progress. For each process that runs a dataset."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns of bars that are off
    # Prints the traceback of what is raised anyway, for the verb to put into words.
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)
