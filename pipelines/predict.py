"""`rtnet predict`: frames and model -> maps, masks, overlays and statistics, by a pool of model actors."""

import json
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import registry
from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.places import check_reachable, check_shared, places_of
from pipelines.prediction_units import Unit, units_of
from pipelines.predictions import Predictions
from pipelines.resources import check_actors
from pipelines.sections import Prediction
from pipelines.session import ray_session
from pipelines.storage import absolute, local_copy
from pipelines.tracking import tracking_uri
from rtnet.checkpoint import load_model
from rtnet.errors import UserError

_SECONDS_BETWEEN_LINES = 10.0
_CONTINUES = "whole sequences stay; the same command continues"
_STAGES = ("decode", "flow", "network", "encode")


def run(experiment: Experiment) -> None:
    """Predicts the sequences that are not there yet; says so where there are none."""
    options = experiment.prediction
    places = places_of(experiment, "predict")
    check_reachable(places)
    units, faults = units_of(experiment)
    if faults and options.on_error == "stop":
        name, fault = next(iter(faults.items()))
        more = f" ({len(faults)} sequences have such faults)" if len(faults) > 1 else ""
        raise UserError(f"sequence '{name}': {fault}{more}; prediction.on_error=skip goes on without")
    with tempfile.TemporaryDirectory() as scratch:
        weights, origin = _find_model(experiment, Path(scratch))
        load_model(weights)  # a file that does not fit is to be told here, not by an actor
        data, suffix = weights.read_bytes(), weights.suffix
        digest = registry.file_digest(weights)
    predictions = Predictions.of(experiment)
    dataset = Dataset(absolute(experiment.data.dataset)).digest if options.input == "dataset" else None
    stamps = {unit.sequence: unit.stamp for unit in units}
    done = predictions.claim(_made_by(experiment, digest), origin, dataset, stamps)
    left = [unit for unit in units if unit.sequence not in done]
    if left:
        what = f"{sum(unit.stop - unit.start for unit in left)} frames by {origin['uri']} ({digest[:12]})"
        print(f"predicting {what} -> {predictions.uri}", flush=True)
        with ray_session():
            check_actors(options)
            check_shared(places)
            faults |= _predict(experiment, predictions, left, (data, suffix))
    predictions.complete(faults)
    for name, fault in faults.items():
        print(f"left out: {name}: {fault}")
    there = [unit for unit in units if unit.sequence not in faults]
    frames, nothing = sum(unit.stop - unit.start for unit in there), "" if left else _NOTHING
    print(
        f"{predictions.uri}: {len({unit.sequence for unit in there})} sequences, {frames} frames{nothing}", flush=True
    )


_NOTHING = ": all there already, by the same model and options: nothing to do"


def _predict(
    experiment: Experiment, predictions: Predictions, units: list[Unit], weights: tuple[bytes, str]
) -> dict[str, str]:
    """{sequence: what is wrong with its files} of those that were left out."""
    import ray
    import ray.data

    from pipelines.predictor import Predictor

    options = experiment.prediction
    # Each report of an actor is a block of its own, so that it comes here at once.
    ray.data.DataContext.get_current().target_max_block_size = 1
    reports = ray.data.from_items(
        [{"unit": number} for number in range(len(units))], override_num_blocks=len(units)
    ).map_batches(
        Predictor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        fn_constructor_kwargs={
            "weights": ray.put(weights),
            "units": ray.put(units),
            "experiment": experiment,
            "output": predictions.uri,
        },
        **_share(options, ray.cluster_resources()),
    )
    progress, faults = _Progress(predictions, units), {}
    for report in _while_ray_lives(reports.iter_rows()):
        if not report["error"]:
            rows, spent = json.loads(report["statistics"]), json.loads(report["spent"])
            progress.add(units[report["unit"]], rows, spent, report["begun"])
        elif options.on_error == "skip":
            faults[units[report["unit"]].sequence] = report["error"]
        else:
            raise UserError(f"{report['error']} ({_CONTINUES})")
    progress.end()
    return faults


