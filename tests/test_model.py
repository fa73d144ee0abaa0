"""The network against its description, for every encoder and every batch size."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.losses import side_map_loss
from rtnet.model.backbones import BACKBONES
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream
from rtnet.weights import published_name
from tests.networks import random_inputs, random_network


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> RTNet:
    backbone: str = request.param
    return random_network(backbone)


@pytest.mark.parametrize("network", ["resnet34"], indirect=True)
@torch.no_grad()
def test_predict_is_forwards_finest_appearance_map(network: RTNet) -> None:
    frames, flow = random_inputs(2)
    finest = network(frames, flow).appearance[0]
    torch.testing.assert_close(network.predict(frames, flow), finest[:, :1], rtol=0, atol=1e-11)
    torch.testing.assert_close(network.predict(frames, flow, both=True), finest, rtol=0, atol=1e-11)


def test_predict_refuses_to_move_the_batch_norm_statistics() -> None:
    with torch.device("meta"):
        network = RTNet(RTNetConfig("resnet18"))
        with pytest.raises(RuntimeError, match="eval"):
            network.predict(torch.empty(1, 2, 3, 64, 64), torch.empty(1, 2, 6, 64, 64))


@pytest.mark.parametrize("backbone", [pytest.param(x, marks=pytest.mark.slow if "101" in x else ()) for x in BACKBONES])
def test_every_encoder_gives_its_channels_and_strides_and_eight_maps(backbone: str) -> None:
    with torch.device("meta"):
        network = RTNet(RTNetConfig(backbone)).eval()
        x = network.appearance.stem(torch.empty(1, 3, 128, 192))
        shapes = []
        for stage in network.appearance.stages.values():
            x = stage(x)
            shapes.append(tuple(x.shape[1:]))
        maps = network(torch.empty(3, 2, 3, 128, 192), torch.empty(3, 2, 6, 128, 192))
    sizes = ((32, 48), (16, 24), (8, 12), (4, 6))
    assert shapes == [(c, *size) for c, size in zip(BACKBONES[backbone].channels, sizes, strict=True)]
    assert [tuple(x.shape) for x in (*maps.appearance, *maps.motion)] == 8 * [(3, 2, 1, 128, 192)]


@pytest.mark.parametrize("in_channels", [3, 6])
def test_a_stream_learns_alone(in_channels: int) -> None:
    torch.manual_seed(0)
    stream = Stream("mobilenet_v3_large", in_channels)
    images, masks = torch.randn(2, in_channels, 50, 66), torch.zeros(2, 1, 50, 66)
    masks[:, :, 10:30, 20:50] = 1
    optimizer = torch.optim.SGD(stream.parameters(), lr=1e-2, momentum=0.9)
    losses = []
    for _ in range(3):
        maps = stream(images)
        assert [tuple(x.shape) for x in maps] == 4 * [(2, 1, 52, 68)]
        loss = side_map_loss(maps, masks)
        losses.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in stream.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]


def test_training_under_bfloat16_autocast_has_finite_gradients_everywhere() -> None:
    torch.manual_seed(0)
    network = RTNet(RTNetConfig("resnet18"))
    frames, flow = (x.float() for x in random_inputs(1, (64, 80)))
    with torch.autocast("cpu", torch.bfloat16):
        maps = network(frames, flow)
    assert maps.appearance[0].dtype == torch.bfloat16
    masks = torch.ones(1, 2, 1, 64, 80)
    loss = side_map_loss(maps.appearance, masks) + side_map_loss(maps.motion, masks)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_interaction_parameters_are_the_published_transformers() -> None:
    with torch.device("meta"):
        network = RTNet(RTNetConfig())
    interaction = {id(parameter) for parameter in network.interaction_parameters()}
    names = {published_name(name) for name, p in network.named_parameters() if id(p) in interaction}
    golden = json.loads((Path(__file__).parent / "golden" / "r34_64x112.json").read_text())
    assert names == {name for name in golden["gradient_norms"] if "Transformer" in name}


PINNED = {
    "resnet34": (913, "a4c80114853c9ef9"),
    "resnext50_32x4d": (1219, "ef5881b24e25a4f9"),
}


@pytest.mark.parametrize("backbone", PINNED)
def test_the_names_in_checkpoints_do_not_change(backbone: str) -> None:
    with torch.device("meta"):
        state = RTNet(RTNetConfig(backbone)).state_dict()
    listing = "\n".join(sorted(f"{name} {tuple(value.shape)}" for name, value in state.items()))
    assert (len(state), hashlib.sha256(listing.encode()).hexdigest()[:16]) == PINNED[backbone]
    for sample in (
        "appearance.stem.conv.weight",
        "appearance.stages.s8.0.conv1.weight",
        "motion.context.dilated.3.norm.running_mean",
        "motion.decoder.s32.2.conv.weight",
        "motion.heads.s4.logits.bias",
        "exchanges.s4.appearance_coherence.scaling.squeeze.weight",
        "exchanges.s16.appearance_motion.attentions.1.query.weight",
        "exchanges.s32.motion_contrast.attention.value.weight",
        "fusions.s16.spatial.weight",
    ):
        assert sample in state


def test_a_configuration_survives_the_round_trip_and_refuses_what_it_does_not_know() -> None:
    config = RTNetConfig("convnext_tiny")
    assert RTNetConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match="unknown backbone 'vgg16'; there are resnet18, "):
        RTNetConfig.from_dict({"backbone": "vgg16"})
    with pytest.raises(UserError, match="unknown network setting 'bakbone'; there are backbone"):
        RTNetConfig.from_dict({"bakbone": "resnet34"})


def test_a_stem_for_flow_answers_two_equal_pictures_as_the_rgb_stem_does_one() -> None:
    torch.manual_seed(3)
    first = Stream("resnet18", 3).stem[0]  # type: ignore[index]
    torch.manual_seed(3)
    doubled = Stream("resnet18", 6).stem[0]  # type: ignore[index]
    assert isinstance(first, nn.Conv2d) and isinstance(doubled, nn.Conv2d)
    x = torch.randn(1, 3, 20, 20)
    torch.testing.assert_close(doubled(torch.cat([x, x], 1)), first(x))
