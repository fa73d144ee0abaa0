"""The loss of a stream's side maps: binary cross-entropy + (1 - SSIM) + (1 - soft IoU), from logits."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rtnet.data.inputs import resize
from rtnet.model.layers import spatial_size


def side_map_loss(logits: Sequence[Tensor], masks: Tensor) -> Tensor:
    """The loss of one stream: the sum of side_map_losses."""
    return side_map_losses(logits, masks).sum()


def side_map_losses(logits: Sequence[Tensor], masks: Tensor) -> Tensor:
    """The loss of each side map: (number of maps,), finest first.

    logits: of equal shape (..., 1, h, w), any floating type. masks: (..., 1, H, W) with the same leading dimensions, in
    [0, 1], may be soft; resized to the maps where they differ in size. Computed in float32 at least, whatever autocast
    says; value and gradient are finite for empty masks, empty predictions and logits up to the limits of float16.
    """
    with torch.autocast(masks.device.type, enabled=False):
        stacked = torch.stack(list(logits)).flatten(1, -4)  # (maps, N, 1, h, w)
        stacked = stacked.to(torch.promote_types(stacked.dtype, torch.float32))
        target = masks.to(stacked.dtype).flatten(0, -4)  # (N, 1, H, W)
        target = resize(target, spatial_size(stacked))
        # What lies between a map and its loss takes several times the map's memory, and little time to compute anew.
        each = [checkpoint(_loss, x, target, use_reentrant=False, preserve_rng_state=False) for x in stacked]
        return torch.stack(each)


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Of one side map: (N, 1, h, w), (N, 1, h, w) -> ()."""
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    probability = logits.sigmoid()
    return entropy + (1 - _structural_similarity(probability, target)) + (1 - _soft_iou(probability, target))


def _soft_iou(probability: Tensor, target: Tensor) -> Tensor:
    """Mean over images of the soft intersection over union: (N, 1, h, w), (N, 1, h, w) -> ()."""
    intersection = (probability * target).sum((1, 2, 3))
    union = probability.sum((1, 2, 3)) + target.sum((1, 2, 3)) - intersection
    # Only where mask and prediction are both empty is the union below a millionth of a pixel: the ratio is 0 there, as
    # for any prediction on an empty mask. A much smaller bound would overflow a gradient that a loss scale multiplies.
    return (intersection / union.clamp(min=1e-6)).mean()


def _structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM over pixels, values in [0, 1]: (N, 1, h, w), (N, 1, h, w) -> ()."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variances = mean_xx - mean_x.square() + mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    similarity: Tensor = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))
    return similarity.mean()


def _blur(x: Tensor) -> Tensor:
    """The Gaussian mean around every pixel, zeros beyond the border: (..., h, w) -> the same shape."""
    window = _gaussian_window().to(x.device, x.dtype)
    pictures = x.flatten(0, -3)[None]  # (1, pictures, h, w)
    # As one picture of many channels: convolving many pictures of one channel takes fifty times as long on a CPU.
    blurred: Tensor = F.conv2d(
        pictures, window.expand(pictures.shape[1], -1, -1, -1), padding=window.shape[-1] // 2, groups=pictures.shape[1]
    )
    return blurred.view_as(x)


@functools.cache
def _gaussian_window(size: int = 11, sigma: float = 1.5) -> Tensor:
    """(1, 1, size, size), sums to 1. Rounded to float32 as the published loss does it, also for float64 inputs."""
    weights = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    with torch.inference_mode(False):  # kept, it must serve a later training too
        line = torch.tensor(weights, dtype=torch.float32)
        line = line / line.sum()
        return torch.outer(line, line)[None, None]
