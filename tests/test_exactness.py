"""The network's short ways give what the plain network gives: maps and gradients, at any size, for any batch."""

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from rtnet.config import RTNetConfig
from rtnet.model.backbones import BACKBONES
from rtnet.model.folding import fold_batch_norms
from rtnet.model.rtnet import RTNet
from tests.networks import plain_network, random_inputs, random_network

# Drawn once, odd ones among them; in the last the features of stride 32 are one row.
SIZES = [(37, 54), (65, 99), (91, 46), (31, 130)]


@pytest.fixture(scope="module", params=["resnet34", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)])
def network(request: pytest.FixtureRequest) -> RTNet:
    """A published one, of random weights."""
    return random_network(request.param)


@pytest.mark.parametrize(("batch", "size"), [(1, SIZES[1]), (2, SIZES[2]), (3, SIZES[0]), (1, SIZES[3])])
@torch.no_grad()
def test_all_eight_maps_are_the_plain_networks(network: RTNet, batch: int, size: tuple[int, int]) -> None:
    frames, flow = random_inputs(batch, size)
    maps, plain = network(frames, flow), plain_network(network)
    for i in range(batch):
        alone = plain.side_maps(frames[i], flow[i])
        for stream in ("appearance", "motion"):
            for ours, wanted in zip(getattr(maps, stream), alone[stream], strict=True):
                torch.testing.assert_close(ours[i].sigmoid(), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("batch", "size", "training"), [(1, SIZES[0], True), (2, SIZES[1], False), (3, SIZES[0], False)]
)
def test_all_gradients_are_the_plain_networks(
    network: RTNet, batch: int, size: tuple[int, int], training: bool, request: pytest.FixtureRequest
) -> None:
    """In training mode with batch 1, as published: with more, batch-norm ties the pairs together."""
    network.train(training)
    request.addfinalizer(network.eval)
    parameters = dict(network.named_parameters())
    frames, flow = random_inputs(batch, size)
    maps = network(frames, flow)
    sums = [_weighted_sum([x[i].sigmoid() for x in (*maps.appearance, *maps.motion)]) for i in range(batch)]
    ours = _gradients(torch.stack(sums).sum(), parameters)

    plain = plain_network(network, training)
    sums = []
    for i in range(batch):
        alone = plain.side_maps(frames[i], flow[i])
        sums.append(_weighted_sum([*alone["appearance"], *alone["motion"]]))
    wanted = _gradients(torch.stack(sums).sum(), parameters)
    largest = max(x.norm().item() for x in wanted.values())
    for name, gradient in wanted.items():
        # The keys' biases have no gradient in theory: what is there is rounding, on both sides.
        bound = 1e-7 * gradient.norm().item() + 1e-12 * largest
        assert (ours[name] - gradient).norm().item() <= bound, name


@torch.no_grad()
def test_float32_strays_from_float64_no_further_than_the_plain_network_does(network: RTNet) -> None:
    """Half of the times further and half of the times less far, as chance has it."""
    single = copy.deepcopy(network).float()
    ratios = []
    for batch in range(1, 10):
        frames, flow = (x[:1] for x in random_inputs(batch))
        wanted = plain_network(network).side_maps(frames[0], flow[0])
        plain = plain_network(single).side_maps(frames[0].float(), flow[0].float())
        maps = single(frames.float(), flow.float())
        ours = {name: [x[0].sigmoid() for x in getattr(maps, name)] for name in wanted}
        ratios.append(_distance(ours, wanted) / _distance(plain, wanted))
    assert sorted(ratios)[4] < 1.5


@pytest.mark.parametrize("both", [False, True])
@torch.no_grad()
def test_frames_shared_by_pairs_give_the_maps_of_each_pair_alone(both: bool) -> None:
    network = random_network("resnet34")
    frames, flow = (x.flatten(0, 1) for x in random_inputs(2))  # four frames
    pairs = torch.tensor([[0, 1], [2, 1], [0, 3]])
    shared = network.predict_pairs(network.frame_features(frames, flow), pairs, both)
    alone = network.predict(frames[pairs], flow[pairs], both)
    torch.testing.assert_close(shared, alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("pairs", [[0, 1], [[0, 1, 2]], [[0.0, 1.0]], [[True, False]]])
def test_pairs_that_are_none_are_refused(pairs: list[object]) -> None:
    network = random_network("resnet18")
    with pytest.raises(ValueError, match=r"pairs: integers \(B, 2\)"):
        frames, flow = random_inputs(1)
        network.predict_pairs(network.frame_features(frames[0], flow[0]), torch.tensor(pairs))


@pytest.mark.parametrize("backbone", [pytest.param(x, marks=pytest.mark.slow if "101" in x else ()) for x in BACKBONES])
@torch.no_grad()
def test_folded_batch_norms_change_no_map_of_any_encoder(backbone: str) -> None:
    network = random_network(backbone)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    norms = [name for name, module in folded.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms == []
    inputs = random_inputs(1)
    torch.testing.assert_close(folded.predict(*inputs), network.predict(*inputs), rtol=0, atol=1e-10)


def test_backward_moves_no_batch_norm_statistic_a_second_time() -> None:
    torch.manual_seed(0)
    network = RTNet(RTNetConfig("resnet18"))
    maps = network(*(x.float() for x in random_inputs(1)))
    before = {name: value.clone() for name, value in network.named_buffers()}
    torch.autograd.backward(maps.appearance[0].sum())
    for name, value in network.named_buffers():
        assert torch.equal(value, before[name]), name


def _gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def _weighted_sum(maps: list[Tensor]) -> Tensor:
    """With weights that differ from place to place and from map to map."""
    generator = torch.Generator().manual_seed(7)
    return torch.stack([(x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in maps]).sum()


def _distance(maps: dict[str, list[Tensor]], wanted: dict[str, list[Tensor]]) -> float:
    """Root of the mean square over all pixels of all maps."""
    squares = [(x - y).square().mean() for name in wanted for x, y in zip(maps[name], wanted[name], strict=True)]
    return torch.stack(squares).mean().sqrt().item()
