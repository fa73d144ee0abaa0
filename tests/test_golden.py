"""The published network's own values: maps, losses, gradients and six steps of training, both variants."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from rtnet.losses import side_map_losses
from rtnet.model.rtnet import RTNet, SideMaps
from rtnet.training import Batch, make_optimizer, set_rate, set_trained, train_step
from rtnet.weights import from_published, published_name, to_published
from tests.golden import fill

GOLDEN = Path(__file__).parent / "golden"


LARGEST_ROW_ERROR = {"r34": (1e-9, 1e-9, 1e-9, 1e-9, 1e-8, 1e-6), "rx50": (1e-10, 1e-7)}  # later rows are chaos
# RX50's third row agrees only where the kernels are those that made it: in the published layout, and there too one unit
# in the last place of one weight moves it by 1.6e-2.
LARGEST_ERROR_OF_THE_LAST_ROW = {"rx50": (1e-3,)}


class Golden(NamedTuple):
    variant: str
    info: dict[str, Any]
    maps: dict[str, np.ndarray]
    weights: dict[str, Tensor]
    network: RTNet  # float64, eval

    def fresh_network(self) -> RTNet:
        return from_published(self.weights).double().train()

    def inputs(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self.info["height"], self.info["width"]
        arrays = (
            fill.image("video", (1, 2, 3, height, width), seed),
            fill.image("flow", (1, 2, 6, height, width), seed),
            fill.mask("label", (1, 2, 1, height, width), seed),
        )
        video, flow, label = (torch.from_numpy(array).double() for array in arrays)
        return video, flow, label


def _golden(variant: str, size: str) -> Golden:
    info = json.loads((GOLDEN / f"{variant}_{size}.json").read_text())
    state = json.loads((GOLDEN / f"{variant}_64x112.json").read_text())["state"]
    value = partial(fill.parameter, seed=info["seed"], batch_norm_scale=tuple(info["batch_norm_scale"]))
    weights = {name: torch.from_numpy(np.array(value(name, tuple(shape)))) for name, shape in state.items()}
    maps = dict(np.load(GOLDEN / f"{variant}_{size}.npz"))
    return Golden(variant, info, maps, weights, from_published(weights).double().eval())


def _cases(*cases: tuple[str, str]) -> list[Any]:
    """All but the smallest are slow: the large variant's weights alone take a gigabyte and many seconds."""
    return [
        pytest.param(case, id="-".join(case), marks=() if case == ("r34", "64x112") else pytest.mark.slow)
        for case in cases
    ]


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    return _golden(*request.param)


both_sizes = pytest.mark.parametrize(
    "golden",
    _cases(("r34", "64x112"), ("r34", "100x150"), ("rx50", "64x112"), ("rx50", "100x150")),
    indirect=True,
    scope="module",
)
small_size = pytest.mark.parametrize(
    "golden", _cases(("r34", "64x112"), ("rx50", "64x112")), indirect=True, scope="module"
)


@both_sizes
def test_all_eight_maps_are_the_published_networks(golden: Golden) -> None:
    video, flow, _ = golden.inputs(golden.info["seed"])
    assert max(_map_errors(golden, video, flow).values()) < 1e-6


@both_sizes
def test_the_maps_hold_in_float32(golden: Golden) -> None:
    video, flow, _ = golden.inputs(golden.info["seed"])
    golden.network.float()
    errors = _map_errors(golden, video.float(), flow.float())
    golden.network.double()
    # The values are float32 ones, so nothing was lost. With random weights the large variant's coarse maps stray.
    stray = {"r34": 2e-3, "rx50": 0.3}[golden.variant]
    assert all(error < (2e-3 if name.endswith("_1") else stray) for name, error in errors.items()), errors


@small_size
def test_losses_and_gradients_are_the_published_networks(golden: Golden) -> None:
    network = golden.fresh_network()
    row, loss = _losses(network, *golden.inputs(golden.info["seed"]))
    expected = golden.info["train_losses"]
    names = ("appearance_finest", "appearance", "motion_finest", "motion")
    assert row == pytest.approx([expected[name] for name in names], rel=1e-12)

    loss.backward()  # type: ignore[no-untyped-call]
    norms = golden.info["gradient_norms"]
    gradients = {published_name(name): p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert gradients.keys() == norms.keys()
    for name, norm in norms.items():
        if norm > 1e-9:  # the keys' biases have none in theory, only rounding
            assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["ours", "published"])
@small_size
def test_six_steps_of_training_are_the_published_networks(golden: Golden, layout: torch.memory_format) -> None:
    network = golden.fresh_network()
    network.to(memory_format=layout)
    optimizer = make_optimizer(network, momentum=0.9, weight_decay=5e-4)
    tolerances = LARGEST_ROW_ERROR[golden.variant]
    if layout == torch.contiguous_format:
        tolerances += LARGEST_ERROR_OF_THE_LAST_ROW.get(golden.variant, ())
    for step, tolerance in enumerate(tolerances):
        set_trained(network, "interaction" if step < 3 else "all")
        set_rate(optimizer, 1e-3 if step < 3 else 5e-4)
        batch = Batch(*golden.inputs(golden.info["seed"] + 100 + step))
        row = train_step(network, optimizer, batch, "float32").tolist()
        assert row == pytest.approx(golden.info["trajectory"][step], rel=tolerance)

    # Rounding has grown to 4e-5 by now, so norms are compared in the layout whose kernels made the golden ones.
    if golden.variant == "r34" and layout == torch.contiguous_format:
        norms = golden.info["trajectory_final_norms"]
        state = {name: value for name, value in to_published(network).items() if value.is_floating_point()}
        assert state.keys() == norms.keys()
        for name, norm in norms.items():
            # In the last steps some ReLUs of the encoders' first stage lie so close to zero that the order of sums
            # decides their side, which moves that stage and some biases. With one thread tests/plain.py itself, trained
            # so, lands up to 3e-4 off these norms, with two 5e-8.
            undecided = ".inconv." in name or ".encoder1." in name or name.endswith(".bias")
            assert state[name].norm().item() == pytest.approx(norm, rel=5e-4 if undecided else 1e-5), name


def _map_errors(golden: Golden, video: Tensor, flow: Tensor) -> dict[str, float]:
    with torch.no_grad():
        maps = golden.network(video, flow)
    errors = {}
    for stream in ("appearance", "motion"):
        for i, logits in enumerate(getattr(maps, stream), start=1):
            wanted = torch.from_numpy(golden.maps[f"{stream}_{i}"])
            assert logits[0].shape == wanted.shape
            errors[f"{stream}_{i}"] = (logits[0].sigmoid().double() - wanted).abs().max().item()
    return errors


def _losses(network: RTNet, video: Tensor, flow: Tensor, label: Tensor) -> tuple[list[float], Tensor]:
    """[appearance finest, appearance sum, motion finest, motion sum] and the loss to minimise."""
    maps: SideMaps = network(video, flow)
    appearance, motion = side_map_losses(maps.appearance, label), side_map_losses(maps.motion, label)
    row = torch.stack([appearance[0], appearance.sum(), motion[0], motion.sum()])
    return row.tolist(), appearance.sum() + motion.sum()
