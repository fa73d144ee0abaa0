"""Training's curves and pictures to MLflow, from what the run's folder keeps of each epoch."""

import logging
import queue
import threading
from typing import Any

from ray.train import Checkpoint, UserCallback

from pipelines.run_folder import RunFolder
from pipelines.tracking import Run, impatient


def track_epochs(tracked: Run, folder: RunFolder) -> None:
    """Logs the whole epochs that are not known to be in the tracked run, each at the time when it was measured.

    So logging twice changes nothing: whoever is stopped in between, or finds no server, does it again later.
    """
    for epoch in folder.untracked():
        kept = folder.measured(epoch)
        series = [(name, value, epoch, kept["time"]) for name, value in kept["values"].items()]
        for step, stamp, losses in kept["steps"]:
            series += [(f"step/{name}", loss, step, stamp) for name, loss in zip(kept["losses"], losses, strict=True)]
        tracked.log_series(series)
        for name, data in folder.pictures(epoch).items():
            tracked.log_bytes(data, f"validation/epoch-{epoch:04d}/{name}")
        folder.mark_tracked(epoch)


class TrackEpochs(UserCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller, in a thread of its own: a server that does not answer holds nothing up."""

    def __init__(self, tracked: Run, folder: RunFolder) -> None:
        self._tracked, self._folder = tracked, folder
        self._epochs: queue.SimpleQueue[None] | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if self._epochs is None:
            self._epochs = queue.SimpleQueue()
            threading.Thread(target=self._track, args=(self._epochs,), daemon=True).start()
        self._epochs.put(None)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Next it would print, with its stack, that the dead can't take leave.
        logging.getLogger("ray.train.v2._internal.callbacks.backend_setup").setLevel(logging.ERROR)

    def _track(self, epochs: "queue.SimpleQueue[None]") -> None:
        while True:
            epochs.get()
            try:
                with impatient():
                    track_epochs(self._tracked, self._folder)
            except Exception as error:  # whatever MLflow and its server come up with must not harm the training
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                print(
                    f"MLflow does not take the last epoch ({reason}); training goes on, it is logged later", flush=True
                )
