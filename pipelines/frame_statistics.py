"""What is kept of every predicted frame as numbers: STATISTICS/SEQUENCE.parquet, one row a frame."""

import hashlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rtnet.data.images import Mask

if TYPE_CHECKING:
    from rtnet.prediction import Map  # imports PyTorch, which those who evaluate have no use for

SCHEMA = pa.schema(
    [
        ("sequence", pa.string()),
        ("frame", pa.int32()),  # its place in the sequence, from 0
        ("name", pa.string()),  # of its files
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mean", pa.float32()),  # of the map, 0..1
        ("maximum", pa.float32()),
        ("uncertain", pa.float32()),  # share of its pixels between 1/4 and 3/4
        ("area", pa.float32()),  # the mask's share of the frame
        ("left", pa.int32()),  # the mask's box, in pixels, ends included; null where the mask is empty
        ("top", pa.int32()),
        ("right", pa.int32()),
        ("bottom", pa.int32()),
        ("map_digest", pa.string()),  # SHA-256 of the map's file
        ("mask_digest", pa.string()),  # and of the mask's
        ("bytes", pa.int64()),  # of both together
    ]
)


def frame_statistics(
    sequence: str, frame: int, name: str, map_: "Map", mask: Mask, map_file: bytes, mask_file: bytes
) -> dict[str, Any]:
    """One row. map_file, mask_file: what is written of both."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (columns[0], rows[0], columns[-1], rows[-1]) if len(rows) else (None,) * 4
    return {
        "sequence": sequence,
        "frame": frame,
        "name": name,
        "height": map_.shape[0],
        "width": map_.shape[1],
        "mean": float(map_.mean()),
        "maximum": float(map_.max()),
        "uncertain": float(((map_ > 0.25) & (map_ < 0.75)).mean()),
        "area": float(mask.mean()),
        **{
            side: None if value is None else int(value)
            for side, value in zip(("left", "top", "right", "bottom"), box, strict=True)
        },
        "map_digest": hashlib.sha256(map_file).hexdigest(),
        "mask_digest": hashlib.sha256(mask_file).hexdigest(),
        "bytes": len(map_file) + len(mask_file),
    }


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """A file of a sequence's rows, in order of frame."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: row["frame"]), SCHEMA), buffer)
    return buffer.getvalue()
