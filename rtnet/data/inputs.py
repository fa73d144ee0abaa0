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
    """N times k pictures as (N, 3k, H, W), resized and normalised on the device.

    pictures: uint8, each (h, w, 3k), its k pictures along the channels, or (k, h, w, 3), one after the other: the same
    numbers either way. They may be read-only, and differ in size.
    """
    return normalise(torch.cat([_resized(picture, size, device) for picture in pictures]))


def mask_input(masks: Sequence[NDArray[np.bool_]], size: tuple[int, int], device: torch.device) -> Tensor:
    """N masks, bool (h, w), as soft labels (N, 1, H, W) in [0, 1], resized as the pictures are."""
    return torch.cat([_resized(mask[..., None], size, device) for mask in masks])


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float (N, C, H, W) -> (N, C, *size): bilinear with aligned corners, as every resize in the network."""
    # An exported graph serves all sizes, and resizing to the same size changes nothing.
    if not torch.compiler.is_exporting() and tuple(images.shape[-2:]) == size:
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


def _resized(picture: NDArray[np.generic], size: tuple[int, int], device: torch.device) -> Tensor:
    """(h, w, C), or (k, h, w, c) with C = k * c, as float (1, C, *size)."""
    views = _float(picture if picture.ndim == 4 else picture[None], device).permute(0, 3, 1, 2)  # (k, c, h, w)
    resized = [resize(view, size) for view in views[:, None]]
    return resized[0] if len(resized) == 1 else torch.cat(resized, dim=1)


def _float(picture: NDArray[np.generic], device: torch.device) -> Tensor:
    if device.type != "cuda":
        return torch.from_numpy(picture.astype(np.float32)).to(device)
    # To a GPU go bytes, a quarter of the floats, from pinned memory, so that nobody waits for the copy.
    host = torch.empty(picture.shape, dtype=torch.uint8, pin_memory=True)
    np.copyto(host.numpy(), picture, casting="unsafe")
    return host.to(device, non_blocking=True).float()


@cache
def _scale_and_shift(pictures: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two (3k, 1, 1): normalised = value * scale + shift. Cached, so that a GPU need not wait for a copy each step."""
    mean = torch.tensor(_IMAGENET_MEAN, dtype=torch.float64).repeat(pictures)[:, None, None]
    std = torch.tensor(_IMAGENET_STD, dtype=torch.float64).repeat(pictures)[:, None, None]
    return (1 / (255 * std)).to(device, dtype), (-mean / std).to(device, dtype)
