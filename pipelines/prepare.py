"""`rtnet prepare`: any sources -> the parquet dataset, on Ray Data: one task for each 16 frames.

What is there already is kept, so the same command continues after any kill, and more sequences add only their own.
"""

import hashlib
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import cv2
import pyarrow as pa
from pyarrow import fs

from pipelines import dataset_writer
from pipelines.config import Experiment
from pipelines.dataset import INDEX_SCHEMA
from pipelines.lock import sole_writer
from pipelines.places import check_reachable, check_shared, places_of
from pipelines.preparer import Part, estimator_name, make_part, parts_of, unpacked
from pipelines.resources import gpus_there, grows
from pipelines.session import ray_session
from pipelines.sources import flow_of, read_sources
from pipelines.storage import absolute, open_storage
from rtnet.data.flips import VIEWS
from rtnet.data.flow_files import check_pattern
from rtnet.data.layouts import Sequence
from rtnet.errors import UserError

_SECONDS_BETWEEN_LINES = 10.0
_TRIES = 10  # more, of a part whose worker dies: a part that kills its worker must not run forever
_MOST_ACTORS = 64  # that a cluster which grows is asked for
_CONTINUES = "what is finished stays; the same command continues"


def run(experiment: Experiment) -> None:
    """Makes the dataset whole: does what is missing, and says so where nothing is."""
    target = absolute(experiment.data.dataset)
    for flow in (experiment.flow, *(source.flow for source in experiment.data.sources.values())):
        for pattern in (flow.forward, flow.backward) if flow else ():
            if pattern is not None:
                check_pattern(pattern)
    places = places_of(experiment, "prepare")
    check_reachable(places)
    system, root = open_storage(target)
    _refuse_other_folder(system, root, target)
    sequences = read_sources(experiment)
    for name in {sequence.dataset for sequence in sequences if sequence.kind != "stills"}:
        estimator_name(flow_of(experiment, name))  # weights that can't be had are no sequence's fault
    faults = Faults(experiment.prepare.on_error == "skip")
    parts = _parts(experiment, sequences, faults)
    provenance = _provenance(experiment, parts)
    made_as = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()
    before = dataset_writer.read_provenance(system, root)
    _refuse_other_flow(target, before, provenance)
    whole = before is not None and dataset_writer.is_whole(system, root, made_as)
    torn = dataset_writer.torn_parts(system, root) if whole else []
    if torn:
        print(
            f"{len(torn)} parts of {target} are missing or cut short, such as {torn[0]}: they are made again",
            flush=True,
        )
    elif whole and (faults.skip or not (before or {}).get("skipped")):
        print(f"{target} is whole already: nothing to do")
        faults.report((before or {}).get("skipped", {}))
        return
    with sole_writer(system, root, target):
        _say_what(target, parts, before)
        with ray_session():
            check_shared(places)
            _remove_leftovers(system, root)
            dataset_writer.write_provenance(system, root, provenance | {"skipped": faults.found})
            made = _make(parts, target, experiment.prepare.gpus_per_actor, faults)
        index = _in_order(parts, made, faults)
        dataset_writer.write_provenance(system, root, provenance | {"skipped": faults.found})
        dataset_writer.write_index(system, root, index, made_as)
    faults.report(faults.found)
    print(f"{target}: {index.num_rows} rows, {_size(index) / 2**20:.1f} MiB of pictures", flush=True)


