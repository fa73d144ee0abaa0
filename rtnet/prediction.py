"""Pairs of views -> maps of the primary object, as published."""

import copy
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtnet.data.images import Picture
from rtnet.data.inputs import resize
from rtnet.model.exchange import Frames
from rtnet.model.folding import fold_batch_norms
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream

Map = NDArray[np.float32]
AnyNetwork = TypeVar("AnyNetwork", bound=RTNet | Stream)


def for_prediction(
    model: AnyNetwork, device: torch.device, precision: Literal["float32", "bfloat16"] = "float32"
) -> AnyNetwork:
    """A copy for the functions below alone: on the device, in the precision, its batch-norms folded."""
    copied: AnyNetwork = copy.deepcopy(model)
    copied.eval()
    fold_batch_norms(copied)
    copied.to(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    return copied


def predict_maps(
    model: RTNet, frames: Tensor, flow: Tensor, pairs: Tensor, sizes: Sequence[tuple[int, int]]
) -> list[Map]:
    """The maps of the first frame of each pair, each float32 (H, W) in 0..1 of its own size.

    model: in eval mode, as for_prediction makes it. frames: (N, 3, h, w) and flow: (N, 6, h, w) of distinct frames,
    normalised, on the model's device; pairs: integers (B, 2), places among the frames. sizes: (H, W) for each pair. As
    published, it is probabilities that are resized to them, not logits.
    """
    return maps_at(predict_probabilities(model, frame_features(model, frames, flow), pairs)[:, 0], sizes)


def frame_features(model: RTNet, frames: Tensor, flow: Tensor) -> Frames:
    """What the network sees in each of N frames whatever its partners are. As `predict_maps` takes frames and flow."""
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        return model.frame_features(frames.to(dtype), flow.to(dtype))


def predict_probabilities(model: RTNet, features: Frames, pairs: Tensor, both: bool = False) -> Tensor:
    """float32 (B, 1 or 2, h, w) in 0..1, at the network's size: of the first frame of each pair, or of both."""
    with torch.inference_mode():
        logits = model.predict_pairs(features, pairs, both)  # (B, 1 or 2, 1, h, w)
        return torch.sigmoid(logits[:, :, 0].float())


def maps_at(probabilities: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Map]:
    """Probabilities (N, h, w) as maps, each float32 (H, W) of its own size."""
    with torch.inference_mode():
        return [
            resize(probability[None, None], (height, width))[0, 0].clamp(0, 1).cpu().numpy()
            for probability, (height, width) in zip(probabilities, sizes, strict=True)
        ]


def predict_stream_maps(stream: Stream, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Map]:
    """The maps of one stream alone, as `predict_maps` gives them. images: (N, 3 or 6, h, w), normalised."""
    with torch.inference_mode():
        logits = stream(images.to(next(stream.parameters()).dtype))[0]  # (N, 1, h, w)
        return maps_at(torch.sigmoid(logits[:, 0].float()), sizes)


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
