"""How many pairs a second reach the training process, and at what cost.

    python -m experiments.benchmarks.loader --data ../shared/data/davis-480p

Prepares two sequences, then reads pairs in turn by: a PyTorch DataLoader over files that does for each sample what the
published recipe does (decode frame, annotation and two flow pictures of two frames, float32, normalise, bilinear
resize); a plain DataLoader on our parquet rows, decoding as we do; and `pipelines.loader`. Rates and processor time are
those of the steady state: between two moments while reading goes on, after a quarter of the pairs and before the last
ones. Processor time is that of all processes together, Ray's too; pairs per core follow from it. Bare decoding is the
decoders alone, called on the same bytes. The last line is our pairs per second and core over those of the DataLoader on
files.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pipelines import prepare
from pipelines.config import Experiment, validate
from pipelines.dataset import Dataset
from pipelines.loader import Schedule, read_steps
from pipelines.session import ray_session
from pipelines.step_block import Step, pack_steps, unpack_steps
from rtnet.data.images import decode_image, encode_png
from rtnet.data.inputs import normalise
from rtnet.data.planes import decode_planes, encode_planes, planes_shape
from rtnet.training import make_batch

SIZE = (384, 672)
_TICK = 0.01  # seconds: processor time comes in these


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder in DAVIS 2016's layout")
    parser.add_argument("--sequences", default="dog-agility,rollerblade", help="of it; a comma-separated list")
    parser.add_argument("--pairs", type=int, default=1200, help="that each reads in a round; files a quarter")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        experiment = _experiment(options, Path(scratch))
        prepare.run(experiment)
        dataset = Dataset(experiment.data.dataset)
        schedule = Schedule(dataset, experiment.data, experiment.training, 0, 1)
        files = _as_files(dataset, Path(scratch) / "files")
        table = _pairs(schedule, options.pairs)
        few = table[: max(2, len(table) // 4)]  # its cost is the same for each, and it takes long
        readers: dict[str, Callable[[], Iterator[Any]]] = {
            "DataLoader over files": lambda: iter(DataLoader(_Files(files, few), batch_size=None, num_workers=1)),
            "DataLoader on parquet": lambda: _unpacked(
                DataLoader(_Rows(dataset.uri, table), batch_size=None, num_workers=1, collate_fn=_as_is)
            ),
            "Ray Data (ours)": lambda: read_steps(schedule, 0, 0, options.pairs),
        }
        found: dict[str, list[_Reading]] = {name: [] for name in readers}
        for _ in range(options.rounds):
            for name, reader in readers.items():
                found[name].append(_read(reader, len(few) if name == "DataLoader over files" else options.pairs))
        bare, bare_png = _bare_decoding(dataset, table)
        ratio = _report(found, bare, bare_png, _copying(schedule), _device_share(schedule, options.pairs))
        print(f"objects that Ray wrote to disk for lack of memory: {_spilled()}")
        _encodings(dataset)
    print(f"ratio: {ratio:.2f}")


class _Reading:
    """Seconds to the first pair; pairs per second and processor time of one in the steady state."""

    def __init__(self, first_s: float, pairs_per_s: float, cpu_ms: float) -> None:
        self.first_s, self.pairs_per_s, self.cpu_ms = first_s, pairs_per_s, cpu_ms


def _read(reader: Callable[[], Iterator[Any]], pairs: int) -> _Reading:
    """At both moments as much is read ahead, so what is spent between them is what those pairs cost."""
    begin = max(1, pairs // 4)
    end = max(begin + 1, pairs - pairs // 8)
    started = time.perf_counter()
    read = reader()
    next(read)
    first = time.perf_counter()
    count = 1 + sum(1 for _ in islice(read, begin - 1))
    spent, between = _Spent(), time.perf_counter()
    count += sum(1 for _ in islice(read, end - begin))
    seconds, cpu = time.perf_counter() - between, max(spent.seconds(), _TICK)
    count += sum(1 for _ in read)
    assert count == pairs, f"{count} pairs of {pairs}"
    return _Reading(first - started, (end - begin) / seconds, 1000 * cpu / (end - begin))


class _Spent:
    """Processor time from now on of this process and all below it, those that end meanwhile among them."""

    def __init__(self) -> None:
        self._before = self._now()
        self._last = dict(self._before)
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def seconds(self) -> float:
        """Ends the watch."""
        self._done.set()
        self._watch.join()
        self._last |= self._now()
        return sum(value - self._before.get(process, 0.0) for process, value in self._last.items())

    def _look(self) -> None:
        while not self._done.wait(0.2):
            self._last |= self._now()

    @staticmethod
    def _now() -> dict[tuple[int, float], float]:
        found = {}
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid, process.create_time()] = times.user + times.system
        return found


class _Files(TorchDataset[tuple[torch.Tensor, ...]]):
    """Each pair as the published recipe makes it, on the CPU."""

    def __init__(self, files: dict[int, tuple[Path, ...]], table: np.ndarray) -> None:
        self._files, self._table = files, table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, ...]:
        frames, flows, masks = [], [], []
        for row in self._table[place]:
            image, forward, backward, annotation = self._files[int(row)]
            frames.append(_resized(normalise(_tensor(image, "RGB"))))
            flows.append(torch.cat([_resized(normalise(_tensor(path, "RGB"))) for path in (forward, backward)]))
            masks.append(_resized(_tensor(annotation, "L") / 255))
        return torch.stack(frames), torch.stack(flows), torch.stack(masks)


def _tensor(path: Path, mode: str) -> torch.Tensor:
    values = np.asarray(Image.open(path).convert(mode), np.float32)
    return torch.from_numpy(values[..., None] if mode == "L" else values).permute(2, 0, 1)


def _resized(image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(image[None], SIZE, mode="bilinear", align_corners=True)[0]


class _Rows(TorchDataset[torch.Tensor]):
    """Each pair as our reading tasks decode it: the shapes and pixels of `step_block`."""

    def __init__(self, uri: str, table: np.ndarray) -> None:
        self._uri, self._table = uri, table
        self._dataset: Dataset | None = None

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> Any:
        self._dataset = self._dataset or Dataset(self._uri)
        table = pack_steps(self._dataset, self._table[place][None])
        shapes, pixels = table["shapes"][0].as_buffer(), table["pixels"][0].as_buffer()
        # Read-only memory, which nobody writes to: PyTorch would warn of it.
        with warnings.catch_warnings(action="ignore"):
            return torch.frombuffer(bytearray(shapes), dtype=torch.uint8), torch.from_numpy(
                np.frombuffer(pixels, np.uint8)
            )


def _as_is(sample: Any) -> Any:
    return sample


def _unpacked(loader: Any) -> Iterator[Step]:
    for shapes, pixels in loader:
        offsets = pa.py_buffer(np.array([0, len(pixels)], np.int64))
        column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(pixels.numpy())])
        yield from unpack_steps(
            pa.table(
                {
                    "error": pa.nulls(1, pa.string()),
                    "shapes": pa.array([shapes.numpy().tobytes()], pa.binary()),
                    "pixels": column,
                }
            )
        )


def _bare_decoding(dataset: Dataset, table: np.ndarray) -> tuple[float, float]:
    """CPU-ms of a pair's decoders alone: of the bytes as they are stored, and were the flow pictures PNG."""
    stored = [dataset.read_encoded(int(row)) for row in table[: min(len(table), 40)].reshape(-1)]
    copies = [{name: None if data is None else bytes(data) for name, data in row.items()} for row in stored]
    as_png = [
        {name: _png(3)(decode_planes(data)) if data and name.endswith("flow") else data for name, data in row.items()}
        for row in copies
    ]
    return min(_decode_all(copies) for _ in range(3)), min(_decode_all(as_png) for _ in range(3))


