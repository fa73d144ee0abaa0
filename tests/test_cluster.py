"""The manifests in cluster/ are valid, start no Ray without tokens, open no port, have no root and hold no secret."""

import importlib.resources
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.manifests import (
    CLUSTER,
    COMPOSE,
    JOBS,
    SCHEMAS,
    SERVICES,
    VM,
    custom_resource,
    label,
    load,
    objects,
    of_kind,
    pods,
)

needs_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason="left out: KubeRay's schemas are not beside the checkout, in ../shared/schemas"
)
COMPOSE_FILES = [COMPOSE, COMPOSE.with_name("compose.gpu.yaml")]


# valid


@needs_schemas
@pytest.mark.parametrize("one", of_kind("RayCluster", "RayJob"), ids=label)
def test_kuberay_knows_every_field(one: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(custom_resource(one["kind"])).validate(one)


@needs_schemas
def test_a_field_that_kuberay_does_not_know_is_noticed() -> None:
    (cluster,) = of_kind("RayCluster")
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePullPolice"):
        jsonschema.validate(cluster, custom_resource("RayCluster"))


@pytest.mark.parametrize("one", [one for one in objects() if not one["apiVersion"].startswith("ray.io/")], ids=label)
def test_kubernetes_knows_every_field(one: dict[str, Any]) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(one, "1.32", strict=True)


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    import kubernetes_validate

    (server,) = of_kind("Deployment")
    server["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="redinessProbe"):
        kubernetes_validate.validate(server, "1.32", strict=True)


@pytest.mark.parametrize("file", VM, ids=lambda file: file.name)
def test_ray_up_knows_every_field(file: Path) -> None:
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.submodule_search_locations
    schema = json.loads((Path(ray.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(load(file), schema)


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)
def test_compose_files_are_as_the_compose_specification_says(file: Path) -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(load(file), json.loads(schemas.read_text()))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="left out: kubectl is not installed")
def test_kustomize_puts_namespace_image_and_settings_in() -> None:
    done = subprocess.run(["kubectl", "kustomize", CLUSTER / "kuberay"], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"].get("namespace", "rtnet") for one in made} == {"rtnet"}
    assert {"settings", "mlflow-auth"} <= {one["metadata"]["name"] for one in made if one["kind"] == "ConfigMap"}
    images = set(re.findall(r"image: (\S+)", done.stdout))
    assert images == {"registry.example.com/rtnet:0.1.0", "postgres:18-trixie"}
    assert images >= set(re.findall(r"image: (\S+)", (CLUSTER / "kuberay" / "fill.yaml").read_text()))


# tokens


def test_no_ray_is_started_without_a_token() -> None:
    starts = {COMPOSE: _compose_starts(), **{file: _vm_starts(file) for file in VM}}
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": cluster["metadata"]["name"]}
    for file in CLUSTER.rglob("*.yaml"):  # a new manifest has to be looked at here
        assert file in [*starts, *COMPOSE_FILES] or "ray start" not in file.read_text(), file
    assert all(len(found) == 2 and all(found) for found in starts.values()), starts


def _compose_starts() -> list[bool]:
    """Whether each service that starts Ray wants the token, and has it."""
    wanted = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"}
    return [
        wanted.items() <= service["environment"].items() and "ray_token" in service["secrets"]
        for service in SERVICES.values()
        if re.search(r"\bray,? start\b", " ".join(map(str, service.get("command", []))))
    ]


def _vm_starts(file: Path) -> list[bool]:
    config = load(file)
    assert "auth_token" in json.dumps(config["file_mounts"])
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return ["RAY_AUTH_MODE=token" in command.split("ray start")[0] for command in commands if "ray start" in command]


# nothing open


def test_compose_publishes_on_loopback_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 3 and all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service or service.get("privileged") for service in SERVICES.values())


def test_kubernetes_publishes_nothing() -> None:
    assert not of_kind("Ingress", "Secret")
    assert all(one["spec"].get("type", "ClusterIP") == "ClusterIP" for one in of_kind("Service"))
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.name
        assert not any("hostPort" in port for one in pod.containers for port in one.get("ports", [])), pod.name


def test_dashboards_of_virtual_machines_are_on_loopback() -> None:
    for file in VM:
        assert "--dashboard-host=127.0.0.1" in load(file)["head_start_ray_commands"][-1], file


def test_whatever_a_policy_does_not_allow_is_denied() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind("NetworkPolicy")}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            peers = rule.get("from", rule.get("to"))
            assert peers and all(peer != {} for peer in peers), f"{name} lets everybody"
            blocks = [peer["ipBlock"] for peer in peers if "ipBlock" in peer]
            assert all("169.254.0.0/16" in block["except"] and rule["ports"] for block in blocks), name


# not root


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_an_ordinary_user_within_limits(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*|\$\{OWNER:\?.*\}", service["user"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert name == "mlflow-user" or {"test", "interval", "timeout", "retries"} <= service["healthcheck"].keys()
    conditions = [wanted["condition"] for wanted in service.get("depends_on", {}).values()]
    assert not set(conditions) - {"service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("pod", list(pods()), ids=lambda pod: pod.name)
def test_a_pod_is_an_ordinary_user_within_limits(pod: Any) -> None:
    context = pod.spec["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] >= 100
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.spec["automountServiceAccountToken"] is False and pod.spec["serviceAccountName"]
    for container in pod.containers:
        confined = container["securityContext"]
        assert confined["allowPrivilegeEscalation"] is False and confined["readOnlyRootFilesystem"] is True
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() >= {"cpu", "memory"}


def test_the_autoscaler_alone_has_a_token_of_kubernetes() -> None:
    (cluster,) = of_kind("RayCluster")
    options, head = cluster["spec"]["autoscalerOptions"], cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert "kubernetes" in [mount["name"] for mount in options["volumeMounts"]]
    assert "kubernetes" not in [mount["name"] for one in head["containers"] for mount in one["volumeMounts"]]
    assert options["securityContext"] == head["containers"][0]["securityContext"]
    assert all(one["automountServiceAccountToken"] is False for one in of_kind("ServiceAccount"))


# the machines


def test_four_workers_with_a_gpu_each_come_and_go() -> None:
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 4)
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    aws = load(CLUSTER / "vm" / "aws.yaml")
    assert aws["max_workers"] == aws["available_node_types"]["gpu"]["max_workers"] == 4


def test_a_job_runs_on_the_cluster_that_is_there_and_never_ends_it() -> None:
    (cluster,) = of_kind("RayCluster")
    assert len(JOBS) == len(of_kind("RayJob")) == 5
    for job in of_kind("RayJob"):
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
        assert not {"rayClusterSpec", "backoffLimit", "shutdownAfterJobFinishes"} & job["spec"].keys()


def test_both_kinds_of_machines_are_set_up_alike() -> None:
    first, second = (file.read_text().replace("/home/ubuntu/", "/home/ray/") for file in VM)
    begin = "# The token and the secrets by SSH"
    assert first[first.index(begin) :] == second[second.index(begin) :]
