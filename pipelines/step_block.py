"""Some steps' views as one Arrow table: every pixel decoded straight into one buffer, read again without a copy.

Arrow and Ray pass such a table on by copying its bytes at most; columns of arrays would be converted on the way. The
bytes are the pictures', uint8 or bool: floats come into being on the device.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pyarrow as pa

from pipelines.dataset import Dataset
from rtnet.data.images import decode_image, decode_mask
from rtnet.data.planes import decode_planes, planes_shape
from rtnet.errors import UserError


@dataclass(frozen=True)
class Step:
    """What one rank reads for one step: 2 * batch_size views, frame and partner in turn. The arrays are read-only."""

    rows: np.ndarray  # int64 (2B,)
    images: list[np.ndarray]  # uint8 (H, W, 3), each of its frame's own size
    flows: list[np.ndarray]  # uint8 (2, h, w, 3): forward, then backward; black where there is no neighbour
    annotations: list[np.ndarray]  # bool (H, W)


def pack_steps(dataset: Dataset, rows: np.ndarray) -> pa.Table:
    """The views of steps, given by their rows, int64 (steps, 2B): one row of the table for each step.

    Raises UserError where a file of the dataset is missing or damaged.
    """
    _prepare_process()
    steps = [[_Stored(dataset, int(row)) for row in step] for step in rows]
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
            "shapes": pa.array(shapes, pa.binary()),
            "pixels": pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(steps), buffers),
        }
    )


def unpack_steps(table: pa.Table) -> Iterator[Step]:
    """The steps of a table of `pack_steps`; their arrays are the table's own memory."""
    for shapes, rest in zip(_entries(table["shapes"]), _entries(table["pixels"]), strict=True):
        views = shapes.view(np.int64).reshape(-1, 5)
        step = Step(views[:, 0], [], [], [])
        for _, height, width, flow_height, flow_width in views:
            parts = _parts(rest, (height, width), (flow_height, flow_width))
            for values, part in zip((step.images, step.flows, step.annotations), parts, strict=True):
                values.append(part)
            rest = rest[sum(part.size for part in parts) :]
        yield step


def _entries(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """Each entry's bytes where they lie, uint8 (n,): Arrow's own scalars are copies, two milliseconds of a pair."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        kind = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
        ends = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1]
        everything = np.frombuffer(data, np.uint8)
        for first, end in pairwise(ends):
            yield everything[first:end]


def _parts(
    pixels: np.ndarray, size: tuple[int, int], flow_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A view's image, flow pictures and annotation within the buffer that begins with them."""
    area, flow_area = size[0] * size[1], flow_size[0] * flow_size[1]
    image, flow = pixels[: 3 * area], pixels[3 * area :][: 6 * flow_area]
    annotation = pixels[3 * area + 6 * flow_area :][:area].view(np.bool_)
    return image.reshape(*size, 3), flow.reshape(2, *flow_size, 3), annotation.reshape(size)


class _Stored:
    """One view as it is stored, and where it is to go."""

    def __init__(self, dataset: Dataset, row: int) -> None:
        self._data = dataset.read_encoded(row)
        self._where = f"{dataset.uri}/{dataset.column('file')[row]}, row {row}"
        self._view = str(dataset.column("view")[row])
        size = int(dataset.column("height")[row]), int(dataset.column("width")[row])
        self._flows = [self._flow(name) for name in ("forward_flow", "backward_flow")]
        flow_sizes = [_size_of(flow) for flow in self._flows if flow is not None] or [size]
        self.shape = (row, *size, *flow_sizes[0])
        self.size = 4 * size[0] * size[1] + 6 * flow_sizes[0][0] * flow_sizes[0][1]

    def decode_into(self, pixels: np.ndarray) -> None:
        image, flow, annotation = _parts(pixels, self.shape[1:3], self.shape[3:])
        self._flip_into(image, decode_image(self._data["image"] or b"", self._where))
        for out, picture in zip(flow, self._flows, strict=True):
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
