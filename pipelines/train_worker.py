"""What Ray Train calls on each worker, and what its controller loads to name it: so without the network's libraries."""

from typing import Any


def train_worker(values: dict[str, Any]) -> dict[str, Any]:
    """An experiment's values -> {"error": ""}, or what stopped the training though no machine failed."""
    from pipelines.config import Experiment
    from pipelines.train_loop import train_rank
    from rtnet.errors import UserError

    try:
        train_rank(Experiment.model_validate(values))
    except UserError as error:
        return {"error": str(error)}
    return {"error": ""}
