"""The costs of frames and pairs that capacity.py multiplies: measured beside busy cores, printed as costs.yaml.

capacity_measure_driver.py measures what the driver does for each, capacity_measure_requests.py what requests cost.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from experiments.benchmarks import capacity_operations as operations
from experiments.benchmarks.capacity_inputs import COSTS
from experiments.benchmarks.network_case import Case, measure_apart
from pipelines.dataset import Dataset
from pipelines.dataset_writer import read_part, write_index, write_part, write_provenance
from pipelines.frame_statistics import as_parquet, frame_statistics
from pipelines.preparer import Part, make_part, parts_of, unpacked
from pipelines.sections import Flow
from pipelines.storage import open_storage
from rtnet.data.clip import write_clip
from rtnet.data.flow import dis
from rtnet.data.flow_picture import flow_picture
from rtnet.data.footage import Footage
from rtnet.data.frames import read_frames, read_pictures
from rtnet.data.images import Picture, decode_annotation, encode_png
from rtnet.data.layouts import Sequence, read_layout
from rtnet.data.planes import encode_planes
from rtnet.data.prediction_pairs import PairRule
from rtnet.data.video_writer import VideoWriter
from rtnet.metrics import SaliencyMeasures, contour_accuracy, region_similarity
from rtnet.prediction import grey_levels
from rtnet.training import make_batch

_COMMAND = "python -m experiments.benchmarks.capacity --measure"
_MEGAPIXELS_LOADER = 854 * 480 / 1e6  # of the frames of the other benchmarks
_FRAMES = 18
_SEQUENCES = 5  # for the bytes of a dataset's pictures
_VIDEO = (360, 640)
Found = dict[str, tuple[float, str]]
"""{name: (value, unit)}"""

# What other benchmarks print, beside the README's tables: (value, unit, command and what it printed).
_ELSEWHERE = {
    "loader_ms": (
        12.1 / 2 / _MEGAPIXELS_LOADER,
        "CPU-ms a megapixel of a view",
        "loader: 12.1 CPU-ms a pair of 854x480",
    ),
    "jf_ms": (
        2 * 2.76 / _MEGAPIXELS_LOADER,
        "CPU-ms a megapixel",
        "evaluate: 2.76 ms a frame of 854x480 on two cores, PNG decoded",
    ),
    "trainer_start_s": (113.8, "s", "ray_overhead: 113.8 s until the first step of four workers on two cores"),
    "session_start_s": (8.2, "s", "evaluate: 8.2 s for Ray and a first small evaluation"),
}


def measured(data: Path | None) -> str:
    """The text of costs.yaml. data: DAVIS 2016's layout, or generated clips of the same size."""
    with tempfile.TemporaryDirectory(prefix="capacity-") as scratch, redirect_stdout(sys.stderr), _others_busy():
        found = costs(data, Path(scratch))
    entries = {name: {"value": _rounded(value), "unit": unit} for name, (value, unit) in found.items()}
    for name, (value, unit, source) in _ELSEWHERE.items():
        entries[name] = {"value": _rounded(value), "unit": unit, "of": f"python -m experiments.benchmarks.{source}"}
    command = f"{_COMMAND} --data DAVIS" if data else _COMMAND
    head = f"# Written by `{command} > {COSTS.parent.parent.name}/{COSTS.parent.name}/{COSTS.name}`.\n"
    return head + yaml.safe_dump(
        {"machine": _machine(), "command": command, "costs": entries}, sort_keys=False, width=120
    )


