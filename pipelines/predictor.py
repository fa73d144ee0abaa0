"""The actor of `predict`: holds the network, reads pairs ahead, writes maps behind."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import torch

from pipelines.dataset import Dataset, View
from pipelines.sections import Prediction
from pipelines.storage import open_storage
from rtnet.checkpoint import load_model
from rtnet.data.images import encode_jpeg, encode_png, overlay
from rtnet.data.inputs import network_input
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.prediction import Map, for_prediction, grey_levels, predict_maps, stretch

if TYPE_CHECKING:
    from pipelines.predict import Work


class Predictor:
    """Predicts chunks of frames with one network on one device."""

    def __init__(
        self, weights: ray.ObjectRef, dataset: str, output: str, work: "Work", options: Prediction, width: int
    ) -> None:
        """weights: reference to (content, suffix) of a weights file. The rest is `predict`'s."""
        torch.set_flush_denormal(True)  # before PyTorch starts its threads, which inherit it
        self._device = torch.device("cuda" if options.gpus_per_actor else "cpu")
        if not options.gpus_per_actor:
            # Ray sets one thread for actors with a fraction of a CPU.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.actors))
        self._model = for_prediction(_model(*ray.get(weights)), self._device, options.precision)
        self._dataset = Dataset(dataset)
        self._system, self._root = open_storage(output)
        self._work, self._options, self._size = work, options, (options.height, width)
        self._folders: set[str] = set()
        # One thread reads: a parquet file is not to be read by several at once.
        self._reader, self._writers = ThreadPoolExecutor(1), ThreadPoolExecutor(4)

    def __call__(self, chunks: dict[str, np.ndarray]) -> dict[str, Any]:
        """chunks: "start" and "end", int64 (n,), places in `work`. A user's mistake comes back as "error"."""
        errors = []
        for start, end in zip(chunks["start"], chunks["end"], strict=True):
            try:
                self._predict(range(start, end))
                errors.append("")
            except (UserError, OSError, pa.ArrowInvalid) as error:
                errors.append(str(error).splitlines()[0])
        return {"start": chunks["start"], "end": chunks["end"], "error": np.array(errors, dtype=object)}

    def _predict(self, places: range) -> None:
        written: list[Future[None]] = []
        for batch, views in self._read_ahead(places):
            distinct, device, size = list(views), self._device, self._size
            pairs = [(self._work.rows[place], self._work.partners[place]) for place in batch]
            frames = [views[row] for row, _ in pairs]
            maps = predict_maps(
                self._model,
                network_input([views[row].image for row in distinct], size, device),
                network_input([views[row].flow for row in distinct], size, device),
                torch.tensor([[distinct.index(row) for row in pair] for pair in pairs], device=device),
                [frame.image.shape[:2] for frame in frames],
            )
            for place, frame, map_ in zip(batch, frames, maps, strict=True):
                written.append(self._writers.submit(self._write, place, frame, map_))
        for future in written:
            future.result()

    def _read_ahead(self, places: range) -> Iterator[tuple[range, dict[int, View]]]:
        """Batches of places and, by row, their pairs' views; the next one is read while this one is worked on."""
        count = self._options.batch_size
        batches = [places[first : first + count] for first in range(0, len(places), count)]
        upcoming = self._reader.submit(self._read, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            views = upcoming.result()
            if following is not None:
                upcoming = self._reader.submit(self._read, following)
            yield batch, views

    def _read(self, batch: range) -> dict[int, View]:
        rows = {int(row) for place in batch for row in (self._work.rows[place], self._work.partners[place])}
        return {row: self._dataset.read(row) for row in sorted(rows)}

    def _write(self, place: int, frame: View, map_: Map) -> None:
        if self._options.stretch:
            map_ = stretch(map_)
        mask = map_ > self._options.threshold
        file = f"{self._work.sequences[place]}/{self._dataset.describe(int(self._work.rows[place]))['name']}"
        self._put(f"maps/{file}.png", encode_png(grey_levels(map_)))
        self._put(f"masks/{file}.png", encode_png(mask))
        if place in self._work.shown:
            self._put(f"overlays/{file}.jpg", encode_jpeg(overlay(frame.image, mask, frame.annotation)))

    def _put(self, file: str, data: bytes) -> None:
        """Not written aside: the index names a sequence after all its files are there."""
        path = f"{self._root}/{file}"
        folder = path.rsplit("/", 1)[0]
        if folder not in self._folders:
            self._system.create_dir(folder, recursive=True)
            self._folders.add(folder)
        with self._system.open_output_stream(path) as stream:
            stream.write(data)


def _model(data: bytes, suffix: str) -> RTNet:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"weights{suffix}"
        path.write_bytes(data)
        return load_model(path)
