"""Which pairs a frame's map is made of, for sequences whose end need not be known yet."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rtnet.data.pairs import fixed_draw
from rtnet.errors import UserError


class Pair(NamedTuple):
    """Two places of a sequence. The map of the first is used, and that of the second where `both` says so."""

    first: int
    second: int
    both: bool


@dataclass(frozen=True)
class PairRule:
    """The pairs of every frame, as a function of the seed, its place and its sequence's length alone.

    partners 1: one partner drawn from those at most `reach` places away, as published; `fixed_partners` of
    rtnet.data.pairs draws the same. partners above 1: so many, spread evenly over those within reach; the maps are to
    be averaged. both: each pair gives the maps of both its frames, which halves the work: frames `reach` // 2 apart are
    paired within blocks of twice that; the middle one of an odd rest has a pair of its own.
    A sequence of one frame pairs it with itself. Raises UserError where both and more than one partner are asked for.
    """

    reach: int = 10
    partners: int = 1
    both: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.both and self.partners > 1:
            raise UserError("both maps of a pair are used with one partner only: set partners to 1, or leave both out")

    @property
    def block(self) -> int:
        """So many frames are planned at once, from multiples of it."""
        return 2 * max(1, self.reach // 2) if self.both else 1

    @property
    def ahead(self) -> int:
        """So many frames beyond a block decide its pairs."""
        return 0 if self.both else self.reach

    @property
    def behind(self) -> int:
        """So many frames before a block may be its partners."""
        return 1 if self.both else self.reach

    def pairs(self, start: int, length: int) -> list[Pair]:
        """The pairs of the block that begins at `start`.

        length: the sequence's; where it is not known yet, start + block + ahead will do if it is no less.
        """
        if self.both:
            return _matched(start, min(start + self.block, length))
        first, last = max(start - self.reach, 0), min(start + self.reach, length - 1)
        count = last - first  # of candidates, `start` left out
        if not count:
            return [Pair(start, start, False)]
        if self.partners == 1:
            chosen = [int((fixed_draw(self.seed, start) >> 11) * 2.0**-53 * count)]
        else:
            spread = (np.arange(self.partners) + 0.5) * count / self.partners
            chosen = sorted({int(place) for place in spread})
        return [Pair(start, first + place + (first + place >= start), False) for place in chosen]


def _matched(start: int, stop: int) -> list[Pair]:
    count = stop - start
    apart = (count + 1) // 2
    pairs = [Pair(place, place + apart, True) for place in range(start, stop - apart)]
    if count % 2:
        middle = start + apart - 1
        pairs.append(Pair(middle, max(middle - 1, 0), False))
    return pairs
