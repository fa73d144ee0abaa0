"""Checkpoints of a training, written beside it by rank 0 and reported to Ray by all ranks once they are whole."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray.train
import torch
import torch.distributed
from torch import Tensor

from pipelines.run_folder import RunFolder
from rtnet.errors import UserError

Values = dict[str, float]


class Saver:
    """All ranks hold one and call its methods at the same places; at most one checkpoint is under way.

    Whether an epoch's is whole, rank 0 alone knows: `news` goes with the losses that all ranks sum at each step, and
    `hear` acts on the sum. So nobody waits for a disk, and all ranks report at the same step.
    """

    def __init__(self, folder: RunFolder, rank: int, device: torch.device) -> None:
        self._folder, self._rank, self._device = folder, rank, device
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._unreported: tuple[int, Values] | None = None

    def save_step(self, steps: int, state: Callable[[], dict[str, Any]]) -> None:
        """Begins to write the state after so many steps; waits where another is being written."""
        self._write(lambda copied: self._folder.write_step(steps, copied), state)

    def save_epoch(
        self,
        epoch: int,
        values: Values,
        state: Callable[[], dict[str, Any]],
        measured: dict[str, Any],
        pictures: dict[str, bytes],
    ) -> None:
        """Begins to write an epoch's measurements, then its state; the values are reported when both are whole."""
        self.settle()

        def write(copied: dict[str, Any]) -> None:
            self._folder.write_measured(epoch, measured, pictures)
            self._folder.write_epoch(epoch, copied)

        self._write(write, state)
        self._unreported = (epoch, values)

    def news(self) -> float:
        """For the sum over ranks: 1 where the epoch's checkpoint is whole, -1 where writing failed, else 0."""
        if self._writing is None or not self._writing.done():
            return 0.0
        if self._writing.exception() is not None:
            return -1.0
        return 1.0 if self._unreported else 0.0

    def hear(self, news: float) -> None:
        """Reports the epoch that is whole. Raises UserError where it could not be written."""
        if news < 0:
            self._raise()
        if news > 0 and self._unreported:
            report_epoch(self._folder, self._rank, *self._unreported)
            self._unreported, self._writing = None, None

    def settle(self) -> None:
        """Waits for what is being written, and reports it."""
        if self._unreported is None:
            return
        if self._writing is not None:
            self._writing.exception()
        told = torch.tensor([self.news()], device=self._device)
        if torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(told)
        self.hear(float(told))

    def _write(self, write: Callable[[dict[str, Any]], None], state: Callable[[], dict[str, Any]]) -> None:
        if self._rank:
            return
        if self._writing is not None and self._writing.exception() is not None:
            return  # the next news tells all
        self._writing = self._pool.submit(write, _copied(state()))

    def _raise(self) -> None:
        error = None if self._writing is None else self._writing.exception()
        if error is None or isinstance(error, UserError):
            raise UserError(str(error or "rank 0 could not write a checkpoint"))
        raise error


def report_epoch(folder: RunFolder, rank: int, epoch: int, values: Values) -> None:
    """Tells Ray of an epoch whose checkpoint is whole; all ranks are to call it."""
    checkpoint = None
    if rank == 0:
        path = folder.checkpoint(epoch).rsplit("/", 1)[0]
        checkpoint = ray.train.Checkpoint(path, filesystem=folder.place[0])
    # Ray ranks the checkpoints by this score, and an epoch without one last; its JSON could not hold a NaN.
    ray.train.report(
        {"validation/JF": -1.0} | values,
        checkpoint=checkpoint,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )


def _copied(state: Any) -> Any:
    """Training goes on in the tensors while they are written, so these are others, on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state
