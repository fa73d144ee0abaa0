"""A Ray cluster with a token on hosts of `hosts.py`; beside it a client, and MLflow's server with PostgreSQL and S3."""

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipelines.config import Experiment, load_experiment
from pipelines.storage import open_storage, read_bytes
from tests.hosts import OWN, SHARED, Network, network
from tests.services import mlflow_server, object_store, postgresql

BUCKET = "runs"
_BIN = Path(sys.executable).parent
_CHECKOUT = Path(__file__).parents[1]
_MEMBERS = ("head", "worker1", "worker2", "spare", "client")  # who has the token
_TOKEN = "0123456789abcdef0123456789abcdef"
# So that Ray sees within seconds that a host is gone, who calls it too, and the host itself; else each takes a minute.
_FAST = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_grpc_client_keepalive_time_ms": "2000",
    "RAY_grpc_client_keepalive_timeout_ms": "4000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}
_HERE = {
    "HOME": str(OWN),
    "OMP_NUM_THREADS": "1",
    "PATH": f"{_BIN}:{os.environ['PATH']}",
    "PYTHONPATH": str(_CHECKOUT),
    "RAY_AUTH_MODE": "token",
    "RAY_memory_monitor_refresh_ms": "0",  # of all hosts' memory, which is one
}


@dataclass(frozen=True)
class Cluster:
    network: Network
    environment: dict[str, str]  # of all processes in the hosts
    tracking: str
    logs: Path

    def begin(self, host: str, *command: str, log: str, **variables: str) -> subprocess.Popen[bytes]:
        """A command in a host, in a session of its own; what it says goes to a log."""
        with (self.logs / log).open("wb") as output:
            return subprocess.Popen(
                [*self.network.hosts[host].prefix, *command],
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_ray(self, host: str, *options: str) -> None:
        """Begun anew whenever it ends, as a host's service manager does it."""
        address = f"--node-ip-address={self.network.hosts[host].address}"
        node = ["ray", "start", "--block", "--disable-usage-stats", "--object-store-memory=200000000", address]
        self.begin(host, "sh", "-c", f"while :; do {shlex.join([*node, *options])}; sleep 1; done", log=f"{host}.log")

    def join(self, host: str) -> None:
        self.start_ray(host, f"--address={self.network.hosts['head'].address}:6379", "--num-cpus=2")

    def ask(self, path: str, **words: Any) -> Any:
        """The dashboard's answer to someone with the token."""
        request = urllib.request.Request(
            f"http://{self.network.hosts['head'].address}:8265{path}",
            data=json.dumps(words).encode() if words else None,
            headers={"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def alive(self) -> set[str]:
        """The hosts that Ray takes for alive."""
        return set(self.ask("/nodes?view=hostNameList")["data"]["hostNameList"])

    def busy(self, name: str) -> list[str]:
        """The hosts, among those that are alive, on which a process of Ray's calls itself something with that name."""
        return sorted(host for host in self.alive() if any(name in each for each in self.network.commands(host)))

    def files(self, folder: str) -> list[str]:
        """Those below a folder of the object store, by their path in it."""
        system, _ = open_storage(f"s3://{BUCKET}")
        found = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{folder}/") for info in found if info.type == fs.FileType.File)

    def read(self, path: str) -> bytes:
        return read_bytes(open_storage(f"s3://{BUCKET}")[0], path)

    def experiment(self, *overrides: str) -> Experiment:
        """As the jobs load it."""
        return load_experiment(self.network.shared / "hosts.yaml", [f"tracking.uri={self.tracking}", *overrides])

    def submit(self, verb: str, *overrides: str) -> "Job":
        """`rtnet submit` at the client."""
        recipe = [f"{SHARED}/hosts.yaml", f"tracking.uri={self.tracking}", *overrides]
        log = f"{verb}-{len(list(self.logs.iterdir()))}.log"
        command = ["rtnet", "submit", verb, *recipe, "--address", "http://head:8265"]
        return Job(self.begin("client", *command, log=log), self.logs / log)


@dataclass(frozen=True)
class Job:
    process: subprocess.Popen[bytes]  # that follows it
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> str:
        """Waits for its success; what it said."""
        assert self.process.wait(600) == 0, self.said()[-5000:]
        return self.said()

    def reaches(self, condition: Callable[[], bool]) -> None:
        """Waits for the condition, which is to come before the job's end."""
        deadline = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()[-5000:]
            time.sleep(0.05)


@contextmanager
def three_hosts(folder: Path, recipe: str) -> Iterator[Cluster]:
    """Head, worker1 and worker2 run Ray; `spare` and `client` have its token too, `stranger` has none.

    recipe: may hold {shared} and {storage}. Within, this process finds the store and is a user of the MLflow server.
    """
    with ExitStack() as stack:
        net = stack.enter_context(network(folder / "network", [*_MEMBERS, "stranger", "services"]))
        place: dict[str, Any] = {"host": net.hosts["services"].address, "prefix": net.hosts["services"].wire}
        (folder / "mlflow").mkdir()
        store = stack.enter_context(object_store(**place))
        backend = stack.enter_context(postgresql(folder / "mlflow", **place))
        storage, artifacts, theirs = store.bucket(BUCKET), store.bucket("mlflow"), store.environment()
        mlflow = stack.enter_context(
            mlflow_server(folder / "mlflow", backend=backend, artifacts=artifacts, environment=theirs, **place)
        )
        theirs |= mlflow.environment()
        stack.enter_context(_variables(theirs))
        (net.shared / "hosts.yaml").write_text(recipe.format(shared=SHARED, storage=storage))
        for host in _MEMBERS:
            token = net.own(host) / ".ray" / "auth_token"
            token.parent.mkdir()
            token.write_text(_TOKEN)
        (folder / "logs").mkdir()
        cluster = Cluster(net, _FAST | _HERE | theirs, mlflow.uri, folder / "logs")
        address = net.hosts["head"].address
        cluster.start_ray("head", "--head", "--port=6379", "--num-cpus=0", f"--dashboard-host={address}")
        wait_for(lambda: cluster.alive() == {"head"})
        cluster.join("worker1")
        cluster.join("worker2")
        wait_for(lambda: cluster.alive() == {"head", "worker1", "worker2"})
        wait_for(lambda: bool(cluster.ask("/api/jobs/", entrypoint="true")))
        yield cluster


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Until it holds; asking may fail in between."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError, ValueError):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)
