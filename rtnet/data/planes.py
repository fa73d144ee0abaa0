"""Flow pictures and masks as they are stored for training: colour planes one after the other, by Zstandard.

Without loss, and decoded in a fraction of a PNG's time, which is most of what reading for training costs; flow pictures
and masks are smooth enough for the sizes to be alike. `experiments/benchmarks/loader.py` compares encodings.
"""

import struct

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rtnet.errors import UserError

Picture = NDArray[np.uint8]

_MAGIC = b"RTp1"
_HEADER = struct.Struct("<4sIII")  # magic, planes, height, width
_LEVEL = 3  # beyond it the picture shrinks by a seventh for four times the work


def encode_planes(picture: Picture | NDArray[np.bool_], level: int = _LEVEL) -> bytes:
    """uint8 (H, W, 3), uint8 (H, W) or bool (H, W), the last as 0 and 1."""
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1) if picture.ndim == 3 else picture[None])
    data: bytes = pa.Codec("zstd", level).compress(planes.view(np.uint8), asbytes=True)
    return _HEADER.pack(_MAGIC, *planes.shape) + data


def planes_shape(data: bytes) -> tuple[int, ...] | None:
    """Shape of the picture that `decode_planes` gives, (H, W, 3) or (H, W); None where `data` is something else."""
    if data[:4] != _MAGIC or len(data) < _HEADER.size:
        return None
    _, planes, height, width = _HEADER.unpack_from(data)
    return (height, width) if planes == 1 else (height, width, planes)


def decode_planes(data: bytes, origin: str = "picture", out: Picture | None = None) -> Picture:
    """What `encode_planes` encoded, uint8 (H, W, 3) or (H, W); into `out`, contiguous and of that shape, where given.

    Raises UserError naming `origin` where the data is damaged.
    """
    shape = planes_shape(data)
    if shape is None:
        raise UserError(f"{origin}: not a stored flow picture or mask")
    try:
        plain = pa.Codec("zstd").decompress(pa.py_buffer(data)[_HEADER.size :], decompressed_size=int(np.prod(shape)))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{origin}: the picture is damaged ({str(error).splitlines()[0]})") from error
    planes = np.frombuffer(plain, np.uint8).reshape(-1, *shape[:2])
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"decode_planes: {origin} is {shape} and is to go into {out.shape}")
    if len(planes) == 1:
        np.copyto(out, planes[0])
    else:
        cv2.merge(list(planes), dst=out)
    return out
