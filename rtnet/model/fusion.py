"""STAFM: how the appearance decoder takes motion into its skips."""

import torch
from torch import Tensor, nn


class SpatioTemporalFusion(nn.Module):
    """forward(appearance, motion) -> one skip, all (N, C, H, W): a mixture, by channel and then by place."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(2 * channels, channels // ratio, 1)
        self.expand = nn.Conv2d(channels // ratio, channels, 1)
        self.spatial = nn.Conv2d(4, 1, 7, padding=3, bias=False)

    def forward(self, appearance: Tensor, motion: Tensor) -> Tensor:
        mean = torch.cat([appearance, motion], 1).mean((2, 3), keepdim=True)
        share = self.expand(self.squeeze(mean).relu()).sigmoid()  # (N, C, 1, 1)
        appearance, motion = appearance * share, motion * (1 - share)
        summary = torch.cat([part for x in (appearance, motion) for part in _mean_and_maximum(x)], 1)
        place: Tensor = self.spatial(summary).sigmoid()  # (N, 1, H, W)
        return appearance * place + motion * (1 - place)


def _mean_and_maximum(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(1, keepdim=True), x.max(1, keepdim=True).values
