"""One training step on one device, and what it needs: inputs from views, the optimizer, freezing, a finite loss.

DDP, epochs and checkpoints are the caller's.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from rtnet.data.inputs import mask_input, network_input
from rtnet.losses import side_map_losses
from rtnet.model.network import Network
from rtnet.model.rtnet import RTNet

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
LOSSES = ("appearance_finest", "appearance", "motion_finest", "motion")
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """What one step reads, on the device: V = 2 views for RTNet, 1 for a stream alone, which lacks the other's."""

    frames: Tensor | None  # (B, V, 3, H, W), normalised
    flow: Tensor | None  # (B, V, 6, H, W), normalised
    masks: Tensor  # (B, V, 1, H, W), soft labels in [0, 1]

    def split(self, count: int) -> Iterator["Batch"]:
        """The batch in `count` equal parts, in order."""
        parts = [[None] * count if x is None else x.chunk(count) for x in (self.frames, self.flow, self.masks)]
        yield from (Batch(*part) for part in zip(*parts, strict=True))


def make_batch(
    images: Sequence[NDArray[np.uint8]],
    flows: Sequence[NDArray[np.uint8]],
    annotations: Sequence[NDArray[np.bool_]],
    size: tuple[int, int],
    device: torch.device,
    streams: Literal["both", "appearance", "motion"] = "both",
) -> Batch:
    """The batch of these views, each of its own size, all resized to `size`.

    For both streams they are 2B, frame and partner in turn; for one alone B. images: uint8 (h, w, 3); flows: uint8
    (h, w, 6), or (2, h, w, 3); annotations: bool (h, w). What a stream alone does not see is not looked at.
    """
    views = 2 if streams == "both" else 1

    def grouped(inputs: Tensor) -> Tensor:
        return inputs.reshape(-1, views, *inputs.shape[1:])

    return Batch(
        frames=None if streams == "motion" else grouped(network_input(images, size, device)),
        flow=None if streams == "appearance" else grouped(network_input(flows, size, device)),
        masks=grouped(mask_input(annotations, size, device)),
    )


def loss_names(network: Network) -> tuple[str, ...]:
    """Those of LOSSES that `train_step` returns for a network."""
    streams = network.config.streams
    return LOSSES if streams == "both" else (f"{streams}_finest", streams)


def make_optimizer(network: nn.Module, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """The published optimizer: SGD with weight decay on every parameter. The rate is set at each epoch."""
    return torch.optim.SGD(network.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay)


def make_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Scales the loss for float16, whose small gradients would vanish; does nothing for other precisions."""
    return GradScaler(device.type, enabled=precision == "float16")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def set_trained(network: Network, trained: Literal["all", "interaction"]) -> None:
    """Thaws everything, or the exchange and fusion modules alone; what is frozen keeps no gradient.

    Batch-norm statistics move either way, as in the published training. A DDP wrap holds the set of parameters that
    it found, so wrap anew after this.
    """
    interaction = {id(p) for p in network.interaction_parameters()} if isinstance(network, RTNet) else set()
    for parameter in network.parameters():
        parameter.requires_grad_(trained == "all" or id(parameter) in interaction)
        if not parameter.requires_grad:
            parameter.grad = None


def set_product_precision(precision: Precision) -> None:
    """Whether a GPU may round the factors of float32 products to TF32's 10 bits, in this process."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    precision: Precision,
    accumulate: int = 1,
    scaler: GradScaler | None = None,
) -> Tensor:
    """One step of the published loss, each stream's four side maps with equal weights.

    model: a network, or DDP around it. accumulate: the batch goes through the network in so many equal parts, and the
    step follows the mean of their losses. scaler: of `make_scaler`, for float16. Returns the step's losses before the
    update, (4,) or for a stream alone (2,), as `loss_names` has them, detached. The update is left out where the loss
    is not finite: the caller is to stop there.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    for number, part in enumerate(batch.split(accumulate), start=1):
        last = number == accumulate
        # DDP sums the gradients of all workers once, with the last part's.
        together = (
            contextlib.nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()
        )
        with together:
            losses.append(_backward(model, part, precision, accumulate, scaler))
    mean = torch.stack(losses).mean(0)
    if not math.isfinite(mean.sum().item()):
        return mean
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return mean


def _backward(
    model: nn.Module, batch: Batch, precision: Precision, accumulate: int, scaler: GradScaler | None
) -> Tensor:
    """Adds a part's gradients to the parameters'; its losses."""
    inputs = [x for x in (batch.frames, batch.flow) if x is not None]
    autocast = torch.autocast(
        batch.masks.device.type, _AUTOCAST.get(precision, torch.bfloat16), enabled=precision in _AUTOCAST
    )
    if len(inputs) == 2:
        with autocast:
            maps = model(*inputs)
        streams = [side_map_losses(side_maps, batch.masks) for side_maps in (maps.appearance, maps.motion)]
    else:
        with autocast:
            side_maps = model(inputs[0].flatten(0, 1))
        streams = [side_map_losses(side_maps, batch.masks.flatten(0, 1))]
    # One sum for all, since another order of additions would be another result.
    loss = sum((losses.sum() for losses in streams[1:]), streams[0].sum()) / accumulate
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
    return torch.stack([x for losses in streams for x in (losses[0], losses.sum())]).detach()
