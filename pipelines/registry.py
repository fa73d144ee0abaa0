"""The registry of models: what the best checkpoint becomes, and what `predict` and `models` look up."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.model_folder import describe_model
from pipelines.sections import MODEL_NAME
from pipelines.store_errors import unless_there
from pipelines.tracking import Run, client, explained, fetch, open_store
from rtnet.errors import UserError

MODEL_FILE = "model.safetensors"
_DIGEST_TAG = "sha256"
_EVALUATION_TAG = "evaluation/"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: int
    run_id: str
    source: str
    digest: str  # SHA-256 of its model file; empty where something else registered it
    aliases: tuple[str, ...]
    created: float  # seconds since 1970
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """By name what `record_evaluation` kept."""
        return {
            key.removeprefix(_EVALUATION_TAG): json.loads(value)
            for key, value in sorted(self.tags.items())
            if key.startswith(_EVALUATION_TAG)
        }


def check_name(name: str, option: str) -> None:
    """UserError naming the option where no model can have this name: a recipe's rule, within MLflow's."""
    if not re.fullmatch(MODEL_NAME, name):
        raise UserError(
            f"{option} '{name}': a model's name is of letters a-z, digits, '.', '_', '-' and spaces, "
            "and begins with a letter or digit"
        )


def check_alias(alias: str, option: str) -> None:
    """UserError naming the option where MLflow does not take this alias."""
    if not re.fullmatch(r"[\w-]{1,255}", alias):
        raise UserError(f"{option} '{alias}': an alias is of letters, digits, '_' and '-', 255 at most")
    if re.fullmatch(r"latest|v\d+", alias.lower()):
        raise UserError(f"{option} '{alias}': MLflow keeps 'latest' and 'v1', 'v2', ... for itself: choose another")


def register_model(
    run: Run, folder: Path, name: str, alias: str | None = None, tags: Mapping[str, object] | None = None
) -> int:
    """Makes `folder`, which holds MODEL_FILE, an artifact of the run and a version of the model `name`; its number.

    It also gets the files that make it a model for MLflow. The alias then points to that version. The same file of the
    same run is registered once.
    """
    store, digest = client(run.uri), file_digest(folder / MODEL_FILE)
    if name not in model_names(run.uri):
        unless_there(lambda: store.create_registered_model(name))
    for known in list_versions(run.uri, name):
        if (known.run_id, known.digest) == (run.run_id, digest):
            number = known.version
            break
    else:
        place = f"models/{digest[:12]}"
        describe_model(folder / MODEL_FILE, digest)
        store.log_artifacts(run.run_id, str(folder), place)
        kept = {key: str(value) for key, value in (tags or {}).items()} | {_DIGEST_TAG: digest}
        source = f"runs:/{run.run_id}/{place}"
        number = int(store.create_model_version(name, source, run.run_id, tags=kept).version)
    if alias is not None:
        _point(run.uri, name, alias, number)
    return number


def resolve_model(uri: str, model: str) -> ModelVersion:
    """The version that models:/NAME@ALIAS or models:/NAME/VERSION (the prefix may be left out) means now.

    Raises UserError naming the model, alias or version that the store does not have, and those that it has.
    """
    parts = re.fullmatch(r"(?:models:/)?(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<number>[0-9]+))", model)
    if parts is None:
        raise UserError(f"model '{model}': write it as models:/NAME@ALIAS or models:/NAME/VERSION")
    open_store(uri)
    with explained(uri):
        versions = list_versions(uri, parts["name"])
    for found in versions:
        if parts["alias"] in found.aliases or str(found.version) == parts["number"]:
            return found
    missing = f"alias '{parts['alias']}'" if parts["alias"] else f"version {parts['number']}"
    known = ", ".join(f"{found.version} ({', '.join(found.aliases) or 'no alias'})" for found in versions)
    raise UserError(f"model '{parts['name']}' in {uri} has no {missing}; its versions (aliases): {known or 'none'}")


def list_versions(uri: str, name: str | None = None) -> list[ModelVersion]:
    """All versions of one model or of all, newest last; UserError naming the models there are where `name` is none."""
    models = model_names(uri)
    if name is not None and name not in models:
        raise UserError(f"no model '{name}' in {uri}; its models: {', '.join(models) or 'none'}")
    found = []
    for model in models if name is None else [name]:
        # The search leaves aliases out.
        aliases = client(uri).get_registered_model(model).aliases
        for entry in client(uri).search_model_versions(f"name = '{model}'", max_results=10_000):
            names = tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(entry.version)))
            found.append(_model_version(entry, names))
    return sorted(found, key=lambda entry: (entry.name, entry.version))


def set_alias(uri: str, model: ModelVersion, alias: str) -> None:
    """Points the alias to this version. Raises UserError for one that MLflow does not take."""
    check_alias(alias, "alias")
    with explained(uri):
        _point(uri, model.name, alias, model.version)


def _point(uri: str, name: str, alias: str, number: int) -> None:
    def point() -> bool:
        client(uri).set_registered_model_alias(name, alias, str(number))
        return True

    unless_there(point) or point()  # which moves it, where another has just made it


def set_tag(uri: str, model: ModelVersion, key: str, value: str) -> None:
    with explained(uri):
        client(uri).set_model_version_tag(model.name, str(model.version), key, value)


def record_evaluation(uri: str, model: ModelVersion, name: str, facts: Mapping[str, Any]) -> None:
    """Keeps the scores of an evaluation with the version, in place of earlier ones of this name.

    facts: "J", "F" and "JF" (means over the set, 0..1), "frames" that were scored, "content", the digest of their names
    and annotations (only scores with the same content compare), and "made_with", the options that masks and scores were
    made with, flat.
    """
    set_tag(uri, model, f"{_EVALUATION_TAG}{name}", json.dumps(facts))


def download_model(uri: str, model: ModelVersion, folder: Path) -> Path:
    """Copies the version's model file into `folder`; UserError where it is gone or is not the one registered."""
    with explained(f"{uri}, {model.uri}"):
        # Not model.source, which of a version that was copied names the one that it was copied from.
        place = client(uri).get_model_version_download_uri(model.name, str(model.version))
        path = fetch(uri, f"{place}/{MODEL_FILE}", folder)
    if (digest := file_digest(path)) != model.digest:
        raise UserError(
            f"{model.uri}: {MODEL_FILE} has SHA-256 {digest[:12]}..., registered was {model.digest[:12] or 'none'}...: "
            "the file was changed; restore it or register it again"
        )
    return path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_names(uri: str) -> list[str]:
    """All registered models, in order."""
    return sorted(model.name for model in client(uri).search_registered_models(max_results=1000))


def _model_version(entry: Any, aliases: tuple[str, ...]) -> ModelVersion:
    tags = dict(entry.tags)
    return ModelVersion(
        name=entry.name,
        version=int(entry.version),
        run_id=entry.run_id or "",
        source=entry.source,
        digest=tags.pop(_DIGEST_TAG, ""),
        aliases=aliases,
        created=entry.creation_timestamp / 1000,
        tags=tags,
    )
