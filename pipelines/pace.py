"""Ray Data's scheduling loop at a bearable pace.

While what lies ahead of a slow consumer is full, the loop has nothing to wait for and turns as fast as it can: beside a
training on a CPU it took more processor time than the training, and on any device it holds Python's lock.
"""

import time

from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

_TURN_S = 0.05  # a block of steps takes longer to read


class Pace(ExecutionCallback):
    """For a DataContext's `custom_execution_callback_classes`."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Ends a turn of the loop, not sooner than _TURN_S after the one before."""
        time.sleep(max(0.0, self._last + _TURN_S - time.monotonic()))
        self._last = time.monotonic()
