"""RAFT between neighbours, both ways at once: what plain calls, pair by pair, compute again and again is done once.

Exact but for rounding. Shared: a frame's features, by the four flows it takes part in, and its context, by the two
flows that start at it; the correlations of both ways of a pair, which are one matrix and its transpose; the part of
the recurrent unit that looks at the context, which no refinement changes. Only the last refinement is upsampled.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow


@dataclass(frozen=True)
class Encoded:
    """Frames in order, at stride 8."""

    features: Tensor
    """(N, C, h, w), float32: what is correlated."""
    context: Tensor
    """(N, D, h, w): the recurrent unit's first state, then what it looks at in every refinement."""

    def last(self) -> "Encoded":
        return Encoded(self.features[-1:].clone(), self.context[-1:].clone())  # clones let go of the others

    def followed_by(self, other: "Encoded") -> "Encoded":
        return Encoded(torch.cat([self.features, other.features]), torch.cat([self.context, other.context]))


class RaftPairs:
    """model: torchvision's RAFT, in eval. dtype: the network's precision; correlations are float32 in each."""

    def __init__(self, model: Any, updates: int, dtype: torch.dtype) -> None:
        self.model = model
        self.updates = updates
        self.dtype = dtype
        recurrent: Any = self.model.update_block.recurrent_block
        units = [getattr(recurrent, name, None) for name in ("convgru1", "convgru2")]
        self.units = [_Unit(unit, dtype) for unit in units if isinstance(unit, nn.Module)]  # raft_small has one

    def encode(self, frames: Tensor) -> Encoded:
        """frames: (N, 3, H, W) in -1..1, sides divisible by 8 and at least 128."""
        with self._precision(frames.device):
            features = self.model.feature_encoder(frames).float()
            return Encoded(features, self.model.context_encoder(frames).float())

    def flows(self, frames: Encoded) -> Tensor:
        """(2, N - 1, 2, H, W), float32: from each frame to the next; from each next frame to the one before it."""
        pairs, _, height, width = frames.features.shape[0] - 1, *frames.features.shape[1:]
        device = frames.features.device
        correlation = self.model.corr_block
        correlation.corr_pyramid = _pyramid(frames.features, correlation.num_levels)
        hidden_size = self.model.update_block.hidden_state_size
        starts = torch.cat([frames.context[:-1], frames.context[1:]])  # forward, then backward
        hidden, context = torch.tanh(starts[:, :hidden_size]), F.relu(starts[:, hidden_size:])
        start = make_coords_grid(2 * pairs, height, width, device=device)
        end = start.clone()
        with self._precision(device):
            fixed = [unit.of_context(context) for unit in self.units]
            for _ in range(self.updates):
                moved = end - start
                motion = self.model.update_block.motion_encoder(moved, correlation.index_pyramid(end))
                for unit, part in zip(self.units, fixed, strict=True):
                    hidden = unit(hidden, motion.float(), part)
                end = end + self.model.update_block.flow_head(hidden).float()
            mask = None if self.model.mask_predictor is None else self.model.mask_predictor(hidden).float()
        correlation.corr_pyramid = []  # the largest thing here; the model would hold it until the next batch
        flow: Tensor = upsample_flow(end - start, mask)
        return flow.view(2, pairs, *flow.shape[1:])

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)


class _Unit:
    """One convolutional GRU (appendix A of the paper), the part that looks at the context taken out of the loop.

    A convolution of channels side by side is the sum of convolutions of each group. The gates z and r look at the
    same channels and are one convolution.
    """

    def __init__(self, unit: Any, dtype: torch.dtype) -> None:
        self.padding = unit.convz.padding
        self.hidden = unit.convz.out_channels
        gates = torch.cat([unit.convz.weight, unit.convr.weight]).detach().to(dtype)
        candidate = unit.convq.weight.detach().to(dtype)
        self.weights = gates, candidate
        self.biases = torch.cat([unit.convz.bias, unit.convr.bias, unit.convq.bias]).detach().to(dtype)

    def of_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What the context, (B, context, h, w), adds to the gates and to the candidate in every refinement."""
        seen = slice(self.hidden, self.hidden + context.shape[1])
        weight = torch.cat([w[:, seen] for w in self.weights])
        both = F.conv2d(context.to(weight.dtype), weight, self.biases, padding=self.padding)
        # What looks at hidden state and motion, beside one another in the loop.
        self.moving = [torch.cat([w[:, : seen.start], w[:, seen.stop :]], 1).contiguous() for w in self.weights]
        return both[:, : 2 * self.hidden], both[:, 2 * self.hidden :]

    def __call__(self, hidden: Tensor, motion: Tensor, fixed: tuple[Tensor, Tensor]) -> Tensor:
        gates, candidate = self.moving
        opened = F.conv2d(torch.cat([hidden, motion], 1), gates, padding=self.padding) + fixed[0]
        z, r = torch.sigmoid(opened).chunk(2, 1)
        q = torch.tanh(F.conv2d(torch.cat([r * hidden, motion], 1), candidate, padding=self.padding) + fixed[1])
        return torch.lerp(hidden, q.float(), z.float())  # float32 throughout: it is what adds up over refinements


def _pyramid(features: Tensor, levels: int) -> list[Tensor]:
    """Correlations of neighbours, (2 (N - 1) h w, 1, h, w), forward then backward, and their halvings."""
    pairs, channels, height, width = features.shape[0] - 1, *features.shape[1:]
    places = height * width
    flat = features.flatten(2)
    volume = features.new_empty(2, pairs, places, places)
    torch.matmul(flat[:-1].transpose(1, 2) / channels**0.5, flat[1:], out=volume[0])
    volume[1] = volume[0].transpose(1, 2)
    pyramid = [volume.view(2 * pairs * places, 1, height, width)]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid
