"""Pairs of views -> maps of the primary object, as published."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtnet.data.images import Picture
from rtnet.data.inputs import resize
from rtnet.model.rtnet import RTNet

Map = NDArray[np.float32]


def predict_maps(
    model: RTNet,
    frames: Tensor,
    flow: Tensor,
    sizes: Sequence[tuple[int, int]],
    precision: Literal["float32", "bfloat16"] = "float32",
) -> list[Map]:
    """The maps of a batch's frames of interest, each float32 (H, W) in 0..1 of its own size.

    model: in eval mode. frames: (B, 2, 3, h, w) and flow: (B, 2, 6, h, w), normalised, on the model's device.
    sizes: (H, W) of each frame. As published, it is probabilities that are resized to them, not logits.
    """
    with torch.inference_mode(), torch.autocast(frames.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model.predict(frames, flow)[:, 0]  # (B, 1, h, w)
    with torch.inference_mode():
        probabilities = torch.sigmoid(logits.float())
        return [
            resize(probability[None], (height, width))[0, 0].clamp(0, 1).cpu().numpy()
            for probability, (height, width) in zip(probabilities, sizes, strict=True)
        ]


def stretch(probabilities: Map) -> Map:
    """The map stretched by its own minimum and maximum to 0..1, as published; zeros where it is constant.

    It turns the noise of a frame without object into a full-range map, so it is for comparison with published maps.
    """
    low, high = probabilities.min(), probabilities.max()
    if low == high:
        return np.zeros_like(probabilities)
    return np.asarray((probabilities - low) / (high - low), np.float32)


def grey_levels(probabilities: Map) -> Picture:
    """A map as a grey picture, uint8 (H, W): round(255 p)."""
    return np.asarray((probabilities * 255).round(), np.uint8)
