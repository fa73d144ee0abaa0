"""How much the network and RAFT compute, counted by PyTorch on tensors without memory: nothing is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.network_case import attention_flop
from rtnet.config import RTNetConfig
from rtnet.data.prediction_pairs import PairRule
from rtnet.losses import side_map_losses
from rtnet.model.network import Network, build_network
from rtnet.model.rtnet import RTNet
from rtnet.training import set_trained

Size = tuple[int, int]
Streams = Literal["both", "appearance", "motion"]


@dataclass(frozen=True)
class Operations:
    flop: float
    operators: int
    """Calls of operators that compute: each costs the process some microseconds, however little it does."""


@dataclass(frozen=True)
class Weights:
    """Of a network."""

    parameters: int
    trained: int
    """Those that get gradients."""
    norms: int
    """Batch-norms, whose statistics all workers share in training."""


@lru_cache
def weights(backbone: str, streams: Streams, trained: Literal["all", "interaction"] = "all") -> Weights:
    network = _network(backbone, streams)
    set_trained(network, trained)
    parameters = list(network.parameters())
    return Weights(
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()),
    )


@lru_cache
def training(
    backbone: str, streams: Streams, size: Size, batch: int, trained: Literal["all", "interaction"] = "all"
) -> Operations:
    """Forward, loss and backward of `batch` pairs, or of `batch` single views for one stream alone."""
    network = _network(backbone, streams).train()
    # The loss keeps its window for good, so it is to be a real one.
    side_map_losses([torch.zeros(1, 1, 1, 16, 16)], torch.zeros(1, 1, 1, 16, 16))
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")
        set_trained(network, trained)
        views = 2 if streams == "both" else 1
        frames, flow = (torch.empty(batch, views, channels, *size) for channels in (3, 6))
        masks = torch.zeros(batch, views, 1, *size)

        def step() -> None:
            if isinstance(network, RTNet):
                maps = network(frames, flow)
                losses = [side_map_losses(side, masks).sum() for side in (maps.appearance, maps.motion)]
            else:
                side = network((frames if streams == "appearance" else flow).flatten(0, 1))
                losses = [side_map_losses(side, masks.flatten(0, 1)).sum()]
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]

        return _counted(step)


@lru_cache
def prediction(backbone: str, size: Size, batch: int, rule: PairRule) -> Operations:
    """`batch` pairs in the middle of a long sequence, and what is computed once for each of their new frames."""
    planned = [pair for place in range(0, 8 * batch, rule.block) for pair in rule.pairs(1000 + place, 10000)][:batch]
    places = sorted({place for pair in planned for place in pair[:2]})
    pairs = torch.tensor([[places.index(pair.first), places.index(pair.second)] for pair in planned])
    network = _network(backbone, "both").eval()
    assert isinstance(network, RTNet)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")
        fresh = batch * (2 if rule.both else 1)
        new = _counted(lambda: network.frame_features(*(torch.empty(fresh, channels, *size) for channels in (3, 6))))
        known = network.frame_features(*(torch.empty(len(places), channels, *size) for channels in (3, 6)))
        rest = _counted(lambda: network.predict_pairs(known, pairs, rule.both))
    return Operations(new.flop + rest.flop, new.operators + rest.operators)


@lru_cache
def raft(kind: Literal["raft_large", "raft_small"], size: Size, updates: int, batch: int) -> Operations:
    """The flow of `batch` pairs of neighbours, both ways, each frame's features computed once."""
    from torchvision.models import optical_flow

    from rtnet.data.raft_pairs import RaftPairs

    height, width = (max(-(-side // 8) * 8, 128) for side in size)
    with FakeTensorMode(), torch.no_grad():
        pairs = RaftPairs(getattr(optical_flow, kind)(weights=None).eval(), updates, torch.float32)
        frames = torch.empty(batch + 1, 3, height, width)
        whole = _counted(lambda: pairs.flows(pairs.encode(frames)))
        spared = _counted(lambda: pairs.encode(frames[:1]))  # known from the batch before
    return Operations(whole.flop - spared.flop, whole.operators)


def _network(backbone: str, streams: Streams) -> Network:
    with torch.device("meta"):
        return build_network(RTNetConfig(backbone, streams))


def _counted(call: Callable[[], object]) -> Operations:
    with FlopCounterMode(display=False, custom_mapping=attention_flop()) as flop, _Operators() as operators:
        call()
    return Operations(float(flop.get_total_flops()), operators.count)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What only asks for a tensor's device computes nothing.
        self.count += not func.is_view and func.namespace != "prim"
        return func(*args, **(kwargs or {}))
