"""The reciprocal transformation: scaling -> attention -> gating, of two feature maps or of one with itself."""

import torch
from torch import Tensor, nn

from rtnet.model.attention import Attention, AttentionForm


class ReciprocalTransformation(nn.Module):
    """forward(x, y) -> (x, y), all (N, C, H, W): each map transformed in the light of the other.

    shared: both directions use the same attention weights, for two maps of one kind.
    """

    def __init__(self, channels: int, heads: int, form: AttentionForm, *, shared: bool) -> None:
        super().__init__()
        self.scaling = ReciprocalScaling(channels, maps=2, ratio=heads)
        self.attentions = nn.ModuleList(Attention(channels, heads, form) for _ in range(1 if shared else 2))
        self.gating = ReciprocalGating(channels, maps=2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.scaling(x, y)
        x = self.attentions[0](x, y)
        y = self.attentions[-1](y, x)  # the x just made; the last attention is the first where they are shared
        x, y = self.gating(x, y)
        return x, y


class SelfTransformation(nn.Module):
    """The same of one map: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.scaling = ReciprocalScaling(channels, maps=1, ratio=heads)
        self.attention = Attention(channels, heads, form)
        self.gating = ReciprocalGating(channels, maps=1)

    def forward(self, x: Tensor) -> Tensor:
        (x,) = self.scaling(x)
        x = self.attention(x, x)
        (x,) = self.gating(x)
        return x


class ReciprocalScaling(nn.Module):
    """Strengthens each channel of each map by what all maps hold on average."""

    def __init__(self, channels: int, maps: int, ratio: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(maps * channels, channels // ratio, 1)
        self.expand = nn.Conv2d(channels // ratio, maps * channels, 1)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        mean = torch.cat([x.mean((2, 3), keepdim=True) for x in maps], 1)  # (N, maps * C, 1, 1)
        scales = self.expand(self.squeeze(mean).relu()).sigmoid().chunk(len(maps), 1)
        return tuple(torch.addcmul(x, x, scale) for x, scale in zip(maps, scales, strict=True))


class ReciprocalGating(nn.Module):
    """Strengthens each place of each map by what all maps hold there."""

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(maps * channels, maps, 1)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        gates = self.conv(torch.cat(maps, 1)).sigmoid().chunk(len(maps), 1)  # each (N, 1, H, W)
        return tuple(torch.addcmul(x, x, gate) for x, gate in zip(maps, gates, strict=True))