def _decode_all(rows: list[dict[str, bytes | None]]) -> float:
    started = time.process_time()
    for row in rows:
        for name, data in row.items():
            if data is None:
                continue
            if planes_shape(data) is not None:
                decode_planes(data)
            else:
                flags = cv2.IMREAD_GRAYSCALE if name == "annotation" else cv2.IMREAD_COLOR
                cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return 1000 * 2 * (time.process_time() - started) / len(rows)


def _copying(schedule: Schedule) -> float:
    """CPU-ms of copying a pair's pixels to another place in memory."""
    (step,) = read_steps(schedule, 0, 0, 1)
    pixels = np.concatenate([part.view(np.uint8).ravel() for part in (*step.images, *step.flows, *step.annotations)])
    targets = [np.ones_like(pixels) for _ in range(8)]  # more than fits the cache
    started = time.process_time()
    for target in targets:
        np.copyto(target, pixels)
    return 1000 * (time.process_time() - started) / len(targets)


def _device_share(schedule: Schedule, pairs: int) -> float:
    """CPU-ms of a pair's resize and normalisation, where the device is the CPU."""
    steps = list(read_steps(schedule, 0, 0, min(pairs, 10)))
    started = time.process_time()
    for step in steps:
        make_batch(step.images, step.flows, step.annotations, SIZE, torch.device("cpu"))
    return 1000 * (time.process_time() - started) / len(steps)


def _report(found: dict[str, list[_Reading]], bare: float, bare_png: float, copying: float, device: float) -> float:
    print("reader                   pairs/s  CPU-ms/pair  pairs/s/core  with device's share  first batch, s")
    per_core: dict[str, float] = {}
    for name, readings in found.items():
        rate, cost, first = (
            statistics.median(getattr(reading, key) for reading in readings)
            for key in ("pairs_per_s", "cpu_ms", "first_s")
        )
        per_core[name] = 1000 / cost
        whole = cost if name == "DataLoader over files" else cost + device
        print(f"{name:24s} {rate:7.1f}  {cost:11.1f}  {1000 / cost:12.1f}  {1000 / whole:19.1f}  {first:15.2f}")
    ours = 1000 / per_core["Ray Data (ours)"]
    beyond = ours - bare
    share = 100 * beyond / ours
    print(f"bare decoding of the same bytes: {bare:.1f} CPU-ms a pair; beyond it {beyond:.1f}: {share:.0f} %")
    print(f"copying a pair's decoded pixels once, as the object store does: {copying:.1f} CPU-ms")
    print(
        f"were the flow pictures PNG, bare decoding would take {bare_png:.1f} CPU-ms a pair, and what is beyond it "
        f"{100 * beyond / (bare_png + beyond):.0f} %"
    )
    plain = per_core["DataLoader on parquet"]
    print(f"against the DataLoader on parquet, per core: {per_core['Ray Data (ours)'] / plain:.2f}")
    return per_core["Ray Data (ours)"] / per_core["DataLoader over files"]


