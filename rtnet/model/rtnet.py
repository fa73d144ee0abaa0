"""RTNet: two streams, an exchange after every stage, two decoders."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rtnet.config import RTNetConfig
from rtnet.model.backbones import BACKBONES, HEADS, STRIDES
from rtnet.model.exchange import Exchange, Frames
from rtnet.model.fusion import SpatioTemporalFusion
from rtnet.model.layers import in_pairs, interest_first
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
        self.to(memory_format=torch.channels_last)  # attention takes the channels of a place side by side

    def forward(self, frames: Tensor, flow: Tensor) -> SideMaps:
        """The side maps of both frames and both streams, as training wants them."""
        appearance, motion = self._encode_to_s16(interest_first(frames), interest_first(flow))
        appearance_s32, motion_s32 = self.exchanges["s32"](
            self.appearance.stages["s32"](appearance[-1]), self.motion.stages["s32"](motion[-1])
        )
        appearance_skips, motion_skips = self.appearance.skips(appearance), self.motion.skips(motion)
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
        return self._predict(self.frame_features(interest_first(frames), interest_first(flow)), both)

    @torch.no_grad()
    def frame_features(self, frames: Tensor, flow: Tensor) -> Frames:
        """What `predict` computes of frames whatever their partners are.

        frames (N, 3, H, W), flow (N, 6, H, W) -> N features, for `predict_pairs`. Raises as `predict` does.
        """
        if self.training:
            raise RuntimeError("predict needs the network in eval mode: call eval() first")
        appearance = self.appearance.stages["s4"](self.appearance.stem(frames))
        return self._exchange("s4").within_frames(appearance, self.motion.stages["s4"](self.motion.stem(flow)))

    @torch.no_grad()
    def predict_pairs(self, features: Frames, pairs: Tensor, both: bool = False) -> Tensor:
        """`predict` of B pairs of N frames: pairs are integers (B, 2), places in `frame_features`' N features.

        Raises ValueError for pairs that are none.
        """
        if pairs.dim() != 2 or pairs.shape[1] != 2 or not len(pairs) or pairs.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"pairs: integers (B, 2) with B > 0, not {pairs.dtype} {tuple(pairs.shape)}")
        places = pairs.T.flatten()
        return self._predict(Frames(*(x[places] for x in features)), both)

    def interaction_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the exchanges and of the fusion, which the recipe first trains alone."""
        yield from self.exchanges.parameters()
        yield from self.fusions.parameters()

    def _predict(self, features: Frames, both: bool) -> Tensor:
        appearance, motion = self._rest_to_s16(*self._exchange("s4").across_frames(features))
        wanted = appearance[0].shape[0] // (1 if both else 2)  # not len(), which an export would fix
        s32 = self._exchange("s32").appearance_only(
            self.appearance.stages["s32"](appearance[-1]), self.motion.stages["s32"](motion[-1][:wanted])
        )
        appearance_skips = self.appearance.skips([x[:wanted] for x in appearance])
        motion_skips = self.motion.skips([x[:wanted] for x in motion])
        decoded = self.appearance.decode(s32, self._fuse(appearance_skips, motion_skips))
        (finest,) = self.appearance.side_maps(decoded[:1])
        return in_pairs(finest, 2 if both else 1)

    def _encode_to_s16(self, frames: Tensor, flow: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The features of strides 4, 8, 16 after their exchanges, each (2B, C, h, w): appearance and motion."""
        x = self.appearance.stages["s4"](self.appearance.stem(frames))
        return self._rest_to_s16(*self.exchanges["s4"](x, self.motion.stages["s4"](self.motion.stem(flow))))

    def _rest_to_s16(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        appearance, motion = [x], [y]
        for stride in STRIDES[1:3]:
            x, y = self.exchanges[stride](self.appearance.stages[stride](x), self.motion.stages[stride](y))
            appearance.append(x)
            motion.append(y)
        return appearance, motion

    def _exchange(self, stride: str) -> Exchange:
        exchange = self.exchanges[stride]
        assert isinstance(exchange, Exchange)
        return exchange

    def _fuse(self, appearance: list[Tensor], motion: list[Tensor]) -> list[Tensor]:
        return [fusion(x, y) for fusion, x, y in zip(self.fusions.values(), appearance, motion, strict=True)]
