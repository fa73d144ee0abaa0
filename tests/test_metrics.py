"""The measures equal the official ones, frame by frame, and keep to their definitions where those have no example."""

import json
import subprocess
import sys
from math import ceil, hypot
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rtnet.data.images import decode_annotation
from rtnet.metrics import (
    SaliencyMeasures,
    Statistics,
    contour_accuracy,
    dataset_statistics,
    region_similarity,
    scored,
    sequence_statistics,
)
from tests.conftest import SHARED_DATA

Mask = NDArray[np.bool_]
ORACLE = None if SHARED_DATA is None else SHARED_DATA / "oracle"
needs_oracle = pytest.mark.skipif(ORACLE is None, reason="needs the official results and scores")


def _rectangle(shape: tuple[int, int], rows: slice, columns: slice) -> Mask:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def _blob(seed: int, shape: tuple[int, int]) -> Mask:
    """A rough random region, as a disturbed half-plane or disk."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = rng.uniform(0.3, 0.7, 2) * shape
    radius = rng.uniform(0.2, 0.4) * min(shape) * (1 + 0.3 * np.sin(3 * np.arctan2(y - centre[0], x - centre[1])))
    return np.asarray(np.hypot(y - centre[0], x - centre[1]) + rng.normal(0, 0.7, shape) < radius)


# The official values


def _mask(*parts: str) -> Mask:
    assert ORACLE is not None
    return decode_annotation(ORACLE.joinpath(*parts).read_bytes())


def _oracle(name: str) -> Any:
    assert ORACLE is not None
    return json.loads((ORACLE / name).read_text())


def _frames(sequence: str) -> list[str]:
    assert ORACLE is not None
    return sorted(path.name for path in (ORACLE / "ground-truth" / sequence).iterdir())


@needs_oracle
@pytest.mark.parametrize("sequence", ["blackswan", "bmx-bumps", "car-shadow", "libby", "motocross-jump", "surf"])
def test_j_and_f_of_both_methods_equal_the_official_values_frame_by_frame_and_in_statistics(sequence: str) -> None:
    names = scored(_frames(sequence))
    truth = [_mask("ground-truth", sequence, name) for name in names]
    for method, official in _oracle("scores.json").items():
        masks = [_mask(method, sequence, name) for name in names]
        for key, measure in (("J", region_similarity), ("F", contour_accuracy)):
            values = [measure(mask, annotation) for mask, annotation in zip(masks, truth, strict=True)]
            expected = official[sequence][key]
            np.testing.assert_allclose(values, expected["raw"], atol=1e-12, rtol=0)
            statistics = sequence_statistics(values)
            for field in ("mean", "recall", "decay"):
                assert getattr(statistics, field) == pytest.approx(expected[field], abs=1e-12)


SALIENCY_NAMES = {
    "mae": "MAE",
    "s_measure": "Sm",
    "weighted_f": "wFm",
    "adaptive_f": "adpFm",
    "mean_f": "meanFm",
    "max_f": "maxFm",
    "adaptive_e": "adpEm",
    "mean_e": "meanEm",
    "max_e": "maxEm",
}


@needs_oracle
@pytest.mark.parametrize(
    "results",
    [
        pytest.param("fst/libby", marks=pytest.mark.slow),
        "nlc/libby",
        pytest.param("fst/blackswan", marks=pytest.mark.slow),
        pytest.param("nlc/blackswan", marks=pytest.mark.slow),
    ],
)
def test_saliency_measures_equal_those_of_pysodmetrics_over_all_frames(results: str) -> None:
    method, sequence = results.split("/")
    measures = SaliencyMeasures()
    for name in _frames(sequence):
        measures.add(_mask(method, sequence, name), _mask("ground-truth", sequence, name))
    expected = _oracle("saliency_scores.json")[results]
    assert {SALIENCY_NAMES[name]: value for name, value in measures.results().items()} == pytest.approx(
        expected, abs=1e-12
    )


# J and F by definition

SHAPES = [(40, 60), (90, 300), (31, 17)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_a_perfect_mask_scores_one_and_both_measures_are_symmetric(shape: tuple[int, int], seed: int) -> None:
    one, two = _blob(seed, shape), _blob(seed + 100, shape)
    for measure in (region_similarity, contour_accuracy):
        assert measure(one, one.copy()) == 1
        assert measure(one, two) == pytest.approx(measure(two, one), abs=1e-15)
        assert 0 <= measure(one, two) < 1


def test_j_is_the_share_of_the_union_that_both_cover() -> None:
    one = _rectangle((20, 30), slice(0, 10), slice(0, 10))
    two = _rectangle((20, 30), slice(5, 10), slice(0, 20))
    assert region_similarity(one, two) == 50 / 150


def _plain_contour_accuracy(mask: Mask, annotation: Mask) -> float:
    """F from its definition by measuring every distance, for masks that both have a boundary."""
    height, width = mask.shape

    def boundary(region: Mask) -> list[tuple[int, int]]:
        return [
            (row, column)
            for row in range(height)
            for column in range(width)
            if any(
                region[row, column] != region[row + down, column + right]
                for down, right in ((0, 1), (1, 0), (1, 1))
                if row + down < height and column + right < width
            )
        ]

    found, true = boundary(mask), boundary(annotation)
    tolerance = ceil(0.008 * hypot(height, width))

    def share(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        squared = ((np.array(some)[:, None] - np.array(others)[None]) ** 2).sum(2)
        return float((squared.min(1) <= tolerance**2).mean())

    precision, recall = share(found, true), share(true, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_f_equals_a_plain_count_of_boundary_pixels_within_the_tolerance(shape: tuple[int, int], seed: int) -> None:
    mask, annotation = _blob(seed, shape), _blob(seed + 50, shape)
    assert contour_accuracy(mask, annotation) == pytest.approx(_plain_contour_accuracy(mask, annotation), abs=1e-12)


def test_f_equals_a_dilation_of_the_whole_picture_at_any_size_and_place() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        shape = (int(rng.integers(1, 300)), int(rng.integers(1, 300)))
        mask, annotation = np.zeros(shape, bool), np.zeros(shape, bool)
        for region in (mask, annotation):
            for _ in range(rng.integers(0, 4)):
                top, left = rng.integers(0, shape)
                region[top : top + rng.integers(1, 80), left : left + rng.integers(1, 80)] ^= True
        assert contour_accuracy(mask, annotation) == _contour_accuracy_by_opencv(mask, annotation)


def _contour_accuracy_by_opencv(mask: Mask, annotation: Mask) -> float:
    radius = ceil(0.008 * hypot(*mask.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = np.asarray(x * x + y * y <= radius * radius, np.uint8)
    boundaries = []
    for region in (mask, annotation):
        here = np.pad(region, ((0, 1), (0, 1)), mode="edge")
        others = (here[:-1, 1:], here[1:, :-1], here[1:, 1:])
        boundaries.append(np.any([here[:-1, :-1] != other for other in others], axis=0))
    found, true = boundaries
    if not found.any() or not true.any():
        return float(found.any() == true.any())
    near_found, near_true = (cv2.dilate(each.astype(np.uint8), disk) > 0 for each in boundaries)
    precision, recall = (found & near_true).sum() / found.sum(), (true & near_found).sum() / true.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def test_f_forgives_a_shift_of_exactly_the_tolerance_and_no_pixel_more() -> None:
    shape = (480, 854)  # tolerance 8
    annotation = _rectangle(shape, slice(100, 300), slice(0, 854))
    assert contour_accuracy(_rectangle(shape, slice(108, 308), slice(0, 854)), annotation) == 1
    assert contour_accuracy(_rectangle(shape, slice(109, 309), slice(0, 854)), annotation) == 0


def test_empty_masks_score_one_where_both_are_empty_and_zero_where_one_is() -> None:
    empty, full, some = np.zeros((30, 40), bool), np.ones((30, 40), bool), _blob(0, (30, 40))
    for measure in (region_similarity, contour_accuracy):
        assert measure(empty, empty) == 1
        assert measure(empty, some) == measure(some, empty) == 0
    assert region_similarity(full, full) == 1
    assert contour_accuracy(full, some) == 0  # a mask of the whole picture has no boundary either
    assert contour_accuracy(full, empty) == 1


@pytest.mark.parametrize("measure", [region_similarity, contour_accuracy])
def test_masks_that_differ_in_size_or_are_not_boolean_are_refused(measure: Any) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\) and annotation \(5, 4\)"):
        measure(np.zeros((4, 5), bool), np.zeros((5, 4), bool))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        measure(np.zeros((1, 4, 5), bool), np.zeros((1, 4, 5), bool))
    with pytest.raises(ValueError, match=r"uint8.* must be boolean"):
        measure(np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool))


# Statistics


@pytest.mark.parametrize(
    ("length", "first", "last"),
    [
        (400, range(101), range(299, 400)),  # quarters end at 1, 100.75, 200.5, 300.25 and 400
        (1000, range(251), range(749, 1000)),  # at 1, 250.75, 500.5, 750.25 and 1000
        (3, range(2), range(2, 3)),  # 1, 1.5, 2, 2.5, 3: halves round up
        (2, range(1), range(1, 2)),
        (1, range(1), range(1)),
    ],
)
def test_decay_is_the_mean_of_the_first_quarter_less_that_of_the_last(length: int, first: range, last: range) -> None:
    values = [((7919 * number) % 1000) / 1000 for number in range(length)]
    expected = sum(values[place] for place in first) / len(first) - sum(values[place] for place in last) / len(last)
    statistics = sequence_statistics(values)
    assert statistics.decay == pytest.approx(expected, abs=1e-12)
    assert statistics.mean == pytest.approx(sum(values) / length, abs=1e-12)
    assert statistics.recall == sum(value > 0.5 for value in values) / length


def test_a_frame_at_one_half_is_not_recalled() -> None:
    assert sequence_statistics([0.5, 0.5, 0.51, 0.2]).recall == 0.25


def test_a_set_is_the_mean_over_sequences_whatever_their_lengths() -> None:
    long, short = sequence_statistics([1.0] * 30), sequence_statistics([0.0, 0.4])
    assert dataset_statistics([long, short]) == Statistics(mean=0.6, recall=0.5, decay=-0.2)


def test_the_first_and_the_last_frame_are_not_scored() -> None:
    assert list(scored(["0", "1", "2", "3"])) == ["1", "2"]
    assert list(scored(["0", "1"])) == list(scored(["0"])) == []


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="without scored frames"):
        sequence_statistics([])
    with pytest.raises(ValueError, match="without sequences"):
        dataset_statistics([])


# Saliency


def test_a_perfect_map_has_no_error_and_full_marks() -> None:
    measures = SaliencyMeasures()
    for seed in range(2):
        mask = _blob(seed, (60, 80))
        measures.add(mask.astype(np.float32), mask)
    results = measures.results()
    assert results.pop("mae") == 0
    # The E-measure divides by one pixel less than there are; its mean covers the threshold 0, where all is object.
    assert results.pop("max_e") == pytest.approx(1, abs=1e-3)
    assert min(results.values()) > 0.98


def test_the_mean_absolute_error_is_that_of_the_stretched_map() -> None:
    rng = np.random.default_rng(0)
    mask, levels = _blob(1, (40, 50)), rng.integers(20, 200, (40, 50), np.uint8)
    measures = SaliencyMeasures()
    measures.add(levels, mask)
    stretched = (levels.astype(float) - levels.min()) / (int(levels.max()) - int(levels.min()))
    assert measures.results()["mae"] == pytest.approx(np.abs(stretched - mask).mean(), abs=1e-12)


def test_a_map_scores_alike_as_float_and_as_bytes() -> None:
    mask, levels = _blob(1, (40, 50)), np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    results = []
    for prediction in (levels, levels / 255):
        measures = SaliencyMeasures()
        measures.add(prediction, mask)
        results.append(measures.results())
    assert results[0] == pytest.approx(results[1], abs=1e-9)


@pytest.mark.parametrize(
    ("prediction", "annotation", "message"),
    [
        (np.zeros((4, 5)), np.zeros((5, 4), bool), "one size"),
        (np.zeros((4, 5)), np.zeros((4, 5)), "annotation must be boolean"),
        (np.full((4, 5), 7.0), np.zeros((4, 5), bool), r"0\.\.1"),
        (np.full((4, 5), np.nan), np.zeros((4, 5), bool), r"0\.\.1"),
        (np.zeros((4, 5), np.int64), np.zeros((4, 5), bool), "int64"),
    ],
)
def test_maps_that_cannot_be_scored_are_refused(prediction: Any, annotation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaliencyMeasures().add(prediction, annotation)


def test_importing_the_measures_does_not_import_scikit_learn() -> None:
    code = "import sys, rtnet.metrics; sys.exit('sklearn' in sys.modules or 'py_sod_metrics' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
