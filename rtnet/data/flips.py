"""The four views of a frame."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

VIEWS = ("as_is", "horizontal", "vertical", "both")

_Scalar = TypeVar("_Scalar", bound=np.generic)


def flip(array: NDArray[_Scalar], view: str) -> NDArray[_Scalar]:
    """A picture, mask or map as seen in a view: exact, and flipping twice gives the original.

    array: (H, W, ...) of any type; the result has its shape and type and is contiguous.
    view: one of VIEWS; "horizontal" swaps left and right. Raises ValueError for another.
    """
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}: one of {', '.join(VIEWS)}")
    if view in ("horizontal", "both"):
        array = array[:, ::-1]
    if view in ("vertical", "both"):
        array = array[::-1]
    return np.ascontiguousarray(array)
