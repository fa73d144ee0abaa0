"""Real services for tests and benchmarks: PostgreSQL, an object store and MLflow's server.

Each is a process of its own that answers when the block begins and is gone, with all its folders, when it ends; where
its starter is killed, it ends as well (on Linux). `host` is the address it listens on; `prefix` goes before its
command, as ("ip", "netns", "exec", NAME) does for a service in a network namespace.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_POSTGRES = "postgres"  # whom Debian's package makes; PostgreSQL does not run as root

# Asks until the answer is 200, within the service's own network namespace; what changes anything, once.
_REQUEST = """
import socket, sys, time
method, host, port, path = sys.argv[1:]
while True:
    try:
        with socket.create_connection((host, int(port)), 60) as connection:
            connection.sendall(f"{method} {path} HTTP/1.0\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
            status = connection.recv(12)
            if status.endswith(b" 200"):
                break
            if method != "GET":
                sys.exit(f"{method} {path}: {status}")
    except OSError:
        pass
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class ObjectStore:
    """An S3 server; it takes any credentials, but wants some."""

    host: str
    port: int
    prefix: Sequence[str]
    secret: str

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """What its clients need: boto3, MLflow, pyarrow and fsspec read all of it from there."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def bucket(self, name: str) -> str:
        """Makes a bucket; its URI."""
        make = _request("PUT", self.host, self.port, f"/{name}")
        subprocess.run([*self.prefix, *make], check=True, timeout=60)
        return f"s3://{name}"


@dataclass(frozen=True)
class Server:
    """MLflow's server, and the passwords of its users by name."""

    uri: str
    passwords: dict[str, str]

    def environment(self, user: str = "admin") -> dict[str, str]:
        """What a client needs to be that user."""
        return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": self.passwords[user]}

    def add_user(self, name: str) -> None:
        self.passwords[name] = secrets.token_urlsafe(12)
        self._as_admin("2.0/mlflow/users/create", {"username": name, "password": self.passwords[name]})

    def grant(self, user: str, kind: str, resource: str, permission: str) -> None:
        """kind: such as "registered_model" or "experiment". permission: READ, USE, EDIT or MANAGE."""
        words = {"username": user, "resource_type": kind, "resource_id": resource, "permission": permission}
        self._as_admin("3.0/mlflow/users/permissions/grant", words)

    def _as_admin(self, path: str, words: dict[str, Any]) -> None:
        login = base64.b64encode(f"admin:{self.passwords['admin']}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
        request = urllib.request.Request(f"{self.uri}/api/{path}", json.dumps(words).encode(), headers)
        urllib.request.urlopen(request, timeout=60).close()


def postgresql_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs; Debian keeps most of them out of PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if debian:
        return debian[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def missing_postgresql() -> str | None:
    """What PostgreSQL lacks on this machine, in words; None where it can be started."""
    if postgresql_programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or not _is_user(_POSTGRES)):
        return f"root can't start PostgreSQL without setpriv and a user {_POSTGRES}"
    return None if find_spec("psycopg") else "PostgreSQL's driver is not installed: pip install 'psycopg[binary]'"


@contextmanager
def postgresql(folder: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[str]:
    """A new PostgreSQL with an empty database, and its URI with user and password.

    folder: for its log; the data lie elsewhere, as another user than root has to reach them.
    """
    programs, port, password = postgresql_programs(), _free_port(), secrets.token_urlsafe(12)
    assert programs is not None, missing_postgresql()
    with tempfile.TemporaryDirectory(prefix="rtnet-postgresql-") as home:
        data, login = Path(home) / "data", Path(home) / "password"
        login.write_text(password)
        become: list[str] = []
        if os.geteuid() == 0:
            become = ["setpriv", f"--reuid={_POSTGRES}", f"--regid={_POSTGRES}", "--clear-groups"]
            for path in (home, login):
                shutil.chown(path, _POSTGRES, _POSTGRES)
        initdb = f"{programs}/initdb -U mlflow -A scram-sha-256 -E UTF8 --locale=C --no-sync".split()
        subprocess.run([*become, *initdb, "-D", data, f"--pwfile={login}"], cwd=home, check=True, capture_output=True)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        options = [f"listen_addresses={host}", "unix_socket_directories=", "max_connections=200"]
        command = [programs / "postgres", "-D", data, "-p", port, *(word for each in options for word in ("-c", each))]
        answers = 'until "$0" -q -h "$1" -p "$2"; do sleep 0.1; done'
        with _service(
            [*prefix, *become],
            command,
            ["sh", "-c", answers, programs / "pg_isready", host, port],
            folder / "postgresql.log",
            home=Path(home),
            stop=signal.SIGINT,  # without waiting for its clients
        ):
            yield f"postgresql://mlflow:{password}@{host}:{port}/postgres"


@contextmanager
def object_store(*, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[ObjectStore]:
    """An S3 server without buckets, which keeps everything in memory."""
    port = _free_port()
    with (
        tempfile.TemporaryDirectory() as scratch,
        _service(
            prefix,
            [sys.executable, "-m", "moto.server", "-H", host, "-p", port],
            _request("GET", host, port, "/moto-api/"),
            Path(scratch) / "moto.log",
        ),
    ):
        yield ObjectStore(host, port, prefix, secrets.token_urlsafe(24))


@contextmanager
def mlflow_server(
    folder: Path,
    *,
    backend: str,
    artifacts: str,
    environment: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    workers: int = 1,
    login_cache: int = 60,
) -> Iterator[Server]:
    """MLflow's server with its own users, of whom there is `admin` at first.

    folder: for its log and its settings. backend: the database's URI, in which its users are as well. artifacts: where
    they lie. environment: what it needs for them, such as S3 credentials. allowed_hosts: by which it may be called,
    beside the host itself. login_cache: seconds for which a password that was right is not checked again.
    """
    port, password = _free_port(), secrets.token_urlsafe(12)
    settings = folder / "basic_auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {backend}\nauth_cache_ttl_seconds = {login_cache}\n"
    )
    settings.chmod(0o600)
    own = {
        "MLFLOW_BACKEND_STORE_URI": backend,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(12),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes more, for what nobody here uses
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "75",  # a worker takes 40 requests, each with up to two connections
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # Under pytest MLflow's database layer would check itself; and the tests have credentials of a store of their own.
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "AWS_"))}
    allowed = ",".join(f"{name}:{port}" for name in (host, *allowed_hosts))
    options = ["--app-name", "basic-auth", "--artifacts-destination", artifacts, "--allowed-hosts", allowed]
    options += ["--host", host, "--port", str(port), "--workers", str(workers)]
    with _service(
        prefix,
        [sys.executable, "-m", "mlflow", "server", *options],
        _request("GET", host, port, "/health"),
        folder / "mlflow.log",
        environment={**outer, **own, **(environment or {})},
        within=180,
    ):
        yield Server(f"http://{host}:{port}", {"admin": password})


@contextmanager
def _service(
    prefix: Sequence[str],
    command: Sequence[object],
    answers: Sequence[object],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    home: Path | None = None,
    stop: signal.Signals = signal.SIGTERM,
    within: float = 60,
) -> Iterator[None]:
    """Runs a command until the block ends. answers: a command that ends well when the service answers, in seconds."""
    leash = ["setpriv", f"--pdeathsig={stop.name.removeprefix('SIG')}"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in (*prefix, *leash, *command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
    try:
        _wait(process, [*prefix, *answers], log, within)
        yield
    finally:
        process.send_signal(stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):  # and whatever it has left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], answers: Sequence[object], log: Path, within: float) -> None:
    deadline = time.monotonic() + within
    with subprocess.Popen([str(word) for word in answers], start_new_session=True) as asking:
        while asking.poll() is None:
            if process.poll() is not None or time.monotonic() > deadline:
                os.killpg(asking.pid, signal.SIGKILL)
                what = "does not answer" if process.returncode is None else f"ended with {process.returncode}"
                raise RuntimeError(f"{process.args!r} {what}:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
    if asking.returncode:
        raise RuntimeError(f"{answers!r} failed with {asking.returncode}")


def _request(method: str, host: str, port: int, path: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _REQUEST, method, host, str(port), path]


def _free_port() -> int:
    """Free here; in a namespace of its own nearly every port is."""
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])


def _is_user(name: str) -> bool:
    import pwd

    with suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False
