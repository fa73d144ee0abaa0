"""What `evaluate` left of one or several evaluations, and what of it compares."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyarrow import fs
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.score_table import SET
from pipelines.sections import Source
from pipelines.storage import absolute, open_storage, read_json
from rtnet.errors import UserError

SCORES = "scores.json"
MAIN = ("J&F", "J mean", "F mean")
LESS_IS_BETTER = ("J decay", "F decay", "mae")


class Scores(BaseModel):
    """A scores.json; `evaluate` says what each field means."""

    model_config = ConfigDict(frozen=True)

    name: str
    evaluation: str
    masks: str
    maps: str | None
    saliency_on: str
    model: dict[str, str]
    run: dict[str, str]
    split: str
    threshold: float
    rule: str
    content: str
    sources: dict[str, Source]
    commit: str
    dataset: str | None
    created: str
    scores: list[dict[str, Any]]
    frames: dict[str, dict[str, dict[Literal["J", "F"], float]]]


@dataclass(frozen=True)
class Evaluation:
    """One of those that a report compares."""

    label: str  # what the report calls it; no two are called the same
    origin: str  # its scores.json
    scores: Scores

    def measures(self, sequence: str) -> dict[str, float]:
        """A sequence's measures and, before them, the mean of its J and F; nothing where it was not scored."""
        for row in self.scores.scores:
            if row["sequence"] == sequence:
                values = {key: float(value) for key, value in row.items() if isinstance(value, float)}
                return {MAIN[0]: (values["J mean"] + values["F mean"]) / 2, **values}
        return {}


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side, the first of which the others' differences are to."""

    evaluations: tuple[Evaluation, ...]
    sequences: tuple[str, ...]
    """All that any of them scored."""
    shared: tuple[str, ...]
    """Those that all of them scored."""
    warnings: tuple[str, ...]
    """Why numbers may not compare."""

    @property
    def measures(self) -> list[str]:
        """The names of all measures, the main ones first."""
        names = [name for each in self.evaluations for row in self.sequences for name in each.measures(row)]
        return list(dict.fromkeys([*MAIN, *names]))

    def of_set(self, evaluation: Evaluation) -> dict[str, float]:
        """The means over the shared sequences: of all that `evaluation` scored, where that is the same."""
        rows = [evaluation.measures(name) for name in self.shared]
        return {key: math.fsum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def frames(self, sequence: str) -> list[str]:
        """The names of the frames that any of them scored in a sequence, in order."""
        listed = [list(each.scores.frames.get(sequence, {})) for each in self.evaluations]
        names = dict.fromkeys(name for each in listed for name in each)
        if list(names) == listed[0]:
            return listed[0]
        return sorted(names, key=lambda name: (int(name) if name.isdecimal() else 0, name))


def read_evaluations(places: Sequence[str]) -> Comparison:
    """Reads the evaluations at these folders, URIs or scores.json files, in this order.

    Raises UserError naming the file that is missing, damaged or of another kind, and where nothing is shared.
    """
    origins = [_file(place) for place in places]
    if repeated := [origin for origin, count in Counter(origins).items() if count > 1]:
        raise UserError(f"{repeated[0]} is named twice: name each evaluation once")
    scores = [_read(origin) for origin in origins]
    labels = _labels(scores)
    evaluations = tuple(Evaluation(*each) for each in zip(labels, origins, scores, strict=True))
    sequences = tuple(dict.fromkeys(name for each in scores for name in each.frames))
    shared = tuple(name for name in sequences if all(name in each.frames for each in scores))
    if not shared:
        raise UserError(f"{' and '.join(origins)} have no sequence in common: report them one by one")
    return Comparison(evaluations, sequences, shared, tuple(_warnings(evaluations, sequences, shared)))


def _file(place: str) -> str:
    uri = absolute(place).rstrip("/")
    system, path = open_storage(uri)
    kind = system.get_file_info(path).type
    if kind == fs.FileType.File:
        return uri
    if kind == fs.FileType.NotFound:
        raise UserError(f"{uri}: no such folder: name one that `rtnet evaluate` filled")
    if system.get_file_info(f"{path}/{SCORES}").type != fs.FileType.File:
        raise UserError(f"{uri} holds no {SCORES}: name a folder that `rtnet evaluate` filled")
    return f"{uri}/{SCORES}"


def _read(origin: str) -> Scores:
    again = "run `rtnet evaluate` again"
    try:
        values = read_json(*open_storage(origin))
    except (UserError, TypeError, OSError) as error:
        raise UserError(f"{origin} is damaged or can't be read: {again}") from error
    try:
        scores = Scores.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{origin} is not what `rtnet evaluate` writes ({field}: {first['msg']}): {again}") from error
    if wrong := _contradiction(scores):
        raise UserError(f"{origin} is damaged ({wrong}): {again}")
    return scores


def _contradiction(scores: Scores) -> str:
    rows = [row.get("sequence") for row in scores.scores]
    if rows != [*scores.frames, SET] or len(rows) == 1:
        return "its rows and its frames are not of the same sequences"
    if not all(isinstance(row.get(key), float) for row in scores.scores for key in MAIN[1:]):
        return "a row has no J or F"
    keys = {frozenset(row) for row in scores.scores}
    if len(keys) > 1:
        return "its rows have different columns"
    if not all(frame.keys() == {"J", "F"} for frames in scores.frames.values() for frame in frames.values()):
        return "a frame has no J or F"
    return ""


def _labels(scores: Sequence[Scores]) -> list[str]:
    """The shortest of what tells them apart: names; with the models, or the folders of masks; or else with numbers."""
    names = [each.name for each in scores]
    with_models = [f"{each.name}, {each.model['uri']}" if each.model.get("uri") else each.name for each in scores]
    folders = [each.masks.rstrip("/").removesuffix("/masks").rpartition("/")[2] for each in scores]
    with_folders = [f"{name}, {folder}" for name, folder in zip(names, folders, strict=True)]
    for labels in (names, with_models, with_folders):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(with_models, 1)]


def _warnings(evaluations: Sequence[Evaluation], sequences: Sequence[str], shared: Sequence[str]) -> list[str]:
    found = []
    if len(shared) < len(sequences):
        found.append(
            f"Only {len(shared)} of {len(sequences)} sequences were scored in all evaluations; the rows of the set are "
            "the means over these alone."
        )
    for field, means in (
        ("content", "The scored frames or their annotations differ"),
        ("rule", "The rules for which frames count differ"),
        ("threshold", "The thresholds differ"),
        ("split", "The splits differ"),
    ):
        values = [getattr(each.scores, field) for each in evaluations]
        if len(set(values)) > 1:
            told = "; ".join(f"{each.label}: {str(v)[:12]}" for each, v in zip(evaluations, values, strict=True))
            found.append(f"{means} ({told}): differences between the numbers may come from that.")
    return found
