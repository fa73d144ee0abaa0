"""Flow points where things go, is the same on every run, and its pictures are those of the Middlebury colour wheel."""

import pickle
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rtnet.data.flips import flip
from rtnet.data.flow import DIS_PRESETS, Dis, dis, neighbour_flows
from rtnet.data.flow_files import read_flo
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import decode_image
from rtnet.data.layouts import read_layout
from rtnet.errors import UserError
from tests.conftest import SHARED_DATA

Picture = NDArray[np.uint8]
Flow = NDArray[np.float32]
needs_true_flow = pytest.mark.skipif(SHARED_DATA is None, reason="needs real frames with their true flow")


def _textured(height: int, width: int, seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).random((height // 6 + 2, width // 6 + 2, 3)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255, np.uint8)


@pytest.fixture(scope="module")
def frames(davis480: Path) -> list[Picture]:
    return [
        decode_image(frame.image.read_bytes()) for frame in read_layout("davis16", davis480, "davis16")[0].frames[:3]
    ]


@pytest.fixture(scope="module")
def rubber_whale() -> tuple[Picture, Picture, Flow]:
    assert SHARED_DATA is not None
    folder = SHARED_DATA / "flow"
    first, second = (decode_image((folder / f"RubberWhale_frame{number}.png").read_bytes()) for number in (10, 11))
    return first, second, read_flo(folder / "RubberWhale_flow10.flo")


# Anchoring


class _Order:
    """The plainest estimator: it tells which frame came first and which second."""

    name = digest = "order"

    def flows(self, frames: Iterable[Picture]) -> Iterator[tuple[Flow, Flow]]:
        for first, second in pairwise(frame[0, 0, 0] for frame in frames):
            yield np.array([[[first, second]]], np.float32), np.array([[[second, first]]], np.float32)


def test_forward_is_to_the_next_frame_and_backward_to_the_last_both_from_the_frame_itself() -> None:
    pictures = [np.full((16, 16, 3), number, np.uint8) for number in range(4)]
    results = list(neighbour_flows(pictures, _Order()))
    assert [frame[0, 0, 0] for frame, _, _ in results] == [0, 1, 2, 3]
    assert [None if flow is None else flow[0, 0].tolist() for _, flow, _ in results] == [[0, 1], [1, 2], [2, 3], None]
    assert [None if flow is None else flow[0, 0].tolist() for _, _, flow in results] == [None, [1, 0], [2, 1], [3, 2]]


def test_a_single_frame_has_no_flow_and_no_frames_give_nothing() -> None:
    picture = _textured(16, 16)
    assert [(forward, backward) for _, forward, backward in neighbour_flows([picture], dis())] == [(None, None)]
    assert list(neighbour_flows([], dis())) == []


def test_frames_are_read_only_as_they_are_needed() -> None:
    read: list[int] = []

    def reading() -> Iterator[Picture]:
        for number in range(100):
            read.append(number)
            yield np.full((16, 16, 3), number, np.uint8)

    results = neighbour_flows(reading(), _Order())
    next(results), next(results)
    assert read == [0, 1, 2]


def test_frames_that_differ_in_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(16, 16\), then \(16, 20\)"):
        list(neighbour_flows([_textured(16, 16), _textured(16, 20)], dis()))


# DIS


@pytest.mark.parametrize("preset", DIS_PRESETS)
def test_dis_finds_a_shift_with_its_sign_right_and_down_positive(preset: str) -> None:
    scene = _textured(120, 160)
    first, second = scene[10:100, 10:140], scene[8:98, 15:145]  # what is seen moves left by 5 and down by 2
    flow = dis(preset)(first, second)
    assert flow.dtype == np.float32
    assert flow.shape == (90, 130, 2)
    assert np.allclose(np.median(flow, (0, 1)), (-5, 2), atol=0.2)
    ((_, forward, _), (_, _, backward)) = neighbour_flows([first, second], dis(preset))
    assert forward is not None
    assert backward is not None
    assert np.array_equal(forward, flow)
    assert np.allclose(np.median(backward, (0, 1)), (5, -2), atol=0.2)


@needs_true_flow
@pytest.mark.parametrize(("preset", "bound"), [("ultrafast", 0.6), ("fast", 0.5), ("medium", 0.25)])
def test_dis_errs_by_less_than_a_pixel_on_rubber_whale(
    rubber_whale: tuple[Picture, Picture, Flow], preset: str, bound: float
) -> None:
    first, second, true = rubber_whale
    known = (np.abs(true) < 1e9).all(2)
    error = np.linalg.norm(dis(preset)(first, second) - true, axis=2)[known]
    still = np.linalg.norm(true, axis=2)[known]
    assert error.mean() < bound < still.mean() / 2  # zero flow would err by 1.26


@pytest.mark.parametrize("preset", DIS_PRESETS)
def test_dis_gives_the_same_bits_with_any_number_of_threads(frames: list[Picture], preset: str) -> None:
    threads = cv2.getNumThreads()
    results = []
    try:
        for number in (1, 2, 3, 7):
            cv2.setNumThreads(number)
            results.append(dis(preset)(frames[0], frames[1]))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_dis_remembers_nothing_of_earlier_frames(frames: list[Picture]) -> None:
    estimate = dis("medium")
    expected = estimate(frames[0], frames[1])
    estimate(frames[1], frames[2])
    assert np.array_equal(estimate(frames[0], frames[1]), expected)


def test_dis_of_mirrored_frames_is_the_mirrored_motion_though_not_bit_for_bit(frames: list[Picture]) -> None:
    straight = dis()(frames[0], frames[1])
    mirrored = dis()(flip(frames[0], "horizontal"), flip(frames[1], "horizontal"))
    expected = flip(straight, "horizontal") * np.array([-1, 1], np.float32)
    assert not np.array_equal(mirrored, expected)
    assert np.median(np.linalg.norm(mirrored - expected, axis=2)) < 0.5


def test_at_a_working_height_flow_has_that_size_and_is_in_its_pixels() -> None:
    scene = _textured(250, 420)
    first, second = scene[10:210, 10:360], scene[10:210, 18:368]
    ((frame, forward, _), _) = neighbour_flows([first, second], dis(), height=100)
    assert frame is first
    assert forward is not None
    assert forward.shape == (100, 175, 2)
    assert np.allclose(np.median(forward, (0, 1)), (-4, 0), atol=0.2)


def test_frames_are_reduced_by_area_averaging() -> None:
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    ((_, forward, _), _) = neighbour_flows([stripes, stripes], _Order(), height=20)
    assert forward is not None
    assert forward.tolist() == [[[100, 100]]]


def test_a_frame_too_small_for_dis_is_refused() -> None:
    with pytest.raises(UserError, match="at least 12 x 12"):
        dis()(_textured(8, 100), _textured(8, 100))


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match="'slow': one of ultrafast, fast, medium"):
        dis("slow")


# Identity


def test_a_digest_tells_presets_apart_and_nothing_else() -> None:
    assert len({dis(preset).digest for preset in DIS_PRESETS}) == len(DIS_PRESETS)
    assert dis("fast").digest == dis("fast").digest
    assert dis("fast").name == "dis-fast"


def test_an_estimator_can_be_sent_to_another_process() -> None:
    first, second = _textured(40, 50, 1), _textured(40, 50, 2)
    copy: Dis = pickle.loads(pickle.dumps(dis("fast")))
    assert np.array_equal(copy(first, second), dis("fast")(first, second))


# Pictures


def _field(kind: str) -> Flow:
    rng = np.random.default_rng(0)
    v, u = np.mgrid[-40:40, -60:60].astype(np.float32)
    fields = {
        "every direction": np.dstack([u, v]),
        "noise": rng.normal(size=(80, 120, 2)) * 30,
        "slow": rng.normal(size=(80, 120, 2)) * 0.3,
    }
    return fields[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["every direction", "noise", "slow"])
def test_flow_pictures_agree_with_torchvision(kind: str) -> None:
    from torchvision.utils import flow_to_image

    flow = _field(kind)
    expected = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    difference = np.abs(flow_picture(flow).astype(int) - expected)
    # torchvision adds 1e-7 to the radius where the published pictures add 1e-5: a level may round the other way.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


@pytest.mark.parametrize("kind", ["every direction", "noise", "slow"])
def test_for_one_normalisation_flow_pictures_are_torchvisions_but_for_its_arctangents_last_bit(kind: str) -> None:
    from torchvision.utils import _normalized_flow_to_image

    flow = _field(kind)
    divisor = np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2).max() + np.float32(1e-5)
    expected = _normalized_flow_to_image(torch.from_numpy(flow / divisor).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    difference = np.abs(flow_picture(flow).astype(int) - expected.numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_zero_flow_is_white() -> None:
    assert np.array_equal(flow_picture(np.zeros((5, 7, 2), np.float32)), np.full((5, 7, 3), 255))


@pytest.mark.parametrize(
    ("direction", "colour"),
    [((1, 0), (255, 0, 0)), ((0, 1), (255, 229, 0)), ((-1, 0), (0, 209, 255)), ((0, -1), (88, 0, 255))],
    ids=["right is red", "down is yellow", "left is cyan", "up is violet"],
)
def test_the_wheels_colours_lie_where_baker_et_al_put_them(
    direction: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    picture = flow_picture(np.full((2, 2, 2), direction, np.float32) * 3)
    assert np.abs(picture.astype(int) - colour).max() <= 1


def test_a_flow_and_its_double_give_the_same_picture() -> None:
    flow = _field("noise")
    assert np.abs(flow_picture(flow).astype(int) - flow_picture(2 * flow)).max() <= 1


def test_unknown_flow_is_black_and_does_not_dim_the_rest() -> None:
    flow = _field("noise")
    known = flow_picture(flow)
    holes = flow.copy()
    for row, value in enumerate((1.7e9, -1.7e9, np.nan, np.inf, -np.inf)):
        holes[row + 10, 5:9, row % 2] = value
    picture = flow_picture(holes)
    black = np.zeros(flow.shape[:2], bool)
    black[10:15, 5:9] = True
    assert not picture[black].any()
    assert np.linalg.norm(flow[black], axis=1).max() < np.linalg.norm(flow, axis=2).max()
    assert np.array_equal(picture[~black], known[~black])
    assert not flow_picture(np.full((3, 4, 2), np.nan, np.float32)).any()


@needs_true_flow
def test_a_true_flow_is_drawn_as_torchvision_draws_it_where_it_is_known(
    rubber_whale: tuple[Picture, Picture, Flow],
) -> None:
    from torchvision.utils import flow_to_image

    flow = rubber_whale[2]
    known = np.linalg.norm(flow, axis=2) < 1e9
    assert 0 < (~known).sum() < known.sum()
    picture = flow_picture(flow)
    filled = torch.from_numpy(np.where(known[..., None], flow, 0)).permute(2, 0, 1)
    expected = flow_to_image(filled).permute(1, 2, 0).numpy()
    assert np.abs(picture.astype(int) - expected)[known].max() <= 1
    assert not picture[~known].any()
