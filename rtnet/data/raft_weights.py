"""RAFT's weights: files, URLs and torchvision's downloads, in torchvision's names or in the published ones."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit

from rtnet.errors import UserError

if TYPE_CHECKING:
    import torch

# Of Teed and Deng's release (raft-things.pth and its kin), part by part, to torchvision's.
_PUBLISHED = (
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(\w+_encoder)\.norm1\.", r"\1.convnormrelu.1."),
    (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)


def load_raft(size: str, weights: str | None) -> tuple["torch.nn.Module", str]:
    """torchvision's RAFT of a size, "large" or "small", with its weights; and those weights' sha256 in hex.

    weights: a state dict's file, torchvision's or the published one; a URL of one (http, https or file), fetched into
    PyTorch's cache; or the name of one of torchvision's downloads for the size. None or "default": its own choice.
    Raises UserError for an unknown size, and for weights that can't be had or don't fit, saying how to get them.
    """
    import torch
    from torchvision.models import optical_flow

    variants = {
        "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights),
        "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights),
    }
    if size not in variants:
        raise UserError(f"unknown RAFT size {size!r}: one of {', '.join(variants)}")
    build, published = variants[size]
    path = _weights_file(weights or "default", published)
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, and PyTorch's own advice is to load it unsafely
        raise UserError(f"{path}: PyTorch can't read weights from this file: {_how_to_get(published)}") from None
    model = build(weights=None)
    try:
        model.load_state_dict(from_published(entries) if _is_published(entries) else entries)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not weights of raft_{size} ({reason}): {_how_to_get(published)}") from None
    return model, sha256(path.read_bytes()).hexdigest()


def from_published(entries: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The published release's entries under torchvision's names.

    The published blocks hold the norm of their shortcut twice, as downsample.1 and as their last norm; one is kept.
    """
    renamed = {}
    last_norm = {"convnormrelu3.1", "convnormrelu4.1"}
    blocks = {name.split(".convnormrelu3.0")[0] for name in map(_renamed, entries) if ".convnormrelu3.0." in name}
    for name, value in ((_renamed(name), value) for name, value in entries.items()):
        block, _, rest = name.partition(".convnormrelu")
        norm = f"convnormrelu{rest[:3]}" if rest else ""
        if norm in last_norm and (norm == "convnormrelu4.1" or block not in blocks):
            continue
        renamed[name] = value
    return renamed


def _renamed(name: str) -> str:
    for pattern, replacement in _PUBLISHED:
        name = re.sub(pattern, replacement, name)
    return name


def _is_published(entries: Any) -> bool:
    names = entries if isinstance(entries, Mapping) else ()
    return any(str(name).removeprefix("module.").startswith("fnet.") for name in names)


def _weights_file(weights: str, published: Any) -> Path:
    import torch

    names = {name.lower(): entry for name, entry in published.__members__.items()}
    if weights.lower() in names:
        url = names[weights.lower()].url
    elif "://" in weights:
        url = weights
    elif Path(weights).expanduser().is_file():
        return Path(weights).expanduser()
    else:
        raise UserError(f"RAFT weights {weights}: no such file, and none of torchvision's: {_how_to_get(published)}")
    name = Path(urlsplit(url).path).name
    # Two hosts may call different files alike; torchvision's own names carry a checksum.
    folder = "" if weights.lower() in names else sha256(url.encode()).hexdigest()[:12]
    path = Path(torch.hub.get_dir()) / "checkpoints" / folder / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = re.search(r"-([0-9a-f]{8,})\.", name)
        try:
            torch.hub.download_url_to_file(url, str(path), checksum[1] if checksum else None, progress=False)
        except (URLError, OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"RAFT weights {weights} could not be downloaded ({error}): "
                f"fetch {url} by other means and give the file's path"
            ) from None
    return path


def _how_to_get(published: Any) -> str:
    default = published.DEFAULT
    return f"give the path of a file fetched from {default.url}, or one of {', '.join(published.__members__)}"
