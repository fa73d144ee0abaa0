"""A training's steps: tables of pairs from (seed, epoch), cut by global step, read and decoded by Ray Data.

A table is a function of (seed, epoch) and the dataset alone, so any step can be found again after a restart, and the
number of workers changes which worker sees a pair, not which pairs there are. What Ray carries to the readers are step
numbers; what it carries back are the bytes of `step_block`.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import islice

import numpy as np
import pyarrow as pa

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.sections import Data, Streams, Training
from pipelines.session import quieten_ray_data
from pipelines.step_block import Step, pack_steps, unpack_steps
from rtnet.ahead import Ahead
from rtnet.data.pairs import epoch_pairs, pairs_per_epoch, step_height
from rtnet.errors import UserError

READ_CPUS = 0.5  # of one reading task; small, so that reading fits beside the workers
_BLOCK_BYTES = 64 << 20  # of pixels: enough that what Ray does for each block doesn't matter
_BLOCK_PAIRS = 32  # at most, where frames are small
_BLOCKS_IN_STORE = 8  # of one rank, read and not yet trained on
_BLOCKS_PER_EXECUTION = 256  # Ray Data lists its tasks at the start, so a training's are too many at once
_BLOCKS_LEFT_AT_START = 8  # of one execution when the next begins


@dataclass(frozen=True)
class Schedule:
    """What every worker knows of a training's steps. Global steps count from 0 over all epochs, epochs from 1."""

    dataset: Dataset
    data: Data
    training: Training
    seed: int
    world: int
    streams: Streams = "both"

    @staticmethod
    def of(experiment: Experiment, dataset: Dataset, world: int) -> "Schedule":
        return Schedule(dataset, experiment.data, experiment.training, experiment.seed, world, experiment.model.streams)

    @property
    def pairs_per_step(self) -> int:
        """Of one worker; single views for one stream alone."""
        return self.training.batch_size * self.training.accumulate

    @cached_property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch; the incomplete last one is dropped."""
        whole = pairs_per_epoch(self._weights) // (self.world * self.pairs_per_step)
        return min(whole, self.training.steps_per_epoch or whole)

    def pairs(self, epoch: int) -> np.ndarray:
        """The epoch's pairs of row numbers, int64 (steps, world, pairs_per_step, 2); (..., 1) for one stream alone."""
        order = epoch_pairs(self.dataset.groups(self.rows), self.seed, epoch, self.training.reach, self._weights)
        if self.streams != "both":
            order = order[:, :1]
        shape = (self.steps_per_epoch, self.world, self.pairs_per_step, order.shape[1])
        return np.asarray(self.rows[order[: np.prod(shape[:3])]].reshape(shape))

    def size(self, step: int) -> tuple[int, int]:
        """(height, width) of a global step's inputs, the same on all workers."""
        height = step_height(self.training.heights, self.seed, step)
        return height, int(self.training.aspect * height)

    def epoch_of(self, step: int) -> tuple[int, int]:
        """A global step's epoch and number within it."""
        return step // self.steps_per_epoch + 1, step % self.steps_per_epoch

    @cached_property
    def rows(self) -> np.ndarray:
        """All rows that may be drawn, int64 (rows,). Raises UserError where there are none, or none with flow."""
        rows = self.dataset.rows(self.training.split, annotated=True)
        if self.streams == "motion":
            rows = rows[self.dataset.column("estimator")[rows] != ""]
            if not len(rows):
                raise UserError(
                    f"dataset {self.dataset.uri}: no frame of split '{self.training.split}' has flow, which a motion "
                    "stream sees alone: prepare videos"
                )
        return rows

    @property
    def drawn_rows(self) -> np.ndarray:
        """The rows that are not left out by a weight of 0."""
        return np.asarray(self.rows[self._weights > 0])

    @cached_property
    def _weights(self) -> np.ndarray:
        """By the source that a row comes from; 1 where the recipe names none of that name."""
        names = self.dataset.column("dataset")[self.rows]
        weights = np.ones(len(names))
        for name, source in self.data.sources.items():
            weights[names == name] = source.weight
        return weights


def read_steps(schedule: Schedule, rank: int, first_step: int, last_step: int) -> Iterator[Step]:
    """One rank's steps from the global step `first_step` up to, not including, `last_step`, in order.

    Ray tasks decode ahead of the training, over the ends of epochs. Raises UserError where a file of the dataset is
    missing or damaged.
    """
    share = _Share(
        schedule.dataset.uri, schedule.data.model_dump_json(), schedule.training.model_dump_json(), schedule.seed,
        schedule.world, schedule.streams, rank,
    )  # fmt: skip
    per_block = _steps_per_block(schedule)
    step = first_step
    for block in _blocks(share, range(first_step, last_step), per_block, _store_share(schedule, per_block)):
        for views in unpack_steps(block):
            expected = _rows(schedule, rank, step)
            if views.rows.tolist() != expected.tolist():
                raise RuntimeError(f"step {step}: Ray Data gave rows {views.rows}, not {expected}")
            yield views
            step += 1
    if step < last_step:
        raise RuntimeError(f"Ray Data ended before step {step} of {last_step}")


