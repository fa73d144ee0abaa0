"""Is our flow exact, and what is gained by computing each frame's RAFT features once?

    python -m experiments.benchmarks.flow --data ../shared/data

The end-point error of DIS on two pairs of known flow is printed beside OpenCV's own. RAFT, with random weights (its
arithmetic is the same with any), runs over neighbouring frames beside torchvision called twice for each pair, forth and
back, rounds in turn; on a GPU as well where there is one. The last line is torchvision's time over ours, RAFT large.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models import optical_flow

from rtnet.data.clip import write_clip
from rtnet.data.flow import DIS_PRESETS, dis
from rtnet.data.flow_files import read_flo
from rtnet.data.frames import read_frames
from rtnet.data.images import decode_image
from rtnet.data.layouts import read_layout
from rtnet.data.raft import raft

Picture = NDArray[np.uint8]
_PAIRS = {
    "RubberWhale": ("RubberWhale_frame10.png", "RubberWhale_frame11.png", "RubberWhale_flow10.flo"),
    "FlyingChairs": ("00001_img1.ppm", "00001_img2.ppm", "00001_flow.flo"),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with flow/ and davis-480p/; default: generated frames alone")
    parser.add_argument("--height", type=int, default=160, help="rows of RAFT's frames")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=12)
    options = parser.parse_args(arguments)
    if options.data is None:
        print("no --data: no true flow to compare with, and RAFT on generated frames")
    else:
        _dis_exactness(options.data / "flow")
    frames = _frames(options.data, options.frames, options.height)
    ratio = 0.0
    for device, precision in _devices():
        for size in ("small", "large"):
            ratio = _shared_features(size, frames, device, precision, options.rounds, options.updates)
    print(f"ratio: {ratio:.2f}")


def _dis_exactness(folder: Path) -> None:
    print("end-point error in pixels       ours     OpenCV  largest difference")
    for name, (first, second, truth) in _PAIRS.items():
        frames = [decode_image((folder / file).read_bytes()) for file in (first, second)]
        true_flow = read_flo(folder / truth)
        known = (np.abs(true_flow) < 1e9).all(axis=2)
        for preset, code in DIS_PRESETS.items():
            ours = dis(preset)(*frames)
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
            theirs = cv2.DISOpticalFlow.create(code).calc(*grey, None)  # type: ignore[call-overload]
            errors = [np.linalg.norm(flow - true_flow, axis=2)[known].mean() for flow in (ours, theirs)]
            print(f"{name + ', ' + preset:26s} {errors[0]:9.4f}  {errors[1]:9.4f}  {np.abs(ours - theirs).max():9.2g}")


def _shared_features(size: str, frames: list[Picture], device: str, precision: Any, rounds: int, updates: int) -> float:
    build = {"large": optical_flow.raft_large, "small": optical_flow.raft_small}[size]
    torch.manual_seed(0)
    plain = build(weights=None).eval()
    with tempfile.TemporaryDirectory() as scratch:
        torch.save(plain.state_dict(), f"{scratch}/weights.pth")
        ours = raft(size, f"{scratch}/weights.pth", device, updates, precision)
    plain = plain.to(device)

    def two_calls() -> list[NDArray[np.float32]]:
        tensors = [torch.from_numpy(f).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1 for f in frames]
        flows = []
        kind = torch.device(device).type
        with (
            torch.inference_mode(),
            torch.autocast(kind, getattr(torch, precision), enabled=precision != "float32"),
        ):
            for first, second in pairwise(tensors):
                for pair in ((first, second), (second, first)):
                    flows.append(plain(*pair, num_flow_updates=updates)[-1][0].permute(1, 2, 0).float().cpu().numpy())
        return flows

    def shared() -> list[NDArray[np.float32]]:
        return [flow for pair in ours.flows(frames) for flow in pair]

    difference = max(float(np.abs(a - b).max()) for a, b in zip(two_calls(), shared(), strict=True))
    times: dict[str, list[float]] = {"plain": [], "shared": []}
    for _ in range(rounds):
        for name, run in (("plain", two_calls), ("shared", shared)):
            times[name].append(_seconds(run))
    medians = {name: statistics.median(values) / (len(frames) - 1) for name, values in times.items()}
    height, width = frames[0].shape[:2]
    print(
        f"RAFT {size}, {device}, {precision}, {height} x {width}, {updates} updates, both directions: "
        f"plain {medians['plain']:.3f} s a frame, shared features {medians['shared']:.3f}: "
        f"{medians['plain'] / medians['shared']:.2f} times; largest difference {difference:.1g} pixels",
        flush=True,
    )
    return medians["plain"] / medians["shared"]


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _frames(data: Path | None, count: int, height: int) -> list[Picture]:
    """Neighbouring frames whose sides are multiples of 8, so that nothing is padded."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = data / "davis-480p" if data else Path(scratch)
        if data is None:
            write_clip(folder, {"train": ["a"]}, frames=count, height=height, width=2 * height)
        sequence = max(read_layout("davis16", folder, "davis16"), key=lambda s: len(s.frames))
        pictures = [picture for _, picture in read_frames(sequence, 0, count)]
    width = round(pictures[0].shape[1] * height / pictures[0].shape[0] / 8) * 8
    return [np.asarray(cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA), np.uint8) for p in pictures]


def _devices() -> list[tuple[str, str]]:
    """The last one's ratio is the headline."""
    if torch.cuda.is_available():
        return [("cuda", "float16"), ("cuda", "float32")]
    return [("cpu", "float32")]


if __name__ == "__main__":
    main()
