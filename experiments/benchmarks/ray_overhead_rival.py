"""The rival of ray_overhead.py, run by torchrun: the same steps, their batches in memory before the first of them.

`... -m experiments.benchmarks.ray_overhead_rival RECIPE OUTPUT` runs the steps of the recipe's first epoch and writes
their times and mean losses as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipelines.config import Experiment, load_experiment
from pipelines.dataset import Dataset
from pipelines.loader import Schedule
from pipelines.step_block import pack_steps, unpack_steps
from rtnet.config import RTNetConfig
from rtnet.model.rtnet import RTNet
from rtnet.model.sync_batch_norm import synchronise_batch_norm
from rtnet.training import Batch, make_batch, make_optimizer, set_rate, train_step

CPU = torch.device("cpu")


def main() -> None:
    experiment = load_experiment(sys.argv[1])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    batches = _batches(experiment, rank, world)
    training = experiment.training
    torch.manual_seed(experiment.seed)
    model = RTNet(RTNetConfig(experiment.model.backbone))
    synchronise_batch_norm(model, CPU)
    optimizer = make_optimizer(model, training.momentum, training.weight_decay)
    set_rate(optimizer, training.phases[0].rate)
    # As pipelines.train_loop has it.
    wrapped = DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=True)
    model.train()
    dist.barrier()
    stamps, losses = [], []
    for batch in batches:
        losses.append(train_step(wrapped, optimizer, batch, training.precision))
        stamps.append(time.time_ns() // 1_000_000)
    mean = torch.stack(losses)
    dist.all_reduce(mean)
    if rank == 0:
        Path(sys.argv[2]).write_text(json.dumps({"stamps": stamps, "losses": (mean / world).tolist()}))
    dist.destroy_process_group()


def _batches(experiment: Experiment, rank: int, world: int) -> list[Batch]:
    """This rank's inputs of each step, resized and normalised."""
    schedule = Schedule.of(experiment, Dataset(experiment.data.dataset), world)
    rows = schedule.pairs(1)[:, rank]
    steps = unpack_steps(pack_steps(schedule.dataset, rows.reshape(len(rows), -1)))
    return [
        make_batch(views.images, views.flows, views.annotations, schedule.size(step), CPU)
        for step, views in enumerate(steps)
    ]


if __name__ == "__main__":
    main()
