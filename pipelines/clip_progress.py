"""How the segmentation of a clip gets on, as lines for people."""

import time
from collections.abc import Sequence
from pathlib import Path

_SECONDS_BETWEEN_LINES = 5.0
_BATCHES = 8  # maps come by fours: of fewer than these frames no speed is told


class ClipProgress:
    """A line every few seconds, and one at the end."""

    def __init__(self, origin: Path, expected: int) -> None:
        """expected: how many frames there seem to be; 0 where nothing tells."""
        self._origin, self._expected = origin, expected
        self._started = self._shown = time.monotonic()
        self._first = 0.0  # time of the first map: what is read ahead of it is no part of the speed

    def show(self, count: int) -> None:
        """After each frame; so many are done."""
        now = time.monotonic()
        self._first = self._first or now
        if now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        of = f"/{self._expected}" if self._expected > count else ""
        speed = ""
        if count > _BATCHES:
            rate = (count - 1) / (now - self._first)
            speed = f", {rate:.2f} frames/s" + (f", {_clock((self._expected - count) / rate)} left" if of else "")
        print(f"{self._origin}: {count}{of} frames{speed}", flush=True)

    def end(self, count: int, video: Path, others: Sequence[Path]) -> None:
        seconds = time.monotonic() - self._started
        places = ", ".join(f"{path.name}{'' if path.suffix else '/'}" for path in others)
        speed = f"{count} frames in {_clock(seconds)}, {count / seconds:.2f} frames/s"
        print(f"{video}: {speed}; beside it {places}", flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
