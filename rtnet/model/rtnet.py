"""RTNet: two streams, an exchange after every stage, two decoders."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rtnet.config import RTNetConfig
from rtnet.model.backbones import BACKBONES, HEADS, STRIDES
from rtnet.model.exchange import Exchange
from rtnet.model.fusion import SpatioTemporalFusion
from rtnet.model.layers import each_frame, in_pairs
from rtnet.model.stream import SKIP_CHANNELS, Stream


class SideMaps(NamedTuple):
    """Four side maps per stream, finest first, each logits (B, 2, 1, 4*H1, 4*W1)."""

    appearance: tuple[Tensor, ...]
    motion: tuple[Tensor, ...]


class RTNet(nn.Module):
    """The network of "Reciprocal Transformations for Unsupervised Video Object Segmentation" (CVPR 2021).

    frames (B, 2, 3, H, W): the frame of interest and its partner, RGB normalised by ImageNet's mean and deviation.
    flow (B, 2, 6, H, W): per frame the forward, then the backward flow picture, normalised likewise.
    H1 x W1 below is the size of the features of stride 4, so maps have the input's size only where 4 divides it.
    """

    def __init__(self, config: RTNetConfig) -> None:
        super().__init__()
        self.config = config
        self.appearance = Stream(config.backbone, in_channels=3)
        self.motion = Stream(config.backbone, in_channels=6)
        backbone = BACKBONES[config.backbone]
        self.exchanges = nn.ModuleDict(
            {
                stride: Exchange(channels, heads, form)
                for stride, channels, heads, form in zip(
                    STRIDES, backbone.channels, HEADS, backbone.attention, strict=True
                )
            }
        )
        self.fusions = nn.ModuleDict(
            {
                stride: SpatioTemporalFusion(channels, ratio)
                for (stride, channels), ratio in zip(SKIP_CHANNELS.items(), (1, 2, 4), strict=True)
            }
        )

    def forward(self, frames: Tensor, flow: Tensor) -> SideMaps:
        """The side maps of both frames and both streams, as training wants them."""
        appearance, motion = self._encode_to_s16(frames, flow)
        s32 = self.exchanges["s32"](
            each_frame(self.appearance.stages["s32"], appearance[-1]), each_frame(self.motion.stages["s32"], motion[-1])
        )
        appearance_s32, motion_s32 = (x.flatten(0, 1) for x in s32)

        appearance_skips = self.appearance.skips([x.flatten(0, 1) for x in appearance])
        motion_skips = self.motion.skips([x.flatten(0, 1) for x in motion])
        fused = self._fuse(appearance_skips, motion_skips)
        appearance_maps = self.appearance.side_maps(self.appearance.decode(appearance_s32, fused))
        motion_maps = self.motion.side_maps(self.motion.decode(motion_s32, motion_skips))
        return SideMaps(*(tuple(in_pairs(x) for x in maps) for maps in (appearance_maps, motion_maps)))

    @torch.no_grad()
    def predict(self, frames: Tensor, flow: Tensor, both: bool = False) -> Tensor:
        """The finest appearance map of the frame of interest, or of both: logits (B, 1 or 2, 1, 4*H1, 4*W1).

        Computes what forward does, less all that does not reach this map. Raises RuntimeError in training mode, where
        it would move the batch-norm statistics.
        """
        if self.training:
            raise RuntimeError("predict needs the network in eval mode: call eval() first")
        count = 2 if both else 1
        appearance, motion = self._encode_to_s16(frames, flow)
        exchange = self.exchanges["s32"]
        assert isinstance(exchange, Exchange)
        s32 = exchange.appearance_only(
            each_frame(self.appearance.stages["s32"], appearance[-1]),
            each_frame(self.motion.stages["s32"], motion[-1][:, :count]),
        )

        appearance_skips = self.appearance.skips([x[:, :count].flatten(0, 1) for x in appearance])
        motion_skips = self.motion.skips([x[:, :count].flatten(0, 1) for x in motion])
        decoded = self.appearance.decode(s32.flatten(0, 1), self._fuse(appearance_skips, motion_skips))
        (finest,) = self.appearance.side_maps(decoded[:1])
        return in_pairs(finest, count)

    def interaction_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the exchanges and of the fusion, which the recipe first trains alone."""
        yield from self.exchanges.parameters()
        yield from self.fusions.parameters()

    def _encode_to_s16(self, frames: Tensor, flow: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The features of strides 4, 8, 16 after their exchanges, each (B, 2, C, h, w): appearance and motion."""
        x, y = each_frame(self.appearance.stem, frames), each_frame(self.motion.stem, flow)
        appearance, motion = [], []
        for stride in STRIDES[:3]:
            x, y = each_frame(self.appearance.stages[stride], x), each_frame(self.motion.stages[stride], y)
            x, y = self.exchanges[stride](x, y)
            appearance.append(x)
            motion.append(y)
        return appearance, motion

    def _fuse(self, appearance: list[Tensor], motion: list[Tensor]) -> list[Tensor]:
        return [fusion(x, y) for fusion, x, y in zip(self.fusions.values(), appearance, motion, strict=True)]
