"""What the files in cluster/ say, for the tests of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
SCHEMAS = ROOT.parent / "shared" / "schemas"

COMPOSE = CLUSTER / "local" / "compose.yaml"
VM = sorted((CLUSTER / "vm").glob("*.yaml"))
KUBERNETES = sorted(file for file in (CLUSTER / "kuberay").rglob("*.yaml") if file.name != "kustomization.yaml")
JOBS = {file.stem: file for file in (CLUSTER / "kuberay" / "jobs").glob("*.yaml")}
READMES = sorted(CLUSTER.rglob("README.md"))


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def objects() -> list[dict[str, Any]]:
    """Kubernetes' objects in all files."""
    return [one for file in KUBERNETES for one in yaml.safe_load_all(file.read_text())]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects() if one["kind"] in kinds]


SERVICES: dict[str, Any] = load(COMPOSE)["services"]


def label(one: dict[str, Any]) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


@dataclass(frozen=True)
class Pod:
    """What a manifest has pods made from."""

    name: str
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods() -> Iterator[Pod]:
    for one in objects():
        for path, found in _with_containers(one, label(one)):
            yield Pod(path, found)


def _with_containers(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield path, value
        for key, inner in value.items():
            yield from _with_containers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _with_containers(inner, f"{path}.{number}")


def closed(schema: Any) -> Any:
    """A custom resource's OpenAPI schema as JSON schema, which refuses the fields that Kubernetes would drop."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def custom_resource(kind: str) -> Any:
    """The closed schema of RayCluster or RayJob; an object's metadata is Kubernetes' own."""
    schema = closed(json.loads((SCHEMAS / f"{kind.lower()}s.v1.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema
