"""Networks and inputs for tests, and the plain network with the same weights."""

import torch
from torch import Tensor

from rtnet.config import RTNetConfig
from rtnet.model.rtnet import RTNet
from rtnet.weights import published_name
from tests.plain import PlainRTNet

TRANSPOSED_LEVELS: dict[str, tuple[int, ...]] = {"resnet34": (1,), "resnext50_32x4d": (1, 2, 3, 4)}
SIZE = (37, 54)  # nothing about it is divisible by 4


def random_network(backbone: str) -> RTNet:
    """float64, eval, random weights that neither swell nor fade on the way through."""
    with torch.device("meta"):
        network = RTNet(RTNetConfig(backbone))
    network = network.to_empty(device="cpu")
    torch.manual_seed(12)
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.zero_()
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.05)
        elif value.dim() == 1:
            value.uniform_(0.4, 0.7)
        else:
            value.normal_(0, value[0].numel() ** -0.5)
    return network.double().eval()


def random_inputs(batch: int, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Frames and flow of so many pairs, float64."""
    generator = torch.Generator().manual_seed(batch)
    frames = torch.randn(batch, 2, 3, *size, generator=generator, dtype=torch.float64)
    return frames, torch.randn(batch, 2, 6, *size, generator=generator, dtype=torch.float64)


def plain_network(network: RTNet, training: bool = False) -> PlainRTNet:
    """The plain network on the very tensors of another: their gradients are its gradients."""
    state = {published_name(name): value for name, value in network.state_dict(keep_vars=True).items()}
    return PlainRTNet(state, TRANSPOSED_LEVELS.get(network.config.backbone, ()), training)
