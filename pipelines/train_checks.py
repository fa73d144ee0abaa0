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
    if not len(schedule.drawn_rows):
        flow = ", which alone have the flow that a motion stream sees," if experiment.model.streams == "motion" else ""
        raise UserError(
            f"dataset {dataset.uri}: the sources of its annotated frames of split '{experiment.training.split}'{flow} "
            "all have the weight 0: raise data.sources.NAME.weight of one"
        )
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

    cluster, needed = ray.cluster_resources(), resources_needed(scaling)
    short = {kind: cluster.get(kind, 0.0) for kind, amount in needed.items() if cluster.get(kind, 0.0) < amount}
    if not short:
        return
    asked = " and ".join(f"{needed[kind]:g} {kind}s" for kind in short)
    there = " and ".join(f"{amount:g}" for amount in short.values())
    mends = ["lower scaling.num_workers"] if scaling.num_workers > 1 else []
    mends += ["lower scaling.cpus_per_worker"] if "CPU" in short else []
    mends += ["set scaling.use_gpu=false"] if "GPU" in short else []
    raise UserError(
        f"scaling.num_workers={scaling.num_workers} asks, with the tasks that read, for {asked}, and the cluster has "
        f"{there}: {', or '.join(mends)}"
    )


def resources_needed(scaling: Scaling) -> dict[str, float]:
    """What a training takes of a cluster, its reading tasks included."""
    needed = {"CPU": scaling.num_workers * scaling.cpus_per_worker + READ_CPUS}
    return needed | ({"GPU": float(scaling.num_workers)} if scaling.use_gpu else {})