def _spilled() -> int:
    import ray

    session = ray._private.worker._global_node.get_session_dir_path()
    return sum(len(files) for folder, _, files in os.walk(session) if "spilled" in folder)


def _encodings(dataset: Dataset) -> None:
    rows = range(1, dataset.index.num_rows, max(1, dataset.index.num_rows // 12))
    stored = [dataset.read_encoded(row) for row in rows]
    flows = [decode_planes(bytes(s["forward_flow"])) for s in stored if s["forward_flow"]]
    frames = [decode_image(bytes(s["image"])) for s in stored if s["image"]]
    jpegs = [bytes(s["image"]) for s in stored if s["image"]]
    print("encoding                          KiB  decode, ms  encode, ms  without loss")
    for name, pictures in (("flow", flows), ("frame", frames)):
        for what, encode, decode, lossless in _CODECS:
            started = time.process_time()
            data = [encode(picture) for picture in pictures]
            between = time.process_time()
            back = [decode(item) for item in data]
            ended = time.process_time()
            exact = all(np.array_equal(a, b) for a, b in zip(pictures, back, strict=True))
            assert exact or not lossless
            size = sum(len(item) for item in data) / len(data) / 1024
            times = [1000 * t / len(data) for t in (ended - between, between - started)]
            print(
                f"{name + ', ' + what:30s} {size:7.0f}  {times[0]:10.2f}  {times[1]:10.2f}  {'yes' if exact else 'no'}"
            )
    started = time.process_time()
    for item in jpegs:
        decode_image(item)
    size, cost = sum(map(len, jpegs)) / len(jpegs) / 1024, 1000 * (time.process_time() - started) / len(jpegs)
    print(f"{'frame, its own JPEG (kept)':30s} {size:7.0f}  {cost:10.2f}  {0:10.2f}  yes")


def _png(level: int) -> Callable[[np.ndarray], bytes]:
    return lambda picture: cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()


def _cv(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def _half(picture: np.ndarray) -> bytes:
    return encode_png(np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8))


_CODECS: list[tuple[str, Callable[[np.ndarray], bytes], Callable[[bytes], np.ndarray], bool]] = [
    *((f"PNG level {level}", _png(level), _cv, True) for level in (1, 3, 6, 9)),
    ("WebP", lambda p: cv2.imencode(".webp", p, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes(), _cv, True),
    ("zstd 1 of planes", lambda p: encode_planes(p, 1), decode_planes, True),
    ("zstd 3 of planes (ours)", encode_planes, decode_planes, True),
    ("zstd 9 of planes", lambda p: encode_planes(p, 9), decode_planes, True),
    ("PNG at half the size", _half, _cv, False),
]


def _as_files(dataset: Dataset, folder: Path) -> dict[int, tuple[Path, ...]]:
    """Frame as JPEG, flow pictures and annotation as PNG: what the rival reads. Flipped views read their original's."""
    folder.mkdir()
    files: dict[int, tuple[Path, ...]] = {}
    originals: dict[tuple[str, int], tuple[Path, ...]] = {}
    for row in np.flatnonzero(dataset.column("view") == "as_is"):
        stored, view = dataset.read_encoded(int(row)), dataset.read(int(row))
        assert stored["image"] and view.annotation is not None
        paths = [folder / f"{row}{ending}" for ending in (".jpg", "-forward.png", "-backward.png", ".png")]
        pictures = (view.flow[..., :3], view.flow[..., 3:], view.annotation)
        for path, data in zip(paths, (bytes(stored["image"]), *map(encode_png, pictures)), strict=True):
            path.write_bytes(data)
        originals[str(dataset.column("sequence")[row]), int(dataset.column("frame")[row])] = tuple(paths)
    for row in range(dataset.index.num_rows):
        files[row] = originals[str(dataset.column("sequence")[row]), int(dataset.column("frame")[row])]
    return files


def _pairs(schedule: Schedule, count: int) -> np.ndarray:
    """The schedule's first pairs, for all readers: (pairs, 2)."""
    table = np.concatenate([schedule.pairs(e)[:, 0, 0] for e in range(1, 2 + count // schedule.steps_per_epoch)])
    return np.asarray(table[:count])


def _experiment(options: argparse.Namespace, scratch: Path) -> Experiment:
    source = {"layout": "davis16", "path": str(options.data.resolve()), "sequences": options.sequences.split(",")}
    values = {
        "name": "benchmark",
        "data": {"sources": {"davis16": source}, "dataset": str(scratch / "dataset")},
        "flow": {"preset": "fast"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
    }
    return validate(values, "benchmark")


if __name__ == "__main__":
    main()