def _while_ray_lives(reports: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """UserError where it is Ray that can't go on, not the actors' code."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError, RayTaskError

    try:
        yield from reports
    except RayTaskError:
        raise
    except (RayError, ExecutionTimeoutError) as error:
        what = f"Ray was killed or lost ({type(error).__name__})"
        if isinstance(error, ExecutionTimeoutError):
            what = "nothing was predicted for half an hour, as if no node had room for the actors"
        raise UserError(f"{what}: {_CONTINUES}") from error


class _Progress:
    """Counts frames, names whole sequences in the index, prints a line for each and at least every ten seconds."""

    def __init__(self, predictions: Predictions, units: list[Unit]) -> None:
        self._predictions = predictions
        self._frames: Counter[str] = Counter()  # of each sequence
        for unit in units:
            self._frames[unit.sequence] += unit.stop - unit.start
        self._rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._made, self._spent = 0, Counter[str]()
        self._begun = math.inf  # when the first actor began its first frame: their start is no part of their speed
        self._shown = time.monotonic()

    def add(self, unit: Unit, rows: list[dict[str, Any]], spent: dict[str, float], begun: float) -> None:
        name, now = unit.sequence, time.monotonic()
        self._begun = min(self._begun, begun)
        self._rows[name] += rows
        self._made += len(rows)
        self._spent.update(spent)
        left = self._frames[name] - len(self._rows[name])
        if not left:
            self._predictions.add(name, unit.stamp, self._rows.pop(name))
        if left and now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        seconds = time.time() - self._begun
        speed = f", {self._made / seconds:.2f} frames/s" if seconds > 0 else ""
        state = f"{left} frames left" if left else "whole"
        print(f"[{self._made}/{self._frames.total()}] {name}: {state}{speed}", flush=True)

    def end(self) -> None:
        """Says where the actors' time went. Stages run beside one another, so shares are of their sum."""
        total = sum(self._spent.values())
        if total:
            shares = ", ".join(f"{stage} {100 * self._spent[stage] / total:.0f} %" for stage in _STAGES)
            print(f"the actors' time: {shares}", flush=True)


def _share(options: Prediction, cluster: dict[str, float]) -> dict[str, float]:
    """What each actor reserves. A pool that takes every CPU starves all other tasks, silently, so one stays free."""
    if options.gpus_per_actor:
        return {"num_gpus": options.gpus_per_actor}
    cpus = cluster.get("CPU", 1.0)
    free = max(cpus - 1, cpus / 2)
    return {"num_cpus": min(1.0, max(0.01, int(100 * free / options.actors) / 100))}


def _find_model(experiment: Experiment, scratch: Path) -> tuple[Path, dict[str, str]]:
    """The weights file, and where it came from."""
    wanted = experiment.prediction.model or f"models:/{experiment.tracking.model}@{experiment.tracking.alias}"
    if not wanted.startswith("models:/"):
        return local_copy(wanted, scratch).resolve(), {"uri": absolute(wanted), "run_id": "", "tracking": ""}
    uri = tracking_uri(experiment)
    model = registry.resolve_model(uri, wanted)
    return registry.download_model(uri, model, scratch), {"uri": model.uri, "run_id": model.run_id, "tracking": uri}


def _made_by(experiment: Experiment, digest: str) -> dict[str, Any]:
    """All that decides the results but the frames; how the work is shared out does not."""
    options = experiment.prediction.model_dump(mode="json")
    kept = ["input", "split", "height", "partners", "both", "views", "threshold", "stretch", "precision", "overlays"]
    return {
        "model.digest": digest,
        "seed": experiment.seed,
        "training.reach": experiment.training.reach,
        "width": int(experiment.training.aspect * experiment.prediction.height),
        **{f"prediction.{name}": options[name] for name in kept},
    }
