"""Published checkpoints, ImageNet encoders and our own state dicts: taken whole, or refused by name."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from rtnet.checkpoint import load_network
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream
from rtnet.weights import (
    from_published,
    load_encoder,
    load_published,
    load_published_stream,
    load_weights,
    stream_from_published,
    to_published,
)

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = {"r34": ("resnet34", 913), "rx50": ("resnext50_32x4d", 1219)}


def _published_shapes(variant: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((GOLDEN / f"{variant}_64x112.json").read_text())["state"]
    return shapes


def _published(variant: str, make: Callable[[list[int]], Tensor] = torch.rand, part: str = "") -> dict[str, Tensor]:
    """A checkpoint's entries of arbitrary values; part: only those of this stream, without its name."""
    return {
        name.removeprefix(part): torch.tensor(7) if name.endswith("num_batches_tracked") else make(shape)
        for name, shape in _published_shapes(variant).items()
        if name.startswith(part)
    }


def _constant(shape: list[int]) -> Tensor:
    """Costs nothing to keep, whatever the shape."""
    return torch.rand(()).expand(shape)


def _same(given: dict[str, Tensor], back: dict[str, Tensor]) -> bool:
    return given.keys() == back.keys() and all(torch.equal(back[name], value) for name, value in given.items())


def test_a_plain_pickle_is_refused_without_another_word(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": torch.zeros(1)}))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": torch.zeros(1)}))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match=r"plain\.pth: cannot be read as a checkpoint.* \(never run\)$"):
            load_network(tmp_path / "plain.pth")
        with pytest.raises(UserError, match=r"plain\.pt is not a checkpoint of ours"):
            load_network(tmp_path / "plain.pt")
    assert not heard


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_entries_survive_the_round_trip_bit_for_bit(variant: str) -> None:
    backbone, count = VARIANTS[variant]
    given = _published(variant)
    model = from_published({f"module.{name}": value for name, value in given.items()})
    assert model.config == RTNetConfig(backbone)
    assert len(given) == count
    assert _same(given, to_published(model))


@pytest.mark.parametrize("part", ["spatial_net.", "temporal_net."])
def test_a_published_stream_survives_the_round_trip(part: str) -> None:
    given = _published("r34", part=part)
    stream = stream_from_published(given)
    assert (stream.backbone, stream.in_channels) == ("resnet34", 3 if part == "spatial_net." else 6)
    assert _same(given, to_published(stream))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [False, True])
def test_a_published_file_loads_with_and_without_its_wrapping(tmp_path: Path, prefix: str, wrap: bool) -> None:
    given = _published("r34", _constant, part="temporal_net.")
    named = {prefix + name: value for name, value in given.items()}
    torch.save({"state_dict": named, "optimizer": {}} if wrap else named, tmp_path / "temporal_R34.pth")
    assert _same(given, to_published(load_published_stream(tmp_path / "temporal_R34.pth")))


def test_a_damaged_checkpoint_is_refused_by_the_entrys_name() -> None:
    given = _published("r34", _constant, part="spatial_net.")
    last = "out1.conv2.weight"

    def complaint(damaged: dict[str, Any]) -> str:
        with pytest.raises(UserError) as caught:
            stream_from_published(damaged, origin="spatial_R34.pth")
        message = str(caught.value)
        assert message.startswith("spatial_R34.pth: ") and "\n" not in message
        return message

    lacking = {name: value for name, value in given.items() if name != last}
    assert complaint(lacking).endswith(f"entry {last} is missing")
    assert complaint(given | {"surplus": torch.zeros(1)}).endswith("entry surplus is unknown")
    misshapen = complaint(given | {last: torch.zeros(1, 64, 3, 3)})
    assert misshapen.endswith(f"entry {last} has shape (1, 64, 3, 3), not (1, 64, 1, 1)")
    assert complaint(given | {last: "text"}).endswith(f"entry {last} is no tensor")
    assert f"entry {last} is missing, and 1 more" in complaint(lacking | {"surplus": torch.zeros(1)})
    assert f"and {len(given) - 1} more" in complaint({})


