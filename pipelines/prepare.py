"""`rtnet prepare`: a folder of videos -> the parquet dataset, one Ray task for each sequence and view."""

import hashlib
import json
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipelines import config, dataset
from pipelines.session import ray_session
from pipelines.storage import absolute, open_storage
from rtnet.data.flips import VIEWS, flip
from rtnet.data.flow import FlowEstimator, dis, flow_picture, neighbour_flows, raft
from rtnet.data.images import check_image, decode_image, encode_png
from rtnet.data.layouts import Frame, Sequence, davis16
from rtnet.errors import UserError


def run(experiment: config.Experiment) -> None:
    """Makes the dataset whole: does what is missing, and says so where nothing is."""
    target = absolute(experiment.data.dataset)
    sequences = davis16(Path(experiment.data.source).expanduser().resolve(), experiment.data.sequences)
    provenance = _provenance(experiment, sequences)
    system, root = open_storage(target)
    _refuse_other_options(target, dataset.read_provenance(system, root), provenance)
    if dataset.is_whole(system, root, provenance):
        print(f"{target} is whole already: nothing to do")
        return
    tasks = [(sequence, view) for sequence in sequences for view in VIEWS]
    frames = sum(len(sequence.frames) for sequence in sequences)
    print(f"preparing {len(sequences)} sequences, {frames} frames in {len(VIEWS)} views -> {target}", flush=True)
    dataset.write_provenance(system, root, provenance)
    with ray_session():
        entries = _all_parts(tasks, experiment.flow, target, provenance["parts"])
    dataset.write_index(system, root, entries, provenance)
    print(f"{target}: {len(entries)} rows, {_size(system, root) / 2**20:.1f} MiB", flush=True)


def _all_parts(
    tasks: list[tuple[Sequence, str]], flow: config.Flow, target: str, stamps: dict[str, str]
) -> list[dict[str, Any]]:
    """The index entries of all parts in the order of `tasks`, after Ray Data has made those that are missing."""
    import ray
    import ray.data

    def make(task: dict[str, Any]) -> dict[str, Any]:
        sequence, view = tasks[task["number"]]
        return {"number": task["number"], **_make_part(sequence, view, flow, target, stamps)}

    parts = ray.data.from_items([{"number": n} for n in range(len(tasks))], override_num_blocks=len(tasks)).map(
        make, num_cpus=1, num_gpus=1 if flow.estimator != "dis" and ray.cluster_resources().get("GPU") else 0
    )
    done: dict[int, list[dict[str, Any]]] = {}
    fresh, started = 0, time.monotonic()
    for part in parts.iter_rows():
        if part["error"]:
            raise UserError(f"{part['error']} (what is finished stays; the same command continues)")
        done[part["number"]] = entries = json.loads(part["entries"])
        fresh += len(entries) if part["fresh"] else 0
        rate = fresh / (time.monotonic() - started)
        sequence, view = tasks[part["number"]]
        what = f"{len(entries)} frames" if part["fresh"] else "kept"
        print(f"[{len(done)}/{len(tasks)}] {sequence.name} {view}: {what}, {rate:.1f} frames/s", flush=True)
    return [entry for number in range(len(tasks)) for entry in done[number]]


def _make_part(sequence: Sequence, view: str, flow: config.Flow, target: str, stamps: dict[str, str]) -> dict[str, Any]:
    """Runs in a Ray task. A user's mistake comes back as a value, so that no worker's traceback hides it."""
    system, root = open_storage(target)
    file = dataset.part_file(sequence.split, sequence.name, view)
    try:
        entries = dataset.read_part(system, root, file, stamps[file])
        fresh = entries is None
        if entries is None:
            rows = _rows(sequence, view, flow)
            dataset.write_part(system, f"{root}/{file}", rows, stamps[file])
            entries = dataset.read_part(system, root, file, stamps[file])
    except UserError as error:
        return {"error": str(error), "entries": "", "fresh": False}
    return {"error": "", "entries": json.dumps(entries), "fresh": fresh}


def _rows(sequence: Sequence, view: str, flow: config.Flow) -> Iterator[dict[str, Any]]:
    """One sequence's rows under one view, frame by frame; three frames are in memory at a time."""
    encoded: list[dict[str, Any]] = []

    def seen() -> Iterator[Any]:
        for frame in sequence.frames:
            encoded.append(_encoded(frame))
            yield flip(decode_image(encoded[-1]["image"], str(frame.image)), view)

    keys = {"dataset": sequence.dataset, "split": sequence.split, "sequence": sequence.name, "view": view}
    for picture, forward, backward in neighbour_flows(seen(), estimator(flow).estimate, flow.height):
        yield {
            **keys,
            **encoded.pop(0),
            "height": picture.shape[0],
            "width": picture.shape[1],
            "forward_flow": None if forward is None else encode_png(flow_picture(forward)),
            "backward_flow": None if backward is None else encode_png(flow_picture(backward)),
        }


def _encoded(frame: Frame) -> dict[str, Any]:
    image = frame.image.read_bytes()
    size = check_image(image, str(frame.image))
    annotation = None if frame.annotation is None else frame.annotation.read_bytes()
    if annotation is not None and (other := check_image(annotation, str(frame.annotation))) != size:
        raise UserError(
            f"{frame.annotation}: the annotation has {other[1]} x {other[0]} pixels, its image {size[1]} x {size[0]}"
        )
    return {
        "frame": frame.number,
        "name": frame.name,
        "annotated": annotation is not None,
        "image": image,
        "annotation": annotation,
    }


@cache
def estimator(flow: config.Flow) -> FlowEstimator:
    """The recipe's flow estimator, loaded once per process."""
    if flow.estimator == "dis":
        return dis(flow.preset)
    import torch

    size = "large" if flow.estimator == "raft_large" else "small"
    return raft(size, flow.weights, "cuda" if torch.cuda.is_available() else "cpu")


def _provenance(experiment: config.Experiment, sequences: list[Sequence]) -> dict[str, Any]:
    """What makes this dataset what it is."""
    flow = estimator(experiment.flow)
    options = {"estimator": flow.name, "digest": flow.digest, "height": experiment.flow.height}
    return {
        "source": absolute(experiment.data.source),
        "flow": options,
        "views": list(VIEWS),
        "versions": {name: version(name) for name in ("opencv-python-headless", "torchvision", "pyarrow")},
        "parts": {
            dataset.part_file(sequence.split, sequence.name, view): _stamp(sequence, options)
            for sequence in sequences
            for view in VIEWS
        },
    }


def _stamp(sequence: Sequence, options: dict[str, Any]) -> str:
    """Changes with the options and with the names, sizes and times of the source's files."""
    files = [file for frame in sequence.frames for file in (frame.image, frame.annotation) if file is not None]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([options, facts]).encode()).hexdigest()


def _refuse_other_options(target: str, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if before is not None and before["flow"] != now["flow"]:
        raise UserError(
            f"{target} was made with flow {before['flow']}, now asked for with {now['flow']}: "
            "give another data.dataset, or delete that one"
        )


def _size(system: fs.FileSystem, root: str) -> int:
    return sum(info.size or 0 for info in system.get_file_info(fs.FileSelector(root, recursive=True)))
