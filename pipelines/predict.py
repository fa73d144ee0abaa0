"""`rtnet predict`: parquet dataset and model -> maps, masks and overlays, by a pool of model actors."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import registry
from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.predictions import Predictions
from pipelines.sections import Prediction
from pipelines.session import ray_session
from pipelines.storage import absolute
from pipelines.tracking import tracking_uri
from rtnet.checkpoint import load_model
from rtnet.data.pairs import fixed_partners
from rtnet.errors import UserError

_BATCHES_PER_CHUNK = 8
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Work:
    """What there is to predict: the rows of a split, their partners and sequences, in the dataset's order."""

    rows: np.ndarray  # int64 (n,)
    partners: np.ndarray  # int64 (n,), row numbers
    sequences: list[str]  # of each row
    shown: frozenset[int]  # places whose overlays are written

    def chunks(self, done: dict[str, int], size: int) -> Iterator[tuple[int, int]]:
        """(first place, end) of runs of at most `size` frames of one sequence that is not done."""
        start = 0
        for name, count in Counter(self.sequences).items():
            if name not in done:
                yield from ((first, min(first + size, start + count)) for first in range(start, start + count, size))
            start += count


def run(experiment: Experiment) -> None:
    """Predicts the sequences that are not there yet; says so where there are none."""
    dataset = Dataset(absolute(experiment.data.dataset))
    work = _work(experiment, dataset)
    with tempfile.TemporaryDirectory() as scratch:
        weights, origin = _find_model(experiment, Path(scratch))
        load_model(weights)  # a file that does not fit is to be told here, not by an actor
        data, suffix = weights.read_bytes(), weights.suffix
        digest = registry.file_digest(weights)
    predictions = Predictions.of(experiment)
    done = predictions.claim(_made_by(experiment, dataset, digest), origin)
    chunks = list(work.chunks(done, experiment.prediction.batch_size * _BATCHES_PER_CHUNK))
    if chunks:
        what = f"{sum(end - start for start, end in chunks)} frames by {origin['uri']} ({digest[:12]})"
        print(f"predicting {what} -> {predictions.uri}", flush=True)
        with ray_session():
            _predict(experiment, predictions, work, chunks, (data, suffix))
    predictions.complete()
    nothing = "" if chunks else " all there already, by the same model and options: nothing to do"
    print(f"{predictions.uri}: {len(set(work.sequences))} sequences, {len(work.rows)} frames{nothing}", flush=True)


def _predict(
    experiment: Experiment,
    predictions: Predictions,
    work: Work,
    chunks: list[tuple[int, int]],
    weights: tuple[bytes, str],
) -> None:
    import ray
    import ray.data

    from pipelines.predictor import Predictor

    options = experiment.prediction
    share = _share(options, ray.cluster_resources())
    # One block for each chunk, and an actor is given one chunk at a time.
    results = ray.data.from_items(
        [{"start": start, "end": end} for start, end in chunks], override_num_blocks=len(chunks)
    ).map_batches(
        Predictor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        fn_constructor_kwargs={
            "weights": ray.put(weights),
            "dataset": absolute(experiment.data.dataset),
            "output": predictions.uri,
            "work": work,
            "options": options,
            "width": _width(experiment),
        },
        **share,
    )
    progress = _Progress(predictions, work, chunks)
    for result in results.iter_rows():
        if result["error"]:
            raise UserError(f"{result['error']} (whole sequences stay; the same command continues)")
        progress.add(result["start"], result["end"])


