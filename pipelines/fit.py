"""A training's workers on Ray Train: begun, and begun again from the newest checkpoint where machines fail."""

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from pipelines import tracking
from pipelines.config import Experiment
from pipelines.resources import await_room
from pipelines.run_folder import STOPPED, RunFolder
from pipelines.storage import open_storage
from rtnet.errors import UserError


def fit(experiment: Experiment, folder: RunFolder, tracked: tracking.Run, callbacks: Sequence[Any]) -> None:
    """Runs the workers to the end of the last phase. callbacks: Ray Train's UserCallbacks.

    Workers that die are begun again, `scaling.max_failures` times in a row without a checkpoint in between, each time
    when the cluster has room for all of them. Raises UserError where something else stopped them, where they die too
    often, and where no room comes.
    """
    failures, reached = 0, folder.furthest()
    while (failure := _try(experiment, folder, tracked, callbacks)) is not None:
        before, reached = reached, folder.furthest()
        failures = failures + 1 if reached == before else 1
        lost = lost_workers(failure)
        if failures > experiment.scaling.max_failures:
            if not lost:
                raise failure
            raise UserError(
                f"run {folder.uri} has lost its workers, the last time so: {lost}; the same command continues it; "
                "where memory is short, lower scaling.num_workers or training.batch_size"
            )
        why = lost or (str(failure).strip() or type(failure).__name__).splitlines()[-1]
        print(f"run {folder.uri} was stopped: {why}; it goes on from its newest checkpoint", flush=True)
        await_room(experiment.scaling)


def _try(
    experiment: Experiment, folder: RunFolder, tracked: tracking.Run, callbacks: Sequence[Any]
) -> Exception | None:
    """Runs the workers until they are done, or one fails. Raises UserError where that was no machine's fault."""
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchTrainer

    from pipelines.track_epochs import TrackEpochs
    from pipelines.train_worker import train_worker

    scaling = experiment.scaling
    system, storage = open_storage(experiment.storage)  # Ray itself would look for an object store elsewhere
    drop_torn_snapshot(folder)
    if folder.read(STOPPED) is not None:
        folder.delete(STOPPED)
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=experiment.model_dump(mode="json"),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=experiment.name,
            storage_path=storage,
            storage_filesystem=system,
            callbacks=[TrackEpochs(tracked, folder), *callbacks],
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # `fit` counts
            checkpoint_config=CheckpointConfig(
                num_to_keep=experiment.training.keep_checkpoints,
                checkpoint_score_attribute="validation/JF",
                checkpoint_score_order="max",
            ),
        ),
    )
    try:
        with _interrupts_given_back():
            error = str(trainer.fit().return_value["error"])
    except TrainingFailedError as failure:
        if (stopped := folder.read(STOPPED)) is None:
            return cast(Exception, failure)
        error = stopped.decode()
    if error:
        raise UserError(error)
    return None


@contextmanager
def _interrupts_given_back() -> Iterator[None]:
    """Ray Train keeps Ctrl-C for itself for good, and after its end starts a new Ray to tell a controller of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:  # Ray's answer to Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def drop_torn_snapshot(folder: RunFolder) -> None:
    """Ray overwrites its list of checkpoints in place, so a kill can tear it; ours tells where the run was."""
    name = "checkpoint_manager_snapshot.json"
    snapshot = folder.read(name)
    try:
        json.loads(snapshot or b"{}")
    except ValueError:
        print(f"{folder.uri}/{name} was torn by a kill: left aside; the run continues from its newest checkpoint")
        folder.delete(name)


def lost_workers(failure: Exception) -> str:
    """What ended the workers, in one line, where it was not their code: killed, out of memory, or no room for them."""
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.train.v2._internal import exceptions as train

    causes = [*getattr(failure, "worker_failures", {}).values(), getattr(failure, "controller_failure", None)]
    for cause in causes:
        if isinstance(cause, train.WorkerHealthCheckFailedError):
            cause = cause.health_check_failure
        if isinstance(cause, train.WorkerGroupStartupTimeoutError):
            return "there was no room for all workers, or it went before they had begun"
        if isinstance(cause, train.WorkerGroupStartupFailedError):
            cause = cause.__cause__
        if isinstance(cause, RayActorError | OutOfMemoryError):
            said = [line for line in str(cause).splitlines() if not line[:1].isspace()]  # the others are its fields
            return " ".join(said)[:300]
    return ""