def costs(data: Path | None, scratch: Path) -> Found:
    """All that this machine measures."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if data is None:
        write_clip(scratch / "clip", {"train": ["drift"]}, frames=_FRAMES, height=480, width=854)
    sequences = read_layout("davis16", data or scratch / "clip", "clip")
    some = [s for s in sequences if len(s.frames) >= _FRAMES][:_SEQUENCES]
    sequence = some[0]
    found = _frames(sequence) | _rows(some, scratch) | _maps(sequence) | _video(sequence, scratch) | _processor()
    from experiments.benchmarks import capacity_measure_driver, capacity_measure_requests

    return found | capacity_measure_driver.costs(sequence, scratch) | capacity_measure_requests.costs(scratch)


def timed(call: Callable[[], object]) -> float:
    """Processor seconds of this process."""
    started = time.process_time()
    call()
    return time.process_time() - started


@contextmanager
def _others_busy() -> Iterator[None]:
    """As on a cluster that works: a core that shares its units or memory with others is slower then."""
    product = "import numpy; a = numpy.ones((512, 512), 'f4')\nwhile True: a @ a"
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    others = [subprocess.Popen([sys.executable, "-c", product], env=alone) for _ in range((os.cpu_count() or 1) - 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _frames(sequence: Sequence) -> Found:
    pictures = [picture for _, picture in islice(read_frames(sequence), 8)]
    size = pictures[0].shape[0] * pictures[0].shape[1] / 1e6
    flows: list[np.ndarray] = []
    flowing = timed(lambda: flows.extend(f for both in dis("medium").flows(pictures) for f in both))
    drawn = [flow_picture(flow) for flow in flows]
    unit = "CPU-ms a megapixel"
    views = pictures[:2]
    masks = [np.zeros(v.shape[:2], bool) for v in views]
    both = [np.concatenate(drawn[:2], axis=2)] * 2
    batch = timed(lambda: make_batch(views, both, masks, (384, 672), torch.device("cpu")))
    return {
        "frame_read_ms": (1000 * timed(lambda: list(read_frames(sequence, 0, 16))) / 16 / size, unit),
        "dis_ms": (1000 * flowing / (len(flows) / 2) / size, "CPU-ms a megapixel of a pair, both ways, preset medium"),
        "flow_picture_ms": (1000 * timed(lambda: [flow_picture(flow) for flow in flows]) / len(flows) / size, unit),
        "planes_ms": (1000 * timed(lambda: [encode_planes(p) for p in drawn]) / len(drawn) / size, unit),
        "frame_png_ms": (1000 * timed(lambda: [encode_png(p, 1) for p in pictures]) / len(pictures) / size, unit),
        "frame_png_bytes": (sum(len(encode_png(p, 1)) for p in pictures) / len(pictures) / size, "bytes a megapixel"),
        "input_ms": (1000 * batch / 2 / size, "CPU-ms a megapixel of a view, to 384x672 on the CPU"),
    }


def prepared(sequence: Sequence, root: Path) -> tuple[Part, bytes]:
    """A part of the sequence's first frames in a dataset at `root`, and its index entries."""
    part = parts_of(sequence, Flow(preset="medium"))[0]
    result = make_part(part, str(root), "cpu")
    assert not result["error"], result["error"]
    return part, result["entries"]


def _rows(sequences: list[Sequence], scratch: Path) -> Found:
    root = scratch / "dataset"
    parts, packed = zip(*(prepared(sequence, root) for sequence in sequences), strict=True)
    part, index = parts[0], pa.concat_tables([unpacked(entries) for entries in packed])
    system, path = open_storage(str(root))
    write_provenance(system, path, {"sources": {}, "parts": {part.file: part.stamp for part in parts}})
    write_index(system, path, index, "measured")
    rows = pq.read_table(root / part.file).to_pylist()

    def write() -> None:
        write_part(system, f"{scratch}/again.parquet", rows, "again")
        read_part(system, str(scratch), "again.parquet", "again")

    dataset = Dataset(str(root))
    size = rows[0]["height"] * rows[0]["width"] / 1e6
    stored = {name: np.mean([s or 0 for s in index[f"{name}_size"].to_pylist()]) for name in ("image", "annotation")}
    flow = np.mean([s for n in ("forward", "backward") for s in index[f"{n}_flow_size"].to_pylist() if s])
    reading = timed(lambda: [dataset.read(row) for row in range(8)])
    return {
        "row_ms": (1000 * timed(write) / len(rows), "CPU-ms a row: digest, parquet, reading its index entry back"),
        "dataset_read_ms": (1000 * reading / 8 / size, "CPU-ms a megapixel of a view"),
        "frame_jpeg_bytes": (float(stored["image"]) / size, "bytes a megapixel"),
        "annotation_bytes": (float(stored["annotation"]) / size, "bytes a megapixel"),
        "flow_bytes": (float(flow) / size, "bytes a megapixel of one direction"),
    }


