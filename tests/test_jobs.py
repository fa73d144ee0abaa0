"""Verbs as jobs of a cluster that `ray start --head` began: by `rtnet submit`, by plain `ray job submit`, looked at and
stopped by `rtnet jobs`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipelines.registry import resolve_model
from rtnet.data.clip import write_clip
from tests.relay import Relay

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
model: {{backbone: mobilenet_v3_large}}
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
def head() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The head node that runs, once there is one."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, head: list[subprocess.Popen[bytes]]) -> Environment:
    """The environment of a user of a fresh head node, with a token of its own."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    for _ in range(3):  # Ray's time to start is fixed: a loaded machine exceeds it
        head.append(_start_head(environment))
        if _takes_jobs(head[0], environment):
            return environment
        _kill_head(head.pop())
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
    (root / "checkout").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / "checkout")
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
        assert f"job job-{verb}-1 is submitted" in said and " succeeded after 0:0" in said
    ran = [path.read_text() for path in (root / "ran").iterdir()]
    assert len(ran) > 1, "the driver and its worker"
    assert all("_ray_pkg_" in file for file in ran), ran
    assert resolve_model(f"sqlite:///{root}/runs/mlflow.db", "models:/rtnet@best").version == 1


def test_plain_ray_job_submit_does_the_same(cluster: Environment, root: Path) -> None:
    command = ["ray", "job", "submit", *ADDRESS, "--working-dir", str(root / "checkout"), "--"]
    said = _run(cluster, *command, "python", "-m", "pipelines.cli", "train", str(root / "job.yaml"))
    assert "succeeded" in said and "finished" in said


def test_a_job_that_wants_more_gpus_than_there_are_fails_within_a_minute_with_what_it_said_last(
    cluster: Environment, root: Path
) -> None:
    command = ["rtnet", "submit", "train", str(root / "job.yaml"), "name=greedy", "scaling.use_gpu=true", *ADDRESS]
    last = _run(cluster, *command, status=2).splitlines()[-1]
    assert (
        "job greedy-train-1 failed with exit status 2 after 0:00:" in last
    )  # the job's own time, not that of a client
    assert "rtnet train: " in last and "for 1 GPUs, and the cluster has 0: set scaling.use_gpu=false" in last


def test_a_job_submitted_twice_at_the_same_moment_is_one_and_another_recipe_waits_for_its_end(
    cluster: Environment, root: Path
) -> None:
    job = "job-evaluate-1"
    both = [_begin(cluster, root, "evaluate", str(root / "job.yaml"), "--no-wait") for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    said = sorted(output.splitlines()[0] for output, _ in told)
    assert said[0].startswith(f"job {job} is submitted to")
    assert said[1].startswith(f"job {job} of the same recipe is ") and said[1].endswith(": nothing is started")
    command = ["rtnet", "submit", "evaluate", str(root / "job.yaml"), "seed=1", *ADDRESS]
    refused = _run(cluster, *command, status=2)
    assert f"job {job} is " in refused and f"rtnet jobs stop {job}" in refused and refused.count("\n") == 1


def test_jobs_are_listed_followed_and_stopped(cluster: Environment, root: Path) -> None:
    job = "job-evaluate-1"
    said = _submit(cluster, root, "evaluate", str(root / "job.yaml"), "--no-wait")
    assert "nothing is started" in said
    assert f"follow it: rtnet jobs logs {job} --follow {' '.join(ADDRESS)}" in said
    with _following(cluster, "job-evaluate") as follower:
        assert "asleep" in _until("asleep", follower)
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=60)
    assert follower.returncode == 1 and f"job {job} goes on" in said and f"rtnet jobs stop {job} --address" in said
    rows = {line.split()[0]: line.split()[1] for line in _run(cluster, "rtnet", "jobs", *ADDRESS).splitlines()}
    assert rows["job"] == "status" and rows[job] == "running" and rows["job-train-1"] == "succeeded"
    found = [line.split()[0] for line in _run(cluster, "rtnet", "jobs", "list", "job-evaluate", *ADDRESS).splitlines()]
    assert found == ["job", job]
    assert f"{job}\nstatus     is running" in _run(cluster, "rtnet", "jobs", "status", "job-evaluate", *ADDRESS)
    assert f"job {job} was stopped" in _run(cluster, "rtnet", "jobs", "stop", job, *ADDRESS)
    assert f"job {job} had ended: it was stopped" in _run(cluster, "rtnet", "jobs", "stop", "job-evaluate", *ADDRESS)
    said = _run(cluster, "rtnet", "jobs", "logs", job, *ADDRESS)
    assert "rtnet evaluate: stopped; the same command continues" in said
    assert "no-such does not exist" in _run(cluster, "rtnet", "jobs", "logs", "no-such", *ADDRESS, status=2)


