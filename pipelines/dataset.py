"""The parquet dataset: one row per view of a frame, read at random.

    ROOT/parts/DATASET/SPLIT/SEQUENCE/00016.parquet   some frames under all their views, one row group for each row
    ROOT/provenance.json                              what made it: sources, flow, options, versions
    ROOT/index.parquet                                one row per view and where its bytes lie; written last: what it
                                                      names is whole

`image` holds the original file's bytes and `view` says how they are seen, so no flip is ever encoded; `annotation`
holds the primary object's mask, 0 and 255, to be seen likewise. The flow pictures are those of the flipped frames and
are not to be flipped again. Pictures are stored plainly, so that the index can say at which byte of a file each begins:
a row is read without a look at the file's own footer.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import is_away, open_storage, read_bytes
from rtnet.data.flips import flip
from rtnet.data.images import decode_image, decode_mask
from rtnet.data.planes import decode_planes, planes_shape
from rtnet.errors import UserError

KEYS = [
    ("dataset", pa.string()),
    ("split", pa.string()),
    ("sequence", pa.string()),
    ("frame", pa.int32()),
    ("name", pa.string()),  # the frame file's stem: what masks of this frame are called
    ("view", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("annotated", pa.bool_()),
    ("still", pa.bool_()),  # a single image: its neighbours in the sequence are not its neighbours in time
    ("estimator", pa.string()),  # of its flow; empty where it has none
    ("digest", pa.string()),  # SHA-256 of the row's pictures
]
PICTURES = [
    "image",
    "annotation",  # null where the frame has none
    "forward_flow",  # null in the last frame
    "backward_flow",  # null in the first frame
]
SIZES = [(f"{name}_size", pa.int32()) for name in PICTURES]  # bytes; null where there is no picture
PLACES = [(f"{name}_start", pa.int64()) for name in PICTURES]  # the picture's first byte in the file
SCHEMA = pa.schema([*KEYS, *SIZES, *((name, pa.binary()) for name in PICTURES)])
INDEX_SCHEMA = pa.schema([*KEYS, ("file", pa.string()), *SIZES, *PLACES])


@dataclass(frozen=True)
class View:
    """One row, decoded and seen in its view. The flow picture may be smaller than the image."""

    image: np.ndarray  # uint8 (H, W, 3)
    flow: np.ndarray  # uint8 (h, w, 6): forward, then backward; black where there is no neighbour
    annotation: np.ndarray | None  # bool (H, W)


class Dataset:
    """A finished dataset, opened for random access. Rows are numbered as in the index."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._system, self._root = open_storage(uri)
        try:
            data = read_bytes(self._system, f"{self._root}/index.parquet")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{uri} is not a finished dataset (no index.parquet); run `rtnet prepare` first") from error
        except OSError as error:
            raise UserError(f"{uri}/index.parquet can't be read: {str(error).splitlines()[0]}") from error
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            self.index = pq.read_table(io.BytesIO(data)).select(INDEX_SCHEMA.names).combine_chunks()
        except (pa.ArrowInvalid, KeyError) as error:
            raise UserError(f"{uri}/index.parquet is damaged or not ours: delete it and run `rtnet prepare`") from error
        self._columns: dict[str, np.ndarray] = {}

    def rows(self, split: str, views: Iterable[str] | None = None, annotated: bool = False) -> np.ndarray:
        """The numbers of a split's rows, int64 (n,), views of one sequence lying together in frame order."""
        chosen = self.column("split") == split
        if views is not None:
            chosen &= np.isin(self.column("view"), list(views))
        if annotated:
            chosen &= self.column("annotated")
        rows = np.flatnonzero(chosen)
        if not len(rows):
            splits = sorted(set(self.index["split"].to_pylist()))
            raise UserError(f"dataset {self.uri}: no {'annotated ' if annotated else ''}frames in split '{split}'; "
                            f"its splits are {', '.join(splits)}")  # fmt: skip
        return rows

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """For each row the number of its (dataset, split, sequence, view), int64 (n,); every still has its own."""
        begins = self.column("still")[rows][1:].copy()
        for name in ("dataset", "split", "sequence", "view"):
            values = self.column(name)[rows]
            begins |= values[1:] != values[:-1]
        return np.cumsum(np.r_[0, begins])

    def describe(self, row: int) -> dict[str, Any]:
        """The index's entry of one row."""
        return {name: self.index[name][row].as_py() for name in self.index.column_names}

    def read(self, row: int) -> View:
        """One row, decoded. Raises UserError where its file is missing or damaged, OSError where its store is away."""
        data = self.read_encoded(row)
        where, view = f"{self.uri}/{self.column('file')[row]}, row {row}", str(self.column("view")[row])
        image = flip(decode_image(data["image"] or b"", where), view)
        annotation = data["annotation"]
        return View(
            image=image,
            flow=_flow_pair(data["forward_flow"], data["backward_flow"], image.shape, where),
            annotation=None if annotation is None else flip(decode_mask(annotation, where), view),
        )

    def read_encoded(self, row: int) -> dict[str, bytes | None]:
        """One row's pictures by name of column, as they are stored; None where there is none."""
        path = f"{self._root}/{self.column('file')[row]}"
        sizes = {name: int(self.column(f"{name}_size")[row]) for name in PICTURES}
        starts = {name: int(self.column(f"{name}_start")[row]) for name in PICTURES}
        there = [name for name in PICTURES if sizes[name]]
        first, end = starts[there[0]], starts[there[-1]] + sizes[there[-1]]
        pictures = memoryview(self._read_span(path, first, end - first))
        return {
            name: pictures[starts[name] - first :][: sizes[name]] if sizes[name] else None  # type: ignore[misc]
            for name in PICTURES
        }

    def _read_span(self, path: str, start: int, size: int) -> bytes:
        for _ in range(2):
            try:
                span: bytes = _opened(self.uri, path).read_at(size, start)
            except (OSError, pa.ArrowInvalid) as error:
                if isinstance(error, OSError) and is_away(error):
                    raise
                raise UserError(f"{path} can't be read ({str(error).splitlines()[0]}): {_AGAIN}") from error
            if len(span) == size:
                return span
            _opened.cache_clear()  # the file may have been replaced since it was opened
        raise UserError(f"{path} is cut short: {_AGAIN}")

    def column(self, name: str) -> np.ndarray:
        """One of the index's columns, (rows,); zeros where numbers are null."""
        if name not in self._columns:
            column = self.index[name]
            if column.null_count:
                column = column.fill_null(0)
            self._columns[name] = np.asarray(column.to_numpy(zero_copy_only=False))
        return self._columns[name]


_AGAIN = "delete it and index.parquet, and run `rtnet prepare` again"


@lru_cache(maxsize=256)
def _opened(uri: str, path: str) -> pa.NativeFile:
    # No memory map: reading one whose file was cut short since would kill the process.
    system, _ = open_storage(uri)
    return system.open_input_file(path)


def _flow_pair(forward: bytes | None, backward: bytes | None, image_shape: tuple[int, ...], where: str) -> np.ndarray:
    pictures = [None if data is None else _flow_picture(data, where) for data in (forward, backward)]
    shape = next((picture.shape for picture in pictures if picture is not None), image_shape)
    return np.concatenate([np.zeros(shape, np.uint8) if p is None else p for p in pictures], axis=2)


def _flow_picture(data: bytes, where: str) -> np.ndarray:
    return decode_image(data, where) if planes_shape(data) is None else decode_planes(data, where)
