"""What every worker of a training does: epochs of DDP steps, validation, a checkpoint after each epoch."""

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.loader import Schedule, read_steps
from pipelines.run_folder import RunFolder
from pipelines.step_block import Step
from pipelines.validation import validate
from rtnet.config import RTNetConfig
from rtnet.model.rtnet import RTNet
from rtnet.model.sync_batch_norm import synchronise_batch_norm
from rtnet.schedule import Phase, phase_of, rate_of
from rtnet.training import LOSSES, make_batch, make_optimizer, set_rate, set_trained, train_step

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Worker:
    """One rank's place in the run."""

    experiment: Experiment
    folder: RunFolder
    schedule: Schedule
    rank: int
    device: torch.device


def train_worker(values: dict[str, Any]) -> dict[str, Any]:
    """Ray Train calls this on each worker; it goes on from the newest whole epoch in the run's folder.

    Returns {"error": ""}, or what stopped the training though no machine failed: the same on all ranks.
    """
    worker = _worker(Experiment.model_validate(values))
    state = worker.folder.read_checkpoint(worker.folder.epochs()[-1])
    model, optimizer = _restore(worker, state)
    if state["epoch"]:
        _report_again(worker, state["epoch"])
    phases = [Phase(**phase.model_dump()) for phase in worker.experiment.training.phases]
    per_epoch, last_epoch = worker.schedule.steps_per_epoch, phases[-1].last_epoch
    read = read_steps(worker.schedule, worker.rank, state["epoch"] * per_epoch, last_epoch * per_epoch)
    wrapped: nn.Module | None = None
    for epoch in range(state["epoch"] + 1, last_epoch + 1):
        phase = phase_of(phases, epoch)
        if wrapped is None or phase.trained != phase_of(phases, epoch - 1).trained:
            set_trained(model, phase.trained)
            wrapped = _wrap(model, worker.device)
        set_rate(optimizer, rate_of(phase, epoch))
        try:
            steps = _train_epoch(worker, wrapped, optimizer, epoch, islice(read, per_epoch))
        except NonFiniteLossError as error:
            return {"error": str(error)}
        _finish_epoch(worker, model, optimizer, epoch, steps, last=epoch == last_epoch)
    return {"error": ""}


class NonFiniteLossError(Exception):
    """Names the step and its pairs."""


