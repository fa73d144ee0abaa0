"""Writes the parquet dataset of `dataset.py`: parts, provenance, and last the index that makes it whole."""

import hashlib
import io
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipelines.dataset import INDEX_SCHEMA, KEYS, PICTURES, SCHEMA, SIZES
from pipelines.storage import read_json, write_whole

OURS = {"parts", "claims", "index.parquet", "provenance.json"}
"""What lies in a dataset's folder."""

_STAMP = b"rtnet.stamp"


def part_file(dataset: str, split: str, sequence: str, start: int) -> str:
    """Where the frames from place `start` of a sequence lie below the root. Any name becomes one safe folder name."""
    folders = [quote(name, safe="").replace(".", "%2E") for name in (dataset, split, sequence)]
    return f"parts/{'/'.join(folders)}/{start:05d}.parquet"


def write_part(system: fs.FileSystem, path: str, rows: Iterable[dict[str, Any]], stamp: str) -> None:
    """Writes rows (KEYS but `digest`, and PICTURES), all or nothing.

    `stamp` says what the part is made of; `read_part` compares it. Raises UserError where `path` can't be written.
    """
    schema = SCHEMA.with_metadata({_STAMP: stamp})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for row in rows:
            sizes = {f"{name}_size": None if row[name] is None else len(row[name]) for name in PICTURES}
            writer.write_table(pa.Table.from_pylist([row | sizes | {"digest": picture_digest(row)}], schema=schema))
    write_whole(system, path, sink.getvalue())


def read_part(system: fs.FileSystem, root: str, file: str, stamp: str) -> pa.Table | None:
    """The index entries of a part's rows; None where the part is missing, torn or made of something else."""
    if system.get_file_info(f"{root}/{file}").type != fs.FileType.File:
        return None
    try:
        with system.open_input_file(f"{root}/{file}") as opened, pq.ParquetFile(opened) as part:
            if (part.schema_arrow.metadata or {}).get(_STAMP) != stamp.encode():
                return None
            rows = part.read(columns=[name for name, _ in (*KEYS, *SIZES)])
            places = [_places(part.metadata.row_group(number)) for number in range(part.num_row_groups)]
    except pa.ArrowInvalid:  # torn
        return None
    entries = [
        row | {"file": file} | {f"{n}_start": end - row[f"{n}_size"] for n, end in ends.items() if row[f"{n}_size"]}
        for row, ends in zip(rows.to_pylist(), places, strict=True)
    ]
    return pa.Table.from_pylist(entries, schema=INDEX_SCHEMA)


def picture_digest(row: dict[str, Any]) -> str:
    """SHA-256, in hex, of a row's pictures."""
    digest = hashlib.sha256()
    for name in PICTURES:
        data = row[name]
        digest.update(f"{name} {'-' if data is None else len(data)} ".encode())
        digest.update(data or b"")
    return digest.hexdigest()


def write_provenance(system: fs.FileSystem, root: str, provenance: dict[str, Any]) -> None:
    """Says what the dataset is to hold, before it does."""
    write_whole(system, f"{root}/provenance.json", json.dumps(provenance, indent=2, sort_keys=True).encode())


def write_index(system: fs.FileSystem, root: str, entries: pa.Table, made_as: str) -> None:
    """Makes the dataset whole. made_as: digest of what the provenance asks for."""
    sink = io.BytesIO()
    pq.write_table(entries.replace_schema_metadata({_STAMP: made_as}), sink)
    write_whole(system, f"{root}/index.parquet", sink.getvalue())


def is_whole(system: fs.FileSystem, root: str, made_as: str) -> bool:
    """Whether the index is there and was written for this."""
    if system.get_file_info(f"{root}/index.parquet").type != fs.FileType.File:
        return False
    try:
        with system.open_input_file(f"{root}/index.parquet") as file:
            metadata = pq.read_schema(file).metadata or {}
    except pa.ArrowInvalid:
        return False
    return bool(metadata.get(_STAMP) == made_as.encode())


def torn_parts(system: fs.FileSystem, root: str) -> list[str]:
    """The parts that the index names and that are not there, or end before a picture of theirs does."""
    found = system.get_file_info(fs.FileSelector(f"{root}/parts", recursive=True, allow_not_found=True))
    sizes = {info.path.removeprefix(f"{root}/"): info.size for info in found if info.type == fs.FileType.File}
    with system.open_input_file(f"{root}/index.parquet") as file:
        index = pq.read_table(file)
    ends = index.group_by("file").aggregate(
        [(f"{name}_{what}", "max") for name in PICTURES for what in ("start", "size")]
    )
    torn = []
    for row in ends.to_pylist():
        starts = [row[f"{name}_start_max"] for name in PICTURES if row[f"{name}_start_max"] is not None]
        if sizes.get(row["file"], 0) <= max(starts):
            torn.append(row["file"])
    return sorted(torn)


def read_provenance(system: fs.FileSystem, root: str) -> dict[str, Any] | None:
    """The provenance of the dataset at `root`, finished or not; None where there is none."""
    if system.get_file_info(f"{root}/provenance.json").type != fs.FileType.File:
        return None
    return read_json(system, f"{root}/provenance.json")


def _places(row_group: Any) -> dict[str, int]:
    """Where each picture of a row group ends in the file: a plain column of one value ends with the value's bytes."""
    columns = (row_group.column(i) for i in range(row_group.num_columns))
    return {
        column.path_in_schema: column.data_page_offset + column.total_compressed_size
        for column in columns
        if column.path_in_schema in PICTURES
    }
