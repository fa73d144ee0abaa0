"""Flow that was computed elsewhere: Middlebury's .flo files, flow pictures, and where the one of a frame lies."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import check_image, decode_image
from rtnet.errors import UserError

PLACEHOLDERS = ("sequence", "frame", "neighbour", "view")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_UNKNOWN = 1e9  # Middlebury's mark is above it
_FLO_MAGIC = np.float32(202021.25).astype("<f4").tobytes()


def check_pattern(pattern: str) -> None:
    """Refuse a pattern of flow files that can't tell one frame's flow from another's.

    pattern: a path with placeholders: {sequence}; {frame}, the name of the frame at which the flow is anchored, that
    is, where it starts; {neighbour}, the name of the frame it points to; {view}, as_is, horizontal, vertical or both,
    where there is flow of flipped frames as well. Backward flow named by the earlier of its two frames, as some
    programs do, is one with {neighbour}.
    Raises UserError for any other {word}, a brace that opens or closes nothing, and where neither {frame} nor
    {neighbour} is in it.
    """
    usable = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    names = _PLACEHOLDER.findall(pattern)
    for name in names:
        if name not in PLACEHOLDERS:
            raise UserError(f"flow files {pattern!r}: unknown placeholder {{{name}}}: use {usable}")
    if set("{}") & set(_PLACEHOLDER.sub("", pattern)):
        raise UserError(f"flow files {pattern!r}: a brace without its other half: placeholders are {usable}")
    if not {"frame", "neighbour"} & set(names):
        raise UserError(f"flow files {pattern!r}: every frame would get the same file: put {{frame}} into the path")


def has_views(pattern: str) -> bool:
    """Whether the pattern has files of flipped frames, too."""
    return "view" in _PLACEHOLDER.findall(pattern)


def flow_file(pattern: str, sequence: str, frame: str, neighbour: str, view: str) -> Path:
    """The file that a pattern (see `check_pattern`) names; what stands in for a placeholder is not looked at again."""
    values = {"sequence": sequence, "frame": frame, "neighbour": neighbour, "view": view}
    return Path(_PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), pattern))


def read_flow_picture(path: Path, frame_size: tuple[int, int]) -> NDArray[np.uint8]:
    """A flow picture, uint8 (H, W, 3) RGB: a .flo file's flow made into one, or any other file's picture as it is.

    frame_size: (height, width) of its frame; the flow may be smaller or larger, in the same proportions. Raises
    UserError, naming the file, where it is missing, cut short, neither flow nor a picture, of other proportions, or
    unknown everywhere.
    """
    path = Path(path)
    if path.suffix.lower() == ".flo":
        flow = read_flo(path)
        if not (np.abs(flow) < _UNKNOWN).all(axis=2).any():
            raise UserError(f"{path}: no pixel of this flow is known: compute it again")
        picture = flow_picture(flow)
    else:
        data = _read(path)
        check_image(data, str(path))
        picture = decode_image(data, str(path))
    (height, width), (rows, columns) = frame_size, picture.shape[:2]
    # Rounding the smaller of two sizes moves a side by a pixel at most.
    if abs(columns - rows * width / height) > 1 + width / height:
        raise UserError(
            f"{path}: {columns} x {rows}, and its frame is {width} x {height}: compute the flow of the frame"
        )
    return picture


def read_flo(path: Path) -> NDArray[np.float32]:
    """A Middlebury .flo file, float32 (H, W, 2); unknown flow is left as it is, above 1e9.

    Raises UserError where it is missing or not a whole one.
    """
    data = _read(Path(path))
    header = np.frombuffer(data[4:12], "<i4") if len(data) >= 12 else np.zeros(2, np.int32)
    width, height = int(header[0]), int(header[1])
    if data[:4] != _FLO_MAGIC or min(width, height) < 1 or len(data) != 12 + 8 * width * height:
        raise UserError(f"{path}: not a whole .flo file: compute or copy it again")
    return np.frombuffer(data[12:], "<f4").reshape(height, width, 2).astype(np.float32)


def write_flo(path: Path, flow: NDArray[np.float32]) -> None:
    """Write float (H, W, 2) as a Middlebury .flo file."""
    height, width, _ = flow.shape
    header = _FLO_MAGIC + np.array([width, height], "<i4").tobytes()
    Path(path).write_bytes(header + flow.astype("<f4").tobytes())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such flow file: check the path, or compute this flow") from None
    except OSError as error:
        raise UserError(f"{path}: the flow file can't be read ({error.strerror}): check what it is") from None
