"""Contour accuracy F of the DAVIS 2016 benchmark (Perazzi et al., CVPR 2016; Martin et al., PAMI 2004).

A boundary is kept as one integer of a bit for each pixel, so that a shift moves all of it at once. A disk's dilation is
then an OR of a few dozen shifts, a tenth of the time of the usual one, and exactly the same.
"""

from dataclasses import dataclass
from math import ceil, hypot, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtnet.metrics.region import Mask, check_masks

_TOLERANCE = 0.008  # of the picture's diagonal


def contour_accuracy(mask: Mask, annotation: Mask) -> float:
    """F: how well the boundaries of two bool (H, W) match, in 0..1, as the harmonic mean of precision and recall.

    A pixel is of the boundary where it differs from its east, south or south-east neighbour. It matches where the other
    boundary has a pixel within ceil(0.008 * diagonal) pixels, by Euclidean distance. 1 where neither mask has a
    boundary, 0 where one has none. Raises ValueError where they differ in size or are not boolean.
    """
    check_masks(mask, annotation)
    radius = ceil(_TOLERANCE * hypot(*mask.shape))
    grid, (found, true) = _packed((mask, annotation), radius)
    found, true = _boundary(found, grid), _boundary(true, grid)
    found_count, true_count = found.bit_count(), true.bit_count()
    if found_count == 0 or true_count == 0:
        return float(found_count == true_count)
    precision = (found & _dilated(true, radius, grid)).bit_count() / found_count
    recall = (true & _dilated(found, radius, grid)).bit_count() / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class _Grid:
    """Where the bits lie: row by row, the last pixel lowest, and behind each row at least a radius of zeros."""

    height: int
    width: int
    stride: int  # bits from one row to the next


def _packed(masks: tuple[Mask, Mask], radius: int) -> tuple[_Grid, list[int]]:
    """Both masks as integers, cut to the box that holds both and one pixel around it, as far as there is one."""
    packed = np.stack([np.packbits(mask, axis=1) for mask in masks])
    either = packed[0] | packed[1]
    rows, columns = _span(np.any(either, axis=1)), _span(np.any(either, axis=0))  # columns of eight pixels
    width = min(masks[0].shape[1], 8 * columns.stop) - 8 * columns.start
    cut = packed[:, rows, columns]
    padded = np.zeros((2, cut.shape[1], cut.shape[2] + ceil(radius / 8)), np.uint8)
    padded[..., : cut.shape[2]] = cut
    return _Grid(cut.shape[1], width, 8 * padded.shape[2]), [int.from_bytes(part.tobytes()) for part in padded]


def _span(occupied: NDArray[Any]) -> slice:
    places = np.flatnonzero(occupied)
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) if places.size else slice(0, 1)


def _boundary(mask: int, grid: _Grid) -> int:
    """Pixels that differ from a neighbour; those of the last row and column have fewer, or none that differs."""
    row = ((1 << (grid.width - 1)) - 1) << (grid.stride - grid.width + 1)  # all but the last pixel
    with_east = int.from_bytes(row.to_bytes(grid.stride // 8) * grid.height)
    with_south = (1 << grid.height * grid.stride) - (1 << grid.stride)
    east = (mask ^ mask << 1) & with_east
    south = (mask ^ mask << grid.stride) & with_south
    return east | south | (mask ^ mask << grid.stride + 1) & with_east & with_south


def _dilated(boundary: int, radius: int, grid: _Grid) -> int:
    """All pixels within a disk around those of the boundary; bits outside the picture mean nothing."""
    line, reach = boundary, 0  # the boundary, dilated to `reach` pixels left and right
    result = 0
    for distance in range(radius, -1, -1):
        wanted = isqrt(radius * radius - distance * distance)
        while reach < wanted:
            step = min(wanted - reach, 2 * reach + 1)
            line |= line << step | line >> step
            reach += step
        result |= line << distance * grid.stride | line >> distance * grid.stride
    return result
