"""`rtnet evaluate`: masks and annotations -> J, F and the saliency measures, per sequence and over the set."""

import json
import time
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from pipelines import tracking
from pipelines.config import Experiment
from pipelines.predictions import INDEX, Predictions
from pipelines.scoring import Job, as_csv, as_text, score_sequence, table
from pipelines.session import ray_session
from pipelines.sources import read_sources
from pipelines.storage import absolute, open_storage, write_whole
from rtnet.data.layouts import Sequence
from rtnet.errors import UserError
from rtnet.metrics import scored

_CPUS = 0.5


@dataclass(frozen=True)
class Folders:
    """Where the masks lie and, if they are there, the maps that go with them; SEQUENCE/FRAME.png in both."""

    masks: str
    maps: str | None
    model: dict[str, str]  # what made them, where the folder tells


def run(experiment: Experiment) -> None:
    """Scores every sequence, prints the table, writes and logs it. Writes nothing where a mask is not as it must be."""
    sequences, folders = _sequences(experiment), _folders(experiment)
    for folder in filter(None, (folders.masks, folders.maps)):
        _check_names(folder, sequences, any(source.sequences for source in experiment.data.sources.values()))
    tracking.reach_store(tracking.tracking_uri(experiment))
    print(f"scoring {folders.masks}; saliency on {folders.maps or 'the masks, as no maps lie beside them'}", flush=True)
    with ray_session():
        results = _score_all(experiment, sequences, folders)
    rows = table(results)
    print(as_text(rows), flush=True)
    facts = {
        "masks": folders.masks,
        "saliency_on": folders.maps or folders.masks,
        "model": folders.model,
        "split": experiment.evaluation.split,
        "threshold": experiment.evaluation.threshold,
        "scores": rows,
        "frames": {name: result["frames"] for name, result in results.items()},
    }
    files = {"scores.csv": as_csv(rows).encode(), "scores.json": json.dumps(facts, indent=2).encode()}
    target = absolute(experiment.evaluation.output or f"{experiment.storage}/{experiment.name}/evaluation")
    _write(target, files)
    tracked = _log(experiment, folders, rows[-1], files)
    print(
        f"written to {target}/scores.csv and scores.json, logged to run {tracked.run_id} in {tracked.uri}", flush=True
    )


def _score_all(experiment: Experiment, sequences: list[Sequence], folders: Folders) -> dict[str, dict[str, Any]]:
    """The results of all sequences, in order; UserError for the first wrong mask that is found."""
    import ray.data

    threshold = experiment.evaluation.threshold
    jobs = [Job(sequence, folders.masks, folders.maps, threshold) for sequence in sequences]

    def score(item: dict[str, Any]) -> dict[str, Any]:
        return {"number": item["number"], **score_sequence(jobs[item["number"]])}

    numbers = [{"number": number} for number in range(len(jobs))]
    scores = ray.data.from_items(numbers, override_num_blocks=len(jobs)).map(score, num_cpus=_CPUS)
    results: dict[int, dict[str, Any]] = {}
    frames, started = 0, time.monotonic()
    for row in scores.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        results[row["number"]] = json.loads(row["result"])
        name, count = sequences[row["number"]].name, len(sequences[row["number"]].frames)
        frames += count
        rate = frames / (time.monotonic() - started)
        print(f"[{len(results)}/{len(jobs)}] {name}: {count} frames, {rate:.1f} frames/s", flush=True)
    return {sequences[number].name: results[number] for number in sorted(results)}


def _sequences(experiment: Experiment) -> list[Sequence]:
    found, split = read_sources(experiment), experiment.evaluation.split
    wanted = [sequence for sequence in found if sequence.split == split]
    if not wanted:
        splits = ", ".join(sorted({sequence.split for sequence in found}))
        raise UserError(f"no sequences in split '{split}'; there are some in {splits}: set evaluation.split")
    names = [sequence.name for sequence in wanted]
    for sequence in wanted:
        if sequence.fault:
            raise UserError(sequence.fault)
        if names.count(sequence.name) > 1:
            raise UserError(
                f"two sources have a sequence '{sequence.name}' in split '{split}', and its masks one folder: "
                "leave one of the sources out"
            )
        if not any(frame.annotation for frame in scored(sequence.frames)):
            raise UserError(
                f"{sequence.dataset}: sequence '{sequence.name}' has no annotated frame between its first and last, "
                f"which are not scored: leave it out of data.sources.{sequence.dataset}.sequences"
            )
    return wanted


