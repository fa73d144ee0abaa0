"""Where the time goes: seconds spent in each stage of a pipeline, whatever threads its stages run in."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Spent:
    """Adds up seconds by stage. A stage that waits for another one in its own thread is not charged for that."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Charges the stage for the time within, less that of stages inside."""
        outer, started = getattr(self._thread, "inner", 0.0), time.perf_counter()
        self._thread.inner = 0.0
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            with self._lock:
                self._seconds[stage] += elapsed - self._thread.inner
            self._thread.inner = outer + elapsed

    def each(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, their making charged to the stage."""
        iterator = iter(items)
        while True:
            with self.on(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last time that they were taken."""
        with self._lock:
            seconds, self._seconds = self._seconds, Counter()
        return dict(seconds)


_END = object()
