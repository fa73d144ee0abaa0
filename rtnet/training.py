"""One training step on one device, and what it needs: inputs from views, the optimizer, freezing, a finite loss.

DDP, epochs and checkpoints are the caller's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rtnet.data.inputs import mask_input, network_input
from rtnet.losses import side_map_losses
from rtnet.model.rtnet import RTNet

Precision = Literal["float32", "bfloat16"]
LOSSES = ("appearance_finest", "appearance", "motion_finest", "motion")


@dataclass(frozen=True)
class Batch:
    """What one step reads, on the device."""

    frames: Tensor  # (B, 2, 3, H, W), normalised
    flow: Tensor  # (B, 2, 6, H, W), normalised
    masks: Tensor  # (B, 2, 1, H, W), soft labels in [0, 1]


def make_batch(
    images: Sequence[NDArray[np.uint8]],
    flows: Sequence[NDArray[np.uint8]],
    annotations: Sequence[NDArray[np.bool_]],
    size: tuple[int, int],
    device: torch.device,
) -> Batch:
    """The batch of 2B views, frame and partner in turn, each of its own size, all resized to `size`.

    images: uint8 (h, w, 3); flows: uint8 (h, w, 6); annotations: bool (h, w).
    """
    return Batch(
        frames=_pairs(network_input(images, size, device)),
        flow=_pairs(network_input(flows, size, device)),
        masks=_pairs(mask_input(annotations, size, device)),
    )


def make_optimizer(model: RTNet, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """The published optimizer: SGD with weight decay on every parameter. The rate is set at each epoch."""
    return torch.optim.SGD(model.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def set_trained(model: RTNet, trained: Literal["all", "interaction"]) -> None:
    """Thaws everything, or the exchange and fusion modules alone; what is frozen keeps no gradient.

    Batch-norm statistics move either way, as in the published training. A DDP wrap holds the set of parameters that
    it found, so wrap anew after this.
    """
    interaction = {id(parameter) for parameter in model.interaction_parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(trained == "all" or id(parameter) in interaction)
        if not parameter.requires_grad:
            parameter.grad = None


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, precision: Precision) -> Tensor:
    """One step of the published loss, both streams' four side maps with equal weights.

    model: RTNet, or DDP around it. Returns the step's losses before the update, (4,) as named by LOSSES, detached.
    The update is left out where the loss is not finite: the caller is to stop there.
    """
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        maps = model(batch.frames, batch.flow)
    appearance = side_map_losses(maps.appearance, batch.masks)
    motion = side_map_losses(maps.motion, batch.masks)
    loss = appearance.sum() + motion.sum()
    torch.autograd.backward(loss)
    if math.isfinite(loss.item()):
        optimizer.step()
    return torch.stack([appearance[0], appearance.sum(), motion[0], motion.sum()]).detach()


def _pairs(views: Tensor) -> Tensor:
    return views.reshape(-1, 2, *views.shape[1:])
