"""A manifest's frames -> their bytes and pixels, checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rtnet.data.images import (
    Picture,
    check_image,
    decode_annotation,
    decode_image,
    encode_mask,
    encode_png,
    image_size,
)
from rtnet.data.layouts import Frame, Sequence
from rtnet.data.layouts.video import open_video
from rtnet.errors import UserError


@dataclass(frozen=True)
class EncodedFrame:
    """A frame as a dataset keeps it."""

    frame: Frame
    image: bytes
    """The original file's bytes; of a video file's frame a PNG, so nothing more is lost."""
    height: int
    width: int
    annotation: bytes | None
    """The primary object's mask, as `rtnet.data.images.encode_mask` writes it."""


def read_frames(sequence: Sequence, start: int = 0, stop: int | None = None) -> Iterator[tuple[EncodedFrame, Picture]]:
    """The frames at places start..stop-1 of sequence.frames, each with its picture, uint8 (H, W, 3) RGB, one at a time.

    The frames of one video must be of one size, that of its first frame, whatever part is read.
    Raises UserError, naming the file, for one that has vanished or cannot be read, is empty, truncated or no picture,
    or has another size than it must; and with the sequence's fault where it has one.
    """
    places = range(*slice(start, stop).indices(len(sequence.frames)))
    for frame, data, picture in _checked(sequence, places):
        size = (picture.shape[0], picture.shape[1])
        encoded = encode_png(picture, compression=1) if data is None else data
        yield EncodedFrame(frame, encoded, *size, read_annotation(sequence, frame, size)), picture


def read_pictures(sequence: Sequence) -> Iterator[Picture]:
    """The pictures of all frames, as `read_frames` gives them, and its errors; nothing is encoded."""
    return (picture for _, _, picture in _checked(sequence, range(len(sequence.frames))))


def read_annotation(sequence: Sequence, frame: Frame, size: tuple[int, int]) -> bytes | None:
    """The frame's mask as `rtnet.data.images.encode_mask` writes it, None where it has none.

    size: (height, width) of its picture. Raises UserError where the mask has another, or cannot be read.
    """
    if frame.annotation is None:
        return None
    mask = decode_annotation(_bytes(frame.annotation), str(frame.annotation), sequence.void, sequence.background)
    if mask.shape != size:
        raise UserError(f"{frame.annotation}: has {_says(mask.shape)} pixels, its image {_says(size)}: they must agree")
    return encode_mask(mask)


def _checked(sequence: Sequence, places: range) -> Iterator[tuple[Frame, bytes | None, Picture]]:
    """Frames of one size, with their files' bytes; a video's frames have none."""
    if sequence.fault:
        raise UserError(sequence.fault)
    if not places:
        return
    reading = _video_frames(sequence, places) if sequence.kind == "video" else _picture_frames(sequence, places)
    expected = None if sequence.kind == "stills" or not places.start else _first_size(sequence)
    for frame, data, picture in reading:
        size = (picture.shape[0], picture.shape[1])
        if sequence.kind != "stills":
            expected = expected or size
            if size != expected:
                raise UserError(
                    f"{_where(sequence, frame)}: has {_says(size)} pixels, the first frame {_says(expected)}"
                )
        yield frame, data, picture


def _picture_frames(sequence: Sequence, places: range) -> Iterator[tuple[Frame, bytes | None, Picture]]:
    for place in places:
        frame = sequence.frames[place]
        data = _bytes(frame.image)
        check_image(data, str(frame.image))
        yield frame, data, decode_image(data, str(frame.image))


def _video_frames(sequence: Sequence, places: range) -> Iterator[tuple[Frame, bytes | None, Picture]]:
    """By decoding from the beginning: in some codecs OpenCV's seeking arrives beside the frame it was asked for."""
    path = sequence.frames[0].image
    capture = open_video(path)
    try:
        for place in range(places.stop):
            if not capture.grab():
                raise UserError(f"{path}: breaks off after {place} of {len(sequence.frames)} frames that were listed")
            if place < places.start:
                continue
            done, bgr = capture.retrieve()
            if not done:
                raise UserError(f"{_where(sequence, sequence.frames[place])}: cannot be decoded")
            picture = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            yield sequence.frames[place], None, picture
    finally:
        capture.release()


def _first_size(sequence: Sequence) -> tuple[int, int] | None:
    """(height, width) of the first frame, so that the parts of a sequence agree on it."""
    if sequence.kind == "video":
        return None  # a decoder gives frames of one size; those of one part are compared nevertheless
    path = sequence.frames[0].image
    return image_size(_bytes(path), str(path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: vanished after it was listed") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): allow it or leave it out") from None


def _where(sequence: Sequence, frame: Frame) -> str:
    return f"{frame.image}, frame {frame.number}" if sequence.kind == "video" else str(frame.image)


def _says(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
