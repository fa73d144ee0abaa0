"""How fast `rtnet evaluate` measures J and F, against a straight reading of the official definition.

    python -m experiments.benchmarks.evaluate --data ../shared/data/davis-256

DAVIS 2016's validation masks, 1376 frames, enlarged to 854x480 (without --data generated ones), and results made of
them by shifts and holes, all as grey PNG. Ours is the verb in an open Ray session on two cores, from listing the files
to the logged scores; Ray's start-up is told beside it. The rival, one process on one core: Pillow decodes, boundary
maps, dilation of the whole picture by the whole disk. Two such dilations are measured: scikit-image's
`binary_dilation`, which the official DAVIS 2016 code calls (on every twentieth frame, scaled), and OpenCV's `dilate`,
the fastest known to us. The last line is the ratio to the first; the line above it that to the second.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from math import ceil, hypot
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipelines import evaluate
from pipelines.config import Experiment, validate
from pipelines.mask_folder import Folders
from pipelines.scoring import combine, cut_jobs, score_job
from pipelines.session import ray_session
from pipelines.sources import read_sources
from rtnet.data.clip import write_clip
from rtnet.data.layouts import read_layout

_WIDTH, _HEIGHT = 854, 480
_SHARE = 20  # one of so many frames for the slow dilation

Scores = dict[tuple[str, str], tuple[float, float]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder in DAVIS 2016's layout; default: generated masks")
    parser.add_argument("--frames", type=int, help="only so many, of the first sequences; default: all")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        frames = _write(Path(scratch), options.data, options.frames)
        print(f"{len(frames)} frames, {_WIDTH}x{_HEIGHT}, J and F", flush=True)
        straight, ours = _opencv(Path(scratch), frames), _in_one_process(Path(scratch))
        worst = max(abs(a - b) for key in ours[1] for a, b in zip(ours[1][key], straight[1][key], strict=True))
        slow = _scikit_image(Path(scratch), frames)
        verb, start = _verb(Path(scratch))
    print(f"largest difference of a J or F: {worst:.1e}")
    for what, seconds in (
        ("straight, scikit-image's dilation, one core", slow),
        ("straight, OpenCV's dilation, one core", straight[0]),
        ("ours, in one process on one core", ours[0]),
        ("rtnet evaluate, two cores, in an open session", verb),
        ("Ray's start-up and the first, small evaluation", start),
    ):
        print(f"{what}: {seconds:.1f} s, {1000 * seconds / len(frames):.2f} ms a frame")
    print(
        f"of this the algorithm: {slow / ours[0]:.2f} and {straight[0] / ours[0]:.2f}; two cores: {ours[0] / verb:.2f}"
    )
    print(f"to OpenCV's dilation: {straight[0] / verb:.2f}")
    print(f"ratio: {slow / verb:.2f}")


def _write(root: Path, data: Path | None, limit: int | None) -> list[tuple[str, str]]:
    """Annotations and results, root/truth and root/results; (sequence, frame) of all."""
    if data is None:
        names = [f"clip{number:02d}" for number in range(ceil((limit or 1380) / 69))]
        write_clip(root / "clip", {"val": names}, frames=69, height=120, width=214)
        data = root / "clip"
    rng = np.random.default_rng(0)
    written: list[tuple[str, str]] = []
    for sequence in read_layout("davis16", data, "davis16", "val"):
        for frame in sequence.frames:
            if limit is not None and len(written) >= limit:
                return written
            small = cv2.imread(str(frame.annotation), cv2.IMREAD_GRAYSCALE)
            large = cv2.resize(np.asarray(small), (_WIDTH, _HEIGHT), interpolation=cv2.INTER_LINEAR) > 127
            result = np.roll(large, rng.integers(-6, 7, 2), axis=(0, 1)).astype(np.uint8) * np.uint8(255)
            for x, y in rng.integers(0, (_WIDTH, _HEIGHT), (6, 2)):
                cv2.circle(result, (int(x), int(y)), 12, int(rng.choice([0, 255])), -1)
            for folder, picture in (("truth", large.astype(np.uint8) * np.uint8(255)), ("results", result)):
                path = root / folder / sequence.name / f"{frame.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
            written.append((sequence.name, frame.name))
    return written


def _experiment(root: Path, name: str, sequences: list[str] | None = None) -> Experiment:
    truth = str(root / "truth")
    source = {"layout": "frames", "path": truth, "annotations": truth, "split": "val", "sequences": sequences}
    sections = {
        "name": name,
        "storage": str(root / "runs"),
        "data": {"sources": {"davis16": source}, "dataset": "none"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        "evaluation": {"masks": str(root / "results"), "saliency": False, "rule": "annotated"},
    }
    return validate(sections, "benchmark")


def _verb(root: Path) -> tuple[float, float]:
    """Seconds of the evaluation, and of what came before it."""
    first = sorted(path.name for path in (root / "truth").iterdir())[0]
    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        with ray_session():
            evaluate.run(_experiment(root, "first", [first]))
            begun = time.perf_counter()
            evaluate.run(_experiment(root, "benchmark"))
            return time.perf_counter() - begun, begun - started


def _in_one_process(root: Path) -> tuple[float, Scores]:
    started = time.perf_counter()
    sequences = read_sources(_experiment(root, "benchmark"))
    jobs = cut_jobs(sequences, Folders(str(root / "results"), None), "annotated", 0.5, saliency=False, chosen=False)
    scores = combine(jobs, [score_job(job)["result"] for job in jobs])
    seconds = time.perf_counter() - started
    found = {(s, f): (each["J"], each["F"]) for s, frames in scores.frames.items() for f, each in frames.items()}
    return seconds, found


def _opencv(root: Path, frames: list[tuple[str, str]]) -> tuple[float, Scores]:
    disk = _disk().astype(np.uint8)
    return _straight(root, frames, lambda boundary: cv2.dilate(boundary.astype(np.uint8), disk) > 0)


def _scikit_image(root: Path, frames: list[tuple[str, str]]) -> float:
    """Seconds for all frames, by a share of them."""
    from skimage.morphology import binary_dilation

    some = frames[::_SHARE]
    return _straight(root, some, lambda boundary: binary_dilation(boundary, _disk()))[0] * len(frames) / len(some)


def _disk() -> np.ndarray:
    radius = ceil(0.008 * hypot(_WIDTH, _HEIGHT))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius)


def _straight(
    root: Path, frames: Iterable[tuple[str, str]], dilate: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, Scores]:
    """As the definition says it, on the whole picture."""
    started = time.perf_counter()
    scores = {}
    for sequence, frame in frames:
        mask, truth = (
            np.asarray(Image.open(root / folder / sequence / f"{frame}.png")) > 127 for folder in ("results", "truth")
        )
        union = np.sum(mask | truth)
        region = np.sum(mask & truth) / union if union else 1.0
        found, true = _boundary(mask), _boundary(truth)
        counts = (np.sum(found), np.sum(true))
        contour = float(counts[0] == counts[1])
        if counts[0] and counts[1]:
            precision = np.sum(found & dilate(true)) / counts[0]
            recall = np.sum(true & dilate(found)) / counts[1]
            contour = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        scores[sequence, frame] = (float(region), float(contour))
    return time.perf_counter() - started, scores


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their east, south or south-east neighbour."""
    here = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    centre = here[:-1, :-1]
    return np.asarray((centre != here[:-1, 1:]) | (centre != here[1:, :-1]) | (centre != here[1:, 1:]))


if __name__ == "__main__":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    main()