def test_a_job_takes_nothing_of_the_submitters_environment_along(cluster: Environment, root: Path) -> None:
    """Not the credentials: those are the nodes'."""
    code = f"""
from ray.job_submission import JobSubmissionClient
for job in JobSubmissionClient("{ADDRESS[1]}").list_jobs():
    if (job.submission_id or "").startswith("job-"):
        print(sorted(job.runtime_env), job.runtime_env["env_vars"], sorted(job.metadata), end=";")
"""
    *each, rest = _run(cluster, "python", "-c", code).split(";")
    told = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert set(each) == {f"['env_vars', 'working_dir'] {told} ['rtnet_recipe']"}, rest


def test_a_lost_connection_is_taken_up_again(cluster: Environment) -> None:
    count = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 2; done"
    name = ["--submission-id", "counter", "--no-wait"]
    _run(cluster, "ray", "job", "submit", *ADDRESS, *name, "--", "sh", "-c", count)
    with Relay(DASHBOARD) as relay, _following(cluster, "counter", relay.port) as follower:
        said = _until("line 2", follower)
        relay.cut()
        rest, complaint = follower.communicate(timeout=60)
    assert [line for line in (said + rest).splitlines() if line[:4] == "line"] == [f"line {i}" for i in range(1, 9)]
    assert follower.returncode == 0 and "job counter succeeded" in rest and "trying again" in complaint


def _begin(environment: Environment, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """`_submit`, without waiting for it."""
    environment = environment | {"PYTHONPATH": str(root / "checkout")}
    command = [str(BIN / "python"), "-m", "pipelines.cli", "submit", *arguments, *ADDRESS]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root / "checkout"
    )


def _following(
    environment: Environment, job: str, port: int = DASHBOARD, patience: float = 120
) -> subprocess.Popen[str]:
    """`rtnet jobs logs JOB --follow`, which tries for so many seconds where nobody answers."""
    code = f"import sys, pipelines.cli as c, pipelines.job_log as log; log._PATIENCE = {patience}; sys.exit(c.main())"
    command = [
        str(BIN / "python"),
        "-c",
        code,
        "jobs",
        "logs",
        job,
        "--follow",
        "--address",
        f"http://127.0.0.1:{port}",
    ]
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


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"http://127.0.0.1:{PORT}", "no Ray dashboard"),  # where nodes and drivers come
        ("http://127.0.0.1:9", "nobody answers"),
        ("http://no-such-host.invalid:8265", "nobody answers"),
    ],
)
def test_a_wrong_address_is_one_line(cluster: Environment, address: str, said: str) -> None:
    line = _run(cluster, "rtnet", "jobs", "--address", address, status=2)
    assert said in line and address in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 32}, "token"),
        ({"RAY_ADDRESS": "127.0.0.1:9"}, "RAY_ADDRESS=127.0.0.1:9"),
        ({"RAY_ADDRESS": f"127.0.0.1:{DASHBOARD}"}, f"RAY_ADDRESS=127.0.0.1:{DASHBOARD}"),
    ],
)
def test_a_verb_that_may_not_join_its_cluster_says_so_in_one_line(
    cluster: Environment, root: Path, variables: Environment, said: str
) -> None:
    environment = {"RAY_ADDRESS": f"127.0.0.1:{PORT}"} | cluster | variables
    complaint = _run(environment, "rtnet", *_joining(root), status=2).splitlines()
    assert complaint[0].startswith("preparing ") and said in complaint[1] and len(complaint) == 2


