"""train, its validations and sweeps -> rows of capacity.py."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from experiments.benchmarks import capacity_operations as operations
from experiments.benchmarks.capacity_demand import Demand, Device, Row, device_of, latency
from experiments.benchmarks.capacity_inputs import Footage, Plan
from experiments.benchmarks.capacity_verbs import VIEW_COUNT, row_bytes
from pipelines.config import Experiment, expand_stages
from pipelines.loader import READ_CPUS
from pipelines.resources import resources_needed
from rtnet.data.pairs import pairs_per_epoch
from rtnet.data.prediction_pairs import PairRule
from rtnet.errors import UserError

_STATE_BYTES = 8  # of a parameter in a checkpoint: itself and its momentum, float32
_VIEW_PIXELS = {"both": 10, "appearance": 4, "motion": 7}  # bytes of a pixel that is decoded: image 3, flow 6, mask 1
_METRICS_PER_CALL = 1000
_SHARED = {"CPU", "reading tasks", "network", "store requests", "MLflow"}  # by the trainings of a sweep


@dataclass(frozen=True)
class Epochs:
    """How long a training is, as `pipelines.loader.Schedule` counts."""

    pairs: int  # of an epoch; single views for one stream alone
    steps: int
    total: int  # epochs
    validations: int
    scored: int  # frames of one validation


def epochs_of(plan: Plan) -> Epochs:
    """Of the plan's own training. Raises UserError where there is nothing to train on, or less than a step."""
    experiment = plan.experiment
    training, validation = experiment.training, experiment.validation
    weights = []
    for part in plan.dataset.parts:
        if part.split == training.split and (experiment.model.streams != "motion" or part.kind != "stills"):
            weights += [np.full(part.annotated * VIEW_COUNT, plan.source(part).weight)]
    pairs = pairs_per_epoch(np.concatenate(weights)) if weights else 0
    per_step = experiment.scaling.num_workers * training.batch_size * training.accumulate
    steps = min(pairs // per_step, training.steps_per_epoch or pairs // per_step)
    if not steps:
        raise UserError(
            f"recipe {experiment.name}: split '{training.split}' of the data set has {pairs} annotated views, and one "
            f"step takes {per_step}: set training.split, or lower scaling.num_workers"
        )
    total = training.phases[-1].last_epoch
    scored = 0
    for part in plan.dataset.parts:
        if part.split == validation.split:
            scored += part.annotated if part.kind == "stills" else max(0, part.annotated - 2 * part.videos)
    return Epochs(pairs, steps, total, total // validation.every + bool(total % validation.every), scored)


def train(plan: Plan) -> list[Row]:
    """Two rows for each stage: its epochs, and its validations, for which they pause."""
    rows = []
    for stage in expand_stages(plan.experiment):
        own = replace(plan, experiment=stage)
        _check_room(own)
        length = epochs_of(own)
        rows += [_epochs(own, length)]
        if length.scored:
            rows += [_validations(own, length)]
    return rows


def tune(plan: Plan, trials: list[Experiment], at_once: int | None) -> Row:
    """Every trial to its last epoch, as if the scheduler stopped none; as many at once as the cluster has room for.

    A trial alone would have all cores, the store and MLflow to itself; what it takes of these adds up over all trials.
    """
    demand = Demand(plan, f"tune, {len(trials)} trials")
    together = min(len(trials), at_once or _room(plan, trials))
    seconds = 0.0
    for trial in trials:
        for row in train(replace(plan, experiment=trial.model_copy(update={"stages": {}}))):
            seconds += row.seconds
            for resource in _SHARED & row.loads.keys():
                demand.add(resource, row.loads[resource])
            demand.store(trial.storage, row.read, row.written, row.kept)
    demand.add("trials", seconds / together, estimated=plan.gpu is not None)
    demand.start(plan.costs["session_start_s"])
    return demand.row()


def _room(plan: Plan, trials: list[Experiment]) -> int:
    there = {"CPU": float(plan.cluster.all_cores), "GPU": float(plan.cluster.all_gpus)}
    room = []
    for trial in trials:
        _check_room(replace(plan, experiment=trial))
        room += [int(there[kind] / amount) for kind, amount in resources_needed(trial.scaling).items()]
    return max(1, min(room))


def _check_room(plan: Plan) -> None:
    """As `pipelines.train_checks.check_resources`, which asks a cluster that is there."""
    there = {"CPU": plan.cluster.all_cores, "GPU": plan.cluster.all_gpus}
    for kind, amount in resources_needed(plan.experiment.scaling).items():
        if amount > there[kind]:
            remedy = "lower scaling.num_workers, or set cluster.nodes"
            if there[kind] == 0:
                remedy = "set scaling.use_gpu=false, or choose another --cluster"
            raise UserError(
                f"scaling.num_workers={plan.experiment.scaling.num_workers} asks for {amount:g} {kind}s, and cluster "
                f"{plan.cluster_name} has {there[kind]}: {remedy}"
            )


def _epochs(plan: Plan, length: Epochs) -> Row:
    experiment, costs = plan.experiment, plan.costs
    demand = Demand(plan, f"train {experiment.name}")
    training, scaling = experiment.training, experiment.scaling
    device = device_of(plan, scaling.use_gpu, training.precision, "training")
    steps, world = length.steps * length.total, scaling.num_workers
    computing = _computing_s(plan, length, device)
    if device.is_gpu:
        demand.add("GPU", computing, estimated=True)
    else:
        demand.cores(computing * world)
    views = 2 if experiment.model.streams == "both" else 1
    rows = steps * world * training.batch_size * training.accumulate * views
    pixels, stored = _mean_view(plan)
    reading = rows * costs["loader_ms"] * pixels / 1000
    demand.cores(reading + (0.0 if device.is_gpu else rows * costs["input_ms"] * pixels / 1000))
    # A row's bytes are one request; its file is opened by another unless one of the last 256.
    requests = rows * 2
    free = (plan.cluster.all_cores - world * scaling.cpus_per_worker) / READ_CPUS
    tasks = max(1.0, min(plan.cluster.all_cores, free))
    demand.add("reading tasks", (reading + latency(plan, experiment.data.dataset, requests)) / tasks)
    demand.store(experiment.data.dataset, read=rows * stored)
    demand.requests(experiment.data.dataset, gets=requests)
    if plan.cluster.nodes > 1:
        elsewhere = 1 - 1 / plan.cluster.nodes
        demand.add("network", (rows * 10e6 * pixels * elsewhere + _gradients(plan, length)) / plan.cluster.bytes_per_s)
    weights = operations.weights(experiment.model.backbone, experiment.model.streams)
    checkpoint = weights.parameters * _STATE_BYTES
    kept = min(length.total, training.keep_checkpoints + 1) + 1
    demand.store(experiment.storage, written=checkpoint * (length.total + 1), kept=checkpoint * kept)
    calls = length.total * (ceil(4 * length.steps / _METRICS_PER_CALL) + 2)
    demand.add("MLflow", calls * costs["mlflow_call_ms"] / 1000)
    demand.start(costs["trainer_start_s"])
    return demand.row()


def _computing_s(plan: Plan, length: Epochs, device: Device) -> float:
    """Seconds of one worker's device, with the waits in which all workers sum their batch-norms' statistics."""
    experiment = plan.experiment
    training, model, world = experiment.training, experiment.model, experiment.scaling.num_workers
    waits = plan.known.all_reduce_us
    wait_s = 0.0 if world == 1 else 1e-6 * (waits.between if plan.cluster.nodes > 1 else waits.within)
    seconds, before = 0.0, 0
    for phase in training.phases:
        trained = phase.trained
        each = []
        for height in training.heights:
            size = (height, int(training.aspect * height))
            work = operations.training(model.backbone, model.streams, size, training.batch_size, trained)
            each.append(device.seconds(work))
        norms = operations.weights(model.backbone, model.streams, trained).norms
        step = training.accumulate * (sum(each) / len(each) + 2 * norms * wait_s)
        seconds += (phase.last_epoch - before) * length.steps * step
        before = phase.last_epoch
    return seconds


def _gradients(plan: Plan, length: Epochs) -> float:
    """Bytes that all nodes send for DDP: a ring through all workers enters and leaves each node once."""
    experiment, before, total = plan.experiment, 0, 0.0
    world = experiment.scaling.num_workers
    for phase in experiment.training.phases:
        trained = operations.weights(experiment.model.backbone, experiment.model.streams, phase.trained).trained
        total += (phase.last_epoch - before) * length.steps * 2 * (world - 1) / world * 4 * trained
        before = phase.last_epoch
    return total * plan.cluster.nodes


def _mean_view(plan: Plan) -> tuple[float, float]:
    """(megapixels, as if all of a view were decoded, bytes) of a row that is drawn."""
    experiment = plan.experiment
    drawn, pixels, stored = 0.0, 0.0, 0.0
    for part in plan.dataset.parts:
        weight = part.annotated * plan.source(part).weight
        if part.split == experiment.training.split:
            drawn += weight
            pixels += weight * part.megapixels
            stored += weight * row_bytes(plan, part, plan.flow(part))
    share = _VIEW_PIXELS[experiment.model.streams] / _VIEW_PIXELS["both"]
    return (pixels / drawn * share, stored / drawn) if drawn else (0.0, 0.0)


def _validations(plan: Plan, length: Epochs) -> Row:
    """`pipelines.validation.validate`: on each rank one frame after the other, nothing beside anything."""
    experiment, costs = plan.experiment, plan.costs
    demand = Demand(plan, f"validate {experiment.name}")
    world, aspect, height = experiment.scaling.num_workers, experiment.training.aspect, experiment.validation.height
    precision = "bfloat16" if experiment.training.precision == "bfloat16" else "float32"
    device = device_of(plan, experiment.scaling.use_gpu, precision, "prediction")
    parts = [part for part in plan.dataset.parts if part.split == experiment.validation.split]
    work = operations.prediction(
        experiment.model.backbone, (height, int(aspect * height)), 1, PairRule(experiment.training.reach)
    )
    frames = length.scored * length.validations
    pixels = _mean_pixels(parts)
    reading = 2 * costs["dataset_read_ms"] * pixels / 1000
    measuring = costs["jf_bare_ms"] * pixels / 1000
    waiting = latency(plan, experiment.data.dataset, 2 * 2)
    computing = device.seconds(work)
    ranks = world if device.is_gpu else min(world, plan.cluster.all_cores)
    # One thread of each rank does all of it.
    total = reading + measuring + waiting + computing
    demand.add("each rank's one thread", frames * total / ranks, estimated=device.is_gpu)
    if device.is_gpu:
        demand.add("GPU", frames * computing / world, estimated=True)
    demand.cores(frames * (reading + measuring + (0.0 if device.is_gpu else computing)))
    demand.store(experiment.data.dataset, read=frames * 2 * _mean_bytes(plan, parts))
    demand.requests(experiment.data.dataset, gets=frames * 4)
    return demand.row()


def _mean_pixels(parts: list[Footage]) -> float:
    return sum(p.annotated * p.megapixels for p in parts) / max(1, sum(p.annotated for p in parts))


def _mean_bytes(plan: Plan, parts: list[Footage]) -> float:
    stored = sum(p.annotated * row_bytes(plan, p, plan.flow(p)) for p in parts)
    return stored / max(1, sum(p.annotated for p in parts))
