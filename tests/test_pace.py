"""Ray Data's loop rests while its consumer has what it needs, and is there at once when it asks for more."""

import time

import numpy as np
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BLOCKS, BLOCK_BYTES = 24, 8 << 20


def test_the_loop_turns_seldom_while_a_slow_consumer_is_busy_and_ends_all_the_same(local_ray: None) -> None:
    import ray.data
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    from pipelines.pace import Pace, consumed

    turns: list[float] = []

    class Counting(Pace):
        def on_execution_step(self, executor: StreamingExecutor) -> None:
            turns.append(time.monotonic())
            super().on_execution_step(executor)

    numbers = ray.data.range(BLOCKS, override_num_blocks=BLOCKS).map_batches(_large, batch_size=None)
    options = numbers.context.execution_options
    options.resource_limits = options.resource_limits.copy(object_store_memory=3 * BLOCK_BYTES)
    numbers.context.custom_execution_callback_classes = [Counting]
    items = consumed(iter(numbers.iter_batches(batch_size=None)))
    found = list(next(items)["id"])
    time.sleep(2.0)  # what is under way comes
    busy = time.monotonic()
    time.sleep(3.0)
    rested = sum(busy < turn < busy + 3.0 for turn in turns)
    for batch in items:
        found += list(batch["id"])
    assert sorted(found) == list(range(BLOCKS))
    assert 0 < rested <= 10, "a turn each half second, of an execution that goes on"


def _large(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return batch | {"pixels": np.zeros((len(batch["id"]), BLOCK_BYTES), np.uint8)}
