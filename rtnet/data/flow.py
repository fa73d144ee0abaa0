"""Forward and backward flow between neighbouring frames, by any estimator; OpenCV's DIS, which runs anywhere.

Every flow is float32 (H, W, 2): the displacement (u to the right, v down), in pixels, of each pixel of the frame at
which it is anchored. RAFT is in raft.py, flow that was computed elsewhere in flow_files.py.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from rtnet.errors import UserError

Picture = NDArray[np.uint8]
Flow = NDArray[np.float32]

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
DIS_SMALLEST = 12  # OpenCV refuses a smaller frame


class FlowEstimator(Protocol):
    """What computes flow, and says what it is."""

    @property
    def name(self) -> str:
        """As "dis-medium" or "raft-large"."""

    @property
    def digest(self) -> str:
        """Sha256, in hex, of all that decides the flow: method, options, and the sha256 of weights."""

    def flows(self, frames: Iterable[Picture]) -> Iterator[tuple[Flow, Flow]]:
        """For each two neighbours t, t + 1, in order: the flow from t to t + 1 and the flow from t + 1 to t.

        frames: uint8 (H, W, 3) RGB, all of one size. They are read as they are needed; few are held at a time.
        """


def neighbour_flows(
    frames: Iterable[Picture], estimator: FlowEstimator, height: int | None = None
) -> Iterator[tuple[Picture, Flow | None, Flow | None]]:
    """(frame, forward flow, backward flow) of every frame of a sequence, in order.

    Forward is from frame t to t + 1, backward from t to t - 1, both anchored at t; None where there is no neighbour.
    As many frames are held at a time as the estimator takes at once, and two more.
    height: flow is estimated on frames reduced to this many rows, keeping their proportions, by area averaging, and
    given at that size, in that size's pixels; None, or more rows than they have, for the frames' own size. The frames
    come back as they were given.
    Raises UserError where a frame differs in size from the one before it.
    """
    waiting: deque[Picture] = deque()  # frames that the estimator has taken and whose flow isn't known yet
    backward: Flow | None = None
    for forward, next_backward in estimator.flows(_reduced(frames, waiting, height)):
        yield waiting.popleft(), forward, backward
        backward = next_backward
    if waiting:
        yield waiting.popleft(), None, backward


def dis(preset: str = "medium") -> "Dis":
    """Dense inverse search (Kroeger et al., ECCV 2016) by OpenCV, on grey frames of at least 12 x 12 pixels.

    preset: "ultrafast", "fast" or "medium". The same frames give the same bits whatever the number of threads.
    Raises UserError for another preset.
    """
    if preset not in DIS_PRESETS:
        raise UserError(f"unknown DIS preset {preset!r}: one of {', '.join(DIS_PRESETS)}")
    return Dis(preset)


@dataclass(frozen=True)
class Dis:
    """A FlowEstimator; called with two frames it gives the flow from the first to the second."""

    preset: str

    @property
    def name(self) -> str:
        return f"dis-{self.preset}"

    @property
    def digest(self) -> str:
        return digest_of(self.name)

    def flows(self, frames: Iterable[Picture]) -> Iterator[tuple[Flow, Flow]]:
        last: Picture | None = None
        for frame in frames:
            grey = _grey(frame)
            if last is not None:
                yield self._between(last, grey), self._between(grey, last)
            last = grey

    def __call__(self, first: Picture, second: Picture) -> Flow:
        return self._between(_grey(first), _grey(second))

    def _between(self, first: Picture, second: Picture) -> Flow:
        # Made anew for each flow, which costs nothing beside it: OpenCV's object can't be sent to a worker.
        method = cv2.DISOpticalFlow.create(DIS_PRESETS[self.preset])
        no_start: Any = None
        return np.asarray(method.calc(first, second, no_start), np.float32)


def digest_of(*facts: str) -> str:
    """Sha256, in hex, of what decides a flow, fact by fact."""
    return sha256("\n".join(facts).encode()).hexdigest()


def _grey(frame: Picture) -> Picture:
    if min(frame.shape[:2]) < DIS_SMALLEST:
        raise UserError(f"DIS needs frames of at least 12 x 12 pixels, not {frame.shape[1]} x {frame.shape[0]}")
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _reduced(frames: Iterable[Picture], waiting: deque[Picture], height: int | None) -> Iterator[Picture]:
    """The frames as the estimator is to see them; each is put into `waiting` as it is read."""
    last: tuple[int, ...] = ()
    for frame in frames:
        if last and frame.shape != last:
            raise UserError(f"frames of one sequence differ in size: {last[:2]}, then {frame.shape[:2]}")
        last = frame.shape
        waiting.append(frame)
        yield _at_height(frame, height)


def _at_height(frame: Picture, height: int | None) -> Picture:
    if height is None or height >= frame.shape[0]:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
