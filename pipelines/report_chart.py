"""Lines over frames or epochs, as paths of inline SVG that stretch with the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 1000, 200  # of the drawing's own units; the page stretches them, not the lines' thickness


@dataclass(frozen=True)
class Line:
    label: str
    number: int  # of its colour: that of the evaluation
    path: str  # what SVG calls d
    last: str  # its last value, to be read


@dataclass(frozen=True)
class Tick:
    place: float  # 0..100, percent of the axis
    label: str


@dataclass(frozen=True)
class Chart:
    title: str
    lines: tuple[Line, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    x_title: str


def line_chart(
    title: str,
    series: Mapping[tuple[str, int], Points],
    x_title: str,
    x_labels: Sequence[str] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Chart:
    """series: (label, number of the colour) -> points with rising x; values that are not finite are left out.

    x_labels: names of x = 0, 1, ...; y_range: in place of that of the values. At least one value must be finite.
    """
    finite = {key: [(x, y) for x, y in points if math.isfinite(y)] for key, points in series.items()}
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    low, high = y_range or (min(ys), max(ys))
    rows = _round_values(low, high)
    if y_range is None:
        low, high = min(low, rows[0]), max(high, rows[-1])
    left, right = (0.0, float(len(x_labels) - 1)) if x_labels else (min(xs), max(xs))

    def place(x: float, y: float) -> tuple[float, float]:
        return _share(x, left, right) * WIDTH, HEIGHT - _share(y, low, high) * HEIGHT

    lines = tuple(
        Line(*key, _path([place(*point) for point in points]), _said(points[-1][1]))
        for key, points in finite.items()
        if points
    )
    columns = [round(value) for value in _round_values(left, right) if value == round(value) and left <= value <= right]
    names = [(value, x_labels[value] if x_labels else str(value)) for value in columns]
    return Chart(
        title,
        lines,
        tuple(Tick(100 * _share(value, low, high), _said(value)) for value in rows if low <= value <= high),
        tuple(Tick(100 * _share(value, left, right), name) for value, name in names),
        x_title,
    )


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _path(places: Points) -> str:
    if len(places) == 1:  # a dot: a line of no length with round ends
        x, y = places[0]
        return f"M{x:.1f} {y:.1f}h.1"
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _round_values(low: float, high: float) -> list[float]:
    """About five round values that span low..high."""
    if not high > low:
        return [low]
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _said(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.2e}"
