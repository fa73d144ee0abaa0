"""A sweep as a picture: one axis for each field and one for the metric, one line for each trial."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK, _RULE = "#333333", "#bbbbbb"


def parallel_coordinates(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], metric: str) -> bytes:
    """A PNG of trials {field: value, metric: number or None, "outcome": ...}; those without a number are left out.

    The better a trial, the darker its line; the best is drawn thick, and those that were stopped early dashed.
    """
    shown = [row for row in rows if row[metric] is not None]
    figure = Figure(figsize=(2.6 * len(fields) + 2.4, 4.4), dpi=120, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    columns = [_Scale([row[field] for row in shown]) for field in fields]
    columns.append(_Scale([row[metric] for row in shown], numbers=True))
    if shown:
        _draw_lines(axes, np.array([column.places for column in columns]).T, shown)
    for number, (name, column) in enumerate(zip([*fields, metric], columns, strict=True)):
        _draw_axis(axes, number, name, column)
    axes.set(xlim=(-0.3, len(fields) + 0.55), ylim=(-0.06, 1.14))
    axes.axis("off")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


class _Scale:
    """Where the values of one axis lie between 0 and 1, and what is written beside it."""

    def __init__(self, values: Sequence[Any], numbers: bool = False) -> None:
        """Numbers lie by their size, where all are above 0 and span a decade by their logarithm; the rest in order."""
        if numbers or (values and all(isinstance(value, float) for value in values)):
            low, high = min(values, default=0.0), max(values, default=1.0)
            scale = np.log if not numbers and low > 0 and high >= 10 * low else np.asarray
            span = float(scale(high) - scale(low)) or 1.0
            self.places = [float(scale(value) - scale(low)) / span if high > low else 0.5 for value in values]
            kept = sorted(set(values)) if not numbers and len(set(values)) <= 8 else sorted({low, high})
        else:
            kept = _distinct(values)
            places = [number / max(1, len(kept) - 1) if len(kept) > 1 else 0.5 for number in range(len(kept))]
            self.places = [places[kept.index(value)] for value in values]
        where = dict(zip([_text(value) for value in values], self.places, strict=True))
        self.ticks = {_text(value): where[_text(value)] for value in kept if _text(value) in where}


def _draw_lines(axes: Axes, places: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """places: (trials, axes). The best is drawn last, over the others."""
    merit = places[:, -1]
    order = np.argsort(merit, kind="stable")
    for number in order:
        best, stopped = number == order[-1], rows[number]["outcome"] == "stopped"
        axes.plot(
            range(places.shape[1]),
            places[number],
            color=colormaps["YlGnBu"](0.3 + 0.65 * merit[number]),
            linewidth=3.2 if best else 1.6,
            linestyle=(0, (4, 2)) if stopped else "solid",
            solid_capstyle="round",
        )


def _draw_axis(axes: Axes, number: int, name: str, column: _Scale) -> None:
    axes.plot([number, number], [0, 1], color=_RULE, linewidth=1, zorder=0)
    axes.text(number, 1.06, name, ha="center", va="bottom", fontsize=9, color=_INK)
    for text, place in column.ticks.items():
        axes.plot([number - 0.02, number + 0.02], [place, place], color=_RULE, linewidth=1, zorder=0)
        frame = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.text(number + 0.05, place, text, va="center", fontsize=8, color=_INK, bbox=frame, zorder=5)


def _distinct(values: Sequence[Any]) -> list[Any]:
    """In order of size where they have one, else as they come."""
    kept = [value for number, value in enumerate(values) if value not in values[:number]]
    try:
        return sorted(kept)
    except TypeError:
        return kept


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)
