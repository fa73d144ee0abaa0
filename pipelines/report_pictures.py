"""The worst frames of evaluations: overlays of the map or mask and the annotation, as data URIs."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from pyarrow import fs

from pipelines.report_scores import Comparison, Evaluation
from pipelines.scoring import read_levels
from pipelines.sources import list_sources
from pipelines.storage import open_storage
from rtnet.data.frames import read_frames
from rtnet.data.images import Mask, Picture, decode_mask, encode_jpeg, overlay
from rtnet.data.layouts import Sequence
from rtnet.errors import UserError

_MOST_PICTURES = 36  # of about 40 KB each
_MOST_FRAMES = 12
_OF_A_SEQUENCE = 2  # its worst frames are often neighbours, which show the same
_ENDINGS = (".png", ".jpg", ".jpeg")  # of masks and maps
_WIDTH = 480
_QUALITY = 80


@dataclass(frozen=True)
class Shown:
    """One evaluation's mask of a frame, or why it can't be shown."""

    evaluation: Evaluation
    scores: Mapping[str, float]  # "J" and "F"; empty where it did not score the frame
    picture: str  # data URI of a JPEG
    missing: str  # one line, where there is no picture


@dataclass(frozen=True)
class WorstFrame:
    sequence: str
    name: str
    worst_of: tuple[str, ...]  # labels of the evaluations among whose worst it is
    shown: tuple[Shown, ...]  # of every evaluation


def worst_frames(comparison: Comparison) -> list[WorstFrame]:
    """The frames with the lowest J of each evaluation, in turn, each as all evaluations see it.

    At most two of a sequence for each evaluation, and so few that the report stays small.
    """
    album = _Album(comparison.evaluations)
    worst: dict[tuple[str, str], list[str]] = {}
    count = max(1, min(_MOST_FRAMES, _MOST_PICTURES // len(comparison.evaluations)))
    for ranked in zip(*(_ranked(each, count) for each in comparison.evaluations), strict=True):
        for evaluation, key in zip(comparison.evaluations, ranked, strict=True):
            if key in worst:
                worst[key].append(evaluation.label)
            elif key is not None and len(worst) < count:
                worst[key] = [evaluation.label]
    return [
        WorstFrame(*key, tuple(labels), tuple(album.shown(evaluation, *key) for evaluation in comparison.evaluations))
        for key, labels in worst.items()
    ]


def _ranked(evaluation: Evaluation, count: int) -> list[tuple[str, str] | None]:
    """(sequence, frame), the worst first; filled up with None."""
    found: list[tuple[float, str, str]] = []
    for sequence, frames in evaluation.scores.frames.items():
        scores = sorted((frame["J"], name) for name, frame in frames.items())
        found += [(score, sequence, name) for score, name in scores[:_OF_A_SEQUENCE]]
    worst: list[tuple[str, str] | None] = [(sequence, name) for _, sequence, name in sorted(found)]
    return (worst + [None] * count)[:count]


class _Album:
    """Frames, annotations and masks, wherever they still lie."""

    def __init__(self, evaluations: tuple[Evaluation, ...]) -> None:
        self._evaluations = evaluations
        self._sequences: dict[str, dict[str, Sequence] | str] = {}
        self._frames: dict[tuple[str, str], tuple[Picture, Mask]] = {}

    def shown(self, evaluation: Evaluation, sequence: str, frame: str) -> Shown:
        scores = evaluation.scores.frames.get(sequence, {}).get(frame, {})
        values = {str(key): value for key, value in scores.items()}
        if not values:
            return Shown(evaluation, values, "", "not scored in this evaluation")
        try:
            return Shown(evaluation, values, _as_uri(self._overlay(evaluation, sequence, frame)), "")
        except (UserError, OSError) as error:
            return Shown(evaluation, values, "", f"can't be shown: {str(error).splitlines()[0]}")

    def _overlay(self, evaluation: Evaluation, sequence: str, frame: str) -> Picture:
        image, annotation = self._frame(evaluation, sequence, frame)
        scores, name = evaluation.scores, f"{sequence}/{frame}"
        mask = read_levels(scores.masks, _file(scores.masks, name), annotation.shape) / 255 > scores.threshold
        levels = None
        if scores.maps is not None:
            levels = read_levels(scores.maps, _file(scores.maps, name), annotation.shape)
        return _small(image, mask, annotation, levels)

    def _frame(self, evaluation: Evaluation, sequence: str, frame: str) -> tuple[Picture, Mask]:
        """Read once; UserError where it is not there."""
        key = (sequence, frame)
        if key not in self._frames:
            self._frames[key] = self._read(evaluation, sequence, frame)
        return self._frames[key]

    def _read(self, evaluation: Evaluation, name: str, frame: str) -> tuple[Picture, Mask]:
        sequence = self._sequence(evaluation, name)
        places = [place for place, each in enumerate(sequence.frames) if each.name == frame]
        for place in places:
            for encoded, picture in read_frames(sequence, place, place + 1):
                if encoded.annotation is not None:
                    return picture, decode_mask(encoded.annotation)
        raise UserError(f"frame {frame} of {name} or its annotation is no longer there")

    def _sequence(self, evaluation: Evaluation, name: str) -> Sequence:
        known = self._sequences.get(evaluation.origin)
        if known is None:
            known = self._sequences[evaluation.origin] = _listed(evaluation)
        if isinstance(known, str):
            raise UserError(known)
        if name not in known:
            raise UserError(f"sequence {name} is no longer among the sources")
        return known[name]


def _listed(evaluation: Evaluation) -> dict[str, Sequence] | str:
    """The sequences of its split, or why there are none."""
    scores = evaluation.scores
    try:
        return {each.name: each for each in list_sources(scores.sources) if each.split == scores.split}
    except (UserError, OSError) as error:
        return str(error).splitlines()[0]


def _file(folder: str, name: str) -> str:
    """The path within the folder of the picture that is called so, whatever its kind."""
    system, root = open_storage(folder)
    for ending in _ENDINGS:
        if system.get_file_info(f"{root}/{name}{ending}").type == fs.FileType.File:
            return f"{name}{ending}"
    raise UserError(f"{folder}/{name}{_ENDINGS[0]} is no longer there")


def _small(image: Picture, mask: Mask, annotation: Mask, levels: Picture | None) -> Picture:
    """The overlay at the width of the page's pictures: reduced first, so that its outlines stay thick enough."""
    height, width = mask.shape
    if width <= _WIDTH:
        return overlay(image, mask, annotation, levels)
    size = (_WIDTH, max(1, round(_WIDTH * height / width)))

    def reduced(values: Picture) -> Picture:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.uint8)

    mask, annotation = (reduced(each.astype(np.uint8) * np.uint8(255)) > 127 for each in (mask, annotation))
    return overlay(reduced(image), mask, annotation, None if levels is None else reduced(levels))


def _as_uri(picture: Picture) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(picture, _QUALITY)).decode()}"
