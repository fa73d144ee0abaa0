"""What several files of the network share: convolution with batch-norm, and work frame by frame."""

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


def each_frame(module: nn.Module, frames: Tensor) -> Tensor:
    """Applies a module on (N, C, H, W) to (B, n, C, H, W), all frames in one call."""
    result: Tensor = module(frames.flatten(0, 1))
    return in_pairs(result, frames.shape[1])


def in_pairs(x: Tensor, frames: int = 2) -> Tensor:
    """Gives each sample its frames' axis back: (B * frames, C, H, W) -> (B, frames, C, H, W)."""
    return x.view(-1, frames, *x.shape[1:])
