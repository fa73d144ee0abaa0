"""Frames of a video, one after the other -> their maps: flow, pairs and network as in training, in bounded memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rtnet.ahead import Ahead
from rtnet.checkpoint import load_model
from rtnet.data.flips import flip
from rtnet.data.flow import FlowEstimator, dis, neighbour_flows
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import Picture
from rtnet.data.inputs import network_input
from rtnet.data.prediction_pairs import Pair, PairRule
from rtnet.errors import UserError
from rtnet.model.exchange import Frames
from rtnet.model.rtnet import RTNet
from rtnet.prediction import Map, for_prediction, frame_features, maps_at, predict_probabilities
from rtnet.spent import Spent

FLOW_HEIGHT = 480
"""Rows at which flow is estimated: those of the frames that networks are trained on. Smaller frames keep theirs."""


@dataclass(frozen=True)
class FrameViews:
    """A frame and its flow, in one or several views."""

    images: list[Picture]  # uint8 (H, W, 3) each
    flow: list[Picture]  # uint8 (h, w, 6) each: forward and backward flow pictures


@dataclass(frozen=True)
class Segmenter:
    """A network and how it is applied. Made by `load`, or by `predict`'s actors."""

    model: RTNet
    """As `rtnet.prediction.for_prediction` makes it."""
    device: torch.device
    rule: PairRule = field(default_factory=PairRule)
    views: tuple[str, ...] = ("as_is",)
    """Of `rtnet.data.flips.VIEWS`: the maps of all these are averaged; each has flow of its own."""
    size: tuple[int, int] = (384, 672)
    """(h, w) of the network's input, whatever the frames' proportions, as published."""
    batch_size: int = 4
    """Pairs at once. It changes maps by rounding alone."""
    estimator: FlowEstimator = field(default_factory=dis)
    flow_height: int | None = FLOW_HEIGHT
    spent: Spent = field(default_factory=Spent)
    """Seconds in "decode", "flow" and "network"."""

    def __repr__(self) -> str:
        """One line; a network's own is dozens."""
        precision = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return (
            f"Segmenter({self.model.config.backbone}, {precision} on {self.device}, input {self.size[0]} x "
            f"{self.size[1]}, views {', '.join(self.views)}, {self.rule})"
        )

    def segment(self, frames: Iterable[Picture]) -> Iterator[Map]:
        """The map of each frame, in order: float32 (H, W) in 0..1, how likely a pixel is the primary object's.

        frames: uint8 (H, W, 3) RGB, all of one size and at least 12 x 12. About `reach` + `batch_size` of them are read
        before the first map comes, and no more than three times as many are held, however long the video is: at the
        network's size, and what it sees in each of itself. Reading and flow run in threads beside the network. A single
        frame is its own partner and has no flow. Raises UserError for a smaller frame, one of another size than the
        first, and for what is no such array.
        """
        decoded = Ahead(_checked(self.spent.each("decode", frames)))
        try:
            yield from self.maps(self._with_flow(decoded))
        finally:
            decoded.stop()

    def maps(
        self, frames: Iterable[FrameViews], first: int = 0, start: int = 0, stop: int | None = None
    ) -> Iterator[Map]:
        """The maps of the places start..stop-1 of a sequence, in order; None is its end.

        frames: of the places first, first + 1, ..., up to the sequence's end or `stop` + `rule.ahead`; read in a thread
        beside the network. first: 0, or at most `start` - `rule.behind`; start: a multiple of `rule.block`, and stop
        too, or the sequence's end.
        """
        inputs: Iterator[_Seen]
        if self.device.type == "cuda":
            inputs = made = Ahead(map(self._input, frames))
            stop_reading = made.stop
        else:
            # PyTorch's operators in a second thread would bring threads of their own, and where there are more than
            # cores OpenMP lets the network's sleep at the end of each operator.
            read = Ahead(iter(frames))
            inputs, stop_reading = map(self._input, read), read.stop
        try:
            yield from self._maps(inputs, first, start, stop)
        finally:
            stop_reading()

    def _maps(self, reading: Iterator["_Seen"], first: int, start: int, stop: int | None) -> Iterator[Map]:
        window: dict[int, _Seen] = {}
        known, ended = first, False
        open_maps = _OpenMaps(len(self.views), start)
        waiting: list[tuple[Pair, int]] = []  # pairs and the number of the view in which they are seen
        place = start
        while stop is None or place < stop:
            needed = place + self.rule.block + self.rule.ahead
            while not ended and known < needed:
                following = next(reading, None)
                ended = following is None
                if following is not None:
                    window[known] = following
                    known += 1
            if place >= known:
                break
            planned = self.rule.pairs(place, known if ended else needed)
            open_maps.expect(planned)
            waiting += [(pair, view) for pair in planned for view in range(len(self.views))]
            place += self.rule.block
            while len(waiting) >= self.batch_size:
                self._predict(waiting[: self.batch_size], window, open_maps)
                del waiting[: self.batch_size]
            yield from self._finished(open_maps, window)
        if waiting:
            self._predict(waiting, window, open_maps)
            yield from self._finished(open_maps, window)

    def _input(self, frame: FrameViews) -> "_Seen":
        with self.spent.on("network"):
            height, width = frame.images[0].shape[:2]
            frames, flow = (network_input(x, self.size, self.device) for x in (frame.images, frame.flow))
            return _Seen((height, width), frames, flow)

    def _with_flow(self, frames: Iterable[Picture]) -> Iterator[FrameViews]:
        for views in self.spent.each("flow", self._flow_pictures(frames)):
            yield FrameViews([image for image, _ in views], [flow for _, flow in views])

    def _flow_pictures(self, frames: Iterable[Picture]) -> Iterator[list[tuple[Picture, Picture]]]:
        """For each frame, view by view, the flipped picture and its flow."""
        if len(self.views) == 1:
            yield from ([pair] for pair in self._of_view(frames, self.views[0]))
            return
        copies = tee(frames, len(self.views))
        yield from (
            list(pairs)
            for pairs in zip(*(self._of_view(c, v) for c, v in zip(copies, self.views, strict=True)), strict=True)
        )

    def _of_view(self, frames: Iterable[Picture], view: str) -> Iterator[tuple[Picture, Picture]]:
        flipped = (flip(frame, view) for frame in frames)
        for image, forward, backward in neighbour_flows(flipped, self.estimator, self.flow_height):
            pictures = [None if flow is None else flow_picture(flow) for flow in (forward, backward)]
            shape = next((picture.shape for picture in pictures if picture is not None), image.shape)
            yield image, np.concatenate([np.zeros(shape, np.uint8) if p is None else p for p in pictures], axis=2)

    def _predict(self, batch: list[tuple[Pair, int]], window: dict[int, "_Seen"], open_maps: "_OpenMaps") -> None:
        with self.spent.on("network"):
            seen = [((pair.first, view), (pair.second, view)) for pair, view in batch]
            distinct = sorted({key for keys in seen for key in keys})
            self._look_at([(window[place], view) for place, view in distinct])
            features = Frames(*map(torch.cat, zip(*(window[p].features[view] for p, view in distinct), strict=True)))
            pairs = torch.tensor([[distinct.index(key) for key in keys] for keys in seen], device=self.device)
            probabilities = predict_probabilities(self.model, features, pairs, self.rule.both)  # (B, 1 or 2, h, w)
            for (pair, view), maps in zip(batch, probabilities, strict=True):
                for place, map_ in zip(pair[: 2 if pair.both else 1], maps, strict=False):
                    open_maps.add(place, _unflipped(map_, self.views[view]))

    def _look_at(self, seen: list[tuple["_Seen", int]]) -> None:
        """Computes the features of those frames and views that have none yet."""
        fresh = [(frame, view) for frame, view in seen if view not in frame.features]
        if not fresh:
            return
        features = frame_features(
            self.model,
            torch.stack([frame.frames[view] for frame, view in fresh]),
            torch.stack([frame.flow[view] for frame, view in fresh]),
        )
        for number, (frame, view) in enumerate(fresh):
            # Copies, for a frame's memory to be free when the frame is.
            frame.features[view] = Frames(*(x[number : number + 1].clone() for x in features))

    def _finished(self, open_maps: "_OpenMaps", window: dict[int, "_Seen"]) -> Iterator[Map]:
        for place, mean in open_maps.take():
            with self.spent.on("network"):
                (map_,) = maps_at(mean[None], [window[place].size])
            yield map_
        for place in [place for place in window if place < open_maps.next - self.rule.behind]:
            del window[place]


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    height: int = 384,
    precision: Literal["float32", "bfloat16"] = "float32",
    rule: PairRule | None = None,
) -> Segmenter:
    """The network of a file of ours (.safetensors, .pt) or a published .pth, ready for `segment`.

    device: None for a GPU where there is one. height: rows of the network's input, about those it was trained with; it
    is 1.75 times as wide, as published. Raises UserError naming the file where it holds no whole network.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = for_prediction(load_model(Path(path)), chosen, precision)
    return Segmenter(model, chosen, rule or PairRule(), size=(height, int(1.75 * height)))


@dataclass
class _Seen:
    """A frame as the network sees it, and the features of those of its views that have been needed."""

    size: tuple[int, int]  # (H, W) of the frame, which its map will have
    frames: Tensor  # (V, 3, h, w), normalised
    flow: Tensor  # (V, 6, h, w), normalised
    features: dict[int, Frames] = field(default_factory=dict)


class _OpenMaps:
    """Sums of maps of which some are still to come."""

    def __init__(self, views: int, start: int) -> None:
        self._views, self.next = views, start
        self._left: Counter[int] = Counter()
        self._sums: dict[int, tuple[Tensor, int]] = {}

    def expect(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            for place in pair[: 2 if pair.both else 1]:
                self._left[place] += self._views

    def add(self, place: int, probabilities: Tensor) -> None:
        total, count = self._sums.get(place, (None, 0))
        self._sums[place] = (probabilities if total is None else total + probabilities, count + 1)
        self._left[place] -= 1

    def take(self) -> Iterator[tuple[int, Tensor]]:
        """The means that are whole, in order of place, up to the first that isn't."""
        while self.next in self._sums and not self._left[self.next]:
            total, count = self._sums.pop(self.next)
            del self._left[self.next]
            self.next += 1
            yield self.next - 1, total / count if count > 1 else total


def _checked(frames: Iterable[Picture]) -> Iterator[Picture]:
    for number, frame in enumerate(frames):
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UserError(f"frames must be arrays of uint8 (H, W, 3) RGB; number {number} is {what}")
        yield frame


def _unflipped(map_: Tensor, view: str) -> Tensor:
    """A map (h, w) of a flipped frame as seen as it is."""
    dims = {"as_is": (), "horizontal": (1,), "vertical": (0,), "both": (0, 1)}[view]
    return map_.flip(dims) if dims else map_
