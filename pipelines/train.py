"""`rtnet train`: parquet dataset -> checkpoints, a tracked run, a registered model; stage by stage where there are any.

A run's folder holds its state. The same command continues it from the newest checkpoint, whatever was killed, and
does nothing once it is finished.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipelines import tracking
from pipelines.code_version import code_commit
from pipelines.config import Experiment, expand_stages
from pipelines.dataset import Dataset
from pipelines.fit import fit
from pipelines.initial_weights import initial_state
from pipelines.lock import sole_writer
from pipelines.places import check_reachable, check_shared, places_of
from pipelines.registry import MODEL_FILE, register_model
from pipelines.resources import check_resources
from pipelines.run_folder import RunFolder, decisive_settings
from pipelines.session import ray_session
from pipelines.storage import absolute, open_storage, read_bytes
from pipelines.system_metrics import system_metrics
from pipelines.train_checks import check_data
from rtnet.checkpoint import network_of, save_model
from rtnet.config import RTNetConfig
from rtnet.errors import UserError


@dataclass(frozen=True)
class Trained:
    """A training that went to its end."""

    folder: RunFolder
    run_id: str  # of its MLflow run
    epoch: int  # the best kept one
    values: dict[str, float]  # its losses and scores


def run(experiment: Experiment) -> None:
    """Trains all stages, or the one that the experiment names, and registers the best epoch of each."""
    stages = expand_stages(experiment)
    # What is wrong with a later stage is said before hours go into an earlier one.
    for stage in stages:
        try:
            RTNetConfig(stage.model.backbone, stage.model.streams)
        except UserError as error:
            raise UserError(f"recipe {stage.name}, model.backbone: {error}") from error
        check_reachable(places_of(stage, "train"))
        check_data(stage, Dataset(stage.data.dataset))
    for number, stage in enumerate(stages, start=1):
        if len(stages) > 1:
            print(f"stage {number} of {len(stages)}: {stage.name}", flush=True)
        train_one(stage)


def train_one(
    experiment: Experiment, *, parent: str = "", callbacks: Sequence[Any] = (), register: bool = True
) -> Trained:
    """One training, to the end of its last phase, in the open Ray session or one of its own.

    parent: the MLflow run that its own is nested in. callbacks: Ray Train's UserCallbacks. register: the best epoch
    becomes a model version. A run that is finished does nothing. Raises UserError where the user can mend what stopped
    it.
    """
    experiment = _absolute(experiment)
    folder = RunFolder.of(experiment)
    dataset = Dataset(experiment.data.dataset)
    check_data(experiment, dataset)
    settings = decisive_settings(experiment, dataset.digest)
    folder.refuse_other_settings(settings)
    if finished := folder.read("finished.json"):
        facts = json.loads(finished)
        print(f"run {folder.uri} is finished: {facts['model'] or 'its best'} is epoch {facts['epoch']}; nothing to do")
        return Trained(folder, facts["run_id"], facts["epoch"], folder.measured(facts["epoch"])["values"])
    with sole_writer(*folder.place, f"run {folder.uri}"):
        folder.remove_torn()
        fresh = None if folder.epochs() else initial_state(experiment)
        tracking.reach_store(tracking.tracking_uri(experiment))
        with ray_session():
            check_resources(experiment.scaling)
            if not parent:  # else the sweep has looked
                check_shared(places_of(experiment, "train"))
            tracked = _tracked_run(experiment, folder, dataset, parent)
            print(f"training {experiment.name} in {folder.uri}, tracked in {tracked.uri}", flush=True)
            try:
                if fresh is not None:  # from here on the run is begun, with these settings
                    folder.claim(settings)
                    folder.write_epoch(0, fresh)
                if folder.epochs()[-1] < experiment.training.phases[-1].last_epoch or callbacks:
                    with system_metrics(tracked):
                        fit(experiment, folder, tracked, callbacks)
                return _finish(experiment, folder, tracked, dataset, register)
            except BaseException as failure:
                tracked.try_finish("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
                raise


def best_epoch(folder: RunFolder) -> tuple[int, dict[str, float]]:
    """The kept epoch with the highest validation J&F, the later one where two are equal, and its values."""
    values = {epoch: folder.measured(epoch)["values"] for epoch in folder.epochs() if epoch}
    epoch = max(values, key=lambda e: (values[e].get("validation/JF", -1.0), e))
    return epoch, values[epoch]


def register_best(experiment: Experiment, trained: Trained, dataset_digest: str) -> str:
    """Makes the best epoch a model version, models:/NAME/VERSION, to which the recipe's alias then points."""
    state = trained.folder.read_epoch(trained.epoch)
    network = network_of(state, trained.folder.checkpoint(trained.epoch))
    tags = {
        "recipe": experiment.name,
        "epoch": trained.epoch,
        "dataset.digest": dataset_digest,
        "commit": code_commit(),
        "backbone": network.config.backbone,
        "streams": network.config.streams,
    }
    tracked = tracking.Run(tracking.tracking_uri(experiment), trained.run_id)
    name, alias = experiment.registered_model, experiment.tracking.alias
    with tempfile.TemporaryDirectory() as scratch, tracking.explained(tracked.uri):
        save_model(Path(scratch) / MODEL_FILE, network)
        version = register_model(tracked, Path(scratch), name, alias, tags | _scores(trained.values))
    return f"models:/{name}/{version}"


