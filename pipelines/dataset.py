"""The parquet dataset: one row per view of a frame, in files of one sequence under one view.

    ROOT/parts/SPLIT/SEQUENCE/VIEW.parquet   rows in frame order, one row group each, so that a row is read alone
    ROOT/provenance.json                     what made it: source, flow estimator, options, versions
    ROOT/index.parquet                       one row per view and where it lies; written last: what it names is whole

`image` and `annotation` hold the original file's bytes, and `view` says how they are seen, so no flip is ever encoded.
The flow pictures are those of the flipped frames, as PNG, and are not to be flipped again.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipelines.storage import open_storage, read_bytes, read_json, whole_file, write_whole
from rtnet.data.flips import flip
from rtnet.data.images import decode_annotation, decode_image
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
    ("digest", pa.string()),  # SHA-256 of the row's pictures
]
PICTURES = [
    "image",
    "annotation",  # null where the frame has none
    "forward_flow",  # null in the last frame
    "backward_flow",  # null in the first frame
]
SCHEMA = pa.schema([*KEYS, *((name, pa.binary()) for name in PICTURES)])
INDEX_SCHEMA = pa.schema([*KEYS, ("file", pa.string()), ("row_group", pa.int32())])


_STAMP = b"rtnet.stamp"


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
        except OSError as error:
            raise UserError(f"{uri} is not a finished dataset (no index.parquet); run `rtnet prepare` first") from error
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            self.index = pq.read_table(io.BytesIO(data)).select(INDEX_SCHEMA.names)
        except (pa.ArrowInvalid, KeyError) as error:
            raise UserError(f"{uri}/index.parquet is damaged or not ours: delete it and run `rtnet prepare`") from error

    def rows(self, split: str, views: Iterable[str] | None = None, annotated: bool = False) -> np.ndarray:
        """The numbers of a split's rows, int64 (n,), views of one sequence lying together in frame order."""
        chosen = self._column("split") == split
        if views is not None:
            chosen &= np.isin(self._column("view"), list(views))
        if annotated:
            chosen &= self._column("annotated")
        rows = np.flatnonzero(chosen)
        if not len(rows):
            splits = sorted(set(self.index["split"].to_pylist()))
            raise UserError(f"dataset {self.uri}: no {'annotated ' if annotated else ''}frames in split '{split}'; "
                            f"its splits are {', '.join(splits)}")  # fmt: skip
        return rows

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """For each row the number of its (dataset, sequence, view), int64 (n,)."""
        files = self._column("file")[rows]
        return np.cumsum(np.r_[0, files[1:] != files[:-1]])

    def describe(self, row: int) -> dict[str, Any]:
        """The index's entry of one row."""
        return {name: self.index[name][row].as_py() for name in self.index.column_names}

    def read(self, row: int) -> View:
        """One row, decoded; reads only its own row group."""
        place = self.describe(row)
        table = _parquet(self.uri, f"{self._root}/{place['file']}").read_row_group(place["row_group"], columns=PICTURES)
        image, annotation, forward, backward = (column[0].as_py() for column in table.columns)
        seen = flip(decode_image(image), place["view"])
        return View(
            image=seen,
            flow=_flow_pair(forward, backward, seen.shape),
            annotation=None if annotation is None else flip(decode_annotation(annotation), place["view"]),
        )

    def _column(self, name: str) -> np.ndarray:
        return np.asarray(self.index[name].to_numpy(zero_copy_only=False))


def part_file(split: str, sequence: str, view: str) -> str:
    """Where one sequence's one view lies below the root. Any sequence name becomes one safe folder name."""
    return f"parts/{quote(split, safe='')}/{quote(sequence, safe='').replace('.', '%2E')}/{view}.parquet"


def write_part(system: fs.FileSystem, path: str, rows: Iterable[dict[str, Any]], stamp: str) -> None:
    """Writes rows (SCHEMA's columns but `digest`) aside and moves them to `path` when all are there.

    `stamp` says what the part is made of; `read_part` compares it.
    """
    schema = SCHEMA.with_metadata({_STAMP: stamp})
    with (
        whole_file(system, path) as stream,
        pq.ParquetWriter(stream, schema, compression="none", use_dictionary=False, write_statistics=False) as writer,
    ):
        for row in rows:
            writer.write_table(pa.Table.from_pylist([row | {"digest": _digest(row)}], schema=schema))


def read_part(system: fs.FileSystem, root: str, file: str, stamp: str) -> list[dict[str, Any]] | None:
    """The index entries of a part's rows; None where the part is missing, torn or made of something else."""
    if system.get_file_info(f"{root}/{file}").type != fs.FileType.File:
        return None
    try:
        with system.open_input_file(f"{root}/{file}") as opened, pq.ParquetFile(opened) as part:
            if (part.schema_arrow.metadata or {}).get(_STAMP) != stamp.encode():
                return None
            rows = part.read(columns=[name for name, _ in KEYS]).to_pylist()
    except pa.ArrowInvalid:  # torn
        return None
    return [row | {"file": file, "row_group": number} for number, row in enumerate(rows)]


def write_provenance(system: fs.FileSystem, root: str, provenance: dict[str, Any]) -> None:
    """Says what the dataset is to hold, before it does."""
    write_whole(system, f"{root}/provenance.json", json.dumps(provenance, indent=2, sort_keys=True).encode())


def write_index(system: fs.FileSystem, root: str, entries: list[dict[str, Any]], provenance: dict[str, Any]) -> None:
    """Makes the dataset whole, as what the provenance says."""
    schema = INDEX_SCHEMA.with_metadata({_STAMP: json.dumps(provenance, sort_keys=True)})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(entries, schema=schema), sink)
    write_whole(system, f"{root}/index.parquet", sink.getvalue())


def is_whole(system: fs.FileSystem, root: str, provenance: dict[str, Any]) -> bool:
    """Whether the index is there and was written for this provenance."""
    if system.get_file_info(f"{root}/index.parquet").type != fs.FileType.File:
        return False
    try:
        with system.open_input_file(f"{root}/index.parquet") as file:
            metadata = pq.read_schema(file).metadata or {}
    except pa.ArrowInvalid:
        return False
    return bool(metadata.get(_STAMP) == json.dumps(provenance, sort_keys=True).encode())


def read_provenance(system: fs.FileSystem, root: str) -> dict[str, Any] | None:
    """The provenance of the dataset at `root`, finished or not; None where there is none."""
    if system.get_file_info(f"{root}/provenance.json").type != fs.FileType.File:
        return None
    return read_json(system, f"{root}/provenance.json")


def _digest(row: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in PICTURES:
        data = row[name]
        digest.update(f"{name} {'-' if data is None else len(data)} ".encode())
        digest.update(data or b"")
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _parquet(uri: str, path: str) -> pq.ParquetFile:
    system, _ = open_storage(uri)
    if isinstance(system, fs.LocalFileSystem):
        return pq.ParquetFile(path, memory_map=True)
    return pq.ParquetFile(system.open_input_file(path))


def _flow_pair(forward: bytes | None, backward: bytes | None, image_shape: tuple[int, ...]) -> np.ndarray:
    pictures = [None if data is None else decode_image(data) for data in (forward, backward)]
    shape = next((picture.shape for picture in pictures if picture is not None), image_shape)
    return np.concatenate([np.zeros(shape, np.uint8) if p is None else p for p in pictures], axis=2)
