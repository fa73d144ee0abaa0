"""From frames to sequences to sets, as the DAVIS 2016 benchmark does it."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Statistics:
    """Of one measure: its mean; recall, the share of frames above 0.5; decay, the first quarter's mean less the last's.

    Decay is negative where a sequence gets better towards its end.
    """

    mean: float
    recall: float
    decay: float


def scored(frames: Sequence[_Item]) -> Sequence[_Item]:
    """The frames that the benchmark scores: all but the first and the last."""
    return frames[1:-1]


def sequence_statistics(values: Iterable[float]) -> Statistics:
    """Statistics of one sequence's values, one a scored frame, in order. Raises ValueError where there are none."""
    array = np.array(list(values), np.float64)
    if array.size == 0:
        raise ValueError("a sequence without scored frames has no statistics")
    # The benchmark's quarters share their end frames; the small term makes halves round up.
    ends = np.round(np.linspace(1, array.size, 5) + 1e-10).astype(np.int64) - 1
    first, last = array[ends[0] : ends[1] + 1], array[ends[3] : ends[4] + 1]
    return Statistics(float(array.mean()), float((array > 0.5).mean()), float(first.mean() - last.mean()))


def dataset_statistics(sequences: Iterable[Statistics]) -> Statistics:
    """The mean over sequences, whatever their lengths, of each statistic. Raises ValueError where there are none."""
    table = np.array([astuple(statistics) for statistics in sequences], np.float64)
    if table.size == 0:
        raise ValueError("a set without sequences has no statistics")
    return Statistics(*(float(value) for value in table.mean(axis=0)))
