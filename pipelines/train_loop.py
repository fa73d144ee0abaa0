"""What every worker of a training does: epochs of DDP steps, validation, checkpoints."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.loader import Schedule, read_steps
from pipelines.progress import Progress
from pipelines.run_folder import STOPPED, RunFolder
from pipelines.saver import Saver, report_epoch
from pipelines.step_block import Step
from pipelines.validation import validate
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.network import Network, build_network
from rtnet.model.sync_batch_norm import synchronise_batch_norm
from rtnet.schedule import Phase, phase_of, rate_of
from rtnet.training import (
    loss_names,
    make_batch,
    make_optimizer,
    make_scaler,
    set_product_precision,
    set_rate,
    set_trained,
    train_step,
)

Losses = tuple[int, int, list[float]]  # global step, time in ms since 1970, mean losses over all ranks


@dataclass(frozen=True)
class Worker:
    """One rank's place in the run."""

    experiment: Experiment
    folder: RunFolder
    schedule: Schedule
    rank: int
    device: torch.device


@dataclass(frozen=True)
class Trained:
    """What a checkpoint keeps."""

    network: Network
    optimizer: torch.optim.SGD
    scaler: GradScaler

    def state(self, epoch: int, losses: list[Losses]) -> dict[str, Any]:
        """After `epoch`, or within the one after it, when `losses` are those of its steps so far."""
        return {
            "config": self.network.config.to_dict(),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": epoch,
            "losses": losses,
        }


def train_rank(experiment: Experiment) -> None:
    """In each of Ray Train's workers: goes on from the newest checkpoint in the run's folder, to the end.

    Raises UserError, the same on all ranks, where something stops the training though no machine failed.
    """
    worker = _worker(experiment)
    if stopped := worker.folder.read(STOPPED):
        raise UserError(stopped.decode())
    per_epoch = worker.schedule.steps_per_epoch
    state = worker.folder.newest(per_epoch)
    trained = _restore(worker, state)
    losses: list[Losses] = [(step, stamp, list(each)) for step, stamp, each in state["losses"]]
    done = state["epoch"] * per_epoch + len(losses)
    del state["model"], state["optimizer"]  # hundreds of megabytes, which live on in the network
    _report_missed(worker, done)
    phases = [Phase(**phase.model_dump()) for phase in worker.experiment.training.phases]
    read = read_steps(worker.schedule, worker.rank, done, phases[-1].last_epoch * per_epoch)
    saver = Saver(worker.folder, worker.rank, worker.device)
    progress = Progress(worker.schedule, worker.rank, worker.device, phases[-1].last_epoch * per_epoch - done)
    wrapped: nn.Module | None = None
    for epoch in range(state["epoch"] + 1, phases[-1].last_epoch + 1):
        phase = phase_of(phases, epoch)
        if wrapped is None or phase.trained != phase_of(phases, epoch - 1).trained:
            set_trained(trained.network, phase.trained)
            wrapped = _wrap(worker, trained.network)
        set_rate(trained.optimizer, rate_of(phase, epoch))
        _train_epoch(worker, trained, wrapped, epoch, losses, read, saver, progress)
        _finish_epoch(worker, trained, epoch, losses, saver, progress, last=epoch == phases[-1].last_epoch)
        losses = []
    saver.settle()


def _worker(experiment: Experiment) -> Worker:
    logging.getLogger().setLevel(logging.WARNING)  # Ray reports every report
    context = ray.train.get_context()
    world = context.get_world_size()
    scaling = experiment.scaling
    # Not this machine's cores: others, such as a sweep's trials, compute beside it, and sums depend on the threads.
    torch.set_num_threads(scaling.threads_per_worker or max(1, int(scaling.cpus_per_worker)))
    set_product_precision(experiment.training.precision)
    schedule = Schedule.of(experiment, Dataset(experiment.data.dataset), world)
    device = ray.train.torch.get_device()
    return Worker(experiment, RunFolder.of(experiment), schedule, context.get_world_rank(), device)


def _restore(worker: Worker, state: dict[str, Any]) -> Trained:
    network = build_network(RTNetConfig.from_dict(state["config"])).to(worker.device)
    network.load_state_dict(state["model"])
    if worker.schedule.world > 1:
        synchronise_batch_norm(network, worker.device)
    training = worker.experiment.training
    optimizer = make_optimizer(network, training.momentum, training.weight_decay)
    scaler = make_scaler(training.precision, worker.device)
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    return Trained(network, optimizer, scaler)


def _report_missed(worker: Worker, done: int) -> None:
    """A kill may have come between an epoch's last file and Ray's note of it."""
    known = ray.train.get_checkpoint()
    reported = 0 if known is None else int(known.path.rsplit("epoch-", 1)[1])
    for epoch in worker.folder.epochs():
        if epoch > reported:
            report_epoch(worker.folder, worker.rank, epoch, worker.folder.measured(epoch)["values"])
    if worker.rank == 0 and done:
        epoch, number = worker.schedule.epoch_of(done)
        where = f"in epoch {epoch}, after its step {number}" if number else f"after epoch {epoch - 1}"
        print(f"continuing {where}", flush=True)


