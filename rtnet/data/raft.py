"""RAFT (Teed and Deng, ECCV 2020) by torchvision, with each frame's features computed once for all flows it is in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rtnet.data.flow import Flow, Picture, digest_of
from rtnet.data.raft_weights import load_raft
from rtnet.errors import UserError

if TYPE_CHECKING:
    import torch

_SMALLEST = 128  # below this the coarsest correlation level vanishes
_MULTIPLE = 8
Precision = Literal["float32", "float16", "bfloat16"]


def raft(
    size: str = "large",
    weights: str | None = None,
    device: str = "cpu",
    updates: int = 12,
    precision: Precision = "float32",
    batch: int = 4,
) -> "Raft":
    """The estimator of a size, "large" or "small".

    weights: see `rtnet.data.raft_weights.load_raft`. updates: refinements of each flow (torchvision's default is 12,
    the paper evaluates with 32 on Sintel and 24 on KITTI). precision: of everything but the correlation.
    batch: pairs of neighbouring frames that are worked on at once; it doesn't change the flow but by rounding.
    Raises UserError for an unknown size, and for weights that can't be had or don't fit, saying how to get them.
    """
    model, digest = load_raft(size, weights)
    if updates < 1 or batch < 1:
        raise UserError(f"RAFT needs at least one update and one pair at once, not {updates} and {batch}")
    return Raft(size, digest, model.to(device).eval(), device, updates, precision, batch)


@dataclass(frozen=True)
class Raft:
    """A FlowEstimator."""

    size: str
    weights: str  # sha256 in hex
    model: Any  # torchvision's RAFT, in eval mode on the device
    device: str
    updates: int
    precision: Precision
    batch: int

    @property
    def name(self) -> str:
        return f"raft-{self.size}"

    @property
    def digest(self) -> str:
        return digest_of(self.name, self.weights, f"{self.updates} updates", self.precision)

    def flows(self, frames: Iterable[Picture]) -> Iterator[tuple[Flow, Flow]]:
        """See FlowEstimator. `batch` frames and the last one's features are held."""
        import torch

        from rtnet.data.raft_pairs import Encoded, RaftPairs

        network = RaftPairs(self.model, self.updates, getattr(torch, self.precision))
        remaining = iter(frames)
        last: Encoded | None = None
        while block := list(islice(remaining, self.batch + (last is None))):
            height, width = block[0].shape[:2]
            with torch.inference_mode():  # not around the `yield`: it would be on in the caller, too
                encoded = network.encode(self._input(block))
                if last is not None:
                    encoded = last.followed_by(encoded)
                last = encoded.last()
                if len(encoded.features) < 2:
                    return
                flow = network.flows(encoded)[..., :height, :width]
                both = flow.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
            del encoded, flow
            yield from zip(*both, strict=True)

    def _input(self, pictures: list[Picture]) -> "torch.Tensor":
        """uint8 (H, W, 3) each -> (N, 3, H', W') in -1..1, their edges repeated to the right and below."""
        import torch

        height, width = pictures[0].shape[:2]
        frames = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.nn.functional.pad(frames, (0, _padding(width), 0, _padding(height)), mode="replicate")


def _padding(side: int) -> int:
    return max(-(-side // _MULTIPLE) * _MULTIPLE, _SMALLEST) - side
