"""The memory of `rtnet segment` over a long video, against that over its first part.

    python -m experiments.benchmarks.segment                         # an hour at 5 frames a second, 18000 frames

Video of 96 x 168, which an encoder of mobilenet_v3_large sees at 32 rows: what grows with the frames is the same at any
size, and what doesn't shows the smaller the less there is. The last line is the peak of the whole over that of a tenth.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import psutil

_SIZE = (96, 168)
_RATE = 5  # frames a second
_SECONDS_BETWEEN = 0.5


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    options = parser.parse_args(arguments)
    if options.minutes < 1:
        parser.error("--minutes: a whole number from 1 on")
    with tempfile.TemporaryDirectory(prefix="segment-") as scratch:
        root, frames = Path(scratch), 60 * options.minutes * _RATE
        _write_video(root / "long.mp4", frames)
        _write_network(root / "model.safetensors")
        started = time.perf_counter()
        samples = _segment(root)
        seconds = time.perf_counter() - started
        written = _count(root / "out.mp4")
    if written != frames:
        raise SystemExit(f"{written} of {frames} frames were written")
    tenth = max(peak for done, peak in samples if done <= frames // 10)
    whole = max(peak for _, peak in samples)
    print(
        f"{options.minutes} minutes, {frames} frames in {seconds:.0f} s: {frames / seconds:.1f} frames/s with the start"
    )
    print(f"memory at its peak: {tenth / 1e6:.0f} MB over the first tenth, {whole / 1e6:.0f} MB over all")
    print(f"ratio: {whole / tenth:.3f}")
    return 0


def _segment(root: Path) -> list[tuple[int, int]]:
    """(masks written, bytes of memory) every half second."""
    words = ["--model", "model.safetensors", "--output", "out.mp4", "--height", "32"]
    command = [sys.executable, "-m", "pipelines.cli", "segment", "long.mp4", *words]
    with (root / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=root, stdout=said, stderr=subprocess.STDOUT)
    watched, samples = psutil.Process(process.pid), []
    while process.poll() is None:
        masks = sum(len(list(folder.iterdir())) for folder in root.rglob("*masks*") if folder.is_dir())
        try:
            samples.append((masks, int(watched.memory_full_info().uss)))
        except psutil.Error:
            break
        time.sleep(_SECONDS_BETWEEN)
    if process.wait():
        raise SystemExit((root / "said").read_text().strip()[-500:])
    return samples


def _write_video(path: Path, frames: int) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (12, 21, 3), np.uint8)
    picture = cv2.resize(texture, _SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(_RATE), options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *_SIZE, "yuv420p"
        for number in range(frames):
            moved = av.VideoFrame.from_ndarray(np.roll(picture, number, 1).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(moved))
        container.mux(stream.encode())


def _write_network(path: Path) -> None:
    from rtnet.checkpoint import save_model
    from tests.networks import random_network

    save_model(path, random_network("mobilenet_v3_large").float())


def _count(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


if __name__ == "__main__":
    sys.exit(main())
