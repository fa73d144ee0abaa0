"""Verbs as jobs of a cluster that `ray start --head` began: by `rtnet submit`, by plain `ray job submit`, looked at and
stopped by `rtnet jobs`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.registry import resolve_model
from rtnet.data.clip import write_clip

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PORT = 26379
DASHBOARD = 28265
AGENT = 28365
ADDRESS = ["--address", f"http://127.0.0.1:{DASHBOARD}"]
RECIPE = """
name: job
data: {{sources: {{clip: {{layout: davis16, path: {root}/clip}}}}, dataset: {root}/dataset}}
flow: {{preset: ultrafast}}
model: {{backbone: resnet18}}
training: {{phases: [{{last_epoch: 1, rate: 1e-3}}], heights: [32], steps_per_epoch: 1}}
validation: {{height: 32}}
scaling: {{num_workers: 1, cpus_per_worker: 0.5, threads_per_worker: 1}}
storage: {root}/runs
"""
# What the carried code does and the installed one does not: each process that trains says which file it runs, and
# `evaluate` takes its time.
MARKS = {
    "train_worker": """
import os, pathlib
pathlib.Path("{root}/ran", str(os.getpid())).write_text(__file__)
""",
    "evaluate": """
def run(experiment):
    import time
    print("asleep", flush=True)
    time.sleep(300)
""",
}

Environment = dict[str, str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The environment of a user of a fresh head node, with a token of its own."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    for _ in range(3):  # Ray's time to start is fixed: a loaded machine exceeds it
        head = _start_head(environment)
        try:
            if _takes_jobs(head, environment):
                yield environment
                return
        finally:
            head.terminate()
            head.wait(60)
    pytest.fail("no head node within three attempts")


def _start_head(environment: Environment) -> subprocess.Popen[bytes]:
    ports = ["--port", str(PORT), "--dashboard-port", str(DASHBOARD), "--dashboard-host", "127.0.0.1"]
    ports += ["--dashboard-agent-listen-port", str(AGENT)]  # its default may be another Ray's on this machine
    return subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "2", *ports], env=environment
    )


def _takes_jobs(head: subprocess.Popen[bytes], environment: Environment) -> bool:
    """Waits for it; False where the head dies, or is as good as dead."""
    deadline = time.monotonic() + 120
    trifle = [str(BIN / "ray"), "job", "submit", *ADDRESS, "--", "true"]
    # Nobody is asked before there is a door: each asking takes seconds, of the same cores.
    while not _listens() or subprocess.run(trifle, env=environment, capture_output=True).returncode:
        if head.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _listens() -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", DASHBOARD)):
        return True
    return False


def _run(environment: Environment, *command: str, status: int = 0, folder: Path | None = None) -> str:
    """What a command of the environment's says, standard error last."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], env=environment, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, a recipe, a marked `checkout`, and `ran`, where its processes say that they ran."""
    root = tmp_path_factory.mktemp("jobs")
    write_clip(root / "clip", {"train": ["a"], "val": ["b"]}, frames=4, height=32, width=56)
    (root / "job.yaml").write_text(RECIPE.format(root=root))
    (root / "ran").mkdir()
    for package in ("rtnet", "pipelines"):
        shutil.copytree(ROOT / package, root / "checkout" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module, mark in MARKS.items():
        with (root / "checkout" / "pipelines" / f"{module}.py").open("a") as file:
            file.write(mark.format(root=root))
    return root


def _submit(environment: Environment, root: Path, *arguments: str) -> str:
    """`rtnet submit` of the marked code."""
    environment = environment | {"PYTHONPATH": str(root / "checkout")}
    return _run(environment, "python", "-m", "pipelines.cli", "submit", *arguments, *ADDRESS, folder=root / "checkout")


def test_a_job_prepares_and_trains_with_the_submitters_code(cluster: Environment, root: Path) -> None:
    for verb in ("prepare", "train"):
        said = _submit(cluster, root, verb, str(root / "job.yaml"))
        assert f"job job-{verb}-" in said and " succeeded after 0:0" in said
    ran = [path.read_text() for path in (root / "ran").iterdir()]
    assert len(ran) > 1, "the driver and its worker"
    assert all("_ray_pkg_" in file for file in ran), ran
    assert resolve_model(f"sqlite:///{root}/runs/mlflow.db", "models:/rtnet@best").version == 1


def test_plain_ray_job_submit_goes_on_where_it_was(cluster: Environment, root: Path) -> None:
    said = _run(cluster, "ray", "job", "submit", *ADDRESS, "--", "rtnet", "train", str(root / "job.yaml"))
    assert "succeeded" in said and "finished" in said


def test_a_job_that_fails_ends_with_what_it_said_last(cluster: Environment, root: Path) -> None:
    command = ["rtnet", "submit", "evaluate", str(root / "job.yaml"), "evaluation.masks=/nowhere", *ADDRESS]
    last = _run(cluster, *command, status=1).splitlines()[-1]
    assert "failed with exit status 2 after" in last and "rtnet evaluate: " in last and "/nowhere" in last


def test_jobs_are_listed_followed_and_stopped(cluster: Environment, root: Path) -> None:
    said = _submit(cluster, root, "evaluate", str(root / "job.yaml"), "--no-wait")
    job = said.split()[1]
    assert f"follow it: rtnet jobs logs {job} --follow {' '.join(ADDRESS)}" in said
    with _following(cluster, job) as follower:
        assert "asleep" in _until("asleep", follower)
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=60)
    assert follower.returncode == 1 and f"job {job} goes on" in said and f"rtnet jobs stop {job} --address" in said
    rows = {line.split()[0]: line.split()[1] for line in _run(cluster, "rtnet", "jobs", *ADDRESS).splitlines()}
    assert rows["job"] == "status" and rows[job] == "running"
    assert "is running" in _run(cluster, "rtnet", "jobs", "status", job, *ADDRESS)
    assert f"job {job} was stopped" in _run(cluster, "rtnet", "jobs", "stop", job, *ADDRESS)
    assert f"job {job} had ended: it was stopped" in _run(cluster, "rtnet", "jobs", "stop", job, *ADDRESS)
    said = _run(cluster, "rtnet", "jobs", "logs", job, *ADDRESS)
    assert "rtnet evaluate: stopped; the same command continues" in said
    assert "no-such does not exist" in _run(cluster, "rtnet", "jobs", "logs", "no-such", *ADDRESS, status=2)


