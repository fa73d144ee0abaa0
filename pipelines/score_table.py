"""The scores of sequences and of their set, as rows, as text and as CSV."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from rtnet.metrics import Statistics, dataset_statistics, sequence_statistics

SET = "(set)"
_PRINTED = tuple(f"{measure} {statistic}" for measure in "JF" for statistic in ("mean", "recall", "decay"))
_PRINTED += ("mae", "s_measure", "weighted_f", "max_f", "max_e")

Row = dict[str, Any]


def table(
    frames: Mapping[str, Mapping[str, Mapping[str, float]]], saliency: Mapping[str, Mapping[str, float]]
) -> list[Row]:
    """One row per sequence, then that of the set: means over sequences, whatever their lengths.

    frames: {sequence: {frame: {"J", "F"}}} of those that count, in order. saliency: {sequence: {measure: value}}.
    """
    rows, statistics = [], []
    for name, scores in frames.items():
        measures = {key: sequence_statistics(frame[key] for frame in scores.values()) for key in ("J", "F")}
        statistics.append(measures)
        rows.append({"sequence": name, "frames": len(scores), **_flat(measures), **saliency[name]})
    of_set = {key: dataset_statistics(measures[key] for measures in statistics) for key in ("J", "F")}
    means = {key: float(np.mean([row[key] for row in rows])) for key in next(iter(saliency.values()))}
    return [*rows, {"sequence": SET, "frames": sum(row["frames"] for row in rows), **_flat(of_set), **means}]


def as_text(rows: list[Row]) -> str:
    """The table's main columns, aligned."""
    printed = [column for column in _PRINTED if column in rows[0]]
    lines = [["sequence", "frames", *printed]]
    for row in rows:
        lines.append([row["sequence"], str(row["frames"]), *(f"{row[column]:.3f}" for column in printed)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def as_csv(rows: list[Row]) -> str:
    """All columns, in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(measures: Mapping[str, Statistics]) -> dict[str, float]:
    return {f"{key} {name}": value for key, entry in measures.items() for name, value in asdict(entry).items()}
