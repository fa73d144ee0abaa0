"""A comparison of evaluations as one HTML file that needs nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.report_chart import HEIGHT, WIDTH, Chart, line_chart
from pipelines.report_origin import Origin
from pipelines.report_pictures import WorstFrame
from pipelines.report_scores import LESS_IS_BETTER, MAIN, Comparison, Evaluation

_NOTHING = "\N{EN DASH}"
_COLOURS = 6  # in report.css; more evaluations than that are told apart by dashes
_RULES = {
    "davis": "The first and the last frame of a sequence are left out, as the DAVIS 2016 benchmark does.",
    "annotated": "Every annotated frame counts, as is the custom where only some frames are annotated.",
}


@dataclass(frozen=True)
class Cell:
    """A value, or a difference to the first evaluation's."""

    text: str
    value: float | str  # to sort by; "" where there is none
    kind: str  # what report.css calls it


def page(
    comparison: Comparison, worst: Sequence[WorstFrame], origins: Sequence[Origin], facts: dict[str, str]
) -> bytes:
    """The page as UTF-8. origins: of each evaluation; facts: what made the report. Every name in it is escaped."""
    environment = Environment(
        loader=PackageLoader("pipelines", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals |= {"width": WIDTH, "height": HEIGHT}
    evaluations = comparison.evaluations
    scored = {sequence: comparison.frames(sequence) for sequence in comparison.sequences}
    of_set = [comparison.of_set(each) for each in evaluations]
    text = environment.get_template("report.html").render(
        title=" against ".join(each.label for each in evaluations) if len(evaluations) > 1 else evaluations[0].label,
        comparison=comparison,
        labels=[(each.label, *_look(number)) for number, each in enumerate(evaluations)],
        names=list(dict.fromkeys(each.scores.evaluation for each in evaluations)),
        frames=sum(map(len, scored.values())),
        measures=[(name, _in_words(name), name in MAIN) for name in comparison.measures],
        of_set={name: _cells(name, [row.get(name) for row in of_set]) for name in comparison.measures},
        rows={sequence: _row(comparison, sequence) for sequence in comparison.sequences},
        bars=_bars(comparison),
        charts=[_frame_charts(comparison, sequence, frames) for sequence, frames in scored.items()],
        data=[_values(comparison, sequence, frames) for sequence, frames in scored.items()],
        worst=worst,
        training=_training(origins),
        origins=origins,
        fact_names=list(dict.fromkeys(name for each in origins for name in each.facts)),
        rules={each.scores.rule: _RULES.get(each.scores.rule, "") for each in evaluations},
        thresholds=list(dict.fromkeys(each.scores.threshold for each in evaluations)),
        facts=facts,
    )
    return text.encode("utf-8", "replace")


def _look(number: int) -> tuple[int, int]:
    """(colour, kind of line) of the evaluation of this number."""
    return number % _COLOURS, number // _COLOURS % 3


def _in_words(measure: str) -> str:
    words = measure.split("_")
    return "MAE" if measure == "mae" else " ".join(word.upper() if len(word) == 1 else word for word in words)


def _row(comparison: Comparison, sequence: str) -> dict[str, list[Cell]]:
    measured = [each.measures(sequence) for each in comparison.evaluations]
    return {name: _cells(name, [row.get(name) for row in measured]) for name in comparison.measures}


def _cells(measure: str, values: Sequence[float | None]) -> list[Cell]:
    """Each value, and after all but the first its difference to the first."""
    sign = -1 if measure in LESS_IS_BETTER else 1
    there = [sign * round(value, 3) for value in values if value is not None and math.isfinite(value)]
    first, cells = values[0], []
    for number, value in enumerate(values):
        known = value is not None and math.isfinite(value)
        best = known and value is not None and len(values) > 1 and sign * round(value, 3) == max(there)
        cells.append(Cell(_decimal(value), value if value is not None and known else "", "best" if best else ""))
        if number:
            cells.append(_difference(first, value, sign))
    return cells


def _difference(first: float | None, value: float | None, sign: int) -> Cell:
    if first is None or value is None or not math.isfinite(value - first):
        return Cell(_NOTHING, "", "difference")
    change = value - first
    shown = round(change, 3)
    text = f"{shown:+.3f}".replace("-", "\N{MINUS SIGN}") if shown else "0"
    return Cell(text, change, f"difference {'better' if sign * shown > 0 else 'worse' if shown else ''}")


def _decimal(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return _NOTHING
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _bars(comparison: Comparison) -> list[tuple[str, dict[str, list[float | None]]]]:
    """Of each sequence the means of J and F of every evaluation, 0..1."""
    found = []
    for sequence in comparison.sequences:
        measured = [each.measures(sequence) for each in comparison.evaluations]
        found.append((sequence, {key: [row.get(f"{key} mean") for row in measured] for key in "JF"}))
    return found


def _frame_charts(comparison: Comparison, sequence: str, frames: Sequence[str]) -> list[Chart]:
    charts = []
    for key in "JF":
        series = {
            (each.label, number): [
                (float(x), y) for x, y in enumerate(_of_frames(each, sequence, frames, key)) if y is not None
            ]
            for number, each in enumerate(comparison.evaluations)
        }
        charts.append(line_chart(key, series, "frame", frames, (0, 1)))
    return charts


def _values(comparison: Comparison, sequence: str, frames: Sequence[str]) -> dict[str, Any]:
    """What the page's script reads out: to three decimals."""
    return {
        "sequence": sequence,
        "frames": list(frames),
        **{
            key: [
                [None if y is None else round(y, 3) for y in _of_frames(each, sequence, frames, key)]
                for each in comparison.evaluations
            ]
            for key in "JF"
        },
    }


def _of_frames(evaluation: Evaluation, sequence: str, frames: Sequence[str], key: Any) -> list[float | None]:
    scores = evaluation.scores.frames.get(sequence, {})
    values = [scores[name][key] if name in scores else None for name in frames]
    return [None if value is None or not math.isfinite(value) else value for value in values]


def _training(origins: Sequence[Origin]) -> list[Chart]:
    names = list(dict.fromkeys(name for each in origins for name in each.curves))
    charts = []
    for name in names:
        lines = {(str(number), number): each.curves[name] for number, each in enumerate(origins) if name in each.curves}
        if any(math.isfinite(value) for points in lines.values() for _, value in points):
            title = name.replace("train/", "loss, ").replace("validation/", "validation, ").replace("_", " ")
            charts.append(line_chart("learning rate" if name == "rate" else title, lines, "epoch"))
    return charts
