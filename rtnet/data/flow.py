"""Optical flow between neighbouring frames: OpenCV's DIS, which runs anywhere, and torchvision's RAFT.

Every flow is float32 (H, W, 2): the displacement (u to the right, v down), in pixels, of each pixel of the first frame.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import cv2
import numpy as np
from numpy.typing import NDArray

from rtnet.data.flow_picture import flow_picture
from rtnet.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["Estimator", "FlowEstimator", "dis", "flow_picture", "neighbour_flows", "raft", "read_flo", "write_flo"]

Picture = NDArray[np.uint8]
Flow = NDArray[np.float32]
Estimator = Callable[[Picture, Picture], Flow]

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_DIS_SMALLEST = 12  # OpenCV refuses a smaller frame
_RAFT_SMALLEST = 128  # below this its coarsest correlation level vanishes
_RAFT_MULTIPLE = 8
_FLO_MAGIC = np.float32(202021.25)


@dataclass(frozen=True)
class FlowEstimator:
    """An estimator that says what it is; called with two uint8 (H, W, 3) RGB frames it gives the flow between them.

    digest: sha256, in hex, of all that decides the flow: method, options, and the weights' sha256 where there are any.
    """

    name: str
    digest: str
    estimate: Estimator

    def __call__(self, first: Picture, second: Picture) -> Flow:
        return self.estimate(first, second)


def neighbour_flows(
    frames: Iterable[Picture], estimate: Estimator, height: int | None = None
) -> Iterator[tuple[Picture, Flow | None, Flow | None]]:
    """(frame, forward flow, backward flow) of every frame of a sequence, in order; three frames are held at a time.

    Forward is from frame t to t + 1, backward from t to t - 1, both anchored at t; None where there is no neighbour.
    height: flow is estimated on frames reduced to this many rows, keeping their proportions, by area averaging, and
    given at that size, in that size's pixels; None, or more rows than they have, for the frames' own size. The frames
    come back as they were given.
    Raises UserError where a frame differs in size from the one before it.
    """
    before: Flow | None = None
    last: tuple[Picture, Picture] | None = None
    for frame in frames:
        small = _at_height(frame, height)
        if last is not None:
            if frame.shape != last[0].shape:
                raise UserError(f"frames of one sequence differ in size: {last[0].shape[:2]}, then {frame.shape[:2]}")
            yield last[0], estimate(last[1], small), before
            before = estimate(small, last[1])
        last = (frame, small)
    if last is not None:
        yield last[0], None, before


def dis(preset: str = "medium") -> FlowEstimator:
    """Dense inverse search (Kroeger et al., ECCV 2016) by OpenCV, on grey frames of at least 12 x 12 pixels.

    preset: "ultrafast", "fast" or "medium". The same frames give the same bits whatever the number of threads.
    Raises UserError for another preset.
    """
    if preset not in DIS_PRESETS:
        raise UserError(f"unknown DIS preset {preset!r}: one of {', '.join(DIS_PRESETS)}")
    name = f"dis-{preset}"
    return FlowEstimator(name, _digest(name), _Dis(preset))


def raft(size: str = "large", weights: str | None = None, device: str = "cpu") -> FlowEstimator:
    """RAFT (Teed and Deng, ECCV 2020) by torchvision.

    size: "large" or "small". weights: the path of a state dict, or the name of one of torchvision's downloads for
    that size (as "C_T_SKHT_V2"); None or "default" for torchvision's choice. device: where it runs.
    Raises UserError for an unknown size, and for weights that cannot be had or don't fit, saying how to get them.
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
    model = build(weights=None)
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds, and PyTorch's own advice is to load it unsafely
        raise UserError(f"{path}: PyTorch can't read weights from this file: {_how_to_get(published)}") from None
    try:
        model.load_state_dict(entries)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not weights of raft_{size} ({reason}): {_how_to_get(published)}") from None
    name = f"raft-{size}"
    digest = _digest(name, sha256(path.read_bytes()).hexdigest())
    return FlowEstimator(name, digest, _Raft(model.eval().to(device), torch.device(device)))


def read_flo(path: Path) -> Flow:
    """A Middlebury .flo file; unknown flow is left as it is, above 1e9. Raises UserError where it is not one."""
    data = Path(path).read_bytes()
    header = np.frombuffer(data[4:12], "<i4") if len(data) >= 12 else np.zeros(2, np.int32)
    width, height = int(header[0]), int(header[1])
    if data[:4] != _FLO_MAGIC.tobytes() or min(width, height) < 1 or len(data) != 12 + 8 * width * height:
        raise UserError(f"{path}: not a whole .flo file")
    return np.frombuffer(data[12:], "<f4").reshape(height, width, 2).astype(np.float32)


def write_flo(path: Path, flow: Flow) -> None:
    """Write float (H, W, 2) as a Middlebury .flo file."""
    height, width, _ = flow.shape
    header = _FLO_MAGIC.astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    Path(path).write_bytes(header + flow.astype("<f4").tobytes())


@dataclass(frozen=True)
class _Dis:
    preset: str

    def __call__(self, first: Picture, second: Picture) -> Flow:
        if min(first.shape[:2]) < _DIS_SMALLEST:
            raise UserError(f"DIS needs frames of at least 12 x 12 pixels, not {first.shape[1]} x {first.shape[0]}")
        # Made anew for each call, which costs nothing beside it: OpenCV's object can't be sent to a worker.
        method = cv2.DISOpticalFlow.create(DIS_PRESETS[self.preset])
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        no_start: Any = None
        return np.asarray(method.calc(grey[0], grey[1], no_start), np.float32)


@dataclass(frozen=True)
class _Raft:
    model: Callable[..., list["torch.Tensor"]]
    device: "torch.device"

    def __call__(self, first: Picture, second: Picture) -> Flow:
        import torch

        height, width = first.shape[:2]
        frames = torch.from_numpy(np.stack([first, second])).to(self.device)  # (2, H, W, 3)
        frames = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        padding = (0, _raft_padding(width), 0, _raft_padding(height))
        frames = torch.nn.functional.pad(frames, padding, mode="replicate")
        with torch.inference_mode():
            flow = self.model(frames[:1], frames[1:])[-1]  # the last refinement, (1, 2, H', W')
        return flow[0, :, :height, :width].permute(1, 2, 0).float().cpu().contiguous().numpy()


def _raft_padding(side: int) -> int:
    return max(-(-side // _RAFT_MULTIPLE) * _RAFT_MULTIPLE, _RAFT_SMALLEST) - side


def _at_height(frame: Picture, height: int | None) -> Picture:
    if height is None or height >= frame.shape[0]:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _digest(*facts: str) -> str:
    return sha256("\n".join(facts).encode()).hexdigest()


def _weights_file(weights: str, published: Any) -> Path:
    """The file of a state dict, fetched into PyTorch's cache where a download of torchvision's is named."""
    import torch

    names = {name.lower(): entry for name, entry in published.__members__.items()}
    entry = names.get(weights.lower())
    if entry is None:
        if not Path(weights).is_file():
            raise UserError(
                f"RAFT weights {weights}: no such file, and none of torchvision's: {_how_to_get(published)}"
            )
        return Path(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = path.stem.rsplit("-", 1)[1]
        try:
            torch.hub.download_url_to_file(entry.url, str(path), checksum, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"RAFT weights {entry.name} could not be downloaded ({error}): "
                f"fetch {entry.url} by other means and give the file's path"
            ) from None
    return path


def _how_to_get(published: Any) -> str:
    default = published.DEFAULT
    return f"give the path of a file fetched from {default.url}, or one of {', '.join(published.__members__)}"
