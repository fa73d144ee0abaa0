"""What `prepare` does in a worker: some frames of a sequence -> their rows under all views -> one part."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa

from pipelines.dataset import INDEX_SCHEMA
from pipelines.dataset_writer import part_file, read_part, write_part
from pipelines.sections import Flow
from pipelines.storage import open_storage
from rtnet.data.flips import VIEWS, flip
from rtnet.data.flow import DIS_SMALLEST, FlowEstimator, dis, neighbour_flows
from rtnet.data.flow_files import flow_file, has_views, read_flow_picture
from rtnet.data.flow_picture import flow_picture
from rtnet.data.frames import EncodedFrame, read_frames
from rtnet.data.images import Picture
from rtnet.data.layouts import Sequence
from rtnet.data.planes import encode_planes
from rtnet.errors import UserError

FRAMES_PER_PART = 16


@dataclass(frozen=True)
class Part:
    """The frames at places start..stop-1 of a sequence, under all their views: one task, one file."""

    sequence: Sequence
    start: int
    stop: int
    flow: Flow
    estimator: str  # name and digest of what makes the flow
    stamp: str = ""  # changes with the options and with the names, sizes and times of all files that are read

    @property
    def file(self) -> str:
        return part_file(self.sequence.dataset, self.sequence.split, self.sequence.name, self.start)

    @property
    def views(self) -> tuple[str, ...]:
        patterns = (self.flow.forward, self.flow.backward)
        return VIEWS if all(p is None or has_views(p) for p in patterns) else VIEWS[:1]

    @property
    def read(self) -> tuple[int, int]:
        """The places that are read: a neighbour more on each side, for its flow."""
        if self.sequence.kind == "stills" or self.flow.estimator == "files":
            return self.start, self.stop
        return max(self.start - 1, 0), min(self.stop + 1, len(self.sequence.frames))


def parts_of(sequence: Sequence, flow: Flow) -> list[Part]:
    """All parts of a sequence, stamped. Raises UserError where a file of theirs is missing."""
    name = "" if sequence.kind == "stills" else estimator_name(flow)
    starts = range(0, len(sequence.frames), FRAMES_PER_PART)
    parts = (Part(sequence, s, min(s + FRAMES_PER_PART, len(sequence.frames)), flow, name) for s in starts)
    return [Part(**(part.__dict__ | {"stamp": _stamp(part)})) for part in parts]


def make_part(part: Part, target: str, device: str) -> dict[str, Any]:
    """{"error": one line or "", "fresh": whether it was made now, "entries": index entries as Arrow bytes}.

    A user's mistake comes back as a value, so that no worker's traceback hides it.
    """
    cv2.setNumThreads(1)  # as many parts are made at once as there are cores
    system, root = open_storage(target)
    try:
        entries = read_part(system, root, part.file, part.stamp)
        fresh = entries is None
        if entries is None:
            write_part(system, f"{root}/{part.file}", _rows(part, device), part.stamp)
            entries = read_part(system, root, part.file, part.stamp)
            assert entries is not None
    except UserError as error:
        return {"error": str(error), "fresh": False, "entries": b""}
    return {"error": "", "fresh": fresh, "entries": _packed(entries)}


def unpacked(entries: bytes) -> pa.Table:
    """The index entries that `make_part` gives."""
    return pa.ipc.open_stream(entries).read_all()


@lru_cache(maxsize=2)
def estimator(flow: Flow, device: str) -> FlowEstimator:
    """A flow estimator, loaded once per process. Raises UserError where RAFT's weights can't be had."""
    if flow.estimator == "dis":
        return dis(flow.preset)
    from rtnet.data.raft import raft

    size = "large" if flow.estimator == "raft_large" else "small"
    return raft(size, flow.weights, device, flow.updates, flow.precision, flow.batch)


def estimator_name(flow: Flow) -> str:
    """Says what makes the flow, to the last option that decides it: "dis-medium at 240 rows, 1a2b3c4d"."""
    rows = "" if flow.height is None else f" at {flow.height} rows"
    if flow.estimator == "files":
        return f"files, {sha256(json.dumps([flow.forward, flow.backward]).encode()).hexdigest()[:12]}"
    made = estimator(flow, "cpu")
    return f"{made.name}{rows}, {made.digest[:12]}"


def _rows(part: Part, device: str) -> Iterator[dict[str, Any]]:
    first, end = part.read
    read = list(read_frames(part.sequence, first, end))
    for view in part.views:
        for encoded, forward, backward in _with_flow(part, read, view, device):
            yield {
                "dataset": part.sequence.dataset,
                "split": part.sequence.split,
                "sequence": part.sequence.name,
                "frame": encoded.frame.number,
                "name": encoded.frame.name,
                "view": view,
                "height": encoded.height,
                "width": encoded.width,
                "annotated": encoded.annotation is not None,
                "still": part.sequence.kind == "stills",
                "estimator": part.estimator,
                "image": encoded.image,
                "annotation": encoded.annotation,
                "forward_flow": None if forward is None else encode_planes(forward),
                "backward_flow": None if backward is None else encode_planes(backward),
            }


def _with_flow(
    part: Part, read: list[tuple[EncodedFrame, Picture]], view: str, device: str
) -> Iterator[tuple[EncodedFrame, Picture | None, Picture | None]]:
    """The part's frames with their flow pictures."""
    if part.sequence.kind == "stills":
        yield from ((encoded, None, None) for encoded, _ in read)
        return
    if part.flow.estimator == "files":
        for place, (encoded, _) in enumerate(read, start=part.start):
            files = _flow_files(part, place, view)
            size = encoded.height, encoded.width
            forward, backward = (None if file is None else read_flow_picture(file, size) for file in files)
            yield encoded, forward, backward
        return
    for encoded, picture in read:
        if part.flow.estimator == "dis" and min(picture.shape[:2]) < DIS_SMALLEST:
            pixels = f"{picture.shape[1]} x {picture.shape[0]}"
            raise UserError(f"{encoded.frame.image}: {pixels} pixels, and DIS needs at least 12 x 12: leave it out")
    pictures = (flip(picture, view) for _, picture in read)
    flows = neighbour_flows(pictures, estimator(part.flow, device), part.flow.height)
    for place, ((encoded, _), (_, forth, back)) in enumerate(zip(read, flows, strict=True), start=part.read[0]):
        if part.start <= place < part.stop:
            forward, backward = (None if flow is None else flow_picture(flow) for flow in (forth, back))
            yield encoded, forward, backward


