"""Some steps' views as one Arrow table: every pixel decoded straight into one buffer, read again without a copy.

Arrow and Ray pass such a table on by copying its bytes at most; columns of arrays would be converted on the way. The
bytes are the pictures', uint8 or bool: floats come into being on the device.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pyarrow as pa

from pipelines.dataset import Dataset
from pipelines.sections import Streams
from rtnet.data.images import decode_image, decode_mask
from rtnet.data.planes import decode_planes, planes_shape
from rtnet.errors import UserError


@dataclass(frozen=True)
class Step:
    """What one rank reads for one step: its N views, of pairs frame and partner in turn. The arrays are read-only."""

    rows: np.ndarray  # int64 (N,)
    images: list[np.ndarray]  # uint8 (H, W, 3), each of its frame's own size; empty for a motion stream alone
    flows: list[np.ndarray]  # uint8 (2, h, w, 3): forward, then backward; black where there is no neighbour; empty for
    # an appearance stream alone
    annotations: list[np.ndarray]  # bool (H, W)


def pack_steps(dataset: Dataset, rows: np.ndarray, streams: Streams = "both") -> pa.Table:
    """The views of steps, given by their rows, int64 (steps, N): one row of the table for each step.

    Only what the streams see is decoded. Where a file of the dataset is missing or damaged, `unpack_steps` says so.
    """
    try:
        return _pack_steps(dataset, rows, streams)
    except UserError as error:
        return pa.table({"error": [str(error)], "shapes": [b""], "pixels": pa.array([b""], pa.large_binary())})


def unpack_steps(table: pa.Table) -> Iterator[Step]:
    """The steps of a table of `pack_steps`; their arrays are the table's own memory.

    Raises UserError where a file of the dataset was missing or damaged.
    """
    if (error := table["error"][0].as_py()) is not None:
        raise UserError(error)
    for shapes, rest in zip(_entries(table["shapes"]), _entries(table["pixels"]), strict=True):
        views = shapes.view(np.int64).reshape(-1, 7)
        step = Step(views[:, 0], [], [], [])
        for view in views:
            parts = _parts(rest, view[1:])
            for values, part in zip((step.images, step.flows, step.annotations), parts, strict=True):
                values.append(part)
            rest = rest[sum(part.size for part in parts) :]
        yield step


def _pack_steps(dataset: Dataset, rows: np.ndarray, streams: Streams) -> pa.Table:
    _prepare_process()
    steps = [[_Stored(dataset, int(row), streams) for row in step] for step in rows]
    ends = np.cumsum([sum(view.size for view in step) for step in steps])
    pixels = np.empty(ends[-1], np.uint8)
    place = 0
    for view in (view for step in steps for view in step):
        view.decode_into(pixels[place : place + view.size])
        place += view.size
    offsets = pa.py_buffer(np.r_[0, ends].astype(np.int64))
    shapes = [np.array([view.shape for view in step], np.int64).tobytes() for step in steps]
    buffers = [None, offsets, pa.py_buffer(pixels)]
    return pa.table(
        {
            "error": pa.nulls(len(steps), pa.string()),
            "shapes": pa.array(shapes, pa.binary()),
            "pixels": pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(steps), buffers),
        }
    )


def _entries(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """Each entry's bytes where they lie, uint8 (n,): Arrow's own scalars are copies, two milliseconds of a pair."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        kind = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
        ends = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1]
        everything = np.frombuffer(data, np.uint8)
        for first, end in pairwise(ends):
            yield everything[first:end]


def _parts(pixels: np.ndarray, sizes: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A view's image, flow pictures and annotation within the buffer that begins with them.

    sizes: height and width of each.
    """
    image, flow, mask = ((int(height), int(width)) for height, width in np.reshape(sizes, (3, 2)))
    flow_start = 3 * image[0] * image[1]
    mask_start = flow_start + 6 * flow[0] * flow[1]
    annotation = pixels[mask_start : mask_start + mask[0] * mask[1]].view(np.bool_)
    return (
        pixels[:flow_start].reshape(*image, 3),
        pixels[flow_start:mask_start].reshape(2, *flow, 3),
        annotation.reshape(mask),
    )


class _Stored:
    """One view as it is stored, and where it is to go."""

    def __init__(self, dataset: Dataset, row: int, streams: Streams) -> None:
        self._data = dataset.read_encoded(row)
        self._where = f"{dataset.uri}/{dataset.column('file')[row]}, row {row}"
        self._view = str(dataset.column("view")[row])
        size = int(dataset.column("height")[row]), int(dataset.column("width")[row])
        self._flows: list[bytes | np.ndarray | None] = []
        flow_size = image_size = (0, 0)
        if streams != "appearance":
            self._flows = [self._flow(name) for name in ("forward_flow", "backward_flow")]
            flow_size = next((_size_of(flow) for flow in self._flows if flow is not None), size)
        if streams != "motion":
            image_size = size
        self.shape = (row, *image_size, *flow_size, *size)
        self.size = 3 * image_size[0] * image_size[1] + 6 * flow_size[0] * flow_size[1] + size[0] * size[1]

    def decode_into(self, pixels: np.ndarray) -> None:
        image, flow, annotation = _parts(pixels, self.shape[1:])
        if image.size:
            self._flip_into(image, decode_image(self._data["image"] or b"", self._where))
        for out, picture in zip(flow, self._flows, strict=bool(self._flows)):
            if picture is None:
                out[:] = 0
            elif isinstance(picture, np.ndarray):
                np.copyto(out, picture)
            else:
                decode_planes(picture, self._where, out)
        mask = self._data["annotation"] or b""
        packed = planes_shape(mask) is not None
        decoded = decode_planes(mask, self._where) if packed else decode_mask(mask, self._where)
        self._flip_into(annotation.view(np.uint8), decoded.view(np.uint8))

    def _flow(self, name: str) -> bytes | np.ndarray | None:
        """A flow picture, decoded already if it says its size only then."""
        data = self._data[name]
        return data if data is None or planes_shape(data) is not None else decode_image(data, self._where)

    def _flip_into(self, out: np.ndarray, picture: np.ndarray) -> None:
        if out.shape != picture.shape:
            raise UserError(
                f"{self._where}: a picture is {picture.shape}, the index says {out.shape}: prepare it again"
            )
        if self._view == "as_is":
            np.copyto(out, picture)
        else:
            cv2.flip(picture, _FLIPS[self._view], dst=out)


_FLIPS = {"horizontal": 1, "vertical": 0, "both": -1}


def _size_of(flow: bytes | np.ndarray) -> tuple[int, int]:
    height, width, _ = flow.shape if isinstance(flow, np.ndarray) else planes_shape(flow) or (0, 0, 0)
    return height, width


@cache
def _prepare_process() -> None:
    """One thread for each reader, and memory kept for the next block: new pages would cost a sixth of the reading."""
    cv2.setNumThreads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(option, 1 << 30)
