"""How today's planning code grows: the same calls on made-up inputs of rising size, and the power that fits.

    python -m experiments.benchmarks.capacity_growth

Needs neither Ray nor MLflow. What grows with the square is what capacity.py says so of. Processor time and memory of
the last size are this machine's.
"""

import json
import math
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from experiments.benchmarks.capacity_measure import timed
from pipelines.dataset import INDEX_SCHEMA, Dataset
from pipelines.dataset_writer import write_index
from pipelines.predictions import INDEX, Predictions
from pipelines.preparer import parts_of
from pipelines.sections import Flow
from pipelines.storage import open_storage
from rtnet.data.layouts import Frame, Sequence, read_layout
from rtnet.data.pairs import epoch_pairs

Prepared = Callable[[], object]
"""What is timed."""


def main() -> None:
    """Prints the table."""
    print("| what | sizes | CPU-s | power |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
        for what, sizes, prepare in _CASES:
            seconds = []
            for size in sizes:
                root = Path(scratch) / f"{len(list(Path(scratch).iterdir()))}"
                root.mkdir()
                seconds.append(timed(prepare(size, root)))
            power = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
            print(
                f"| {what} | {', '.join(f'{size:,}' for size in sizes)} | "
                f"{', '.join(f'{s:.2g}' for s in seconds)} | {power:.2f} |",
                flush=True,
            )
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def _names(count: int, root: Path) -> Prepared:
    for number in range(count):
        (root / f"{number:07d}.mp4").touch()
    return lambda: read_layout("video", root, "made", sequences=["0000000"])


def _frames(count: int, root: Path) -> Prepared:
    folder = root / "video"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05d}.jpg").touch()
    return lambda: read_layout("frames", root, "made")


def _parts(count: int, root: Path) -> Prepared:
    """Videos of 300 frames, which are one file."""
    file = root / "video.mp4"
    file.touch()
    videos = [
        Sequence("made", "all", f"{n:07d}", tuple(Frame(f, f"{f:05d}", file, None) for f in range(300)), "video")
        for n in range(count)
    ]
    return lambda: [parts_of(video, Flow()) for video in videos]


def _pairs(rows: int, root: Path) -> Prepared:
    groups = np.arange(rows) // 300
    return lambda: epoch_pairs(groups, seed=0, epoch=1)


def _index(rows: int, root: Path) -> Prepared:
    """Written, read, and its columns looked at as a training does."""
    number = np.arange(rows)
    made: dict[str, pa.Array] = {
        "dataset": pa.array(np.full(rows, "made")),
        "split": pa.array(np.full(rows, "train")),
        "sequence": pa.array([f"video-{n // 1200:07d}" for n in number]),
        "view": pa.array(np.full(rows, "as_is")),
        "digest": pa.array([f"{n:064x}" for n in number]),
        "file": pa.array([f"parts/made/train/video-{n // 1200:07d}/{n // 64:05d}.parquet" for n in number]),
        "annotated": pa.array(np.ones(rows, bool)),
        "still": pa.array(np.zeros(rows, bool)),
    }
    columns = [made.get(field.name, pa.nulls(rows, field.type)) for field in INDEX_SCHEMA]
    system, path = open_storage(str(root))

    def write_and_read() -> None:
        write_index(system, path, pa.table(columns, schema=INDEX_SCHEMA), "made")
        dataset = Dataset(str(root))
        dataset.groups(dataset.rows("train", annotated=True))

    return write_and_read


def _join(count: int, root: Path) -> Prepared:
    """One sequence joins so many."""
    output = Predictions(str(root))
    output.claim({"seed": 0}, {"uri": "made"}, None, {"video-0000000": "0" * 64})
    index = output.index() or {}
    index["sequences"] = {f"video-{n:07d}": {"frames": 300, "stamp": "0" * 64, "bytes": 0} for n in range(count)}
    (root / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    return lambda: output.add("video-0000000", "0" * 64, [])


_CASES: tuple[tuple[str, tuple[int, ...], Callable[[int, Path], Prepared]], ...] = (
    ("`layouts.read_layout`, frames of a folder", (3_000, 30_000), _frames),
    ("`layouts.video.list_videos`, videos of a folder", (1_000, 4_000, 16_000), _names),
    ("`preparer.parts_of`, videos of 300 frames", (100, 1_000), _parts),
    ("`pairs.epoch_pairs`, rows", (100_000, 1_000_000, 10_000_000), _pairs),
    ("`write_index`, `Dataset`, `groups`, rows", (20_000, 200_000, 1_000_000), _index),
    ("`Predictions.add`, one sequence to so many", (1_000, 10_000, 100_000), _join),
)


if __name__ == "__main__":
    main()
