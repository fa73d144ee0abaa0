"""What a trial reports to Tune, and what the sweep writes down of it. Imported within a Ray session."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.train import Checkpoint
from ray.tune import Callback
from ray.tune.integration.ray_train import TuneReportCallback

from pipelines.credentials import redacted
from pipelines.trials import LAST_EPOCH, Report, SweepFolder, Trial
from rtnet.errors import UserError


class ReportEpochs(TuneReportCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller: hands each validated epoch to Tune, but for the last one.

    A scheduler must not stop a trial that has nothing left to do but to be kept.
    """

    def __init__(self, metric: str, last_epoch: int) -> None:
        super().__init__()
        self._metric, self._last_epoch = metric, last_epoch

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        values = metrics[0]
        validated = self._metric in values and values.get("validation/JF") != -1.0
        if validated and values["epoch"] < self._last_epoch:
            super().after_report(run_context, metrics, None)


class WriteTrials(Callback):  # type: ignore[misc]
    """Runs in the sweep's driver: keeps every trial's file in step with what Tune hears, and prints a line of it."""

    def __init__(
        self, folder: SweepFolder, trials: dict[str, Trial], metric: str, ended: Callable[[Trial], None]
    ) -> None:
        """trials: by name; those that begin are added by whoever names them. ended: called with each that ends."""
        self._folder, self._trials, self._metric, self._ended = folder, trials, metric, ended
        self._heard: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._heard[str(trial)] = time.monotonic()
        print(f"trial {trial} begins", flush=True)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        known = self._trials[str(trial)]
        self._count_time(known)
        report = report_of(result)
        if LAST_EPOCH in result:
            known.outcome = "finished"
        elif known.reports and report["epoch"] <= known.reports[-1]["epoch"]:  # told again, for the scheduler
            return
        known.reports.append(report)
        self._folder.keep(known)
        end = "finished, best is" if known.ended else "is at"
        print(f"trial {trial} {end} epoch {report['epoch']:.0f}: {self._metric} {report[self._metric]:.4g}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self._trials[str(trial)]
        if not known.ended:
            known.outcome = "stopped"
            print(f"trial {trial} is stopped: others were ahead of it at this epoch", flush=True)
        self._end(known)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self._trials[str(trial)]
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        known.outcome, known.reason = "failed", reason_of(error)
        print(f"trial {trial} failed: {known.reason}", flush=True)
        self._end(known)

    def _end(self, known: Trial) -> None:
        self._count_time(known)
        self._folder.keep(known)
        self._ended(known)

    def _count_time(self, known: Trial) -> None:
        now = time.monotonic()
        known.seconds += now - self._heard.get(known.name, now)
        self._heard[known.name] = now


def report_of(values: Mapping[str, Any]) -> Report:
    """The measures among all that Tune or Train have put into a report."""
    kept = {name: value for name, value in values.items() if "/" in name or name in ("epoch", LAST_EPOCH)}
    return {name: float(value) for name, value in kept.items() if isinstance(value, int | float)}


def reason_of(error: BaseException) -> str:
    """An exception in one line; a process that died has many, and says at last why."""
    if isinstance(error, RayTaskError):
        error = error.cause
    if isinstance(error, RayActorError):
        return "its process died: killed, or out of memory"
    said = redacted(str(error)).splitlines()  # it goes into MLflow and into tables
    lines = [line.strip() for line in said if line.strip()] or [type(error).__name__]
    return lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(lines)}"[:300]