class Faults:
    """Sequences that can't be used. The first one stops, unless they are to be skipped."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.found: dict[str, str] = {}  # DATASET/SPLIT/SEQUENCE -> one line that says why

    def add(self, sequence: Sequence, why: str) -> None:
        if not self.skip:
            raise UserError(f"{why} ({_CONTINUES}; prepare.on_error=skip leaves such sequences out)")
        if _key(sequence) not in self.found:
            self.found[_key(sequence)] = why
            print(f"left out: {_key(sequence)}: {why}", flush=True)

    def report(self, found: dict[str, str]) -> None:
        if found:
            print(f"{len(found)} sequences are left out (prepare.on_error=skip):")
            for name, why in found.items():
                print(f"  {name}: {why}", flush=True)


def _parts(experiment: Experiment, sequences: list[Sequence], faults: Faults) -> list[Part]:
    parts = []
    for sequence in sequences:
        try:
            if sequence.fault:
                raise UserError(sequence.fault)
            new = parts_of(sequence, flow_of(experiment, sequence.dataset))
        except UserError as error:
            faults.add(sequence, str(error))
        else:
            parts += new
    if not parts:
        raise UserError(f"{experiment.data.dataset}: every sequence of the sources is bad: nothing to prepare")
    return parts


def _make(parts: list[Part], target: str, gpus_per_actor: float, faults: Faults) -> dict[int, pa.Table]:
    """The index entries of each part by its number, after Ray Data has made those that are missing."""
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    numbers = ray.data.from_items([{"number": n} for n in range(len(parts))], override_num_blocks=len(parts))
    made: dict[int, pa.Table] = {}
    progress = _Progress(parts)
    try:
        for result in _stream(numbers, parts, target, gpus_per_actor).iter_rows():
            part = parts[result["number"]]
            if result["error"]:
                faults.add(part.sequence, result["error"])
                continue
            made[result["number"]] = unpacked(result["entries"])
            progress.show(part, result["fresh"])
    except (RayError, ExecutionTimeoutError) as error:
        raise UserError(_what_died(error, [part for number, part in enumerate(parts) if number not in made])) from error
    return made


def _what_died(error: Exception, unmade: list[Part]) -> str:
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    if isinstance(error, OutOfMemoryError | WorkerCrashedError):
        what = f"a worker was killed, or ran out of memory, {_TRIES + 1} times at one part"
    elif isinstance(error, ExecutionTimeoutError):
        what = "nothing was finished for half an hour, as if no node had room for it,"
    else:
        what = f"Ray was killed or lost ({type(error).__name__})"
    return f"{what} while {_key(unmade[0].sequence)} was among what was prepared: {_CONTINUES}"


def _stream(numbers: Any, parts: list[Part], target: str, gpus_per_actor: float) -> Any:
    """On GPUs a pool of actors that hold RAFT, one at work while another reads and writes; else tasks."""
    import ray.data

    raft = any(part.flow.estimator.startswith("raft") for part in parts)
    if raft and (gpus := gpus_there()):

        class Preparer:
            def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
                return item | make_part(parts[item["number"]], target, "cuda")

        size = max(1, min(int(gpus / gpus_per_actor), len(parts)))
        most = max(size, min(len(parts), _MOST_ACTORS)) if grows() else size
        pool = ray.data.ActorPoolStrategy(min_size=size, max_size=most)
        tries = {"max_restarts": -1, "max_task_retries": _TRIES}
        return numbers.map(Preparer, compute=pool, num_gpus=gpus_per_actor, **tries)
    with warnings.catch_warnings():  # Ray 2.60 wants named parameters and has none for the number of retries
        warnings.simplefilter("ignore", DeprecationWarning)
        made = numbers.map(
            lambda item: item | make_part(parts[item["number"]], target, "cpu"), num_cpus=1, max_retries=_TRIES
        )
    made.context.op_resource_reservation_enabled = False  # results are small, and it leaves processors idle
    return made


def _in_order(parts: list[Part], made: dict[int, pa.Table], faults: Faults) -> pa.Table:
    """The whole index: views of one sequence together in frame order, sequences as the sources give them."""
    of_sequence: dict[str, list[pa.Table]] = {}
    for number, part in enumerate(parts):
        if _key(part.sequence) not in faults.found:
            of_sequence.setdefault(_key(part.sequence), []).append(made[number])
    if not of_sequence:
        raise UserError("every sequence of the sources is bad: nothing was prepared")
    tables = []
    for entries in of_sequence.values():
        whole = pa.concat_tables(entries)
        tables += [whole.filter(pa.compute.equal(whole["view"], view)) for view in VIEWS]
    return pa.concat_tables(tables, promote_options="none").cast(INDEX_SCHEMA).combine_chunks()


class _Progress:
    """A line for each finished sequence, and one at least every ten seconds."""

    def __init__(self, parts: list[Part]) -> None:
        self._left = Counter(_key(part.sequence) for part in parts)
        self._total = sum(part.stop - part.start for part in parts)
        self._done = self._fresh = 0
        self._started = self._shown = time.monotonic()

    def show(self, part: Part, fresh: bool) -> None:
        name, now = _key(part.sequence), time.monotonic()
        self._left[name] -= 1
        self._done += part.stop - part.start
        self._fresh += (part.stop - part.start) if fresh else 0
        if self._left[name] and now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        rate = self._fresh / (now - self._started)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate else ""
        state = "under way" if self._left[name] else "whole"
        print(f"[{self._done}/{self._total}] {name} is {state}: {rate:.1f} frames/s{left}", flush=True)


def _provenance(experiment: Experiment, parts: list[Part]) -> dict[str, Any]:
    """What makes this dataset what it is. What is only about how the work is done stays out."""
    sources = {}
    for name, source in experiment.data.sources.items():
        made = sorted({part.estimator for part in parts if part.sequence.dataset == name} - {""})
        sources[name] = {
            "layout": source.layout,
            "path": absolute(source.path),
            "flow": flow_of(experiment, name).model_dump(mode="json"),
            "estimator": made[0] if made else "",
        }
    return {
        "sources": sources,
        "views": list(VIEWS),
        # OpenCV comes in packages of several names.
        "versions": {"opencv": cv2.__version__, **{name: version(name) for name in ("torchvision", "pyarrow")}},
        "parts": {part.file: part.stamp for part in parts},
    }


def _refuse_other_folder(system: fs.FileSystem, root: str, target: str) -> None:
    """A dataset has its folder to itself: someone who deletes it is to delete nothing else."""
    if system.get_file_info(root).type == fs.FileType.File:
        raise UserError(f"data.dataset={target} is a file: give a new folder")
    if dataset_writer.read_provenance(system, root) is not None:
        return
    found = {info.base_name for info in system.get_file_info(fs.FileSelector(root, allow_not_found=True))}
    if others := sorted(found - dataset_writer.OURS):
        raise UserError(f"data.dataset={target} holds {others[0]}, which is none of a dataset's: give a new folder")


def _refuse_other_flow(target: str, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    for name, source in now["sources"].items():
        known = (before or {}).get("sources", {}).get(name, source)
        if known["estimator"] and source["estimator"] and known["estimator"] != source["estimator"]:
            raise UserError(
                f"{target} holds {name} with flow of {known['estimator']}, now it is {source['estimator']}: "
                "give another data.dataset, or delete that one"
            )


def _say_what(target: str, parts: list[Part], before: dict[str, Any] | None) -> None:
    frames = sum(part.stop - part.start for part in parts)
    sequences = len({_key(part.sequence) for part in parts})
    print(f"preparing {sequences} sequences, {frames} frames in {len(VIEWS)} views -> {target}", flush=True)
    if gone := (before or {}).get("parts", {}).keys() - {part.file for part in parts}:
        print(f"{len(gone)} parts that it held are not of these sources: they leave the index, their files stay")


def _remove_leftovers(system: fs.FileSystem, root: str) -> None:
    """What a killed preparer was writing."""
    for info in system.get_file_info(fs.FileSelector(f"{root}/parts", recursive=True, allow_not_found=True)):
        if info.path.endswith(".part"):
            system.delete_file(info.path)


def _key(sequence: Sequence) -> str:
    return f"{sequence.dataset}/{sequence.split}/{sequence.name}"


def _size(index: pa.Table) -> int:
    sizes: Iterator[int] = (pa.compute.sum(index[n]).as_py() or 0 for n in index.column_names if n.endswith("_size"))
    return sum(sizes)