def _wrap(worker: Worker, network: Network) -> nn.Module:
    """Anew for each phase: DDP synchronises the gradients of the parameters that were trainable when it was made."""
    compiled: nn.Module = network
    if worker.experiment.training.compile:
        compiled = cast(nn.Module, torch.compile(network))
    if torch.distributed.get_world_size() == 1:
        return compiled
    on_gpu = worker.device.type == "cuda"
    return DistributedDataParallel(
        compiled,
        device_ids=[worker.device] if on_gpu else None,
        forward_sync_buffers=False,  # the synchronised batch-norm keeps the buffers equal on all ranks
        # After its first step DDP sorts the gradients into new buckets, by the order in which they came, unless it has
        # to look for unused ones; sums over ranks would come out otherwise in a training that began anew in between.
        find_unused_parameters=not on_gpu,
    )


def _train_epoch(
    worker: Worker,
    trained: Trained,
    wrapped: nn.Module,
    epoch: int,
    losses: list[Losses],
    read: Iterator[Step],
    saver: Saver,
    progress: Progress,
) -> None:
    """The epoch's steps that `losses` lacks; adds theirs."""
    training, schedule = worker.experiment.training, worker.schedule
    trained.network.train()
    progress.begin_epoch(epoch)
    for number in range(len(losses), schedule.steps_per_epoch):
        step = (epoch - 1) * schedule.steps_per_epoch + number
        with progress.waiting():
            views = _next(worker, read)
        # For encoders that drop paths: a step's chances don't depend on where the run was begun.
        torch.manual_seed(worker.experiment.seed * 1_000_003 + step * 1009 + worker.rank)
        batch = make_batch(
            views.images, views.flows, views.annotations, schedule.size(step), worker.device, schedule.streams
        )
        own = train_step(wrapped, trained.optimizer, batch, training.precision, training.accumulate, trained.scaler)
        mean, news = _mean_over_ranks(own, saver.news())
        saver.hear(news)
        if not mean.isfinite().all():
            raise UserError(_not_finite(worker, epoch, number))
        losses.append((step, time.time_ns() // 1_000_000, mean.tolist()))
        progress.step(number + 1, losses[-1][2], trained.optimizer.param_groups[0]["lr"])
        every = training.checkpoint_every
        if every and (number + 1) % every == 0 and number + 1 < schedule.steps_per_epoch:
            saver.save_step(step + 1, lambda: trained.state(epoch - 1, losses))


def _next(worker: Worker, read: Iterator[Step]) -> Step:
    try:
        return next(read)
    except UserError as error:
        # The other ranks wait for this one in the step's sums. Its end ends them; begun again, all find the note.
        worker.folder.write(STOPPED, str(error).encode())
        raise RuntimeError(str(error)) from error


def _finish_epoch(
    worker: Worker,
    trained: Trained,
    epoch: int,
    losses: list[Losses],
    saver: Saver,
    progress: Progress,
    last: bool,
) -> None:
    names = loss_names(trained.network)
    values = {f"train/{name}": sum(s[2][i] for s in losses) / len(losses) for i, name in enumerate(names)}
    values |= {"epoch": epoch, "rate": trained.optimizer.param_groups[0]["lr"]} | progress.epoch_values()
    pictures: dict[str, bytes] = {}
    if last or epoch % worker.experiment.validation.every == 0:
        scores, pictures = validate(
            trained.network, worker.schedule.dataset, worker.experiment, worker.rank, worker.device
        )
        values |= {f"validation/{name}": value for name, value in scores.items()}
    values = _from_rank_zero(values)
    if worker.rank == 0:
        print(f"epoch {epoch}: {_in_words(values)}", flush=True)
    measured = {"values": values, "losses": names, "steps": losses, "time": time.time_ns() // 1_000_000}
    saver.save_epoch(epoch, values, lambda: trained.state(epoch, []), measured, pictures)


def _mean_over_ranks(losses: Tensor, news: float) -> tuple[Tensor, float]:
    """The losses' means, and the sum of the news."""
    both = torch.cat([losses, losses.new_tensor([news])])
    world = torch.distributed.get_world_size()
    if world > 1:
        torch.distributed.all_reduce(both)
    return both[:-1] / world, float(both[-1])


def _from_rank_zero(values: dict[str, float]) -> dict[str, float]:
    """Speeds differ between ranks; what is reported does not."""
    box = [values]
    if torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(box)
    return box[0]


def _not_finite(worker: Worker, epoch: int, number: int) -> str:
    rows = worker.schedule.pairs(epoch)[number].reshape(-1)
    frames = [worker.schedule.dataset.describe(int(row)) for row in rows]
    names = ", ".join(f"{f['sequence']}/{f['name']} ({f['view']})" for f in frames)
    return f"the loss is not finite in epoch {epoch}, step {number}, frames {names}: lower the rate of that phase"


def _in_words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "epoch")
