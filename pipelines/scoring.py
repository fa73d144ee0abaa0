"""What `evaluate` measures: jobs of a few frames each, and the scores of the set from their results."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from pipelines.mask_folder import Folders, list_masks
from pipelines.storage import open_storage, read_bytes
from rtnet.data.images import Mask, Picture, decode_annotation, decode_levels, decode_void
from rtnet.data.layouts import Sequence
from rtnet.errors import UserError
from rtnet.metrics import SaliencyMeasures, contour_accuracy, region_similarity, saliency_results, scored

Rule = Literal["davis", "annotated"]
_FRAMES = 64  # J and F alone: a quarter of a second
_FRAMES_OF_SALIENCY = 16
# Tools for several objects number them 1, 2, ... in grey; a map whose largest value is this small shows nothing.
_LABELS = 20


@dataclass(frozen=True)
class Files:
    """An annotated frame and its results, as paths within their folders."""

    frame: str
    annotation: Path
    mask: str
    map: str | None
    counts: bool  # for J and F


@dataclass(frozen=True)
class Job:
    """A few frames of one sequence."""

    sequence: Sequence  # without its frames
    files: tuple[Files, ...]
    folders: Folders
    threshold: float  # of a grey mask's value / 255
    saliency: bool


@dataclass(frozen=True)
class SetScores:
    """What `table` takes, and how it came about."""

    frames: dict[str, dict[str, dict[str, float]]]
    """{sequence: {frame: {"J", "F"}}} of the frames that count."""
    saliency: dict[str, dict[str, float]]
    """{sequence: {measure: mean over all annotated frames}}."""
    threshold: float
    """Of value / 255: the one asked for, or 0 where the masks hold grey labels."""
    content: str
    """SHA-256 over the counted frames' names and annotations: only scores of equal content compare."""
    note: str
    """What is to be told of how the masks were read, or ""."""


def cut_jobs(
    sequences: list[Sequence], folders: Folders, rule: Rule, threshold: float, saliency: bool, chosen: bool
) -> list[Job]:
    """All annotated frames, so few to a job that no long sequence holds up the end; UserError as `list_masks`."""
    masks = list_masks(folders.masks, sequences, chosen)
    maps = {} if folders.maps is None else list_masks(folders.maps, sequences, chosen)
    frames = _FRAMES_OF_SALIENCY if saliency else _FRAMES
    jobs = []
    for sequence in sequences:
        counted = {frame.name for frame in (scored(sequence.frames) if rule == "davis" else sequence.frames)}
        files = [
            Files(frame.name, frame.annotation, masks[key], maps.get(key), frame.name in counted)
            for frame in sequence.frames
            if frame.annotation and (key := (sequence.name, frame.name))
        ]
        for start in range(0, len(files), frames):
            part = tuple(files[start : start + frames])
            jobs.append(Job(replace(sequence, frames=()), part, folders, threshold, saliency))
    return jobs


def score_job(job: Job) -> dict[str, str]:
    """{"result": JSON for `combine`, "error": ""}, or the user's mistake as "error". Runs in a Ray task."""
    try:
        digests = _digests(job)
        return {"result": json.dumps([_score(job, files, digests) for files in job.files]), "error": ""}
    except (UserError, OSError) as error:
        return {"result": "", "error": str(error).splitlines()[0]}


def combine(jobs: list[Job], results: Iterable[str]) -> SetScores:
    """The set's scores from those of its jobs, in order.

    Grey masks none of which has a value above 20 hold labels, whose every value but 0 is object.
    """
    scored_frames = [
        (job.sequence.name, files, found)
        for job, result in zip(jobs, results, strict=True)
        for files, found in zip(job.files, json.loads(result), strict=True)
    ]
    brightest = max(found["brightest"] for _, _, found in scored_frames)
    reading = "labels" if 0 < brightest <= _LABELS else "levels"
    dim = [f"{name}/{files.frame}" for name, files, found in scored_frames if 0 < found["brightest"] <= _LABELS]
    frames: dict[str, dict[str, dict[str, float]]] = {name: {} for name, _, _ in scored_frames}
    saliency: dict[str, list[list[float]]] = {name: [] for name in frames}
    content = hashlib.sha256()
    for name, files, found in scored_frames:
        values = found.get(reading, found["levels"])
        if files.counts:
            frames[name][files.frame] = {"J": values["J"], "F": values["F"]}
            content.update(found["content"].encode())
        saliency[name].append(values["saliency"])
    return SetScores(
        frames,
        {name: saliency_results(np.mean(values, axis=0)) if values[0] else {} for name, values in saliency.items()},
        0.0 if reading == "labels" else jobs[0].threshold,
        content.hexdigest(),
        _note(reading, brightest, dim, jobs[0].threshold),
    )