def test_a_verb_of_another_ray_than_its_clusters_says_so_in_one_line(cluster: Environment, root: Path) -> None:
    """As if the head had been started by another Ray and Python: it tells all who come."""
    code = f"""
import sys
from ray._raylet import GcsClient
from pipelines.cli import main
gcs, key, space = GcsClient(address="127.0.0.1:{PORT}"), b"CLUSTER_METADATA", b"cluster"
before = gcs.internal_kv_get(key, namespace=space)
gcs.internal_kv_put(key, b'{{"ray_version": "2.44.1", "python_version": "3.12.9"}}', True, namespace=space)
try:
    sys.exit(main({_joining(root)!r}))
finally:
    gcs.internal_kv_put(key, before, True, namespace=space)
"""
    line = _run(cluster | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}, "python", "-c", code, status=2).splitlines()[-1]
    assert "runs Ray 2.44.1 with Python 3.12.9, and this is Ray 2." in line and "rtnet prepare: " in line


def _joining(root: Path) -> list[str]:
    return ["prepare", str(root / "job.yaml"), f"data.dataset={root}/joining"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a node a disk of its own")
def test_what_is_on_one_nodes_disk_is_refused_before_anything_starts(cluster: Environment, root: Path) -> None:
    (root / "private").mkdir()
    node = f"mount -t tmpfs none {root}/private && exec {BIN}/ray start --address 127.0.0.1:{PORT} --num-cpus 1 --block"
    second = subprocess.Popen(["unshare", "--mount", "sh", "-c", node], env=cluster)
    code = f"""
import time, ray
from pipelines.places import Place, check_shared
from pipelines.session import ray_session
from rtnet.errors import UserError
with ray_session():
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.2)
    check_shared([Place("storage", "{root}/runs", "written"), Place("data.sources.clip.path", "{root}/clip", "read")])
    for place in (Place("data.dataset", "{root}/private/data", "written"),
                  Place("prediction.model", "{root}/private/model", "driver"),
                  Place("tracking.uri", "sqlite:///{root}/private/mlflow.db", "written"),
                  Place("evaluation.masks", "{root}/private", "read")):
        try:
            check_shared([place])
        except UserError as error:
            print(error)
"""
    try:
        said = _run(cluster | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}, "python", "-c", code)
    finally:
        second.terminate()
        second.wait(60)
    lines = [line for line in said.splitlines() if "is on the disk of node" in line]
    assert [line.split("=")[0] for line in lines] == ["data.dataset", "tracking.uri", "evaluation.masks"], said
    assert "does not see what is written there: name a folder that all nodes mount" in lines[0]
    assert not list(root.rglob("claims/*")), "what was left for the nodes to find is gone"


def test_a_head_that_dies_during_a_job_is_one_line_and_one_that_comes_back_another(
    cluster: Environment, head: list[subprocess.Popen[bytes]]
) -> None:
    """The last test: its cluster is another one then."""
    name = ["--submission-id", "orphan", "--no-wait"]
    _run(cluster, "ray", "job", "submit", *ADDRESS, *name, "--", "sh", "-c", "echo begun; sleep 300")
    patient, impatient = _following(cluster, "orphan"), _following(cluster, "orphan", patience=3)
    for follower in (patient, impatient):
        assert "begun" in _until("begun", follower)
    _kill_head(head.pop())
    _, complaint = impatient.communicate(timeout=60)
    lost, last = complaint.splitlines()
    assert impatient.returncode == 2 and lost.startswith("lost http://") and "if its head node has died" in last
    head.append(_start_head(cluster))
    assert _takes_jobs(head[0], cluster)
    _, complaint = patient.communicate(timeout=60)
    assert patient.returncode == 2 and "knows no job orphan any more: its head node was begun anew" in complaint


def _kill_head(head: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    head.wait(60)
