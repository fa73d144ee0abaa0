"""Frames -> a video that browsers play: H.264, yuv420p, its head before its frames, with the sound of another file."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer

from rtnet.data.footage import Footage
from rtnet.data.images import Picture
from rtnet.errors import UserError

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")
"""Endings of files that hold H.264 with frames' own times."""

# By FFmpeg's names; these play from an MP4 in browsers, and are copied as they are.
_SOUND = frozenset({"aac", "mp3", "opus"})
_BT709 = 1  # FFmpeg's number, the same for matrix, primaries and transfer
_OPTIONS = {"preset": "veryfast", "crf": "20"}


class VideoWriter:
    """A context in which `write` adds frames. The file is whole once it is left without an exception.

    like: gives rate, ticks, proportions of pixels, and the sound. note: kept in the file as its comment.
    """

    def __init__(self, path: Path, like: Footage, note: str = "") -> None:
        self._like = like
        options = {} if path.suffix == ".mkv" else {"movflags": "+faststart"}
        self._container = av.open(str(path), "w", options=options)
        self._container.metadata["comment"] = note
        self._stream: av.VideoStream | None = None
        self._sound: _Sound | None = None
        self.silenced = ""
        """The codec of sound that is left out, as the file could not hold it for browsers; else empty."""

    def write(self, picture: Picture, time: int) -> None:
        """The next frame, uint8 (H, W, 3); time: in ticks, growing. An odd last row or column is doubled."""
        height, width = picture.shape[:2]
        if self._stream is None:
            self._stream = self._begun(height + height % 2, width + width % 2)
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        # Without its matrix's name a player guesses, by size, and colours shift.
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace="itu709")
        frame.pts, frame.time_base = time, self._like.tick
        self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.copy_until(time * self._like.tick)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
                if self._sound is not None:
                    self._sound.copy_until(None)
        finally:
            if self._sound is not None:
                self._sound.close()
            self._container.close()

    def _begun(self, height: int, width: int) -> av.VideoStream:
        stream = self._container.add_stream("libx264", rate=self._like.rate, options=_OPTIONS)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = self._like.tick
        context.sample_aspect_ratio = self._like.pixel_aspect
        context.color_range, context.colorspace = 1, _BT709  # 16..235
        context.color_primaries = context.color_trc = _BT709
        if self._like.sound:
            self._sound = _Sound(self._like, self._container)
            self.silenced = self._sound.left_out
        return stream


class _Sound:
    """Copies the packets of a file's sound beside the frames, so that none pile up."""

    def __init__(self, like: Footage, target: OutputContainer) -> None:
        self._like, self._target = like, target
        self._source = av.open(str(like.origin.absolute()))
        stream = self._source.streams.best("audio")
        assert isinstance(stream, av.AudioStream)
        name = stream.codec_context.name if stream.codec_context else "unknown"
        copied = name in _SOUND and name in target.supported_codecs
        copied = copied and (name, target.format.name) != ("opus", "mov")  # the list is wrong there
        self.left_out = "" if copied else name
        self._stream = target.add_stream_from_template(stream) if copied else None
        self._packets = self._source.demux(stream)
        self._next = self._following()

    def copy_until(self, seconds: Fraction | None) -> None:
        """All that begins before this time of the video and has not been copied; None for all the rest."""
        while self._stream is not None and (packet := self._next) is not None:
            assert packet.pts is not None and packet.dts is not None and packet.time_base is not None
            start = packet.dts * packet.time_base - self._like.start
            if seconds is not None and start >= seconds:
                return
            shift = round(self._like.start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._stream
            self._target.mux(packet)
            self._next = self._following()

    def close(self) -> None:
        self._source.close()

    def _following(self) -> "av.Packet[av.AudioStream] | None":
        try:
            return next((packet for packet in self._packets if packet.dts is not None), None)
        except av.FFmpegError as error:
            raise UserError(f"{self._like.origin}: its sound is damaged ({error.strerror}): copy it again") from None