def _worker(experiment: Experiment) -> Worker:
    logging.getLogger().setLevel(logging.WARNING)  # Ray reports every report
    context = ray.train.get_context()
    world = context.get_world_size()
    torch.set_num_threads(experiment.scaling.threads_per_worker or max(1, (os.cpu_count() or 1) // world))
    dataset = Dataset(experiment.data.dataset)
    schedule = Schedule(dataset, experiment.data, experiment.training, experiment.seed, world)
    device = ray.train.torch.get_device()
    return Worker(experiment, RunFolder.of(experiment), schedule, context.get_world_rank(), device)


def _restore(worker: Worker, state: dict[str, Any]) -> tuple[RTNet, torch.optim.SGD]:
    model = RTNet(RTNetConfig.from_dict(state["config"])).to(worker.device)
    model.load_state_dict(state["model"])
    if worker.schedule.world > 1:
        synchronise_batch_norm(model, worker.device)
    training = worker.experiment.training
    optimizer = make_optimizer(model, training.momentum, training.weight_decay)
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    return model, optimizer


def _wrap(model: RTNet, device: torch.device) -> nn.Module:
    """Anew for each phase: DDP synchronises the gradients of the parameters that were trainable when it was made."""
    if torch.distributed.get_world_size() == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    # The synchronised batch-norm keeps the buffers equal on all ranks.
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False)


def _train_epoch(
    worker: Worker, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, read: Iterable[Step]
) -> list[tuple[int, int, list[float]]]:
    """One epoch's (global step, time in ms, mean losses over all ranks)."""
    torch.manual_seed(worker.experiment.seed * 1_000_003 + epoch * 1009 + worker.rank)  # for encoders that drop paths
    model.train()
    count = worker.schedule.steps_per_epoch
    done: list[tuple[int, int, list[float]]] = []
    progress = _Progress(worker, epoch, count)
    for number, views in enumerate(read):
        step = (epoch - 1) * count + number
        batch = make_batch(views.images, views.flows, views.annotations, worker.schedule.size(step), worker.device)
        losses = _mean_over_ranks(train_step(model, optimizer, batch, worker.experiment.training.precision))
        if not losses.isfinite().all():
            raise NonFiniteLossError(_name_pairs(worker, epoch, number))
        done.append((step, time.time_ns() // 1_000_000, losses.tolist()))
        progress.show(number + 1, done[-1][2], optimizer.param_groups[0]["lr"])
    return done


def _finish_epoch(
    worker: Worker,
    model: RTNet,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    steps: list[tuple[int, int, list[float]]],
    last: bool,
) -> None:
    values = {f"train/{name}": sum(s[2][i] for s in steps) / len(steps) for i, name in enumerate(LOSSES)}
    values |= {"epoch": epoch, "rate": optimizer.param_groups[0]["lr"]}
    pictures: dict[str, bytes] = {}
    if last or epoch % worker.experiment.validation.every == 0:
        scores, pictures = validate(model, worker.schedule.dataset, worker.experiment, worker.rank, worker.device)
        values |= {f"validation/{name}": value for name, value in scores.items()}
    if worker.rank == 0:
        _save_epoch(worker, model, optimizer, epoch, {"values": values, "losses": LOSSES, "steps": steps}, pictures)
        print(f"epoch {epoch}: {_in_words(values)}", flush=True)
    torch.distributed.barrier()
    _report(worker, epoch, values)


def _save_epoch(
    worker: Worker,
    model: RTNet,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    metrics: dict[str, Any],
    pictures: dict[str, bytes],
) -> None:
    folder, name = worker.folder, f"epoch-{epoch:04d}"
    for picture, data in pictures.items():
        folder.write(f"{name}/pictures/{picture}", data)
    folder.write(f"{name}/metrics.json", json.dumps(metrics | {"time": time.time_ns() // 1_000_000}).encode())
    state = {
        "config": model.config.to_dict(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
    }
    folder.write_checkpoint(epoch, state)


def _report(worker: Worker, epoch: int, values: dict[str, float]) -> None:
    checkpoint = None
    if worker.rank == 0:
        system, path = worker.folder.epoch_path(epoch)
        checkpoint = ray.train.Checkpoint(path, filesystem=system)
    # Ray ranks the checkpoints by this score, and an epoch without one last; its JSON could not hold a NaN.
    ray.train.report(
        {"validation/JF": -1.0} | values,
        checkpoint=checkpoint,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )


def _report_again(worker: Worker, epoch: int) -> None:
    """A kill may have come between an epoch's last file and Ray's note of it."""
    known = ray.train.get_checkpoint()
    if known is None or not known.path.endswith(worker.folder.epoch_path(epoch)[1].rsplit("/", 1)[-1]):
        _report(worker, epoch, worker.folder.metrics(epoch)["values"])
    if worker.rank == 0:
        print(f"continuing after epoch {epoch}", flush=True)


def _mean_over_ranks(losses: Tensor) -> Tensor:
    if torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(losses)
        losses /= torch.distributed.get_world_size()
    return losses


def _name_pairs(worker: Worker, epoch: int, number: int) -> str:
    rows = worker.schedule.pairs(epoch)[number].reshape(-1)
    frames = [worker.schedule.dataset.describe(int(row)) for row in rows]
    names = ", ".join(f"{f['sequence']}/{f['name']} ({f['view']})" for f in frames)
    return f"the loss is not finite in epoch {epoch}, step {number}, frames {names}: lower the rate of that phase"


def _in_words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "epoch")


class _Progress:
    """Lines of one epoch's progress, from rank 0, at most one in ten seconds."""

    def __init__(self, worker: Worker, epoch: int, steps: int) -> None:
        self._worker, self._epoch, self._steps = worker, epoch, steps
        self._started = self._shown = time.monotonic()

    def show(self, done: int, losses: list[float], rate: float) -> None:
        now = time.monotonic()
        if self._worker.rank or (now - self._shown < _SECONDS_BETWEEN_LINES and done < self._steps):
            return
        self._shown = now
        pairs = done * self._worker.schedule.world * self._worker.experiment.training.batch_size
        speed = pairs / (now - self._started)
        left = (self._steps - done) * (now - self._started) / done
        print(
            f"epoch {self._epoch} step {done}/{self._steps}: loss {losses[1]:.3f} + {losses[3]:.3f}, "
            f"rate {rate:.3g}, {speed:.2f} pairs/s, {left:.0f} s left in this epoch",
            flush=True,
        )
