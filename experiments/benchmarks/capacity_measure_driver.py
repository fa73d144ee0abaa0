"""What the driver and the index cost, by running today's planning code on made-up inputs of two sizes.

Where time grows with the square, the two sizes give the square's factor.
"""

import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from experiments.benchmarks.capacity_measure import Found, prepared, timed
from pipelines import predict, prepare
from pipelines.config import Experiment, validate
from pipelines.dataset import Dataset
from pipelines.dataset_writer import write_index, write_provenance
from pipelines.frame_statistics import frame_statistics
from pipelines.loader import Schedule
from pipelines.mask_folder import list_masks
from pipelines.prediction_units import Unit, units_of
from pipelines.predictions import INDEX, Predictions
from pipelines.preparer import Part, parts_of, unpacked
from pipelines.storage import open_storage
from rtnet.data.layouts import Sequence, read_layout
from rtnet.data.prediction_pairs import PairRule

_VIDEOS, _FRAMES = 20, 250
_PARTS = 2000


def costs(sequence: Sequence, scratch: Path) -> Found:
    """sequence: of at least 16 annotated frames."""
    return {
        **_planning(scratch / "planning"),
        **_names(scratch / "names"),
        **_index(sequence, scratch / "index"),
        **_predictions(scratch / "predictions"),
    }


def _planning(root: Path) -> Found:
    """Manifest, parts and units of folders of frames, which are never opened."""
    for video in range(_VIDEOS):
        folder = root / f"frames/video-{video:07d}"
        folder.mkdir(parents=True)
        for frame in range(_FRAMES):
            (folder / f"{frame:05d}.jpg").touch()
    frames = _VIDEOS * _FRAMES
    experiment = _experiment(root)
    found: list[Sequence] = []
    listing = timed(lambda: found.extend(read_layout("frames", root / "frames", "made", "all")))
    held = _held(lambda: read_layout("frames", root / "frames", "made", "all"))
    parts: list[Part] = []
    stamping = timed(lambda: parts.extend(part for sequence in found for part in parts_of(sequence, experiment.flow)))
    units, _ = units_of(experiment)
    packed, packed_units = pickle.dumps(parts), pickle.dumps(units)
    masks = timed(lambda: list_masks(str(root / "frames"), found, chosen=False))
    provenance = json.dumps({part.file: part.stamp for part in parts}, indent=2, sort_keys=True)
    return {
        "manifest_us": (1e6 * listing / frames, "CPU-us a frame of the layout"),
        "manifest_bytes": (held / frames, "bytes a frame of the layout in memory"),
        "stamp_us": (1e6 * stamping / frames, "CPU-us a file on a local disk"),
        "parts_unpickle_us": (
            1e6 * timed(lambda: pickle.loads(packed)) / frames,  # noqa: S301 - packed a line above
            "CPU-us a frame of the list of parts",
        ),
        "unit_bytes": (_held(lambda: pickle.loads(packed_units)) / frames, "bytes a frame in each actor"),  # noqa: S301
        "list_masks_us": (1e6 * masks / frames, "CPU-us a file"),
        "provenance_bytes": (len(provenance) / len(parts), "bytes a part"),
    }


def _names(root: Path) -> Found:
    """A folder of so many videos; none is opened, as the first that would be is no video."""
    root.mkdir()
    seconds = []
    for count in (1500, 3000):
        for number in range(count):
            (root / f"{number:07d}.mp4").touch()
        seconds.append(timed(lambda: read_layout("video", root, "made", sequences=["0000000"])))
    return {"video_names_ns": (1e9 * (seconds[1] - seconds[0]) / (3000**2 - 1500**2), "CPU-ns a pair of videos")}


