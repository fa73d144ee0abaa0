"""Where a model version comes from and what it reaches: its run, recipe, data, what it started from, its scores."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.registry import ModelVersion
from pipelines.tracking import client, explained, fetch, find_run

VALIDATION = "validation"
"""The name under which training's own scores count as an evaluation."""

_CHANGED = "changed."


@dataclass(frozen=True)
class Lineage:
    """What is known of a version beyond the registry; empty where its run is gone or was no training."""

    run: str = ""  # its name and status
    recipe: Mapping[str, str] = field(default_factory=dict)  # every field, as `section.field`
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the dataset's provenance
    tags: Mapping[str, str] = field(default_factory=dict)  # of the run

    @property
    def starts(self) -> str:
        """The weights that training began with."""
        encoder = self.recipe.get("model.encoder_weights", "null")
        parts = _listed(self.recipe.get("model.start_from", "[]")) + ([f"encoder {encoder}"] * (encoder != "null"))
        return ", ".join(parts) or ("random weights" if self.recipe else "-")


def lineage_of(uri: str, model: ModelVersion) -> Lineage:
    """Reads the version's run."""
    with explained(uri):
        if not model.run_id or find_run(uri, model.run_id) is None:
            return Lineage()
        found = client(uri).get_run(model.run_id)
        tags, params = found.data.tags, found.data.params
        changed = {key.removeprefix(_CHANGED): value for key, value in tags.items() if key.startswith(_CHANGED)}
        return Lineage(f"{found.info.run_name}, {found.info.status}", params | changed, _sources(uri, model), tags)


def scores_of(model: ModelVersion, lineage: Lineage) -> dict[str, dict[str, Any]]:
    """By evaluation what `registry.record_evaluation` kept; training's own scores as "validation"."""
    own = {score: float(model.tags[score]) for score in ("J", "F", "JF") if score in model.tags}
    if "JF" not in own:
        return model.evaluations
    digest, split = model.tags.get("dataset.digest", ""), lineage.recipe.get("validation.split", "")
    content = f"{digest}/{split}" if digest else ""
    return {VALIDATION: {**own, "content": content}} | model.evaluations


def comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two evaluations were on the same frames and annotations."""
    return bool(first.get("content")) and first.get("content") == second.get("content")


def made_otherwise(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The options of masks and scores in which two evaluations differ: {option: (the first's, the second's)}."""
    one, other = first.get("made_with", {}), second.get("made_with", {})
    names = sorted(one.keys() | other.keys()) if one and other else []
    return {name: (str(one.get(name)), str(other.get(name))) for name in names if one.get(name) != other.get(name)}


def _sources(uri: str, model: ModelVersion) -> Mapping[str, Mapping[str, Any]]:
    folder = "dataset"
    if not any(entry.path.endswith("provenance.json") for entry in client(uri).list_artifacts(model.run_id, folder)):
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        file = fetch(uri, f"runs:/{model.run_id}/{folder}/provenance.json", Path(scratch))
        sources: dict[str, dict[str, Any]] = json.loads(file.read_text())["sources"]
        return sources


def _listed(value: str) -> list[str]:
    """A parameter that is a word or a JSON list of words."""
    return list(json.loads(value)) if value.startswith("[") else [value]
