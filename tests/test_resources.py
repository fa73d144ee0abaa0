"""Whether a cluster has room: by what lies together on its nodes, and in words that say what to change."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipelines.resources import check_actors, check_resources, fits
from pipelines.sections import Prediction, Scaling
from rtnet.errors import UserError


@pytest.mark.parametrize(
    ("bundles", "nodes", "room"),
    [
        ([{"CPU": 1.0}] * 4, [{"CPU": 4.0}], True),
        ([{"CPU": 1.0}] * 5, [{"CPU": 4.0}], False),
        ([{"CPU": 3.0}] * 2, [{"CPU": 4.0}, {"CPU": 2.0}], False),  # six cores, not three twice
        ([{"CPU": 0.1}] * 10, [{"CPU": 1.0}], True),
        ([{"CPU": 1.0, "GPU": 1.0}] * 4, [{"CPU": 8.0, "GPU": 4.0}], True),
        ([{"CPU": 1.0, "GPU": 1.0}] * 4, [{"CPU": 16.0}, {"CPU": 2.0, "GPU": 4.0}], False),
        ([{"CPU": 0.5}, {"GPU": 1.0, "CPU": 2.0}], [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 0.5}], True),
        ([{"GPU": 0.5}] * 4, [{"GPU": 1.0}, {"GPU": 1.0}], True),
        ([], [], True),
    ],
)
def test_a_bundle_lies_on_one_node(bundles: list[dict[str, float]], nodes: list[dict[str, float]], room: bool) -> None:
    assert fits(bundles, nodes) == room


@pytest.mark.ray
def test_what_is_not_there_is_refused_at_once_with_what_to_lower(local_ray: None) -> None:
    import ray

    cpus = ray.cluster_resources()["CPU"]
    check_resources(Scaling(num_workers=1, cpus_per_worker=cpus - 0.5))
    with pytest.raises(UserError, match=rf"for {cpus + 1.5:g} CPUs, and the cluster has {cpus:g}: lower scaling\.num"):
        check_resources(Scaling(num_workers=int(cpus) + 1))
    with pytest.raises(UserError, match=r"in 3 trials at once, .* lower at_once, or lower scaling.cpus_per_worker$"):
        check_resources(Scaling(num_workers=1, cpus_per_worker=cpus / 2), at_once=3)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    with pytest.raises(UserError, match=rf"{gpus + 1:g} GPUs, and the cluster has {gpus:g}: .*scaling.use_gpu=false"):
        check_resources(Scaling(num_workers=int(gpus) + 1, use_gpu=True, cpus_per_worker=0.01))
    check_actors(Prediction())
    with pytest.raises(UserError, match=r"prediction.actors=2 asks .* lower prediction.gpus_per_actor"):
        check_actors(Prediction(actors=2, gpus_per_actor=gpus + 1))


GROWING = """
import time
import pipelines.resources as resources
from pipelines.sections import Scaling
from pipelines.session import ray_session
from rtnet.errors import UserError
resources._LOOKS = 1.5
with ray_session():
    for workers in (3, 2):
        begun = time.monotonic()
        try:
            resources.check_resources(Scaling(num_workers=workers, use_gpu=True, cpus_per_worker=0.5))
            print("has grown to", resources.gpus_there())
        except UserError as error:
            print("refused:", error)
        assert time.monotonic() - begun < 60
"""
PORT = 26579
HEAD = "f" * 51 + "00000"  # what Ray's made-up nodes want the head to be called


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_grows_is_waited_for_up_to_what_it_can_grow_to(tmp_path: Path) -> None:
    """Ray's own autoscaler, whose nodes of a made-up GPU are processes of this machine: two at most, now none."""
    provider = {"type": "external", "disable_node_updaters": True, "disable_launch_config_check": True}
    provider |= {"module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"}
    provider |= {"launch_multiple": True, "head_node_id": HEAD, "gcs_address": f"127.0.0.1:{PORT}"}
    gpu = {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": 10**8}, "min_workers": 0, "max_workers": 2}
    types = {"gpu": gpu | {"node_config": {}}, "head": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0}}
    config = {"cluster_name": "growing", "max_workers": 2, "available_node_types": types, "head_node_type": "head"}
    (tmp_path / "growing.json").write_text(json.dumps(config | {"provider": provider}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # all on loopback
    for _ in range(3):  # Ray's time to start is fixed: a loaded machine exceeds it
        head = _start_growing(tmp_path / "growing.json", environment)
        try:
            done = _when_it_is_there(head, environment | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"})
        finally:
            _kill(head)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("refused: ", "has grown"))]
    assert "for 3 GPUs, and the cluster has 0 and can't grow to that" in said[0]
    assert said[1:] == ["has grown to 2.0"]


def _start_growing(config: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    fake = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    fake |= {"RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "2"]
    command += ["--num-gpus", "0", "--port", str(PORT), "--include-dashboard", "false"]
    return subprocess.Popen([*command, f"--autoscaling-config={config}"], env=environment | fake)


def _when_it_is_there(head: subprocess.Popen[bytes], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run([sys.executable, "-c", GROWING], env=environment, capture_output=True, text=True)
        if not done.returncode or head.poll() is not None or time.monotonic() > deadline:
            return done
        time.sleep(1)


def _kill(head: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    head.wait(60)
