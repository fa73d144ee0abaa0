"""What is looked at before a training begins: whether its data can carry it."""

from collections import Counter

import numpy as np

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.loader import Schedule
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
