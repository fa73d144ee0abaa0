"""Weights in and out of the network: the published checkpoints, ImageNet encoders, and our own state dicts.

The published names live here alone; `published_name` is the whole translation.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import Tensor, nn

from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.backbones import BACKBONES, STRIDES, cut_encoder
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream

PUBLISHED_BACKBONES = ("resnet34", "resnext50_32x4d")

Model = TypeVar("Model", RTNet, Stream)


def read_plain(file: str | Path | IO[bytes]) -> Any:
    """What `torch.save` wrote of tensors and plain values, on the CPU; never runs code.

    Raises whatever torch.load does: a dozen types for damaged files.
    """
    with warnings.catch_warnings():
        # Of a plain pickle it warns that it may not understand it; where it does not, the refusal says so.
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(file, map_location="cpu", weights_only=True)


def load_published(path: str | Path) -> RTNet:
    """The network of a published file (model_R34.pth, model_RX50.pth). Raises UserError naming the file."""
    return from_published(_read(path), origin=str(path))


def load_published_file(path: str | Path) -> RTNet | Stream:
    """The network or the stream of a published file, as its entries tell. Raises UserError naming the file."""
    state = _read(path)
    whole = any(name.startswith(("spatial_net.", "temporal_net.")) for name in _without_prefix(state))
    return (from_published if whole else stream_from_published)(state, origin=str(path))


def load_published_stream(path: str | Path) -> Stream:
    """The stream of a published file (spatial_R34.pth, ...). Raises UserError naming the file."""
    return stream_from_published(_read(path), origin=str(path))


def from_published(state_dict: Mapping[str, Any], origin: str = "the published weights") -> RTNet:
    """A network with the weights of a published state dict, with or without "module." before its names.

    The variant is recognised by its entries (913 for resnet34, 1219 for resnext50_32x4d). float32, on the CPU. Raises
    UserError where an entry is missing, unknown or of another shape, naming origin and the first such entry.
    """
    given = _without_prefix(state_dict)
    with torch.device("meta"):
        candidates = [RTNet(RTNetConfig(backbone)) for backbone in PUBLISHED_BACKBONES]
    return _filled(max(candidates, key=lambda model: _agreement(model, given)), given, origin)


def stream_from_published(state_dict: Mapping[str, Any], origin: str = "the published weights") -> Stream:
    """The same for one stream's entries; the stem's weights tell appearance (3 channels) from motion (6)."""
    given = _without_prefix(state_dict)
    stem = given.get("inconv.0.weight")
    in_channels = 6 if isinstance(stem, Tensor) and stem.dim() == 4 and stem.shape[1] == 6 else 3
    with torch.device("meta"):
        candidates = [Stream(backbone, in_channels) for backbone in PUBLISHED_BACKBONES]
    return _filled(max(candidates, key=lambda stream: _agreement(stream, given)), given, origin)


def to_published(model: RTNet | Stream) -> dict[str, Tensor]:
    """The model's entries under their published names, without "module.": from_published's inverse, bit for bit.

    A stream's entries come without the stream's name, as in the published stream files. Raises UserError for an encoder
    that was not published.
    """
    backbone = model.config.backbone
    if backbone not in PUBLISHED_BACKBONES:
        raise UserError(f"there is no published form with {backbone}, only with {' and '.join(PUBLISHED_BACKBONES)}")
    return {published_name(name): value.clone() for name, value in model.state_dict().items()}


def load_weights(model: nn.Module, state_dict: Mapping[str, Any], origin: str) -> None:
    """Copies a state dict with our names into a model.

    Raises UserError, and leaves the model as it was, where an entry is missing, unknown or of another shape: the
    message names origin and the first such entry, and says how many more there are.
    """
    _check_fit(model.state_dict(), state_dict, f"{origin}: does not fit {_describe(model)}")
    model.load_state_dict(state_dict)


def load_from(model: RTNet | Stream, other: RTNet | Stream, origin: str) -> None:
    """Copies what a network can take over from another with the same encoder.

    One stream goes into that stream of an RTNet; a stream alone takes its own from an RTNet; a motion stream also takes
    an appearance stream's weights, those of its first convolution repeated for both flow pictures and halved. Raises
    UserError naming origin where the encoders differ or nothing fits.
    """
    backbone, wanted = model.config.backbone, model.config.streams
    if other.config.backbone != backbone:
        raise UserError(f"{origin} has the encoder {other.config.backbone}, the network that starts from it {backbone}")
    if isinstance(other, RTNet) and isinstance(model, Stream):
        other = other.appearance if wanted == "appearance" else other.motion
    if isinstance(other, Stream) and isinstance(model, RTNet):
        model = model.appearance if other.config.streams == "appearance" else model.motion
    state = other.state_dict()
    if (wanted, other.config.streams) == ("motion", "appearance"):
        name = next(name for name, value in state.items() if value.dim() == 4)  # the first convolution's
        state[name] = torch.cat([state[name]] * 2, dim=1) / 2
    if (wanted, other.config.streams) == ("appearance", "motion"):
        raise UserError(f"{origin} is a motion stream: an appearance stream can't start from it")
    load_weights(model, state, origin)


def load_encoder(model: RTNet | Stream, state_dict: Mapping[str, Any], origin: str = "the encoder's weights") -> None:
    """Copies torchvision's ImageNet weights of the model's encoder into its streams' stems and stages.

    state_dict: of the whole classifier, as torchvision's files hold it. A motion stream gets the RGB stem twice,
    halved. Raises UserError where the entries are not this encoder's.
    """
    streams = (model.appearance, model.motion) if isinstance(model, RTNet) else (model,)
    for stream in streams:
        classifier = BACKBONES[stream.backbone].build()
        own = classifier.state_dict()
        # torchvision's older files do not count batches; no result depends on the count.
        counts = {name: value for name, value in own.items() if name.endswith(".num_batches_tracked")}
        complete = counts | dict(state_dict)
        _check_fit(own, complete, f"{origin}: not the weights of torchvision's {stream.backbone}")
        classifier.load_state_dict(complete)
        stem, stages = cut_encoder(stream.backbone, classifier, stream.in_channels)
        stream.stem.load_state_dict(stem.state_dict())
        stream.stages.load_state_dict(stages.state_dict())


def published_name(name: str) -> str:
    """The published name of one of our state-dict entries, of an RTNet's or a Stream's."""
    for stride, level in _LEVELS.items():
        name = name.replace(f".{stride}.", f".{level}.")
    for ours, published in _RENAMES:
        name = re.sub(ours, published, name)
    return re.sub(r"decoder(\d)\.(\d)\.(conv|norm)", _decoder_name, name)


_LEVELS = {stride: str(level) for level, stride in enumerate(STRIDES, start=1)}

_RENAMES = (
    (r"^appearance\.", "spatial_net."),
    (r"^motion\.", "temporal_net."),
    (r"\bstem\.conv\b", "inconv.0"),
    (r"\bstem\.norm\b", "inconv.1"),
    (r"\bstages\.(\d)", r"encoder\1"),
    (r"\bcontext\.undilated", "dilation0"),
    (r"\bcontext\.dilated\.0", "dilation1"),
    (r"\bcontext\.dilated\.1", "dilation2"),
    (r"\bcontext\.dilated\.2", "dilation3"),
    (r"\bcontext\.dilated\.3", "dilation4"),
    (r"\bbridges\.(\d)", r"bridge\1"),
    (r"\b(dilation\d|bridge\d)\.conv", r"\1.0"),
    (r"\b(dilation\d|bridge\d)\.norm", r"\1.1"),
    (r"\bdecoder\.(\d)", r"decoder\1"),
    (r"\bheads\.(\d)\.features\.conv", r"out\1.conv1.0"),
    (r"\bheads\.(\d)\.features\.norm", r"out\1.conv1.1"),
    (r"\bheads\.(\d)\.logits", r"out\1.conv2"),
    (r"^exchanges\.(\d)\.appearance_coherence", r"SSTransformer\1"),
    (r"^exchanges\.(\d)\.motion_coherence", r"TTTransformer\1"),
    (r"^exchanges\.(\d)\.appearance_motion", r"STTransformer\1"),
    (r"^exchanges\.(\d)\.appearance_contrast", r"SselfTransformer\1"),
    (r"^exchanges\.(\d)\.motion_contrast", r"TselfTransformer\1"),
    (r"\.scaling\.squeeze", ".scaling.fc1"),
    (r"\.scaling\.expand", ".scaling.fc2"),
    (r"\.attentions\.0", ".transformation1"),
    (r"\.attentions\.1", ".transformation2"),
    (r"\.attention\.", ".transformation."),
    (r"\.gating\.conv", ".gating.conv.0"),
    (r"^fusions\.(\d)\.squeeze", r"Transformerstafm\1.channel.fc1"),
    (r"^fusions\.(\d)\.expand", r"Transformerstafm\1.channel.fc2"),
    (r"^fusions\.(\d)\.spatial", r"Transformerstafm\1.spatial.conv1"),
)


def _decoder_name(match: re.Match[str]) -> str:
    level, block, part = match.groups()
    # Three times convolution, batch-norm, ReLU in one flat list.
    return f"decoder{level}.layer.{3 * int(block) + (part == 'norm')}"


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def _agreement(model: nn.Module, given: Mapping[str, Any]) -> int:
    """How many entries of a published state dict fit a model by name and shape."""
    own = {published_name(name): value.shape for name, value in model.state_dict().items()}
    return sum(isinstance(value, Tensor) and own.get(name) == value.shape for name, value in given.items())


def _filled(model: Model, given: Mapping[str, Any], origin: str) -> Model:
    own = model.state_dict()
    ours = {published_name(name): name for name in own}
    expected = {published: own[name] for published, name in ours.items()}
    _check_fit(expected, given, f"{origin}: not a published checkpoint of {_describe(model)}")
    model = model.to_empty(device="cpu")
    model.load_state_dict({ours[published]: value for published, value in given.items()})
    return model


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Any], complaint: str) -> None:
    problems = [f"entry {name} is missing" for name in expected if name not in given]
    problems += [f"entry {name} is unknown" for name in given if name not in expected]
    for name, wanted in expected.items():
        value = given.get(name, wanted)
        if not isinstance(value, Tensor):
            problems.append(f"entry {name} is no tensor")
        elif value.shape != wanted.shape:
            problems.append(f"entry {name} has shape {tuple(value.shape)}, not {tuple(wanted.shape)}")
    if problems:
        more = f", and {len(problems) - 1} more such entries" if len(problems) > 1 else ""
        raise UserError(f"{complaint}: {problems[0]}{more}")


def _describe(model: nn.Module) -> str:
    if isinstance(model, RTNet):
        return f"RTNet with {model.config.backbone}"
    if isinstance(model, Stream):
        return f"a stream of {model.in_channels} channels with {model.backbone}"
    return type(model).__name__


def _read(path: str | Path) -> Mapping[str, Any]:
    """The state dict in a file, bare or under "state_dict"."""
    try:
        content = read_plain(path)
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(
            f"{path}: cannot be read as a checkpoint: it is damaged, another program's, or holds code (never run)"
        ) from error
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise UserError(f"{path}: holds no state dict")
    return state_dict
