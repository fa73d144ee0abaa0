"""How a training gets on: lines for people, and an epoch's speeds as values."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from pipelines.loader import Schedule

_SECONDS_BETWEEN_LINES = 10.0
_GB = 1e9


class Progress:
    """Rank 0 prints a line at most every ten seconds, and at the end of an epoch."""

    def __init__(self, schedule: Schedule, rank: int, device: torch.device, steps_left: int) -> None:
        self._schedule, self._rank, self._device = schedule, rank, device
        self._steps_left = steps_left
        self._seconds = self._waited = 0.0  # of this epoch's steps, and therein for data
        self._steps = 0  # of this epoch, made by this process
        self._epoch = 0
        self._shown = self._last = time.monotonic()

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._steps, self._seconds, self._waited = epoch, 0, 0.0, 0.0
        self._last = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a step's data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def step(self, number: int, losses: list[float], rate: float) -> None:
        """After each step; `number` of the epoch's are done."""
        now = time.monotonic()
        self._seconds, self._last = self._seconds + now - self._last, now
        self._steps += 1
        self._steps_left -= 1
        count = self._schedule.steps_per_epoch
        if self._rank or (now - self._shown < _SECONDS_BETWEEN_LINES and number < count):
            return
        self._shown = now
        values = self.epoch_values()
        left = self._steps_left * self._seconds / self._steps
        print(
            f"epoch {self._epoch} step {number}/{count}: loss {' + '.join(f'{loss:.3f}' for loss in losses[1::2])}, "
            f"rate {rate:.3g}, {values['speed/pairs_per_s']:.2f} pairs/s, "
            f"{100 * values['speed/data_wait']:.0f} % of it waiting for data, {values['speed/memory_gb']:.1f} GB, "
            f"{_in_words(left)} left",
            flush=True,
        )

    def epoch_values(self) -> dict[str, float]:
        """Of the epoch's steps so far: pairs (or single views) a second of all ranks, the share of the time that rank 0
        waited for data, and its memory: the device's peak, or the process's own."""
        pairs = self._steps * self._schedule.world * self._schedule.pairs_per_step
        return {
            "speed/pairs_per_s": pairs / self._seconds if self._seconds else 0.0,
            "speed/data_wait": self._waited / self._seconds if self._seconds else 0.0,
            "speed/memory_gb": self._memory() / _GB,
        }

    def _memory(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        return float(psutil.Process().memory_info().rss)


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
