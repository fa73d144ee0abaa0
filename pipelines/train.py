"""`rtnet train`: parquet dataset -> checkpoints after each epoch, a tracked run, a registered model.

The run's folder holds its state. The same command continues it from the newest whole epoch, whatever was killed, and
does nothing once it is finished.
"""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import config, tracking
from pipelines.dataset import Dataset
from pipelines.loader import READ_CPUS, Schedule
from pipelines.registry import MODEL_FILE, download_model, register_model, resolve_model
from pipelines.run_folder import RunFolder, decisive_settings
from pipelines.session import ray_session
from pipelines.storage import absolute
from rtnet.checkpoint import load_model, save_model
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.weights import load_encoder, load_weights


def run(experiment: config.Experiment) -> None:
    """Trains to the end of the last phase, then registers the best epoch as a model version."""
    experiment = _absolute(experiment)
    folder = RunFolder.of(experiment)
    dataset = Dataset(experiment.data.dataset)
    _check_data(experiment, dataset)
    settings = decisive_settings(experiment, dataset.digest)
    folder.refuse_other_settings(settings)
    if finished := folder.read("finished.json"):
        facts = json.loads(finished)
        print(f"run {folder.uri} is finished: {facts['model']} is its epoch {facts['epoch']}; nothing to do")
        return
    fresh = None if folder.epochs() else initial_state(experiment)
    tracked = _tracked_run(experiment, folder, dataset)
    print(f"training {experiment.name} in {folder.uri}, tracked in {tracked.uri}", flush=True)
    try:
        with ray_session():
            _check_resources(experiment.scaling)
            if fresh is not None:  # from here on the run is begun, with these settings
                folder.claim(settings)
                folder.write_checkpoint(0, fresh)
            error = _fit(experiment, folder, tracked)
        if error:
            raise UserError(error)
    except BaseException as failure:
        tracked.finish("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
        raise
    _register_best(experiment, folder, tracked, dataset)
    tracked.finish()


def best_epoch(folder: RunFolder) -> tuple[int, dict[str, float]]:
    """The kept epoch with the highest validation J&F, the later one where two are equal, and its values."""
    values = {epoch: folder.metrics(epoch)["values"] for epoch in folder.epochs() if epoch}
    epoch = max(values, key=lambda e: (values[e].get("validation/JF", -1.0), e))
    return epoch, values[epoch]


def _fit(experiment: config.Experiment, folder: RunFolder, tracked: tracking.Run) -> str:
    """Runs the workers; what stopped them though no machine failed, or nothing."""
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.track_epochs import TrackEpochs
    from pipelines.train_loop import train_worker

    scaling = experiment.scaling
    drop_torn_snapshot(folder)
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=experiment.model_dump(mode="json"),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=experiment.name,
            storage_path=experiment.storage,
            callbacks=[TrackEpochs(tracked, folder)],
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(
                num_to_keep=experiment.training.keep_checkpoints,
                checkpoint_score_attribute="validation/JF",
                checkpoint_score_order="max",
            ),
        ),
    )
    return str(trainer.fit().return_value["error"])


def _absolute(experiment: config.Experiment) -> config.Experiment:
    """Workers have working folders of their own."""
    data = experiment.data.model_copy(update={"dataset": absolute(experiment.data.dataset)})
    return experiment.model_copy(update={"data": data, "storage": absolute(experiment.storage)})


def _check_data(experiment: config.Experiment, dataset: Dataset) -> None:
    world = experiment.scaling.num_workers
    schedule = Schedule(dataset, experiment.data, experiment.training, experiment.seed, world)
    _warn_of_mixed_flow(dataset, schedule.rows)
    if not schedule.steps_per_epoch:
        raise UserError(
            f"dataset {dataset.uri}: split '{experiment.training.split}' has fewer frames than the "
            f"{world * experiment.training.batch_size} pairs of one step: lower scaling.num_workers or "
            "training.batch_size"
        )
    dataset.rows(experiment.validation.split, views=["as_is"], annotated=True)


def _warn_of_mixed_flow(dataset: Dataset, rows: np.ndarray) -> None:
    """Networks learn one estimator's errors: a mixture may be meant, and is said."""
    views = Counter(str(name) for name in dataset.column("estimator")[rows] if name)
    if len(views) > 1:
        made_by = ", ".join(f"{name} ({count} views)" for name, count in views.most_common())
        print(f"warning: the flow of {dataset.uri} is a mixture: {made_by}", flush=True)


