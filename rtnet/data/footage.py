"""What `segment` reads: a video file or pictures, as frames with their times, one at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData

from rtnet.data.images import Picture, check_image, decode_image
from rtnet.errors import UserError

_NO_NETWORK = {"protocol_whitelist": "file"}  # a playlist named .mp4 shall not fetch anything
_TEXT = "tty"  # what FFmpeg takes any text file for


@dataclass(frozen=True)
class TimedFrame:
    name: str
    """Its number, 00000 being the first; of a picture file the stem."""
    picture: Picture
    """uint8 (H, W, 3) RGB, upright."""
    time: int
    """When it is shown, in ticks of `Footage.tick`: 0 for the first frame, growing."""


@dataclass(frozen=True)
class Footage:
    """A clip, opened anew by each call of `frames`."""

    origin: Path
    rate: Fraction
    """Frames per second, in the mean where the rate varies."""
    tick: Fraction
    """Seconds."""
    expected: int
    """How many frames there seem to be; 0 where nothing tells."""
    pixel_aspect: Fraction
    """Width of a pixel to its height, as the frames are stored."""
    frames: Callable[[], Iterator[TimedFrame]]
    """All of one size. Raises UserError, naming the file, for what cannot be decoded, breaks off or changes size."""
    start: Fraction = Fraction(0)
    """When the first frame is shown by the file's own clock, seconds."""
    sound: bool = False


def open_footage(path: Path) -> Footage:
    """A video file's footage; UserError where it is none. Turns and mirrors as the file asks for are carried out."""
    with _opened(path) as container:
        stream = _stream(container, path)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = _promised_seconds(container, stream)
        expected = stream.frames or round((seconds or 0) * rate)
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        tick, sound = stream.time_base or 1 / rate, bool(container.streams.audio)
        start = (stream.start_time or 0) * tick
    return Footage(path, rate, tick, expected, pixel_aspect, lambda: _video_frames(path, rate), start, sound)


def footage_of_pictures(origin: Path, pictures: Sequence[Path], rate: Fraction) -> Footage:
    """Picture files in this order, `rate` of them a second; pixels as stored, as in DAVIS's layout."""
    return Footage(origin, rate, 1 / rate, len(pictures), Fraction(1), lambda: _picture_frames(pictures))


def _picture_frames(pictures: Sequence[Path]) -> Iterator[TimedFrame]:
    first: tuple[int, ...] = ()
    for time, path in enumerate(pictures):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): allow it or leave it out") from None
        check_image(data, str(path))
        picture = decode_image(data, str(path))
        first = _same_size(picture, first, str(path))
        yield TimedFrame(path.stem, picture, time)


def _video_frames(path: Path, rate: Fraction) -> Iterator[TimedFrame]:
    with _opened(path) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        tick = stream.time_base or 1 / rate
        usual = max(1, round(1 / rate / tick))  # ticks from frame to frame
        count, start, time, end = 0, None, -1, 0
        size: tuple[int, ...] = ()
        try:
            for frame in container.decode(stream):
                shown = time + usual if frame.pts is None else frame.pts
                start = shown if start is None else start
                time = max(time + 1, shown - start)  # broken files give a time twice
                end = max(end, time + (frame.duration or usual))
                picture = _upright(frame)
                size = _same_size(picture, size, f"{path}, frame {count}")
                yield TimedFrame(f"{count:05d}", picture, time)
                count += 1
        except av.FFmpegError as error:
            raise UserError(_broken(path, count, stream, error.strerror)) from None
        promised = _promised_seconds(container, stream)
        # An MP4's edit list may leave out frames that it counts; an AVI's length is guessed from its size.
        short = container.format.name == "avi" and count < 0.99 * stream.frames - 1
        if not count or short or (promised is not None and (end + 2 * usual) * tick < 0.99 * promised):
            raise UserError(_broken(path, count, stream, ""))


def _broken(path: Path, count: int, stream: av.VideoStream, reason: str | None) -> str:
    if not count:
        return f"{path}: no frame of this video can be decoded: copy it again or convert it"
    of = f" of {stream.frames}" if stream.frames else ""
    return f"{path}: is damaged or breaks off after {count}{of} frames{f' ({reason})' if reason else ''}: copy it again"


def _promised_seconds(container: InputContainer, stream: av.VideoStream) -> Fraction | None:
    """How long the video lasts by the file's head; None where only its size, or its sound, could tell."""
    if container.format.name in ("avi", "mpegts"):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    if container.duration is not None and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return None


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(str(path.absolute()), options=_NO_NETWORK)
    except (av.FileNotFoundError, av.IsADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except av.PermissionError:
        raise UserError(f"{path}: cannot be read: allow it or leave it out") from None
    except av.FFmpegError:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty: copy it again") from None
        raise UserError(f"{path}: not a video that FFmpeg can open: copy it again or convert it") from None
    with container:
        yield container


def _stream(container: InputContainer, path: Path) -> av.VideoStream:
    stream = None if container.format.name == _TEXT else container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise UserError(f"{path}: holds no video that can be decoded")
    return stream


def _upright(frame: av.VideoFrame) -> Picture:
    """(H, W, 3), turned and mirrored by quarters as the frame's display matrix says; phones store it so."""
    picture = frame.to_ndarray(format="rgb24")
    side: Any = frame.side_data  # whose stubs are not of what it is
    if SideData.DISPLAYMATRIX in side:
        # (x, y) is shown at (a x + c y, b x + d y), as libavutil/display.h has it.
        a, b, _, c, d = np.frombuffer(bytes(side[SideData.DISPLAYMATRIX]), np.int32)[:5]
        if abs(b) > abs(a):
            picture, a, d = picture.transpose(1, 0, 2), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(picture, np.uint8)


def _same_size(picture: Picture, first: tuple[int, ...], origin: str) -> tuple[int, ...]:
    if first and picture.shape != first:
        sizes = (f"{shape[1]} x {shape[0]}" for shape in (picture.shape, first))
        raise UserError("{}: has {} pixels, the first frame {}: all must be of one size".format(origin, *sizes))
    return picture.shape