class _Progress:
    """Counts frames, names whole sequences in the index, prints a line for each and at least every ten seconds."""

    def __init__(self, predictions: Predictions, work: Work, chunks: list[tuple[int, int]]) -> None:
        self._predictions, self._sequences = predictions, work.sequences
        self._left = Counter(work.sequences[place] for start, end in chunks for place in range(start, end))
        self._totals, self._frames, self._made = Counter(work.sequences), sum(self._left.values()), 0
        self._first = (0.0, 0)  # time and frames of the first chunk: the actors' start is no part of their speed
        self._shown = time.monotonic()

    def add(self, start: int, end: int) -> None:
        name, now = self._sequences[start], time.monotonic()
        self._left[name] -= end - start
        self._made += end - start
        if not self._left[name]:
            self._predictions.add(name, self._totals[name])
        if self._made == end - start:
            self._first = (now, self._made)
        if self._left[name] and now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        state = f"{self._left[name]} frames left" if self._left[name] else "whole"
        since, before = self._first
        speed = f", {(self._made - before) / (now - since):.2f} frames/s" if now > since else ""
        print(f"[{self._made}/{self._frames}] {name}: {state}{speed}", flush=True)


def _share(options: Prediction, cluster: dict[str, float]) -> dict[str, float]:
    """What each actor reserves. A pool that takes every CPU starves all other tasks, silently, so one stays free."""
    if options.gpus_per_actor:
        needed, there = options.actors * options.gpus_per_actor, cluster.get("GPU", 0.0)
        if needed > there:
            raise UserError(
                f"prediction asks for {needed:g} GPUs and the cluster has {there:g}: "
                "lower prediction.actors or prediction.gpus_per_actor (0 predicts on CPUs)"
            )
        return {"num_gpus": options.gpus_per_actor}
    cpus = cluster.get("CPU", 1.0)
    free = max(cpus - 1, cpus / 2)
    return {"num_cpus": min(1.0, max(0.01, int(100 * free / options.actors) / 100))}


def _work(experiment: Experiment, dataset: Dataset) -> Work:
    rows = dataset.rows(experiment.prediction.split, views=["as_is"])
    groups = dataset.groups(rows)
    partners = rows[fixed_partners(groups, experiment.seed, experiment.training.reach)]
    names = dataset.index["sequence"].take(rows).to_pylist()
    _refuse_one_name_for_two(dataset, rows)
    shown: set[int] = set()
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        count = min(experiment.prediction.overlays, len(places))
        shown |= {int(places[i]) for i in np.linspace(0, len(places) - 1, count + 2).round().astype(int)[1:-1]}
    return Work(rows, partners, names, frozenset(shown))


def _refuse_one_name_for_two(dataset: Dataset, rows: np.ndarray) -> None:
    """Maps lie in SEQUENCE/FRAME.png: two datasets' sequences of one name would overwrite one another."""
    owner: dict[str, str] = {}
    for name, of in zip(dataset.column("sequence")[rows], dataset.column("dataset")[rows], strict=True):
        if owner.setdefault(name, of) != of:
            raise UserError(
                f"{dataset.uri}: both {owner[name]} and {of} have a sequence '{name}' in this split: "
                "prepare them into two datasets"
            )


def _find_model(experiment: Experiment, scratch: Path) -> tuple[Path, dict[str, str]]:
    """The weights file, and where it came from."""
    wanted = experiment.prediction.model or f"models:/{experiment.tracking.model}@{experiment.tracking.alias}"
    if not wanted.startswith("models:/"):
        path = Path(wanted).expanduser().resolve()
        return path, {"uri": str(path), "run_id": "", "tracking": ""}
    uri = tracking_uri(experiment)
    model = registry.resolve_model(uri, wanted)
    return registry.download_model(uri, model, scratch), {"uri": model.uri, "run_id": model.run_id, "tracking": uri}


def _made_by(experiment: Experiment, dataset: Dataset, digest: str) -> dict[str, Any]:
    """All that decides the results; how the work is shared out does not."""
    options = experiment.prediction
    kept = ("split", "height", "threshold", "stretch", "precision", "overlays")
    return {
        "model.digest": digest,
        "dataset.digest": dataset.digest,
        "seed": experiment.seed,
        "training.reach": experiment.training.reach,
        "width": _width(experiment),
        **{f"prediction.{name}": getattr(options, name) for name in kept},
    }


def _width(experiment: Experiment) -> int:
    return int(experiment.training.aspect * experiment.prediction.height)