def _index(sequence: Sequence, root: Path) -> Found:
    part, entries = prepared(sequence, root)
    first = unpacked(entries)
    results = [_packed(_renamed(first, number)) for number in range(_PARTS)]
    parts = [replace(part, sequence=replace(part.sequence, name=f"video-{n:07d}")) for n in range(_PARTS)]
    before = pa.total_allocated_bytes()
    # As _make keeps them: tables on the bytes that came from the workers.
    made = {number: unpacked(result) for number, result in enumerate(results)}
    held = _held(lambda: {number: unpacked(result) for number, result in enumerate(results)})
    held += sum(len(result) for result in results) + pa.total_allocated_bytes() - before
    rows = sum(table.num_rows for table in made.values())
    system, path = open_storage(str(root))
    write_provenance(system, path, {"sources": {}, "parts": {}})

    def build() -> None:
        write_index(system, path, prepare._in_order(parts, made, prepare.Faults(skip=False)), "measured")

    building = timed(build)
    seen = subprocess.run(
        [sys.executable, "-m", __spec__.name, str(root)], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    return {
        "made_bytes": (held / _PARTS, "bytes a part of 16 frames in the driver"),
        "index_row_us": (1e6 * building / rows, "CPU-us a row of the index, ordered and written"),
        "index_bytes": ((root / "index.parquet").stat().st_size / rows, "bytes a row of index.parquet"),
        "index_process_bytes": (float(seen) / rows, "bytes a row in each process that reads, with an epoch's pairs"),
    }


def _renamed(entries: pa.Table, number: int) -> pa.Table:
    """The entries as those of another video: what is the same in every row would take no room in a file."""
    name = f"video-{number:07d}"
    digests = [sha256(f"{number} {row}".encode()).hexdigest() for row in range(entries.num_rows)]
    columns = {"sequence": [name] * entries.num_rows, "digest": digests}
    columns["file"] = [f"parts/clip/train/{name}/00000.parquet"] * entries.num_rows
    for column, values in columns.items():
        entries = entries.set_column(entries.column_names.index(column), column, pa.array(values, pa.string()))
    return entries


def _packed(entries: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, entries.schema) as writer:
        writer.write_table(entries)
    return bytes(sink.getvalue())


def _memory_of_a_reader(root: str) -> int:
    """What this process grows by."""
    before = psutil.Process().memory_info().rss
    schedule = Schedule.of(_experiment(Path(root)), Dataset(root), world=1)
    schedule.pairs(1)
    return int(psutil.Process().memory_info().rss - before)


def _predictions(root: Path) -> Found:
    seconds = []
    for count in (1000, 5000):
        output = Predictions(str(root / str(count)))
        stamps = {f"video-{number:07d}": "0" * 64 for number in range(count)}
        output.claim({"seed": 0}, {"uri": "measured"}, None, stamps)
        index = output.index() or {}
        index["sequences"] = {name: {"frames": 300, "stamp": stamp, "bytes": 0} for name, stamp in stamps.items()}
        (root / str(count) / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
        seconds.append(timed(lambda: _three_times(output.add, "video-0000000", "0" * 64, [])) / 3)  # noqa: B023
    per_entry = (seconds[1] - seconds[0]) / 4000
    units = [Unit(f"v{n}", 0, 300, (), PairRule(), frozenset(), "") for n in range(20_000)]
    progress = predict._Progress(output, units)
    rows = [
        frame_statistics("v0", n, f"{n:05d}", np.zeros((2, 2), np.float32), np.zeros((2, 2), bool), b"", b"")
        for n in range(8)
    ]
    text = json.dumps(rows)

    def tell() -> None:
        for _ in range(30):
            progress.add(units[0], json.loads(text), {}, 0.0)

    told = timed(tell)
    return {
        "predictions_add_ms": (1000 * max(0.0, seconds[0] - 1000 * per_entry), "CPU-ms a sequence"),
        "predictions_entry_us": (1e6 * per_entry, "CPU-us a sequence that predictions.json names, for each that joins"),
        "progress_total_us": (1e6 * timed(lambda: progress._frames.total()) / len(units), "CPU-us a sequence and line"),
        "report_us": (1e6 * told / 240, "CPU-us a frame of a report in the driver"),
    }


def _held(make: Callable[[], object]) -> int:
    """Bytes of Python's that a result holds."""
    tracemalloc.start()
    kept = make()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return held


def _three_times(call: Callable[..., object], *arguments: object) -> None:
    for _ in range(3):
        call(*arguments)


def _experiment(root: Path) -> Experiment:
    sections = {
        "name": "measured",
        "data": {
            "sources": {"made": {"layout": "frames", "path": f"{root}/frames", "split": "all"}},
            "dataset": str(root),
        },
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}], "split": "train"},
        "prediction": {"input": "sources", "split": "all"},
    }
    return validate(sections, "measured")


if __name__ == "__main__":
    print(_memory_of_a_reader(sys.argv[1]))
