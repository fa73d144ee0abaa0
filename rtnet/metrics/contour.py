"""Contour accuracy F of the DAVIS 2016 benchmark (Perazzi et al., CVPR 2016; Martin et al., PAMI 2004)."""

from functools import cache
from math import ceil, hypot

import cv2
import numpy as np
from numpy.typing import NDArray

from rtnet.metrics.region import Mask, check_masks

_TOLERANCE = 0.008  # of the picture's diagonal


def contour_accuracy(mask: Mask, annotation: Mask) -> float:
    """F: how well the boundaries of two bool (H, W) match, in 0..1, as the harmonic mean of precision and recall.

    A boundary pixel matches where the other boundary has a pixel within ceil(0.008 * diagonal) pixels, by Euclidean
    distance. 1 where neither mask has a boundary, 0 where one has none.
    Raises ValueError where they differ in size or are not boolean.
    """
    check_masks(mask, annotation)
    found, true = _boundary(mask), _boundary(annotation)
    found_count, true_count = np.count_nonzero(found), np.count_nonzero(true)
    if found_count == 0 or true_count == 0:
        return float(found_count == true_count)
    disk = _disk(ceil(_TOLERANCE * hypot(*mask.shape)))
    precision = np.count_nonzero(found & _dilated(true, disk)) / found_count
    recall = np.count_nonzero(true & _dilated(found, disk)) / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Mask) -> NDArray[np.uint8]:
    """1 where a pixel differs from its east, south or south-east neighbour, uint8 (H, W); the last ones have fewer."""
    here = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    centre = here[:-1, :-1]
    differs = (centre != here[:-1, 1:]) | (centre != here[1:, :-1]) | (centre != here[1:, 1:])
    return np.asarray(differs, np.uint8)


def _dilated(boundary: NDArray[np.uint8], disk: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(boundary, disk), np.uint8)


@cache
def _disk(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)