def test_a_whole_network_that_lacks_an_entry_is_refused_as_its_variant() -> None:
    given = _published("r34", _constant)
    del given["Transformerstafm1.spatial.conv1.weight"], given["SSTransformer3.gating.conv.0.bias"]
    wanted = r"RTNet with resnet34: entry SSTransformer3\.gating\.conv\.0\.bias is missing, and 1 more"
    with pytest.raises(UserError, match=wanted):
        from_published(given)


@pytest.mark.parametrize("damage", ["absent", "folder", "text", "empty", "truncated", "a list", "code"])
def test_a_file_that_is_no_checkpoint_is_refused_by_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.pth"
    if damage == "folder":
        path.mkdir()
    elif damage in ("text", "empty"):
        path.write_text("not a checkpoint\n" if damage == "text" else "")
    elif damage == "truncated":
        torch.save(_published("r34", _constant), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif damage in ("a list", "code"):
        torch.save([torch.zeros(1)] if damage == "a list" else {"state_dict": nn.Conv2d(1, 1, 1)}, path)
    for load in (load_published, load_published_stream):
        with pytest.raises(UserError, match=r"model\.pth: (cannot be read|holds no state dict)") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_our_checkpoint_of_the_other_variant_is_one_clear_refusal() -> None:
    model = Stream("resnet18", 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.device("meta"):
        other = Stream("resnext50_32x4d", 3).state_dict()
    with pytest.raises(UserError, match=r"^best\.pt: does not fit a stream of 3 channels with resnet18: entry .* more"):
        load_weights(model, other, "best.pt")
    assert _same(before, model.state_dict())

    twin = Stream("resnet18", 3)
    load_weights(twin, before, "best.pt")
    assert _same(before, twin.state_dict())


def test_only_the_published_encoders_have_a_published_form() -> None:
    with pytest.raises(UserError, match="no published form with resnet18"):
        to_published(Stream("resnet18", 3))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large", "convnext_tiny"])
def test_an_imagenet_encoder_gives_torchvisions_features(backbone: str) -> None:
    classifier = models.get_model(backbone).eval()
    stream = Stream(backbone, 3).eval()
    load_encoder(stream, classifier.state_dict())
    x = torch.randn(2, 3, 65, 97)
    features = stream.stem(x)
    for stage in stream.stages.values():
        features = stage(features)
    assert torch.equal(features, _torchvisions_features(classifier, x))


def test_the_motion_streams_stem_is_the_rgb_stem_twice_and_halved() -> None:
    classifier = models.resnet18()
    stem = classifier.conv1.weight
    old_file = {name: value for name, value in classifier.state_dict().items() if "num_batches" not in name}
    model = RTNet(RTNetConfig("resnet18"))
    load_encoder(model, old_file)
    assert torch.equal(model.appearance.state_dict()["stem.conv.weight"], stem)
    assert torch.equal(model.motion.state_dict()["stem.conv.weight"], torch.cat([stem, stem], 1) / 2)


def test_another_encoders_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"resnet50\.pth: not the weights of torchvision's resnet18: entry"):
        load_encoder(Stream("resnet18", 3), models.resnet50().state_dict(), "resnet50.pth")


def _torchvisions_features(classifier: Any, x: Tensor) -> Tensor:
    """The features of stride 32, by torchvision's own order of layers."""
    with torch.no_grad():
        features: Tensor
        if isinstance(classifier, models.ResNet):
            x = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(x))))
            features = classifier.layer4(classifier.layer3(classifier.layer2(classifier.layer1(x))))
        elif isinstance(classifier, models.MobileNetV3):
            features = classifier.features[:-1](x)
        else:
            features = classifier.features(x)
    return features
