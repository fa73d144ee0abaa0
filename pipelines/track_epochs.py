"""Training's curves and pictures to MLflow, by the one process that hears from all workers."""

from typing import Any

from ray.train import Checkpoint, UserCallback

from pipelines.run_folder import RunFolder
from pipelines.tracking import Run


class TrackEpochs(UserCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller. What it logs bears the time it was measured, so logging twice changes nothing."""

    def __init__(self, tracked: Run, folder: RunFolder) -> None:
        self._tracked, self._folder = tracked, folder

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Logs the epoch's means at the epoch's number and its losses at their global steps."""
        epoch = int(metrics[0]["epoch"])
        kept = self._folder.metrics(epoch)
        series = [(name, value, epoch, kept["time"]) for name, value in kept["values"].items()]
        for step, stamp, losses in kept["steps"]:
            series += [(f"step/{name}", loss, step, stamp) for name, loss in zip(kept["losses"], losses, strict=True)]
        self._tracked.log_series(series)
        for name, data in self._folder.pictures(epoch).items():
            self._tracked.log_bytes(data, f"validation/epoch-{epoch:04d}/{name}")
