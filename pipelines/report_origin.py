"""Where an evaluation's masks came from: the model, its training's curves, and the code and data of both."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipelines import tracking
from pipelines.registry import resolve_model
from pipelines.report_scores import Evaluation
from rtnet.errors import UserError

Series = list[tuple[float, float]]  # (epoch or step, value), rising

_SCORES = ("validation/J", "validation/F")
_RATE = "rate"
_POINTS = 240  # of a curve; more cannot be seen
_TEXTS = {"recipe": "recipe.yaml", "packages": "environment.txt"}


@dataclass(frozen=True)
class Origin:
    """What is known of an evaluation's making."""

    facts: Mapping[str, str]
    curves: Mapping[str, Series] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    """Of "recipe" and "packages" those that the run has."""
    missing: str = ""
    """One line that says why there are no curves."""


def read_origin(evaluation: Evaluation, store: str | None) -> Origin:
    """store: MLflow's tracking URI, in place of that which the scores name. What isn't there is said, not raised."""
    scores, model = evaluation.scores, evaluation.scores.model
    facts = {
        "masks": scores.masks,
        "maps": scores.maps or "none",
        "saliency measured on": scores.saliency_on,
        "evaluated": scores.created,
        "evaluation": scores.evaluation,
        "split": scores.split,
        "sources": "; ".join(f"{name}: {each.layout}, {each.path}" for name, each in scores.sources.items()),
        "digest of frames and annotations": scores.content,
        "digest of the dataset": scores.dataset or "not known",
        "code of the evaluation": scores.commit or "not known",
        "run of the evaluation": scores.run.get("run_id", "none"),
        "model": model.get("uri") or "not known",
    }
    uri, run_id = store or model.get("tracking"), model.get("run_id")
    if not uri or not run_id:
        return _shareable(Origin(facts, missing="The scores name no tracked run of the model that made the masks."))
    uri = tracking.absolute_store(uri)
    facts |= {"run of the training": run_id, "MLflow": uri}
    try:
        with _told(uri):
            tracking.open_store(uri)
            facts |= _version(uri, model["uri"])
            tags, curves = _run(uri, run_id)
            return _shareable(Origin(facts | tags, curves, _texts(uri, run_id)))
    except UserError as error:
        return _shareable(Origin(facts, missing=str(error)))


@contextmanager
def _told(uri: str) -> Iterator[None]:
    with tracking.impatient(), tracking.explained(uri):
        yield


def _version(uri: str, model: str) -> dict[str, str]:
    if not model.startswith("models:/"):
        return {}
    try:
        version = resolve_model(uri, model)
    except UserError as error:
        return {"model version": str(error)}
    return {
        "model version": f"{version.name} {version.version}",
        "SHA-256 of the model": version.digest or "not known",
    }


def _run(uri: str, run_id: str) -> tuple[dict[str, str], dict[str, Series]]:
    store = tracking.client(uri)
    if tracking.find_run(uri, run_id) is None:
        raise UserError(f"the model's run {run_id} is not in {uri}")
    data = store.get_run(run_id).data
    names = {
        "code of the training": "mlflow.source.git.commit",
        "files changed since that commit": "code.changed",
        "digest of the training's dataset": "dataset.digest",
    }
    libraries = {tag.removeprefix("version."): v for tag, v in sorted(data.tags.items()) if tag.startswith("version.")}
    facts = {name: data.tags[tag] for name, tag in names.items() if tag in data.tags}
    if libraries:
        facts["libraries of the training"] = ", ".join(f"{name} {number}" for name, number in libraries.items())
    losses = sorted(name for name in data.metrics if name.startswith("train/"))
    wanted = [name for name in (*_SCORES, *losses, _RATE) if name in data.metrics]
    return facts, {name: thinned(_history(uri, run_id, name)) for name in wanted}


def _history(uri: str, run_id: str, name: str) -> Series:
    """Of each step the value that was logged last."""
    history = tracking.client(uri).get_metric_history(run_id, name)
    return sorted({float(m.step): float(m.value) for m in sorted(history, key=lambda m: m.timestamp)}.items())


def thinned(series: Series, points: int = _POINTS) -> Series:
    """At most so many points, evenly spread, the first and the last among them."""
    if len(series) <= points:
        return series
    return [series[round(place * (len(series) - 1) / (points - 1))] for place in range(points)]


def _texts(uri: str, run_id: str) -> dict[str, str]:
    """The run's recipe and packages, as far as they were kept and can be fetched."""
    there = {artifact.path for artifact in tracking.client(uri).list_artifacts(run_id)}
    with tempfile.TemporaryDirectory() as scratch:
        return {
            name: tracking.fetch(uri, f"runs:/{run_id}/{file}", Path(scratch)).read_text(errors="replace")
            for name, file in _TEXTS.items()
            if file in there
        }


def _shareable(origin: Origin) -> Origin:
    """Without the names and passwords that URIs may hold: reports are passed on."""

    def each(values: Mapping[str, str]) -> dict[str, str]:
        return {key: without_secrets(value) for key, value in values.items()}

    return Origin(each(origin.facts), origin.curves, each(origin.texts), without_secrets(origin.missing))


def without_secrets(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://...@", text)
