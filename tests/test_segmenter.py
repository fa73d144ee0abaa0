"""Maps of a stream of frames against a plain loop over all of them."""

import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import rtnet
from rtnet.checkpoint import save_model
from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.data.flips import VIEWS, flip
from rtnet.data.flow import dis
from rtnet.data.flow_picture import flow_picture
from rtnet.data.inputs import network_input
from rtnet.data.pairs import fixed_partners
from rtnet.data.prediction_pairs import PairRule
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.segmenter import Segmenter
from tests.networks import random_network

FRAMES, SIZE, INPUT = 7, (40, 70), (32, 56)
CPU = torch.device("cpu")
RULES = {
    "one partner": PairRule(reach=2, seed=3),
    "three partners": PairRule(reach=3, partners=3),
    "both maps of each pair": PairRule(reach=4, both=True),
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    root = tmp_path_factory.mktemp("clip")
    write_clip(root, {"val": ["drift"]}, frames=FRAMES, height=SIZE[0], width=SIZE[1])
    files = sorted((root / "JPEGImages/480p/drift").iterdir())
    return [np.asarray(cv2.imread(str(file)))[..., ::-1].copy() for file in files]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """In float32; its maps differ from frame to frame."""
    return Segmenter(random_network("resnet18").float(), CPU, size=INPUT, batch_size=3)


def _plain_maps(frames: list[np.ndarray], model: RTNet, rule: PairRule, views: tuple[str, ...]) -> list[np.ndarray]:
    """Everything in lists, one pair and one view at a time, the whole resized before it is averaged."""
    count = len(frames)
    maps: list[list[np.ndarray]] = [[] for _ in frames]
    for view in views:
        seen = [flip(frame, view) for frame in frames]
        black = np.zeros((*SIZE, 3), np.uint8)
        flow = [
            np.concatenate(
                [
                    flow_picture(dis()(seen[t], seen[t + 1])) if t + 1 < count else black,
                    flow_picture(dis()(seen[t], seen[t - 1])) if t else black,
                ],
                axis=2,
            )
            for t in range(count)
        ]
        for start in range(0, count, rule.block):
            for first, second, both in rule.pairs(start, count):
                inputs = (network_input([x[first], x[second]], INPUT, CPU)[None] for x in (seen, flow))
                with torch.no_grad():
                    found = torch.sigmoid(model(*inputs).appearance[0])[0]  # (2, 1, h, w)
                found = torch.nn.functional.interpolate(found, SIZE, mode="bilinear", align_corners=True)[:, 0]
                for place, map_ in [(first, found[0]), (second, found[1])][: 2 if both else 1]:
                    maps[place].append(flip(map_.numpy(), view))
    return [np.mean(found, axis=0) for found in maps]


@pytest.mark.parametrize("name", [*RULES, "one partner, all flips"])
def test_a_stream_has_the_maps_of_a_plain_loop(frames: list[np.ndarray], segmenter: Segmenter, name: str) -> None:
    rule, views = RULES[name.removesuffix(", all flips")], VIEWS if "flips" in name else ("as_is",)
    found = list(replace(segmenter, rule=rule, views=views).segment(iter(frames)))
    expected = _plain_maps(frames, segmenter.model, rule, views)
    assert len(found) == FRAMES
    assert np.abs(expected[0] - expected[-1]).max() > 0.01
    for map_, plain in zip(found, expected, strict=True):
        assert map_.dtype == np.float32
        assert np.abs(map_ - plain).max() < 1e-5


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_batches_and_pieces_change_nothing_beyond_rounding(
    frames: list[np.ndarray], segmenter: Segmenter, rule: PairRule
) -> None:
    segmenter = replace(segmenter, rule=rule)
    whole = list(segmenter.segment(frames))
    one_by_one = list(replace(segmenter, batch_size=1).segment(frames))
    inputs = list(segmenter._with_flow(frames))
    pieces: list[np.ndarray] = []
    for start in range(0, FRAMES, 4):
        first, stop = max(start - rule.behind, 0), min(start + 4, FRAMES)
        pieces += segmenter.maps(inputs[first : stop + rule.ahead], first, start, stop)
    for maps in (one_by_one, pieces):
        assert len(maps) == FRAMES
        assert max(np.abs(a - b).max() for a, b in zip(maps, whole, strict=True)) < 1e-5


def test_the_published_partner_is_the_one_that_datasets_are_predicted_with() -> None:
    for length in (1, 2, 7, 30):
        expected = fixed_partners(np.zeros(length, int), seed=5, reach=3)
        rule = PairRule(reach=3, seed=5)
        assert [rule.pairs(place, length)[0].second for place in range(length)] == expected.tolist()


def test_partners_are_distinct_spread_and_within_reach() -> None:
    rule = PairRule(reach=10, partners=4)
    for length in (1, 2, 4, 40):
        for place in range(length):
            partners = [pair.second for pair in rule.pairs(place, length)]
            others = min(length - 1, 4) or 1
            assert len(set(partners)) == len(partners) == others
            assert all(abs(partner - place) <= 10 for partner in partners)
            assert place not in partners or length == 1
    assert [pair.second - 20 for pair in rule.pairs(20, 40)] == [-8, -3, 3, 8]


@pytest.mark.parametrize("length", [1, 2, 3, 10, 11, 19, 25])
def test_both_maps_give_every_frame_one_map_by_half_the_pairs(length: int) -> None:
    rule = PairRule(reach=10, both=True)
    pairs = [pair for start in range(0, length, rule.block) for pair in rule.pairs(start, length)]
    made = [place for pair in pairs for place in pair[: 2 if pair.both else 1]]
    assert sorted(made) == list(range(length))
    assert len(pairs) <= length / 2 + 1
    assert all(abs(first - second) <= 10 for first, second, _ in pairs)


def test_both_maps_with_several_partners_are_refused() -> None:
    with pytest.raises(UserError, match="partners"):
        PairRule(partners=2, both=True)


def test_an_endless_video_is_read_a_bounded_way_ahead(frames: list[np.ndarray], segmenter: Segmenter) -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield frames[read % FRAMES]

    maps = replace(segmenter, rule=PairRule(reach=2)).segment(endless())
    for made in range(1, 40):
        next(maps)
        assert read <= made + 2 + 3 + 5  # reach, batch, and what waits between the stages
    assert isinstance(maps, Generator)
    maps.close()


def test_a_single_frame_is_its_own_partner_without_flow(frames: list[np.ndarray], segmenter: Segmenter) -> None:
    (map_,) = segmenter.segment(frames[:1])
    image = network_input([frames[0]] * 2, INPUT, CPU)[None]
    black = network_input([np.zeros((*SIZE, 6), np.uint8)] * 2, INPUT, CPU)[None]
    with torch.no_grad():
        plain = torch.sigmoid(segmenter.model(image, black).appearance[0])[0, :1]
    plain = torch.nn.functional.interpolate(plain, SIZE, mode="bilinear", align_corners=True)[0, 0]
    assert np.abs(map_ - plain.numpy()).max() < 1e-5


def test_no_frames_have_no_maps_and_frames_of_two_sizes_are_refused(
    frames: list[np.ndarray], segmenter: Segmenter
) -> None:
    assert list(segmenter.segment([])) == []
    with pytest.raises(UserError, match="differ in size"):
        list(segmenter.segment([frames[0], frames[1][:-1]]))


@pytest.mark.parametrize("wrong", [np.zeros((40, 70)), np.zeros((40, 70, 3)), np.zeros((40, 70), np.uint8), "clip.mp4"])
def test_what_is_no_colour_picture_is_refused_by_its_number(
    frames: list[np.ndarray], segmenter: Segmenter, wrong: Any
) -> None:
    with pytest.raises(UserError, match=r"uint8 \(H, W, 3\) RGB; number 1 is"):
        list(segmenter.segment([frames[0], wrong]))


def test_two_lines_of_python_segment_a_clip(tmp_path: Path, frames: list[np.ndarray]) -> None:
    save_model(tmp_path / "model.safetensors", RTNet(RTNetConfig("resnet18")))
    loaded = rtnet.load(tmp_path / "model.safetensors", device="cpu", height=32)
    assert loaded.size == INPUT
    assert repr(loaded).startswith("Segmenter(resnet18, float32 on cpu, input 32 x 56, views as_is, PairRule(")
    assert "\n" not in repr(loaded)
    maps = list(loaded.segment(frames[:3]))
    assert [map_.shape for map_ in maps] == [SIZE] * 3
    assert set(loaded.spent.take()) == {"decode", "flow", "network"}


def test_importing_rtnet_loads_no_torch() -> None:
    code = "import rtnet, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
