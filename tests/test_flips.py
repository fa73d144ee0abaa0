"""The four views are exact and undo themselves."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rtnet.data.flips import VIEWS, flip

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "array",
    [
        RNG.integers(0, 256, (5, 8, 3), np.uint8),
        RNG.random((5, 8)) > 0.5,
        RNG.random((4, 7, 2), np.float32),
        RNG.integers(0, 256, (8, 5, 3), np.uint8).transpose(1, 0, 2),
    ],
    ids=["picture", "mask", "flow", "strided"],
)
def test_flipping_twice_gives_the_original(array: NDArray[Any], view: str) -> None:
    flipped = flip(array, view)
    assert flipped.flags.c_contiguous
    assert flipped.dtype == array.dtype
    assert np.array_equal(flip(flipped, view), array)


def test_the_views_mirror_the_sides_their_names_say() -> None:
    square = np.array([[1, 2], [3, 4]])
    assert {view: flip(square, view).tolist() for view in VIEWS} == {
        "as_is": [[1, 2], [3, 4]],
        "horizontal": [[2, 1], [4, 3]],
        "vertical": [[3, 4], [1, 2]],
        "both": [[4, 3], [2, 1]],
    }


def test_both_is_horizontal_and_then_vertical() -> None:
    picture = RNG.integers(0, 256, (5, 8, 3), np.uint8)
    assert np.array_equal(flip(picture, "both"), flip(flip(picture, "horizontal"), "vertical"))


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="'diagonal'"):
        flip(np.zeros((2, 2)), "diagonal")