def _maps(sequence: Sequence) -> Found:
    """A blurred annotation stands for a map."""
    paths = [frame.annotation for frame in sequence.frames[:8] if frame.annotation]
    masks = [decode_annotation(path.read_bytes()) for path in paths]
    maps = [np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 8), np.float32) for mask in masks]
    size, unit = masks[0].size / 1e6, "CPU-ms a megapixel"
    encoded = [(len(encode_png(grey_levels(m))), len(encode_png(m > 0.5))) for m in maps]

    def numbers(number: int, map_: np.ndarray, file: bytes = b"") -> dict[str, Any]:
        return frame_statistics("drift", number, f"{number:05d}", map_, map_ > 0.5, file, b"")

    def write_map() -> None:
        for number, map_ in enumerate(maps):
            numbers(number, map_, encode_png(grey_levels(map_)))

    def measure() -> None:
        for one, other in zip(masks, [masks[-1], *masks], strict=False):
            region_similarity(one, other)
            contour_accuracy(one, other)

    def saliency() -> None:
        measures = SaliencyMeasures()
        for map_, mask in zip(maps, masks, strict=True):
            measures.add(grey_levels(map_), mask)

    kept = as_parquet([numbers(number, map_) for number, map_ in enumerate(maps * 8)])
    return {
        "map_png_ms": (1000 * timed(write_map) / len(maps) / size, f"{unit}, with its numbers"),
        "mask_png_ms": (1000 * timed(lambda: [encode_png(m) for m in masks]) / len(masks) / size, unit),
        "map_png_bytes": (float(np.mean(encoded, axis=0)[0]) / size, "bytes a megapixel, of a blurred annotation"),
        "mask_png_bytes": (float(np.mean(encoded, axis=0)[1]) / size, "bytes a megapixel"),
        "statistics_bytes": (len(kept) / (8 * len(maps)), "bytes a frame"),
        "saliency_ms": (1000 * timed(saliency) / len(masks) / size, unit),
        "jf_bare_ms": (1000 * timed(measure) / len(masks) / size, f"{unit}, nothing decoded"),
    }


def write_video(sequence: Sequence, path: Path, frames: int = 150) -> None:
    """H.264 of the sequence's frames forth again and again."""
    size = (_VIDEO[1], _VIDEO[0])
    pictures: list[Picture] = [np.asarray(cv2.resize(p, size), np.uint8) for p in islice(read_pictures(sequence), 16)]
    like = Footage(path, Fraction(25), Fraction(1, 25), frames, Fraction(1), lambda: iter(()))
    with VideoWriter(path, like) as writer:
        for number, picture in enumerate(islice(cycle(pictures), frames)):
            writer.write(picture, number)


def _video(sequence: Sequence, scratch: Path) -> Found:
    path, frames = scratch / "video.mp4", 150
    write_video(sequence, path, frames)
    size, unit = _VIDEO[0] * _VIDEO[1] / 1e6, "CPU-ms a megapixel, H.264 of 640x360"
    found: list[Sequence] = []
    counting = timed(lambda: found.extend(read_layout("video", path, "videos")))
    reading = timed(lambda: sum(1 for _ in read_pictures(found[0])))
    return {
        "video_count_ms": (1000 * counting / frames / size, unit),
        "video_read_ms": (1000 * reading / frames / size, unit),
    }


def _processor() -> Found:
    """What the network sustains on one core."""
    height, width = 256, 448
    case = Case("ours", "resnet34", "one", height, width, threads=1, repeats=1)
    one, step = measure_apart(case), measure_apart(replace(case, work="step"))
    of_one = operations.prediction("resnet34", (height, width), 1, PairRule())
    of_step = operations.training("resnet34", "both", (height, width), 1)
    return {
        "core_gflops_prediction": (of_one.flop / one.seconds / 1e9, "GFLOP/s of a core, resnet34 at 256x448, float32"),
        "core_gflops_training": (of_step.flop / step.seconds / 1e9, "GFLOP/s of a core, resnet34 at 256x448, float32"),
    }


def _machine() -> str:
    names = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    model = next((n.split(":")[1].strip() for n in names if n.startswith("Model name")), platform.processor())
    wide = "AVX-512" if "avx512f" in "\n".join(names) else "no AVX-512"
    return f"{model} ({wide}), {platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
