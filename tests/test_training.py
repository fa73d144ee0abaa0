"""One step of training: its parts, its precisions, streams alone; what starts from what."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from rtnet.checkpoint import load_model, load_network, save_model
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.losses import side_map_loss
from rtnet.model.network import Network, build_network
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream
from rtnet.training import (
    Batch,
    Precision,
    loss_names,
    make_batch,
    make_optimizer,
    make_scaler,
    set_rate,
    train_step,
)
from rtnet.weights import load_from

SIZE = (32, 56)
CPU = torch.device("cpu")


def _network(streams: Literal["both", "appearance", "motion"], backbone: str = "resnet18", seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return build_network(RTNetConfig(backbone, streams))


def _batch(pairs: int, views: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(pairs, views, 3, *SIZE, generator=generator)
    flow = torch.randn(pairs, views, 6, *SIZE, generator=generator)
    masks = torch.rand(pairs, views, 1, *SIZE, generator=generator).round()
    return Batch(frames, flow, masks)


def _gradients(network: Network, step: Callable[[torch.optim.Optimizer], Tensor]) -> dict[str, Tensor]:
    """Of the parameters, after a step with a rate of 0."""
    step(make_optimizer(network, momentum=0.0, weight_decay=0.0))
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_accumulated_batches_step_by_the_mean_of_their_gradients() -> None:
    network, batch = _network("both"), _batch(2)
    network.eval()  # batch-norm's statistics are each part's own in training, so only without them are sums comparable
    parts = list(batch.split(2))
    each = [_gradients(network, lambda o, part=part: train_step(network, o, part, "float32")) for part in parts]  # type: ignore[misc]
    together = _gradients(network, lambda o: train_step(network, o, batch, "float32", accumulate=2))
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, (each[0][name] + each[1][name]) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("streams", ["appearance", "motion"])
def test_a_stream_alone_is_trained_on_its_own_maps(streams: Literal["appearance", "motion"]) -> None:
    network = _network(streams)
    assert isinstance(network, Stream) and network.config.streams == streams
    whole = _batch(3, views=1)
    inputs = whole.frames if streams == "appearance" else whole.flow
    batch = Batch(whole.frames, None, whole.masks) if streams == "appearance" else Batch(None, whole.flow, whole.masks)
    assert inputs is not None
    network.train()
    with torch.no_grad():
        expected = side_map_loss(network(inputs[:, 0]), whole.masks[:, 0])
    optimizer = make_optimizer(network, 0.9, 5e-4)
    set_rate(optimizer, 1e-2)
    losses = [train_step(network, optimizer, batch, "float32") for _ in range(4)]
    assert loss_names(network) == (f"{streams}_finest", streams)
    torch.testing.assert_close(losses[0][1], expected)
    assert losses[-1][1] < losses[0][1]


def test_a_stream_sees_only_its_own_pictures() -> None:
    images, flows, masks = (
        [np.zeros((9, 12, 3), np.uint8)],
        [np.zeros((2, 9, 12, 3), np.uint8)],
        [np.ones((9, 12), bool)],
    )
    appearance = make_batch(images, [], masks, SIZE, CPU, "appearance")
    motion = make_batch([], flows, masks, SIZE, CPU, "motion")
    assert appearance.flow is None and appearance.frames is not None and appearance.frames.shape == (1, 1, 3, *SIZE)
    assert motion.frames is None and motion.flow is not None and motion.flow.shape == (1, 1, 6, *SIZE)
    assert motion.masks.shape == (1, 1, 1, *SIZE)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_precision_trains_with_finite_weights_and_close_losses(precision: Precision) -> None:
    network, batch = _network("both"), _batch(1)
    optimizer, scaler = make_optimizer(network, 0.9, 5e-4), make_scaler(precision, CPU)
    set_rate(optimizer, 1e-3)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    reference = train_step(_network("both"), make_optimizer(network, 0.0, 0.0), batch, "float32")
    # The scale begins high on purpose: steps are left out until it fits.
    losses = [train_step(network, optimizer, batch, precision, scaler=scaler) for _ in range(6)]
    torch.testing.assert_close(losses[0], reference, rtol=0.05, atol=0.0)
    assert all(p.isfinite().all() for p in network.parameters())
    assert any(not torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    network, batch = _network("both"), _batch(1)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = make_optimizer(network, 0.9, 5e-4)
    set_rate(optimizer, 1.0)
    assert batch.frames is not None
    batch.frames[0, 0, 0, 0, 0] = float("nan")
    assert not train_step(network, optimizer, batch, "float32").isfinite().all()
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_one_stream_starts_that_stream_of_the_whole_network() -> None:
    network = _network("both")
    streams = {name: _network(name, seed=5) for name in ("appearance", "motion")}
    for stream in streams.values():
        load_from(network, stream, "a stage")
    assert isinstance(network, RTNet)
    for part, stream in ((network.appearance, streams["appearance"]), (network.motion, streams["motion"])):
        assert all(torch.equal(part.state_dict()[name], value) for name, value in stream.state_dict().items())


def test_a_motion_stream_starts_from_appearance_and_sees_grey_flow_as_it_saw_grey_pictures() -> None:
    appearance, motion = _network("appearance").eval(), _network("motion", seed=2).eval()
    load_from(motion, appearance, "a stage")
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(motion(torch.cat([image, image], 1))[0], appearance(image)[0], rtol=1e-3, atol=1e-4)


def test_a_stream_starts_from_the_whole_networks() -> None:
    network, stream = _network("both"), _network("motion", seed=3)
    load_from(stream, network, "a model")
    assert isinstance(network, RTNet)
    assert all(torch.equal(stream.state_dict()[n], value) for n, value in network.motion.state_dict().items())


@pytest.mark.parametrize(
    ("target", "source", "words"),
    [
        (("both", "resnet18"), ("both", "resnet34"), ["resnet34", "resnet18"]),
        (("appearance", "resnet18"), ("motion", "resnet18"), ["motion stream"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    target: tuple[Literal["both", "appearance"], str], source: tuple[Literal["both", "motion"], str], words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        load_from(_network(*target), _network(*source), "model.start_from=x")
    assert all(word in str(error.value) for word in ["model.start_from=x", *words])


def test_a_saved_stream_is_loaded_as_one_and_refused_as_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "stream.safetensors"
    stream = _network("motion")
    save_model(path, stream)
    loaded = load_network(path)
    assert loaded.config == stream.config
    assert all(torch.equal(loaded.state_dict()[n], value) for n, value in stream.state_dict().items())
    with pytest.raises(UserError, match="motion stream alone"):
        load_model(path)
