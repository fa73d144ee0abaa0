"""Pairs of views -> maps."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rtnet.config import RTNetConfig
from rtnet.model.rtnet import RTNet
from rtnet.prediction import for_prediction, grey_levels, predict_maps, stretch

SIZES = [(37, 61), (50, 44)]


@pytest.fixture(scope="module")
def model() -> RTNet:
    torch.manual_seed(0)
    return RTNet(RTNetConfig("resnet18")).eval()


PAIRS = torch.tensor([[0, 1], [2, 1]])


def _frames() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 36, 66, generator=generator), torch.randn(3, 6, 36, 66, generator=generator)


def test_a_map_is_the_sigmoid_of_the_forwards_finest_appearance_map_resized_to_the_frame(model: RTNet) -> None:
    frames, flow = _frames()
    with torch.no_grad():
        finest = model(frames[PAIRS], flow[PAIRS]).appearance[0][:, 0]
    expected = [
        F.interpolate(torch.sigmoid(finest[i : i + 1]), size, mode="bilinear", align_corners=True)[0, 0]
        for i, size in enumerate(SIZES)
    ]
    maps = predict_maps(for_prediction(model, torch.device("cpu")), frames, flow, PAIRS, SIZES)
    for found, map_ in zip(maps, expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, map_.numpy(), atol=1e-5)


def test_a_map_does_not_depend_on_what_else_is_in_the_batch(model: RTNet) -> None:
    frames, flow = _frames()
    together = predict_maps(model, frames, flow, PAIRS, SIZES)
    alone = [predict_maps(model, frames, flow, PAIRS[i : i + 1], [SIZES[i]])[0] for i in range(2)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_bfloat16_gives_float32_maps_near_those_of_float32(model: RTNet) -> None:
    rough_model = for_prediction(model, torch.device("cpu"), "bfloat16")
    for exact, rough in zip(
        predict_maps(model, *_frames(), PAIRS, SIZES), predict_maps(rough_model, *_frames(), PAIRS, SIZES), strict=True
    ):
        assert rough.dtype == np.float32
        assert 0 < np.abs(exact - rough).max() < 0.1


def test_stretch_takes_the_least_value_to_0_and_the_largest_to_1_and_a_constant_map_to_0() -> None:
    map_ = np.array([[0.25, 0.5], [0.75, 0.3]], np.float32)
    np.testing.assert_allclose(stretch(map_), [[0, 0.5], [1, 0.1]], atol=1e-6)
    assert not stretch(np.full((3, 4), 0.7, np.float32)).any()


def test_grey_levels_round_to_the_nearest() -> None:
    assert grey_levels(np.array([[0, 0.499, 0.5 / 255 + 1e-6, 1]], np.float32)).tolist() == [[0, 127, 1, 255]]
