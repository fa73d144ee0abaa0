"""The actor of `predict`: holds the network, reads frames ahead, writes maps behind."""

import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray
import torch

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.frame_statistics import frame_statistics
from pipelines.memory import keep_freed_memory
from pipelines.prediction_units import Unit
from pipelines.preparer import estimator
from pipelines.storage import absolute, open_storage, put
from rtnet.checkpoint import load_model
from rtnet.data.flips import flip
from rtnet.data.frames import read_annotation, read_pictures
from rtnet.data.images import Mask, Picture, decode_mask, encode_jpeg, encode_png, overlay
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.prediction import Map, for_prediction, grey_levels, stretch
from rtnet.segmenter import FrameViews, Segmenter

_FRAMES_PER_REPORT = 8
_WRITERS = 4


class Predictor:
    """Predicts units with one network on one device."""

    def __init__(self, weights: ray.ObjectRef, units: ray.ObjectRef, experiment: Experiment, output: str) -> None:
        """weights: reference to (content, suffix) of a weights file; units: to a list of Unit. output: a folder."""
        options = experiment.prediction
        torch.set_flush_denormal(True)  # before PyTorch starts its threads, which inherit it
        device = torch.device("cuda" if options.gpus_per_actor else "cpu")
        if not options.gpus_per_actor:
            keep_freed_memory()
            # Ray sets one thread for actors with a fraction of a CPU.
            threads = max(1, (os.cpu_count() or 1) // options.actors)
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        self._segmenter = Segmenter(
            for_prediction(_model(*ray.get(weights)), device, options.precision),
            device,
            views=tuple(options.views),
            size=(options.height, int(experiment.training.aspect * options.height)),
            batch_size=options.batch_size,
        )
        self._spent = self._segmenter.spent
        self._options, self._units = options, ray.get(units)
        self._dataset = Dataset(absolute(experiment.data.dataset)) if options.input == "dataset" else None
        self._system, self._root = open_storage(output)
        self._begun = 0.0
        self._writers = ThreadPoolExecutor(_WRITERS)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """batch: "unit", numbers of units. Reports, some frames each: statistics, seconds by stage, when it all began.

        What is wrong with a unit's files is reported as "error", for no worker's traceback to hide it.
        """
        self._begun = self._begun or time.time()
        for number in batch["unit"].tolist():
            try:
                for rows in _in_groups(self._predict(self._units[number]), _FRAMES_PER_REPORT):
                    yield self._report(number, rows)
            except (UserError, OSError, pa.ArrowInvalid) as error:
                yield self._report(number, [], str(error).splitlines()[0])

    def _report(self, number: int, rows: list[dict[str, Any]], error: str = "") -> dict[str, Any]:
        texts = {"statistics": json.dumps(rows), "spent": json.dumps(self._spent.take()), "error": error}
        numbers = {"unit": np.array([number]), "begun": np.array([self._begun])}
        return numbers | {key: [text] for key, text in texts.items()}

    def _predict(self, unit: Unit) -> Iterator[dict[str, Any]]:
        """The statistics of each frame, after its files are written."""
        pictures: dict[int, Picture] = {}  # those of which an overlay is drawn, until it is
        written: deque[Future[dict[str, Any]]] = deque()
        for place, map_ in enumerate(self._maps(unit, pictures), unit.start):
            written.append(self._writers.submit(self._write, unit, place, map_, pictures.pop(place, None)))
            while written and (len(written) > 2 * _WRITERS or written[0].done()):
                yield written.popleft().result()
        yield from (future.result() for future in written)

    def _maps(self, unit: Unit, pictures: dict[int, Picture]) -> Iterator[Map]:
        segmenter = replace(self._segmenter, rule=unit.rule)
        if unit.source is not None and unit.source.kind != "stills":
            assert unit.flow is not None
            how = estimator(unit.flow, str(segmenter.device))
            segmenter = replace(segmenter, estimator=how, flow_height=unit.flow.height)
            yield from segmenter.segment(_kept(read_pictures(unit.source), unit, pictures))
            return
        if unit.source is None:
            frames = self._of_dataset(unit)
        else:
            frames = self._of_stills(_kept(read_pictures(unit.source), unit, pictures))
        yield from segmenter.maps(frames, unit.first, unit.start, unit.stop)

    def _of_dataset(self, unit: Unit) -> Iterator[FrameViews]:
        assert self._dataset is not None and unit.rows is not None
        for rows in unit.rows.tolist():
            with self._spent.on("decode"):
                views = [self._dataset.read(row) for row in rows]
            yield FrameViews([view.image for view in views], [view.flow for view in views])

    def _of_stills(self, pictures: Iterable[Picture]) -> Iterator[FrameViews]:
        for picture in self._spent.each("decode", pictures):
            black = np.zeros((*picture.shape[:2], 6), np.uint8)
            views = self._segmenter.views
            yield FrameViews([flip(picture, view) for view in views], [black] * len(views))

    def _write(self, unit: Unit, place: int, map_: Map, picture: Picture | None) -> dict[str, Any]:
        with self._spent.on("encode"):
            if self._options.stretch:
                map_ = stretch(map_)
            mask = map_ > self._options.threshold
            name = unit.names[place - unit.start]
            map_file, mask_file = encode_png(grey_levels(map_)), encode_png(mask)
            self._put(f"maps/{unit.sequence}/{name}.png", map_file)
            self._put(f"masks/{unit.sequence}/{name}.png", mask_file)
            if place in unit.shown:
                image, annotation = self._shown(unit, place, picture)
                self._put(f"overlays/{unit.sequence}/{name}.jpg", encode_jpeg(overlay(image, mask, annotation)))
            return frame_statistics(unit.sequence, place, name, map_, mask, map_file, mask_file)

    def _shown(self, unit: Unit, place: int, picture: Picture | None) -> tuple[Picture, Mask | None]:
        if unit.source is None:
            assert self._dataset is not None and unit.rows is not None
            seen, flipped = self._segmenter.views[0], self._dataset.read(int(unit.rows[place - unit.first, 0]))
            mask = flipped.annotation
            return flip(flipped.image, seen), None if mask is None else flip(mask, seen)
        assert picture is not None
        data = read_annotation(unit.source, unit.source.frames[place], (picture.shape[0], picture.shape[1]))
        return picture, None if data is None else decode_mask(data)

    def _put(self, file: str, data: bytes) -> None:
        """Not written aside: the index names a sequence after all its files are there."""
        put(self._system, f"{self._root}/{file}", data)


def _kept(pictures: Iterable[Picture], unit: Unit, kept: dict[int, Picture]) -> Iterator[Picture]:
    for place, picture in enumerate(pictures):
        if place in unit.shown:
            kept[place] = picture
        yield picture


def _in_groups(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _model(data: bytes, suffix: str) -> RTNet:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"weights{suffix}"
        path.write_bytes(data)
        return load_model(path)
