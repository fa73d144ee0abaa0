"""A network by its config: RTNet, or one of its streams alone."""

import torch

from rtnet.config import RTNetConfig
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream

Network = RTNet | Stream


def build_network(config: RTNetConfig) -> Network:
    """The network with random weights, on the CPU, its weights channels-last."""
    if config.streams == "both":
        return RTNet(config)
    stream = Stream(config.backbone, in_channels=3 if config.streams == "appearance" else 6)
    return stream.to(memory_format=torch.channels_last)
