"""Pictures -> the network's inputs: resized and normalised on the device."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def network_input(pictures: Sequence[NDArray[np.uint8]], size: tuple[int, int], device: torch.device) -> Tensor:
    """N pictures, uint8 (h, w, 3k), as (N, 3k, H, W), resized and normalised on the device."""
    return normalise(torch.cat([resize(_float(picture, device), size) for picture in pictures]))


def mask_input(masks: Sequence[NDArray[np.bool_]], size: tuple[int, int], device: torch.device) -> Tensor:
    """N masks, bool (h, w), as soft labels (N, 1, H, W) in [0, 1], resized as the pictures are."""
    return torch.cat([resize(_float(mask[..., None], device), size) for mask in masks])


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float (N, C, H, W) -> (N, C, *size): bilinear with aligned corners, as every resize in the network."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=True)


def normalise(images: Tensor) -> Tensor:
    """RGB pictures in 0..255 -> the network's inputs: over 255, less ImageNet's mean, over its deviation, per colour.

    images: (..., 3k, H, W), uint8 or float, on any device: k pictures along the channels (frames 1, flow 2).
    Returns the same shape on the same device: float32 for integers, else the input's type.
    """
    pictures, rest = divmod(images.shape[-3], 3)
    if rest:
        raise ValueError(f"normalise takes RGB pictures, so channels in threes, not {tuple(images.shape)}")
    if not images.is_floating_point():
        images = images.float()
    scale, shift = _scale_and_shift(pictures, images.dtype, images.device)
    return images * scale + shift


def _float(picture: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.tensor(picture, device=device).permute(2, 0, 1)[None].float()  # (1, C, h, w)


@cache
def _scale_and_shift(pictures: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two (3k, 1, 1): normalised = value * scale + shift. Cached, so that a GPU need not wait for a copy each step."""
    mean = torch.tensor(_IMAGENET_MEAN, dtype=torch.float64).repeat(pictures)[:, None, None]
    std = torch.tensor(_IMAGENET_STD, dtype=torch.float64).repeat(pictures)[:, None, None]
    return (1 / (255 * std)).to(device, dtype), (-mean / std).to(device, dtype)
