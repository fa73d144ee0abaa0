"""One stream: encoder stages, context, decoder stages, side heads."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rtnet.config import RTNetConfig
from rtnet.data.inputs import resize
from rtnet.model.backbones import BACKBONES, STRIDES, cut_encoder
from rtnet.model.layers import ConvNormRelu, spatial_size

SKIP_CHANNELS = {"s4": 64, "s8": 128, "s16": 256}
CONTEXT_CHANNELS = 512


class Stream(nn.Module):
    """The appearance stream (3 channels: RGB) or the motion stream (6: forward and backward flow picture).

    It can be trained alone. forward: normalised (N, in_channels, H, W) -> four side maps, finest first, logits
    (N, 1, 4*H1, 4*W1), where H1 x W1 is the size of the features of stride 4.
    """

    def __init__(self, backbone: str, in_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_channels = in_channels
        channels = dict(zip(STRIDES, BACKBONES[backbone].channels, strict=True))
        self.stem, self.stages = cut_encoder(backbone, BACKBONES[backbone].build(), in_channels)
        self.context = Context(channels["s32"])
        self.bridges = nn.ModuleDict(
            {stride: _project(channels[stride], skip_channels) for stride, skip_channels in SKIP_CHANNELS.items()}
        )
        self.decoder = nn.ModuleDict(
            {
                "s4": _decoder_stage(128, 64, 64),
                "s8": _decoder_stage(256, 128, 64),
                "s16": _decoder_stage(512, 256, 128),
                "s32": _decoder_stage(5 * CONTEXT_CHANNELS, 512, 256),
            }
        )
        self.heads = nn.ModuleDict(
            {stride: SideHead(width) for stride, width in zip(STRIDES, (64, 64, 128, 256), strict=True)}
        )

    @property
    def config(self) -> RTNetConfig:
        """All that is needed to rebuild this stream."""
        return RTNetConfig(self.backbone, "appearance" if self.in_channels == 3 else "motion")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        features = []
        for stage in self.stages.values():
            x = stage(x)
            features.append(x)
        return self.side_maps(self.decode(features[3], self.skips(features[:3])))

    def skips(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The decoder's skips from the features of strides 4, 8, 16, each (N, C, h, w)."""
        return [bridge(x) for bridge, x in zip(self.bridges.values(), features, strict=True)]

    def decode(self, features: Tensor, skips: Sequence[Tensor]) -> list[Tensor]:
        """The four decoder features, finest first, from the features of stride 32 and the skips."""
        s4, s8, s16 = skips
        x = self.decoder["s32"](self.context(features))
        decoded = [x]
        for stride, skip in (("s16", s16), ("s8", s8), ("s4", s4)):
            x = self.decoder[stride](torch.cat([resize(x, spatial_size(skip)), skip], 1))
            decoded.insert(0, x)
        return decoded

    def side_maps(self, decoded: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """A side map of each of the first decoder features given, finest first: logits (N, 1, 4*H1, 4*W1)."""
        height, width = spatial_size(decoded[0])
        heads = list(self.heads.values())[: len(decoded)]
        return tuple(resize(head(x), (4 * height, 4 * width)) for head, x in zip(heads, decoded, strict=True))


class Context(nn.Module):
    """Five maps of growing dilation side by side: (N, channels, H, W) -> (N, 5 * 512, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.undilated = _project(channels, CONTEXT_CHANNELS)
        self.dilated = nn.ModuleList(
            ConvNormRelu(channels, CONTEXT_CHANNELS, dilation=dilation) for dilation in (1, 2, 4, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.undilated(x), *(conv(x) for conv in self.dilated)], 1)


class SideHead(nn.Module):
    """(N, channels, H, W) -> logits (N, 1, H, W).

    The published network resizes the 64 features and then takes their weighted sum. A bilinear resize is linear and its
    weights sum to 1, so resizing the sum instead gives the same, bias and all, for a 64th of the work.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = ConvNormRelu(channels, 64)
        self.logits = nn.Conv2d(64, 1, 1)
        # Objects are small. A random network that begins with half of every picture is pushed away from that so hard
        # that the features standing for the object die and its maps stay below 1/2 (cf. Lin et al., ICCV 2017, 3.3).
        assert self.logits.bias is not None
        nn.init.constant_(self.logits.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.features(x))
        return logits


def _decoder_stage(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormRelu(in_channels, channels), ConvNormRelu(channels, channels), ConvNormRelu(channels, out_channels)
    )


def _project(in_channels: int, out_channels: int) -> nn.Module:
    """To the width that the decoder takes, where the encoder's differs."""
    return nn.Identity() if in_channels == out_channels else ConvNormRelu(in_channels, out_channels, kernel=1)