@dataclass(frozen=True)
class _Share:
    """What a reading task needs to know: small, and comparable, so that a task's process opens it once."""

    uri: str
    data: str
    training: str
    seed: int
    world: int
    streams: Streams
    rank: int


def _blocks(share: _Share, steps: range, per_block: int, store_bytes: float) -> Iterator[pa.Table]:
    """Blocks of steps in order, by one execution after the other, each begun before the last one ends."""
    at_once = per_block * _BLOCKS_PER_EXECUTION
    executions = (steps[first : first + at_once] for first in range(0, len(steps), at_once))
    begin = (partial(_execution, share, part, per_block, store_bytes) for part in executions)
    running = [Ahead(make()) for make in islice(begin, 1)]
    try:
        while running:
            for number, block in enumerate(running[0]):
                yield block
                if number == _BLOCKS_PER_EXECUTION - _BLOCKS_LEFT_AT_START:
                    running += [Ahead(make()) for make in islice(begin, 1)]
            running.pop(0)
    finally:
        for execution in running:
            execution.stop()


def _execution(share: _Share, steps: range, per_block: int, store_bytes: float) -> Iterator[pa.Table]:
    import ray.data

    from pipelines.pace import Pace, consumed

    quieten_ray_data()
    # It warns that no task may ever run where it has no core to set aside for each rank; that one is there was checked.
    logging.getLogger("ray.data._internal.execution.resource_manager").setLevel(logging.ERROR)
    # Not ray.data.range: that would be a stage of tasks of its own, in the readers' way.
    count = -(-len(steps) // per_block)
    numbers = ray.data.from_items(list(steps), override_num_blocks=count)
    # More readers than cores take turns on them, and memory is reserved for all: a fifth of the speed.
    readers = max(1, min(count, int(ray.cluster_resources().get("CPU", 1) / share.world)))
    blocks = numbers.map_batches(
        partial(_read, share=share),
        compute=ray.data.TaskPoolStrategy(size=readers),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=READ_CPUS,
        zero_copy_batch=True,
    )
    options = blocks.context.execution_options
    options.preserve_order = True
    options.resource_limits = options.resource_limits.copy(object_store_memory=store_bytes)
    blocks.context.target_max_block_size = None  # a block is what one call returns
    blocks.context.execution_no_progress_timeout_s = -1  # training sets the pace, and pauses for validation
    blocks.context.custom_execution_callback_classes = [Pace]
    yield from consumed(iter(blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)))


def _read(numbers: pa.Table, share: _Share) -> pa.Table:
    """In a Ray task: the steps of a block."""
    schedule = _schedule(share)
    steps = numbers["item"].to_numpy()
    rows = np.stack([_rows(schedule, share.rank, int(step)) for step in steps])
    return pack_steps(schedule.dataset, rows, schedule.streams)


def _rows(schedule: Schedule, rank: int, step: int) -> np.ndarray:
    """The rows of a rank's step, int64 (views,), of pairs frame and partner in turn."""
    epoch, number = schedule.epoch_of(step)
    return np.asarray(_pairs(schedule, epoch)[number, rank].reshape(-1))


def _pairs(schedule: Schedule, epoch: int) -> np.ndarray:
    """The last two tables that were asked for are kept: a block may lie across the end of an epoch."""
    tables: dict[int, np.ndarray] = schedule.__dict__.setdefault("_tables", {})
    if epoch not in tables:
        if len(tables) > 1:
            del tables[next(iter(tables))]
        tables[epoch] = schedule.pairs(epoch)
    return tables[epoch]


@lru_cache(maxsize=4)
def _schedule(share: _Share) -> Schedule:
    data, training = Data.model_validate_json(share.data), Training.model_validate_json(share.training)
    return Schedule(Dataset(share.uri), data, training, share.seed, share.world, share.streams)


def _steps_per_block(schedule: Schedule) -> int:
    pixels = schedule.dataset.column("height").astype(np.int64) * schedule.dataset.column("width")
    pair = 20 * float(pixels[schedule.rows].mean())  # two frames of an image, two flow pictures and a mask
    pairs = min(_BLOCK_BYTES / pair, _BLOCK_PAIRS)
    return max(1, int(pairs / schedule.pairs_per_step))


def _store_share(schedule: Schedule, per_block: int) -> float:
    """Bytes of the object store that one rank's blocks may take: never so many that Ray writes some to disk."""
    import ray

    pixels = int((schedule.dataset.column("height").astype(np.int64) * schedule.dataset.column("width")).max())
    wanted = _BLOCKS_IN_STORE * per_block * schedule.pairs_per_step * 20 * pixels
    return float(min(wanted, 0.5 * ray.cluster_resources().get("object_store_memory", wanted) / schedule.world))