def _flow_files(part: Part, place: int, view: str) -> tuple[Path | None, Path | None]:
    frames, flow = part.sequence.frames, part.flow
    assert flow.forward is not None and flow.backward is not None
    names = (part.sequence.name, frames[place].name)
    forward = flow_file(flow.forward, *names, frames[place + 1].name, view) if place + 1 < len(frames) else None
    backward = flow_file(flow.backward, *names, frames[place - 1].name, view) if place else None
    return forward, backward


def _stamp(part: Part) -> str:
    first, end = part.read
    files = {f for frame in part.sequence.frames[first:end] for f in (frame.image, frame.annotation) if f is not None}
    if part.flow.estimator == "files" and part.sequence.kind != "stills":
        places = ((place, view) for place in range(part.start, part.stop) for view in part.views)
        files |= {file for place, view in places for file in _flow_files(part, place, view) if file is not None}
    facts = []
    for file in sorted(files):
        try:
            status = file.stat()
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}: each frame's files must be there and readable") from None
        facts.append((file.name, status.st_size, status.st_mtime_ns))
    names = [(frame.number, frame.name) for frame in part.sequence.frames[first:end]]
    rule = (part.sequence.kind, part.sequence.void, part.sequence.background, part.estimator, part.start, part.stop)
    return sha256(json.dumps([rule, names, facts]).encode()).hexdigest()


def _packed(entries: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, INDEX_SCHEMA) as writer:
        writer.write_table(entries)
    return bytes(sink.getvalue())
