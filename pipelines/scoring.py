"""What `evaluate` measures in one sequence, and the table of all."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.storage import open_storage, read_bytes
from rtnet.data.images import check_image, decode_annotation, decode_image
from rtnet.data.layouts import Sequence
from rtnet.errors import UserError
from rtnet.metrics import (
    SaliencyMeasures,
    Statistics,
    contour_accuracy,
    dataset_statistics,
    region_similarity,
    scored,
    sequence_statistics,
)

SET = "(set)"
_PRINTED = tuple(f"{measure} {statistic}" for measure in "JF" for statistic in ("mean", "recall", "decay"))
_PRINTED += ("mae", "s_measure", "adaptive_f", "mean_f", "max_f")


@dataclass(frozen=True)
class Job:
    """One sequence and where its masks and maps lie."""

    sequence: Sequence
    masks: str
    maps: str | None
    threshold: float  # of a grey mask's value / 255


def score_sequence(job: Job) -> dict[str, str]:
    """{"result": JSON, "error": ""}, or the user's mistake as "error". Runs in a Ray task.

    The result: "frames", {name: {"J", "F"}} of the frames that are scored, and "saliency", the means over all
    annotated ones.
    """
    try:
        return {"result": json.dumps(_score(job)), "error": ""}
    except (UserError, OSError) as error:
        return {"result": "", "error": str(error).splitlines()[0]}


def table(results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per sequence, then that of the set: means over sequences, whatever their lengths."""
    rows, statistics = [], []
    for name, result in results.items():
        frames = result["frames"].values()
        measures = {key: sequence_statistics(frame[key] for frame in frames) for key in ("J", "F")}
        statistics.append(measures)
        rows.append({"sequence": name, "frames": len(frames), **_flat(measures), **result["saliency"]})
    of_set = {key: dataset_statistics(measures[key] for measures in statistics) for key in ("J", "F")}
    saliency = {key: float(np.mean([row[key] for row in rows])) for key in next(iter(results.values()))["saliency"]}
    return [*rows, {"sequence": SET, "frames": sum(row["frames"] for row in rows), **_flat(of_set), **saliency}]


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table's main columns, aligned."""
    lines = [["sequence", "frames", *_PRINTED]]
    for row in rows:
        lines.append([row["sequence"], str(row["frames"]), *(f"{row[column]:.3f}" for column in _PRINTED)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def as_csv(rows: list[dict[str, Any]]) -> str:
    """All columns, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _score(job: Job) -> dict[str, Any]:
    saliency, frames = SaliencyMeasures(), {}
    counted = set(scored(job.sequence.frames))
    for frame in job.sequence.frames:
        if frame.annotation is None:
            continue
        file = f"{job.sequence.name}/{frame.name}.png"
        annotation = decode_annotation(
            frame.annotation.read_bytes(), str(frame.annotation), job.sequence.void, job.sequence.background
        )
        levels = read_levels(job.masks, file, annotation.shape)
        mask = levels / 255 > job.threshold
        saliency.add(mask if job.maps is None else read_levels(job.maps, file, annotation.shape), annotation)
        if frame in counted:
            frames[frame.name] = {"J": region_similarity(mask, annotation), "F": contour_accuracy(mask, annotation)}
    return {"frames": frames, "saliency": saliency.results()}


def read_levels(folder: str, file: str, shape: tuple[int, ...]) -> np.ndarray:
    """A mask or map as uint8 (H, W). Palette and colour pictures, which hold labels, become 0 and 255."""
    system, root = open_storage(folder)
    data, origin = read_bytes(system, f"{root}/{file}"), f"{folder}/{file}"
    size = check_image(data, origin)
    if size != shape:
        raise UserError(
            f"{origin} has {size[1]} x {size[0]} pixels, its annotation {shape[1]} x {shape[0]}: "
            "masks must have their frame's size"
        )
    picture = decode_image(data, origin)
    if (picture == picture[..., :1]).all():
        return np.asarray(picture[..., 0])
    return np.asarray(decode_annotation(data, origin), np.uint8) * np.uint8(255)


def _flat(measures: Mapping[str, Statistics]) -> dict[str, float]:
    return {f"{key} {name}": value for key, entry in measures.items() for name, value in asdict(entry).items()}
