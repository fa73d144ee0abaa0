"""The named encoders: torchvision's classifiers, cut into a stem and four stages of strides 4, 8, 16 and 32."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torchvision import models

from rtnet.model.attention import AttentionForm

STRIDES = ("s4", "s8", "s16", "s32")
HEADS = (1, 2, 4, 8)

Stages = tuple[nn.Module, nn.Module, nn.Module, nn.Module]

_STANDARD = (AttentionForm(bias=True, pooled=True), AttentionForm(), AttentionForm(), AttentionForm())
_PUBLISHED_R34 = (AttentionForm(transposed=True, bias=True, pooled=True), *_STANDARD[1:])
_PUBLISHED_RX50 = (_PUBLISHED_R34[0], *(AttentionForm(transposed=True, bias=True),) * 3)


@dataclass(frozen=True)
class Backbone:
    """An encoder: how it is built, and what the rest of the network has to know of it."""

    channels: tuple[int, int, int, int]
    """Of the features after each stage, finest first."""
    build: Callable[[], nn.Module]
    """torchvision's classifier, with random weights: nothing is downloaded."""
    split: Callable[[nn.Module], tuple[nn.Module, Stages]]
    """Its stem and its four stages."""
    attention: tuple[AttentionForm, ...] = _STANDARD
    """The form of attention at each level."""


def cut_encoder(name: str, classifier: nn.Module, in_channels: int) -> tuple[nn.Module, nn.ModuleDict]:
    """Cuts BACKBONES[name]'s classifier, in place, into the stem, for in_channels (3 or 6), and the stages by stride.

    A stem for 6 channels holds the RGB weights twice, halved: a grey value in both pictures excites it as before.
    """
    stem, stages = BACKBONES[name].split(classifier)
    first = next(module for module in stem.modules() if isinstance(module, nn.Conv2d))
    if in_channels != first.in_channels:
        repeats = in_channels // first.in_channels
        first.weight = nn.Parameter(torch.cat([first.weight.detach()] * repeats, 1) / repeats)
        first.in_channels = in_channels
    return stem, nn.ModuleDict(dict(zip(STRIDES, stages, strict=True)))


def _split_resnet(classifier: nn.Module) -> tuple[nn.Module, Stages]:
    parts = dict(classifier.named_children())
    stem = OrderedDict(conv=parts["conv1"], norm=parts["bn1"], relu=parts["relu"], pool=parts["maxpool"])
    return nn.Sequential(stem), (parts["layer1"], parts["layer2"], parts["layer3"], parts["layer4"])


def _split_mobilenet_v3_large(classifier: nn.Module) -> tuple[nn.Module, Stages]:
    # The 1x1 convolution to 960 channels after the last block belongs to the classifier, not to the features.
    features = classifier.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    return features[:2], (features[2:4], features[4:7], features[7:13], features[13:16])


def _split_convnext(classifier: nn.Module) -> tuple[nn.Module, Stages]:
    features = classifier.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    return features[:1], (features[1:2], features[2:4], features[4:6], features[6:8])


_BASIC = (64, 128, 256, 512)
_BOTTLENECK = (256, 512, 1024, 2048)

BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(_BASIC, models.resnet18, _split_resnet),
    "resnet34": Backbone(_BASIC, models.resnet34, _split_resnet, _PUBLISHED_R34),
    "resnet50": Backbone(_BOTTLENECK, models.resnet50, _split_resnet),
    "resnet101": Backbone(_BOTTLENECK, models.resnet101, _split_resnet),
    "resnext50_32x4d": Backbone(_BOTTLENECK, models.resnext50_32x4d, _split_resnet, _PUBLISHED_RX50),
    "resnext101_32x8d": Backbone(_BOTTLENECK, models.resnext101_32x8d, _split_resnet),
    "mobilenet_v3_large": Backbone((24, 40, 112, 160), models.mobilenet_v3_large, _split_mobilenet_v3_large),
    "convnext_tiny": Backbone((96, 192, 384, 768), models.convnext_tiny, _split_convnext),
}
