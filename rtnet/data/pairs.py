"""Which two frames form a pair, and at which size: pure functions of a seed and a count, alike on every worker.

Everything is drawn from Philox, a counter-based generator whose raw output NumPy never changes: the key says what is
drawn, the counter where. How many workers there are, and what they have drawn before, cannot matter.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# The second half of the key is the epoch in training; these two lie beyond every epoch.
_FIXED_PARTNERS = 2**64 - 1
_HEIGHTS = 2**64 - 2


def epoch_pairs(
    group_of_row: NDArray[np.integer],
    seed: int,
    epoch: int,
    reach: int = 10,
    weight_of_row: NDArray[np.floating] | None = None,
) -> Rows:
    """One epoch's pairs, int64 (n, 2) of row numbers, anchor first, in shuffled order; n is `pairs_per_epoch`.

    group_of_row: (rows,) integers; rows of one group (a sequence in one view) lie together and in frame order.
    weight_of_row: (rows,), not negative; None is 1 for all. A row of weight w is the anchor floor(w) times, and the
    share w - floor(w) of all rows of that weight, drawn anew in each epoch, once more; each time with its own partner.
    The partner is uniform among the rows of the anchor's group at most `reach` places away, itself excluded, whatever
    their weights; a group of one row pairs it with itself. Raises ValueError where a group's rows don't lie together.
    """
    rows = len(group_of_row)
    if weight_of_row is None:
        weight_of_row = np.ones(rows)
    bits = _philox(seed, epoch)
    partner = _partners(group_of_row, _draw(bits, rows), reach)
    anchors, order = np.arange(rows), _draw(bits, rows)
    if (weight_of_row != 1).any():
        # Drawn behind the first values of the stream: weights of 1 leave the table as it is without weights.
        times = _times(weight_of_row, _draw(bits, rows))
        anchors = np.repeat(anchors, times)
        partner = _partners(group_of_row, _draw(bits, len(anchors)), reach, anchors)
        order = _draw(bits, len(anchors))
    chosen = np.argsort(order, kind="stable")
    pairs: Rows = np.stack([anchors[chosen], partner[chosen]], axis=1)
    return pairs


def pairs_per_epoch(weight_of_row: NDArray[np.floating]) -> int:
    """How many pairs each epoch has."""
    weights, rows = np.unique(weight_of_row, return_counts=True)
    return sum(_copies(float(weight), int(count)) for weight, count in zip(weights, rows, strict=True))


def fixed_partners(group_of_row: NDArray[np.integer], seed: int, reach: int = 10) -> Rows:
    """One fixed partner for every row, int64 (n,), for prediction and validation; chosen as in `epoch_pairs`.

    A function of the seed, the row's place in its group and the group's length alone: it doesn't change with the
    other groups that are predicted at the same time.
    """
    place = _places(group_of_row)[0]
    raw = _draw(_philox(seed, _FIXED_PARTNERS), int(place.max(initial=-1)) + 1)
    return _partners(group_of_row, raw[place], reach)


def fixed_draw(seed: int, place: int) -> int:
    """The 64 random bits from which `fixed_partners` makes the partner of the frame at this place."""
    counter = np.array([place // 4, 0, 0, 0], np.uint64)  # the generator gives four values a count
    bits = np.random.Philox(key=np.array([seed, _FIXED_PARTNERS], np.uint64), counter=counter)
    return int(bits.random_raw(place % 4 + 1)[-1])


def step_height(heights: Sequence[int], seed: int, step: int) -> int:
    """The working height of one global training step, uniform among `heights` and the same on all workers."""
    counter = np.array([step, 0, 0, 0], np.uint64)
    raw = np.random.Philox(key=np.array([seed, _HEIGHTS], np.uint64), counter=counter).random_raw()
    return heights[int(raw) % len(heights)]


def _philox(seed: int, stream: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed, stream], np.uint64))


def _draw(bits: np.random.Philox, count: int) -> NDArray[np.uint64]:
    """The stream's next `count` values."""
    return np.asarray(bits.random_raw(count), np.uint64)


def _times(weight_of_row: NDArray[np.floating], raw: NDArray[np.uint64]) -> Rows:
    """How often each row is an anchor in an epoch."""
    times: Rows = np.floor(weight_of_row).astype(np.int64)
    for weight in np.unique(weight_of_row):
        rows = np.flatnonzero(weight_of_row == weight)
        more = _copies(float(weight), len(rows)) - int(weight) * len(rows)
        times[rows[np.argsort(raw[rows], kind="stable")[:more]]] += 1
    return times


def _copies(weight: float, rows: int) -> int:
    return int(weight) * rows + round((weight - int(weight)) * rows)


def _partners(
    group_of_row: NDArray[np.integer], raw: NDArray[np.uint64], reach: int, anchors: Rows | None = None
) -> Rows:
    """A partner for every row, or for each of `anchors`."""
    place, length = _places(group_of_row)
    if anchors is None:
        anchors = np.arange(len(place))
    place, length = place[anchors], length[anchors]
    first = np.maximum(place - reach, 0)
    last = np.minimum(place + reach, length - 1)
    # 53 random bits as a float in [0, 1), times the number of candidates.
    chosen = first + ((raw >> np.uint64(11)) * 2.0**-53 * (last - first)).astype(np.int64)
    chosen += (chosen >= place) & (last > first)
    partners: Rows = anchors - place + chosen
    return partners


def _places(group_of_row: NDArray[np.integer]) -> tuple[Rows, Rows]:
    """Every row's place in its group, from 0, and its group's length."""
    rows = len(group_of_row)
    if rows == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(group_of_row)) + 1])
    if len(starts) != len(np.unique(group_of_row)):
        raise ValueError("the rows of a group do not lie together: sort them by group and frame")
    lengths = np.diff(np.append(starts, rows))
    return np.arange(rows) - np.repeat(starts, lengths), np.repeat(lengths, lengths)