def test_a_lost_connection_is_taken_up_again(cluster: Environment) -> None:
    count = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 2; done"
    name = ["--submission-id", "counter", "--no-wait"]
    _run(cluster, "ray", "job", "submit", *ADDRESS, *name, "--", "sh", "-c", count)
    with _Relay(DASHBOARD) as relay, _following(cluster, "counter", relay.port) as follower:
        said = _until("line 2", follower)
        relay.cut()
        rest, complaint = follower.communicate(timeout=60)
    assert [line for line in (said + rest).splitlines() if line[:4] == "line"] == [f"line {i}" for i in range(1, 9)]
    assert follower.returncode == 0 and "job counter succeeded" in rest and "trying again" in complaint


def _following(environment: Environment, job: str, port: int = DASHBOARD) -> subprocess.Popen[str]:
    command = [str(BIN / "rtnet"), "jobs", "logs", job, "--follow", "--address", f"http://127.0.0.1:{port}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _until(text: str, follower: subprocess.Popen[str]) -> str:
    """What it says up to the line with the text, or all where that never comes."""
    assert follower.stdout is not None
    said = ""
    while text not in said and (line := follower.stdout.readline()):
        said += line
    return said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "Missing authentication token"),
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 32}, "Invalid authentication token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_one_line(
    cluster: Environment, variables: Environment, said: str, root: Path
) -> None:
    line = _run(cluster | variables, "rtnet", "submit", "train", str(root / "job.yaml"), *ADDRESS, status=2)
    assert said in line and line.count("\n") == 1 and "~/.ray/auth_token" in line


class _Relay:
    """A port that leads to another one of this machine, until it is cut."""

    def __init__(self, target: int) -> None:
        self._target, self._ends = target, list[socket.socket]()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])

    def __enter__(self) -> "_Relay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections; new ones are welcome."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pour, args=(one, other), daemon=True).start()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
