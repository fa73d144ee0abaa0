"""Files that hold a network: model files (weights and config) and training checkpoints (all of a run's state)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from stat import S_IMODE
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.network import Network, build_network
from rtnet.model.rtnet import RTNet
from rtnet.weights import load_published_file, load_weights, read_plain

_EXPORTS = {".onnx": "ONNX Runtime", ".pt2": "torch.export"}  # what rtnet.export writes beside .safetensors


def save_model(path: Path, model: Network) -> None:
    """Writes weights, config and the digest of both as one safetensors file, aside and then moved."""
    aside = path.with_name(f"{path.name}.part")
    aside.unlink(missing_ok=True)
    aside.touch()
    mode = aside.stat().st_mode  # as the umask says; safetensors makes a file of its own that only its owner may read
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = json.dumps(model.config.to_dict(), sort_keys=True)
    save_file(tensors, aside, metadata={"config": config, "sha256": _digest(config, tensors)})
    if aside.stat().st_mode != mode:
        aside.chmod(S_IMODE(mode))
    aside.replace(path)


def load_model(path: Path) -> RTNet:
    """The whole network of a file that `load_network` reads; UserError where it holds one stream alone."""
    network = load_network(path)
    if not isinstance(network, RTNet):
        raise UserError(f"{path} holds the {network.config.streams} stream alone: the whole network is wanted here")
    return network


def load_network(path: Path) -> Network:
    """A network or stream from a model file, a training checkpoint or a published .pth; nothing in them can run code.

    Raises UserError naming the file where it is none of these, was changed since it was written, or its entries don't
    fit its config.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file in it, such as checkpoint.pt")
    if str(path).startswith("models:/"):
        raise UserError(f"{path}: a registered model is loaded by pipelines.models.load")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .safetensors or .pt file of ours or a published .pth")
    if (kind := _EXPORTS.get(path.suffix.lower())) is not None:
        raise UserError(
            f"{path} is an export for {kind}, a graph that is no network of ours: give that version's .safetensors, "
            "as `rtnet models export NAME/VERSION FILE.safetensors` writes it"
        )
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".pt":
        return network_of(read_training(path, str(path)), str(path))
    return load_published_file(path)


def network_of(state: dict[str, Any], origin: str) -> Network:
    """The network whose "config" and "model" a training checkpoint holds."""
    network = build_network(RTNetConfig.from_dict(state["config"]))
    load_weights(network, state["model"], origin)
    return network


def write_training(stream: IO[bytes], state: dict[str, Any]) -> None:
    """Writes a training checkpoint: "config", "model" and whatever else a run's state is, tensors and plain values."""
    torch.save(state, stream)


def read_training(stream: IO[bytes] | Path, origin: str) -> dict[str, Any]:
    """What write_training wrote, on the CPU; UserError naming `origin` where it is damaged or something else."""
    try:
        state = read_plain(stream)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        raise UserError(f"{origin} is not a checkpoint of ours or is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not {"config", "model"} <= state.keys():
        raise UserError(f"{origin} is not a training checkpoint: it lacks 'config' or 'model'")
    return state


def _load_safetensors(path: Path) -> Network:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config = json.loads(metadata.get("config", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is not a model file or is damaged: {error}") from error
    if config is None:
        raise UserError(f"{path} holds no config: it was not written by this project")
    if metadata.get("sha256", digest := _digest(metadata["config"], tensors)) != digest:
        raise UserError(f"{path}: its weights are not those that were written: copy or export it again")
    return network_of({"config": config, "model": tensors}, str(path))


def _digest(config: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of all that a model file says."""
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
