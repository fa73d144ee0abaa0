"""`ray job submit -- rtnet train ...` on a cluster that `ray start --head` began."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtnet.data.clip import write_clip

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent
PORT = 26379
DASHBOARD = 28265
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


def _run(*command: str, environment: dict[str, str]) -> str:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user of a fresh head node, with a token of its own."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": f"{BIN}:{os.environ['PATH']}"}
    ports = ["--port", str(PORT), "--dashboard-port", str(DASHBOARD), "--dashboard-host", "127.0.0.1"]
    head = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "2", *ports], env=environment
    )
    try:
        _wait_for_jobs(head, environment)
        yield environment
    finally:
        head.terminate()
        head.wait(60)


def _wait_for_jobs(head: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 120
    trifle = [str(BIN / "ray"), "job", "submit", *ADDRESS, "--", "true"]
    while subprocess.run(trifle, env=environment, capture_output=True).returncode:
        assert head.poll() is None and time.monotonic() < deadline
        time.sleep(1)


def test_a_submitted_training_prepares_trains_and_registers(cluster: dict[str, str], tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", {"train": ["a"], "val": ["b"]}, frames=4, height=32, width=56)
    recipe = tmp_path / "job.yaml"
    recipe.write_text(RECIPE.format(root=tmp_path))
    for verb in ("prepare", "train"):
        output = _run("ray", "job", "submit", *ADDRESS, "--", "rtnet", verb, str(recipe), environment=cluster)
        assert "succeeded" in output
    store = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert "best" in _run("rtnet", "models", "list", "--tracking", store, environment=cluster)
