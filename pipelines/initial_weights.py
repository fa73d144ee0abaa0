"""What a training begins with: random weights from the seed, an encoder's ImageNet weights, other networks' weights."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from pipelines.config import Experiment
from pipelines.registry import download_model, resolve_model
from pipelines.run_folder import RunFolder
from pipelines.sections import Model
from pipelines.storage import absolute, local_copy
from pipelines.tracking import tracking_uri
from rtnet.checkpoint import load_network, network_of
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.network import Network, build_network
from rtnet.weights import load_encoder, load_from


def initial_state(experiment: Experiment) -> dict[str, Any]:
    """Epoch 0: every worker, and every restart, begins with these weights.

    Raises UserError where the recipe's model section names weights that aren't there or don't fit.
    """
    torch.manual_seed(experiment.seed)
    network = build_network(RTNetConfig(experiment.model.backbone, experiment.model.streams))
    if experiment.model.encoder_weights is not None:
        load_encoder(network, _encoder_state(experiment.model))
    for start in experiment.model.starts:
        try:
            other = _start(experiment, start)
        except UserError as error:
            raise UserError(f"model.start_from={start}: {error}") from error
        load_from(network, other, f"model.start_from={start}")
    config, model = network.config.to_dict(), network.state_dict()
    return {"config": config, "model": model, "optimizer": None, "epoch": 0, "losses": []}


def _start(experiment: Experiment, start: str) -> Network:
    if start.startswith("models:/"):
        uri = tracking_uri(experiment)
        with tempfile.TemporaryDirectory() as scratch:
            return load_network(download_model(uri, resolve_model(uri, start), Path(scratch)))
    if start.startswith("run:"):
        folder = RunFolder(f"{absolute(experiment.storage)}/{start.removeprefix('run:')}")
        finished = folder.read("finished.json")
        if finished is None:
            raise UserError(f"no finished run in {folder.uri}: train it first")
        epoch = int(json.loads(finished)["epoch"])
        return network_of(folder.read_epoch(epoch), folder.checkpoint(epoch))
    with tempfile.TemporaryDirectory() as scratch:
        return load_network(local_copy(start, Path(scratch)))


def _encoder_state(model: Model) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights, from a file or downloaded."""
    import torchvision

    if model.encoder_weights != "torchvision":
        try:
            with tempfile.TemporaryDirectory() as scratch:
                path = local_copy(str(model.encoder_weights), Path(scratch))
                return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises a dozen types for damaged files
            raise UserError(
                f"model.encoder_weights={model.encoder_weights}: no state dict ({str(error).splitlines()[0]})"
            ) from error
    weights = torchvision.models.get_model_weights(model.backbone).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model.encoder_weights=torchvision: {weights.url} can't be fetched ({error}): fetch it elsewhere and "
            "give the file's path"
        ) from error
