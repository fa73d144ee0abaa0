"""Ray Data's scheduling loop at a bearable pace.

While what lies ahead of a slow consumer is full, the loop has nothing to wait for and turns as fast as it can: beside a
training on a CPU it took more processor time than the training, and on any device it holds Python's lock.
"""

import threading
import time
from collections.abc import Iterator
from typing import TypeVar

from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

Item = TypeVar("Item")

_QUICK_S = 0.02  # for a turn while the consumer waits for its next item
_SLOW_S = 0.5  # while it does not, unless it asks for one
_asked = threading.Event()
_asked.set()


class Pace(ExecutionCallback):  # type: ignore[misc]
    """For a DataContext's `custom_execution_callback_classes`, of a dataset that `consumed` iterates over."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Ends a turn of the loop, not sooner than a while after the one before."""
        if not _asked.is_set():
            _asked.wait(_SLOW_S)
        time.sleep(max(0.0, self._last + _QUICK_S - time.monotonic()))
        self._last = time.monotonic()


def consumed(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; the loops of this process turn slowly while none is asked for."""
    try:
        for item in items:
            _asked.clear()
            yield item
            _asked.set()
    finally:
        _asked.set()
