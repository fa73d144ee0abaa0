"""What is looked at before a training begins: whether its data and its cluster can carry it."""

from collections import Counter

import numpy as np

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.loader import READ_CPUS, Schedule
from pipelines.sections import Scaling
from pipelines.validation import validation_rows
from rtnet.errors import UserError


def check_data(experiment: Experiment, dataset: Dataset) -> None:
    """Warns of flow of several estimators; UserError where a split lacks what the training needs."""
    world = experiment.scaling.num_workers
    schedule = Schedule.of(experiment, dataset, world)
    warn_of_mixed_flow(dataset, schedule.rows)
    if not schedule.steps_per_epoch:
        raise UserError(
            f"dataset {dataset.uri}: split '{experiment.training.split}' has fewer frames than the "
            f"{world * schedule.pairs_per_step} of one step: lower scaling.num_workers, training.batch_size or "
            "training.accumulate"
        )
    validation_rows(dataset, experiment)


def warn_of_mixed_flow(dataset: Dataset, rows: np.ndarray) -> None:
    """Networks learn one estimator's errors: a mixture may be meant, and is said."""
    views = Counter(str(name) for name in dataset.column("estimator")[rows] if name)
    if len(views) > 1:
        made_by = ", ".join(f"{name} ({count} views)" for name, count in views.most_common())
        print(f"warning: the flow of {dataset.uri} is a mixture: {made_by}", flush=True)


def check_resources(scaling: Scaling) -> None:
    """Ray would wait forever for what isn't there."""
    import ray

    cluster = ray.cluster_resources()
    for kind, amount in resources_needed(scaling).items():
        there = cluster.get(kind, 0.0)
        if there < amount:
            raise UserError(
                f"scaling asks for {scaling.num_workers} workers, {amount:g} {kind}s with the reading tasks, and the "
                f"cluster has {there:g}: lower scaling.num_workers"
                + (" or scaling.cpus_per_worker" if kind == "CPU" else " or set scaling.use_gpu=false")
            )


def resources_needed(scaling: Scaling) -> dict[str, float]:
    """What a training takes of a cluster, its reading tasks included."""
    needed = {"CPU": scaling.num_workers * scaling.cpus_per_worker + READ_CPUS}
    return needed | ({"GPU": float(scaling.num_workers)} if scaling.use_gpu else {})
