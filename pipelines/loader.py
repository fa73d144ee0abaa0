"""One worker's share of an epoch: a table of pairs, cut by global step, read and decoded by Ray Data.

The table is a function of (seed, epoch) alone, so any step can be found again after a restart, and the number of
workers changes which worker sees a pair, not which pairs there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipelines.config import Training
from pipelines.dataset import Dataset
from pipelines.session import quieten_ray_data
from rtnet.data.pairs import epoch_pairs, step_height

READ_CPUS = 0.5  # of one reading task; small, so that reading fits beside the workers
_STEPS_PER_BLOCK = 4


@dataclass(frozen=True)
class Schedule:
    """What every worker knows of a training's steps. Global steps count from 0 over all epochs."""

    dataset: Dataset
    training: Training
    seed: int
    world: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch; the incomplete last one is dropped."""
        whole = len(self._rows) // (self.world * self.training.batch_size)
        return min(whole, self.training.steps_per_epoch or whole)

    def pairs(self, epoch: int) -> np.ndarray:
        """The epoch's pairs of row numbers, int64 (steps, world, batch_size, 2)."""
        order = epoch_pairs(self.dataset.groups(self._rows), self.seed, epoch, self.training.reach)
        shape = (self.steps_per_epoch, self.world, self.training.batch_size, 2)
        return np.asarray(self._rows[order[: np.prod(shape[:3])]].reshape(shape))

    def size(self, step: int) -> tuple[int, int]:
        """(height, width) of a global step's inputs, the same on all workers."""
        height = step_height(self.training.heights, self.seed, step)
        return height, int(self.training.aspect * height)

    @property
    def _rows(self) -> np.ndarray:
        return self.dataset.rows(self.training.split, annotated=True)


def read_steps(schedule: Schedule, epoch: int, rank: int) -> Iterator[dict[str, Any]]:
    """One rank's steps of an epoch, in order: {"rows", "images", "flows", "annotations"}, each 2 * batch_size views.

    Decoding runs in Ray tasks ahead of the training; arrays are uint8 or bool, each of its frame's own size.
    """
    import ray.data

    quieten_ray_data()
    pairs = schedule.pairs(epoch)[:, rank].reshape(schedule.steps_per_epoch, -1)  # frame and partner in turn
    items = [{"step": step, "rows": rows.tolist()} for step, rows in enumerate(pairs)]
    uri = schedule.dataset.uri
    views = ray.data.from_items(items, override_num_blocks=-(-len(items) // _STEPS_PER_BLOCK)).flat_map(
        lambda item: _read_step(uri, item), num_cpus=READ_CPUS
    )
    views.context.execution_options.preserve_order = True
    batches = views.iter_batches(batch_size=pairs.shape[1], batch_format="numpy", prefetch_batches=2)
    for step, batch in enumerate(batches):
        if batch["row"].tolist() != pairs[step].tolist():
            raise RuntimeError(f"epoch {epoch}, step {step}: Ray Data gave rows {batch['row']}, not {pairs[step]}")
        yield {
            "rows": batch["row"],
            "images": list(batch["image"]),
            "flows": list(batch["flow"]),
            "annotations": list(batch["annotation"]),
        }


def _read_step(uri: str, item: dict[str, Any]) -> list[dict[str, Any]]:
    dataset = _opened(uri)
    views = [(row, dataset.read(row)) for row in item["rows"]]
    return [{"row": row, "image": view.image, "flow": view.flow, "annotation": view.annotation} for row, view in views]


@lru_cache(maxsize=4)
def _opened(uri: str) -> Dataset:
    return Dataset(uri)
