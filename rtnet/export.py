"""A network as one file for other programs: safetensors, torch.export or ONNX; kept only if it gives the same maps."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rtnet.checkpoint import load_network, save_model
from rtnet.data.clip import write_clip
from rtnet.data.flow import dis, neighbour_flows
from rtnet.data.flow_picture import flow_picture
from rtnet.data.frames import read_frames
from rtnet.data.images import Picture
from rtnet.data.inputs import network_input
from rtnet.data.layouts import read_layout
from rtnet.errors import UserError
from rtnet.model.network import Network
from rtnet.model.rtnet import RTNet
from rtnet.model.stream import Stream
from rtnet.prediction import for_prediction

Maps = Callable[[Tensor, Tensor], Tensor]
"""frames (B, 2, 3, H, W) and flow (B, 2, 6, H, W), normalised -> probabilities (B, 1, 4*H1, 4*W1)."""

TOLERANCE = 1e-3
SIZES = ((192, 336), (384, 672))
"""(H, W) at which an exported file is compared with its network."""
SMALLEST = 33
"""Rows and columns that an exported graph takes at least: from there on no feature map is a single place."""
_BATCHES = (1, 2)
_FRAMES = 5
_CPU = torch.device("cpu")


def export_model(
    network: Network, output: Path, clip: Path | None = None, sizes: Sequence[tuple[int, int]] = SIZES
) -> float:
    """Writes `output`, compares it with the network, and only then moves it into place; the largest difference.

    output: .safetensors (weights and config: what `rtnet.load` takes), .pt2 (torch.export) or .onnx. The latter two are
    graphs of `Maps`, for any batch and any size from 33 on, their attention's memory quadratic in the pixels. One
    stream alone goes to .safetensors only. clip: a video or a folder of frames to compare on, at every one of the
    sizes (H, W), in batches of 1 and 2; None for a generated one. Raises UserError where the maps differ by more than
    1e-3, and for another suffix.
    """
    check_output(output)
    if isinstance(network, Stream) and output.suffix != ".safetensors":
        raise UserError(f"{output}: one stream alone is exported to .safetensors only")
    write, opened = _FORMATS[output.suffix]
    pictures = _pictures(clip)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        aside = Path(scratch) / output.name
        write(network, aside)
        error = largest_difference(maps_of(network), opened(aside), inputs(pictures, sizes))
        if not error <= TOLERANCE:  # NaN is no success
            raise UserError(f"{output}: not kept: its maps differ from the network's by {error:.1e}, above {TOLERANCE}")
        aside.replace(output)
    return error


def check_output(output: Path) -> None:
    """UserError where `export_model` cannot write there."""
    if output.suffix not in _FORMATS:
        raise UserError(f"{output}: the suffix says the format: .safetensors, .pt2 (torch.export) or .onnx")
    if output.is_dir():
        raise UserError(f"{output} is a folder: give a file in it")


def largest_difference(first: Maps, second: Maps, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Between the maps of two, over all batches; NaN where one has any."""
    worst = torch.zeros(())
    for frames, flow in batches:
        with torch.inference_mode():
            worst = torch.maximum(worst, (first(frames, flow) - second(frames, flow)).abs().max())
    return float(worst)


def maps_of(network: Network) -> Maps:
    """What the network itself gives; of a stream alone the maps of the frames of interest."""
    model = network.eval()
    if isinstance(model, RTNet):
        return lambda frames, flow: torch.sigmoid(model.predict(frames, flow)[:, 0])
    stream = model
    return lambda frames, flow: torch.sigmoid(stream((frames if stream.in_channels == 3 else flow)[:, 0])[0])


def inputs(pictures: Sequence[Picture], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 1 and 2 pairs of neighbours at every size: frames (B, 2, 3, H, W) and flow (B, 2, 6, H, W).

    pictures: five consecutive frames, of which the middle three are used: they have flow both ways.
    """
    seen = [
        (image, np.concatenate([flow_picture(forward), flow_picture(backward)], axis=2))
        for image, forward, backward in neighbour_flows(pictures, dis())
        if forward is not None and backward is not None
    ]
    for size in sizes:
        frames = network_input([image for image, _ in seen], size, _CPU)  # (3, 3, H, W)
        flow = network_input([picture for _, picture in seen], size, _CPU)  # (3, 6, H, W)
        for batch in _BATCHES:
            pairs = torch.tensor([[0, 1], [1, 2]][:batch])
            yield frames[pairs], flow[pairs]


class _Graph(nn.Module):
    """What is exported."""

    def __init__(self, network: RTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor, flow: Tensor) -> Tensor:
        return torch.sigmoid(self.network.predict(frames, flow)[:, 0])


def _exported(network: Network) -> torch.export.ExportedProgram:
    assert isinstance(network, RTNet)
    side = torch.export.Dim.DYNAMIC(min=SMALLEST)
    shape = {0: torch.export.Dim.DYNAMIC, 3: side, 4: side}
    # An example without a number that means something, so that none is taken for a constant.
    example = torch.zeros(3, 2, 3, 67, 101), torch.zeros(3, 2, 6, 67, 101)
    with torch.no_grad():
        graph = _Graph(for_prediction(network, _CPU).to(memory_format=torch.contiguous_format))
        return torch.export.export(graph, example, dynamic_shapes={"frames": shape, "flow": shape})


def _write_torch(network: Network, path: Path) -> None:
    torch.export.save(_exported(network), path)


def _open_torch(path: Path) -> Maps:
    graph: Maps = torch.export.load(path).module()
    return graph


def _write_onnx(network: Network, path: Path) -> None:
    torch.onnx.export(
        _exported(network),
        (),
        path,
        input_names=["frames", "flow"],
        output_names=["probabilities"],
        external_data=False,
        dynamo=True,
        optimize=False,  # runtimes do so when they open it, and here it takes as long as all the rest
        verbose=False,
    )


def _open_onnx(path: Path) -> Maps:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda frames, flow: torch.from_numpy(session.run(None, {"frames": frames.numpy(), "flow": flow.numpy()})[0])


def _write_safetensors(network: Network, path: Path) -> None:
    save_model(path, network)


def _open_safetensors(path: Path) -> Maps:
    return maps_of(load_network(path))


_FORMATS: dict[str, tuple[Callable[[Network, Path], None], Callable[[Path], Maps]]] = {
    ".safetensors": (_write_safetensors, _open_safetensors),
    ".pt2": (_write_torch, _open_torch),
    ".onnx": (_write_onnx, _open_onnx),
}


def _pictures(clip: Path | None) -> list[Picture]:
    """Frames from the beginning of a clip."""
    if clip is None:
        with tempfile.TemporaryDirectory() as scratch:
            write_clip(Path(scratch), {"val": ["leaf"]}, frames=_FRAMES, height=240, width=420)
            return _pictures(Path(scratch, "JPEGImages", "480p", "leaf"))
    sequence = read_layout("video" if clip.is_file() else "frames", clip, "check")[0]
    pictures = [picture for _, picture in read_frames(sequence, 0, _FRAMES)]
    if len(pictures) < _FRAMES:
        raise UserError(f"{clip}: holds {len(pictures)} frames: {_FRAMES} are needed to compare an export on")
    return pictures