def read_levels(folder: str, file: str, shape: tuple[int, ...], digest: str | None = None) -> Picture:
    """A mask or map as uint8 (H, W), as `decode_levels` reads it.

    digest: the SHA-256 that the file must have. UserError where it has another, or the picture another shape.
    """
    system, root = open_storage(folder)
    origin = f"{folder}/{file}"
    data = read_bytes(system, f"{root}/{file}")
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"{origin} is not what `rtnet predict` wrote: move changed masks and maps to a folder of their own, where "
            "they are scored as no model's, and run that predict again"
        )
    levels = decode_levels(data, origin)
    if levels.shape != shape:
        raise UserError(
            f"{origin} has {levels.shape[1]} x {levels.shape[0]} pixels, its annotation {shape[1]} x {shape[0]}: "
            "masks must have their frame's size"
        )
    return levels


def _digests(job: Job) -> dict[str, tuple[str, str]]:
    """{frame: (of its mask, of its map)} where `predict` made them; empty of other masks."""
    if job.folders.statistics is None:
        return {}
    system, root = open_storage(job.folders.statistics)
    columns = ["name", "mask_digest", "map_digest"]
    rows = pq.read_table(f"{root}/{job.sequence.name}.parquet", columns=columns, filesystem=system).to_pylist()
    return {row["name"]: (row["mask_digest"], row["map_digest"]) for row in rows}


def _score(job: Job, files: Files, digests: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Of one frame: "content" and "brightest", its largest level; by "levels", and where that differs by "labels"."""
    annotation, void = _annotation(job.sequence, files.annotation)
    mask_digest, map_digest = digests.get(files.frame, (None, None))
    levels = read_levels(job.folders.masks, files.mask, annotation.shape, mask_digest)
    map_ = levels if files.map is None else read_levels(str(job.folders.maps), files.map, annotation.shape, map_digest)
    if void is not None:
        levels, map_ = np.where(void, np.uint8(0), levels), np.where(void, np.uint8(0), map_)
    above = int(np.count_nonzero(np.arange(256) / 255 <= job.threshold))
    found: dict[str, Any] = {
        "content": _content(job.sequence, files.frame, annotation, void),
        "brightest": int(levels.max()),
        "levels": _measures(levels >= above, map_, annotation, job.saliency),
    }
    if 0 < found["brightest"] <= _LABELS:
        labels = levels > 0
        found["labels"] = _measures(labels, labels if files.map is None else map_, annotation, job.saliency)
    return found


def _measures(mask: Mask, map_: np.ndarray, annotation: Mask, saliency: bool) -> dict[str, Any]:
    values: list[float] = []
    if saliency:
        measures = SaliencyMeasures()
        measures.add(map_, annotation)
        values = measures.means().tolist()
    return {"J": region_similarity(mask, annotation), "F": contour_accuracy(mask, annotation), "saliency": values}


def _annotation(sequence: Sequence, path: Path) -> tuple[Mask, Mask | None]:
    """(the mask, the void pixels where the layout has such), bool (H, W).

    As in the official DAVIS 2017 evaluation void counts for nothing, whatever a result says there.
    """
    data = path.read_bytes()
    mask = decode_annotation(data, str(path), sequence.void, sequence.background)
    if sequence.void is None:
        return mask, None
    void = decode_void(data, sequence.void, str(path))
    return mask, void if void.any() else None


def _content(sequence: Sequence, frame: str, annotation: Mask, void: Mask | None) -> str:
    height, width = annotation.shape
    digest = hashlib.sha256(json.dumps([sequence.dataset, sequence.name, frame, height, width]).encode())
    for mask in (annotation, void):
        digest.update(b"" if mask is None else np.packbits(mask).tobytes())
    return digest.hexdigest()


def _note(reading: str, brightest: int, dim: list[str], threshold: float) -> str:
    if reading == "labels":
        return f"the masks' largest grey value is {brightest} of 255: read as labels, all but 0 are object"
    if brightest / 255 <= threshold:
        return f"the masks' largest value is {brightest} of 255: with evaluation.threshold={threshold:g} all are empty"
    if dim:
        more = f" and {len(dim) - 1} more" if len(dim) > 1 else ""
        return f"{dim[0]}{more} have no grey value above {_LABELS} of 255, others have: read as maps that show nothing"
    return ""