def _finish(
    experiment: Experiment, folder: RunFolder, tracked: tracking.Run, dataset: Dataset, register: bool
) -> Trained:
    from pipelines.track_epochs import track_epochs

    try:
        tracking.open_store(tracked.uri)  # which does not wait for minutes
        with tracking.explained(tracked.uri):
            track_epochs(tracked, folder)
    except UserError as error:
        raise UserError(f"{error}; all epochs are trained: the same command logs and registers them") from error
    trained = Trained(folder, tracked.run_id, *best_epoch(folder))
    model = register_best(experiment, trained, dataset.digest) if register else ""
    tracked.finish()
    facts = {"model": model, "epoch": trained.epoch, "run_id": tracked.run_id, **_scores(trained.values)}
    folder.write("finished.json", json.dumps(facts).encode())
    scores = ", ".join(f"{name} {value:.3f}" for name, value in _scores(trained.values).items())
    title = f"{model} (alias {experiment.tracking.alias})" if model else experiment.name
    print(f"{title} is epoch {trained.epoch}: {scores}", flush=True)
    return trained


def _absolute(experiment: Experiment) -> Experiment:
    """Workers have working folders of their own."""
    data = experiment.data.model_copy(update={"dataset": absolute(experiment.data.dataset)})
    return experiment.model_copy(update={"data": data, "storage": absolute(experiment.storage)})


def _tracked_run(experiment: Experiment, folder: RunFolder, dataset: Dataset, parent: str) -> tracking.Run:
    """The run's MLflow run: a new one, or the one that the folder names."""
    uri = tracking.tracking_uri(experiment)
    known = json.loads(folder.read("tracking.json") or b"{}")
    if known.get("uri") != uri:
        # Before there is a run, so that one that was begun and killed is found again.
        known = {"uri": uri, "key": uuid4().hex}
        folder.write("tracking.json", json.dumps(known).encode())
    tags = {"dataset.digest": dataset.digest, "dataset": dataset.uri, "checkpoints": folder.uri}
    if parent:
        tags[tracking.PARENT] = parent
    with tracking.explained(uri):
        tracked = tracking.start_run(experiment, experiment.name, tags=tags, key=known["key"])
        folder.write("tracking.json", json.dumps(known | {"run_id": tracked.run_id}).encode())
        tracked.log_params(experiment)
        system, root = open_storage(dataset.uri)
        tracked.log_missing({"dataset/provenance.json": read_bytes(system, f"{root}/provenance.json")})
    return tracked


def _scores(values: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("validation/"): v for name, v in values.items() if name.startswith("validation/")}
