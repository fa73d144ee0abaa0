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
        remaining = iter(frames)
        last: _Features | None = None
        while block := list(islice(remaining, self.batch + (last is None))):
            features = self._features(block)
            if last is not None:
                features = last.followed_by(features)
            last = features.last()
            if len(features) > 1:
                yield from self._between_neighbours(features, block[0].shape[:2])

    def _features(self, frames: list[Picture]) -> "_Features":
        import torch

        with torch.inference_mode(), self._autocast():
            images = torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2)  # (N, 3, H, W)
            images = images.float() / 127.5 - 1
            height, width = images.shape[-2:]
            images = torch.nn.functional.pad(images, (0, _padding(width), 0, _padding(height)), mode="replicate")
            maps = self.model.feature_encoder(images)  # (N, C, H / 8, W / 8)
            context = self.model.context_encoder(images)  # likewise
        return _Features(maps.float(), context.float())

    def _between_neighbours(self, features: "_Features", size: tuple[int, int]) -> Iterator[tuple[Flow, Flow]]:
        """Of n frames the n - 1 flows forth and the n - 1 flows back, all refined together."""
        import torch

        with torch.inference_mode():
            first = torch.cat([features.maps[:-1], features.maps[1:]])
            second = torch.cat([features.maps[1:], features.maps[:-1]])
            context = torch.cat([features.context[:-1], features.context[1:]])
            flow = self._refined(first, second, context)[..., : size[0], : size[1]]
            arrays = flow.permute(0, 2, 3, 1).float().cpu().numpy()
        count = len(features) - 1
        for place in range(count):
            yield np.ascontiguousarray(arrays[place]), np.ascontiguousarray(arrays[count + place])

    def _refined(self, first: "torch.Tensor", second: "torch.Tensor", context: "torch.Tensor") -> "torch.Tensor":
        """Flow (N, 2, H, W) between feature maps (N, C, H / 8, W / 8); only the last refinement is enlarged."""
        import torch
        from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow

        model = self.model
        model.corr_block.build_pyramid(first, second)
        hidden_channels = model.update_block.hidden_state_size
        hidden, context = torch.tanh(context[:, :hidden_channels]), torch.relu(context[:, hidden_channels:])
        start = make_coords_grid(len(first), *first.shape[-2:]).to(first.device)
        place = start.clone()
        for _ in range(self.updates):
            correlation = model.corr_block.index_pyramid(centroids_coords=place)
            with self._autocast():
                hidden, step = model.update_block(hidden, context, correlation, place - start)
            hidden = hidden.float()
            place = place + step.float()
        with self._autocast():
            mask = None if model.mask_predictor is None else model.mask_predictor(hidden)
        flow: torch.Tensor = upsample_flow(flow=place - start, up_mask=None if mask is None else mask.float())
        return flow

    def _autocast(self) -> Any:
        import torch

        kind = torch.device(self.device).type
        return torch.autocast(kind, getattr(torch, self.precision), enabled=self.precision != "float32")


@dataclass(frozen=True)
class _Features:
    """What RAFT computes of each frame by itself."""

    maps: "torch.Tensor"  # (N, C, H / 8, W / 8)
    context: "torch.Tensor"  # (N, C', H / 8, W / 8)

    def __len__(self) -> int:
        return len(self.maps)

    def last(self) -> "_Features":
        return _Features(self.maps[-1:], self.context[-1:])

    def followed_by(self, more: "_Features") -> "_Features":
        import torch

        return _Features(torch.cat([self.maps, more.maps]), torch.cat([self.context, more.context]))


def _padding(side: int) -> int:
    return max(-(-side // _MULTIPLE) * _MULTIPLE, _SMALLEST) - side