def _check_resources(scaling: config.Scaling) -> None:
    """Ray would wait forever for what isn't there."""
    import ray

    cluster = ray.cluster_resources()
    needed = {"CPU": scaling.num_workers * scaling.cpus_per_worker + READ_CPUS}
    if scaling.use_gpu:
        needed["GPU"] = float(scaling.num_workers)
    for kind, amount in needed.items():
        there = cluster.get(kind, 0.0)
        if there < amount:
            raise UserError(
                f"scaling asks for {scaling.num_workers} workers, {amount:g} {kind}s with the reading tasks, and the "
                f"cluster has {there:g}: lower scaling.num_workers"
                + (" or scaling.cpus_per_worker" if kind == "CPU" else " or set scaling.use_gpu=false")
            )


def initial_state(experiment: config.Experiment) -> dict[str, Any]:
    """Epoch 0: every worker, and every restart, begins with these weights."""
    torch.manual_seed(experiment.seed)
    model = RTNet(RTNetConfig(backbone=experiment.model.backbone))
    if experiment.model.encoder_weights is not None:
        load_encoder(model, _encoder_state(experiment.model))
    if experiment.model.start_from is not None:
        source = experiment.model.start_from
        other = _start_model(experiment, source)
        if other.config != model.config:
            raise UserError(
                f"model.start_from={source} is a {other.config.backbone}, and the recipe's model.backbone is "
                f"{model.config.backbone}: change one of them"
            )
        load_weights(model, other.state_dict(), origin=source)
    return {"config": model.config.to_dict(), "model": model.state_dict(), "optimizer": None, "epoch": 0}


def _start_model(experiment: config.Experiment, source: str) -> RTNet:
    if not source.startswith("models:/"):
        return load_model(Path(source).expanduser())
    with tempfile.TemporaryDirectory() as scratch:
        uri = tracking.tracking_uri(experiment)
        return load_model(download_model(uri, resolve_model(uri, source), Path(scratch)))


def _encoder_state(model: config.Model) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights, from a file or downloaded."""
    import torchvision

    if model.encoder_weights != "torchvision":
        path = Path(str(model.encoder_weights)).expanduser()
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises a dozen types for damaged files
            raise UserError(f"model.encoder_weights={path}: no state dict ({str(error).splitlines()[0]})") from error
    weights = torchvision.models.get_model_weights(model.backbone).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model.encoder_weights=torchvision: {weights.url} can't be fetched ({error}): fetch it elsewhere and "
            "give the file's path"
        ) from error


def _tracked_run(experiment: config.Experiment, folder: RunFolder, dataset: Dataset) -> tracking.Run:
    """The run's MLflow run: a new one, or the one that the folder names."""
    uri = tracking.tracking_uri(experiment)
    known = json.loads(folder.read("tracking.json") or b"{}")
    run_id = known["run_id"] if known.get("uri") == uri else None
    tracked = tracking.start_run(experiment, experiment.name, run_id, {"dataset.digest": dataset.digest})
    folder.write("tracking.json", json.dumps({"uri": tracked.uri, "run_id": tracked.run_id}).encode())
    tracked.log_params(experiment)
    tracked.log_bytes(json.dumps(experiment.model_dump(mode="json"), indent=2).encode(), "recipe.json")
    return tracked


def drop_torn_snapshot(folder: RunFolder) -> None:
    """Ray overwrites its list of checkpoints in place, so a kill can tear it; ours tells where the run was."""
    name = "checkpoint_manager_snapshot.json"
    snapshot = folder.read(name)
    try:
        json.loads(snapshot or b"{}")
    except ValueError:
        print(f"{folder.uri}/{name} was torn by a kill: left aside; the run continues from its newest epoch")
        folder.delete(name)


def _register_best(experiment: config.Experiment, folder: RunFolder, tracked: tracking.Run, dataset: Dataset) -> None:
    epoch, values = best_epoch(folder)
    state = folder.read_checkpoint(epoch)
    model = RTNet(RTNetConfig.from_dict(state["config"]))
    load_weights(model, state["model"], origin=f"epoch {epoch}")
    scores = {name.removeprefix("validation/"): v for name, v in values.items() if name.startswith("validation/")}
    scratch = Path(tempfile.mkdtemp())
    try:
        save_model(scratch / MODEL_FILE, model)
        version = register_model(
            tracked,
            scratch,
            experiment.tracking.model,
            experiment.tracking.alias,
            {"recipe": experiment.name, "epoch": epoch, "dataset.digest": dataset.digest, **scores},
        )
    finally:
        shutil.rmtree(scratch)
    name = f"models:/{experiment.tracking.model}/{version}"
    folder.write("finished.json", json.dumps({"model": name, "epoch": epoch, **scores}).encode())
    print(f"{name} (alias {experiment.tracking.alias}) is epoch {epoch}: " + _in_words(scores), flush=True)


def _in_words(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