def _folders(experiment: Experiment) -> Folders:
    """The masks named or, by default, predicted; UserError where the prediction is not finished."""
    masks = absolute(experiment.evaluation.masks or f"{Predictions.of(experiment).uri}/masks").rstrip("/")
    parent, name = masks.rsplit("/", 1)
    index = Predictions(parent).index() if name == "masks" else None
    if index is None and experiment.evaluation.masks is None:
        raise UserError(f"no predictions in {parent}: run `rtnet predict` first, or name a folder in evaluation.masks")
    if index is not None and not index["complete"]:
        raise UserError(f"{parent}/{INDEX}: the predictions are not finished: run the same `rtnet predict` again")
    if not _is_folder(masks):
        raise UserError(f"{masks}: no such folder of masks: set evaluation.masks")
    maps = f"{parent}/maps" if name == "masks" and _is_folder(f"{parent}/maps") else None
    return Folders(masks, maps, {} if index is None else index["model"])


def _is_folder(uri: str) -> bool:
    system, path = open_storage(uri)
    return bool(system.get_file_info(path).type == fs.FileType.Directory)


def _check_names(folder: str, sequences: list[Sequence], chosen: bool) -> None:
    """UserError where an annotated frame has no file, or a file no frame.

    chosen: the recipe names the sequences, so the folder may hold others.
    """
    system, root = open_storage(folder)
    infos = system.get_file_info(fs.FileSelector(root, recursive=True))
    paths = {info.path[len(root) :].lstrip("/") for info in infos if info.type == fs.FileType.File}
    there = {path for path in paths if not path.rsplit("/", 1)[-1].startswith(".")}
    names = {sequence.name for sequence in sequences}
    if chosen:
        there = {path for path in there if path.split("/")[0] in names}
    known = {f"{sequence.name}/{frame.name}.png" for sequence in sequences for frame in sequence.frames}
    needed = {f"{s.name}/{frame.name}.png" for s in sequences for frame in s.frames if frame.annotation}
    if missing := sorted(needed - there):
        raise UserError(f"{folder}/{missing[0]} is missing{_and_more(missing)}: every annotated frame needs its mask")
    if extra := sorted(there - known):
        raise UserError(f"{folder}/{extra[0]} belongs to no frame{_and_more(extra)}: take it out of the folder")


def _and_more(paths: list[str]) -> str:
    return f", and {len(paths) - 1} more" if len(paths) > 1 else ""


def _write(target: str, files: dict[str, bytes]) -> None:
    system, root = open_storage(target)
    try:
        for name, data in files.items():
            write_whole(system, f"{root}/{name}", data)
    except OSError as error:
        raise UserError(f"evaluation.output {target} can't be written: {error}") from error


def _log(experiment: Experiment, folders: Folders, of_set: dict[str, Any], files: dict[str, bytes]) -> tracking.Run:
    """To the run of the model that made the masks, or else to a new one."""
    uri, split = tracking.tracking_uri(experiment), experiment.evaluation.split
    known = folders.model.get("run_id") if folders.model.get("tracking") == uri else None
    tracked = tracking.find_run(uri, known) if known else None
    fresh = tracked is None
    if tracked is None:
        tracked = tracking.start_run(experiment, f"{experiment.name}-evaluation", tags={"masks": folders.masks})
    tracked.log_metrics({f"evaluation/{split}/{k}": v for k, v in of_set.items() if isinstance(v, float)})
    for name, data in files.items():
        tracked.log_bytes(data, f"evaluation/{split}/{name}")
    if fresh:
        tracked.finish()
    return tracked
