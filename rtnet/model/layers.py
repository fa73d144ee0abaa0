"""What several files of the network share: convolution with batch-norm, and the order of frames in pairs."""

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch-norm, ReLU: (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


def spatial_size(x: Tensor) -> tuple[int, int]:
    """Height and width of (..., H, W)."""
    return x.shape[-2], x.shape[-1]


def interest_first(pairs: Tensor) -> Tensor:
    """(B, 2, C, H, W) -> (2B, C, H, W): the frames of interest, then their partners, each half one piece of memory."""
    return pairs.transpose(0, 1).flatten(0, 1)


def in_pairs(x: Tensor, frames: int = 2) -> Tensor:
    """interest_first's inverse, also where only the first `frames` of each pair are there."""
    return x.reshape(frames, -1, *x.shape[1:]).transpose(0, 1)
