"""A video file's frames are those of reading it through; one that breaks off says so."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rtnet.data.frames import read_frames
from rtnet.data.images import decode_image, decode_mask, encode_png
from rtnet.data.layouts import Sequence, read_layout
from rtnet.errors import UserError

RNG = np.random.default_rng(6)


def _one(root: Path, annotations: Path | None = None) -> Sequence:
    (sequence,) = read_layout("video", root, "set", annotations=annotations)
    assert not sequence.fault
    return sequence


def _video(path: Path, frames: int, codec: str = "MJPG") -> list[NDArray[np.uint8]]:
    """Write a video; gives its frames as they come out when it is read through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (64, 48))
    picture = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    for number in range(frames):
        writer.write(np.roll(picture, number, 1))
    writer.release()
    capture = cv2.VideoCapture(str(path))
    return [np.asarray(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB), np.uint8) for _ in range(frames)]


@pytest.mark.parametrize("codec", [("MJPG", "avi"), ("mp4v", "mp4")])
def test_a_videos_frames_are_those_of_reading_it_through_wherever_one_begins(
    tmp_path: Path, codec: tuple[str, str]
) -> None:
    path = tmp_path / f"my clip.v1.{codec[1]}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec[0]), 25, (64, 48))
    for _ in range(7):
        writer.write(RNG.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    capture = cv2.VideoCapture(str(path))
    expected = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(7)]
    sequence = _one(tmp_path)
    assert (sequence.name, sequence.kind, len(sequence.frames)) == ("my clip.v1", "video", 7)
    got = [*read_frames(sequence, 0, 4), *read_frames(sequence, 4)]
    assert [encoded.frame.name for encoded, _ in got] == [f"{n:05d}" for n in range(7)]
    for (encoded, picture), wanted in zip(got, expected, strict=True):
        assert np.array_equal(picture, wanted)
        assert np.array_equal(decode_image(encoded.image), wanted)  # kept without loss


def test_a_video_that_breaks_off_is_a_fault_and_so_is_none(tmp_path: Path) -> None:
    path = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for _ in range(40):
        writer.write(RNG.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    (tmp_path / "broken.avi").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "none.mp4").write_bytes(b"no video")
    faults = {s.name: s.fault for s in read_layout("video", tmp_path, "v")}
    assert not faults["whole"]
    assert "broken.avi" in faults["broken"] and "none.mp4" in faults["none"]


@pytest.mark.parametrize(("codec", "ending"), [("mp4v", "MP4"), ("mp4v", "mkv"), ("VP80", "webm"), ("MPG1", "mpg")])
def test_codecs_with_frames_between_key_frames_are_read_in_parts(tmp_path: Path, codec: str, ending: str) -> None:
    expected = _video(tmp_path / f"clip.{ending}", 30, codec)
    sequence = _one(tmp_path / f"clip.{ending}")
    got = [picture for start in range(0, 30, 7) for _, picture in read_frames(sequence, start, start + 7)]
    assert np.array_equal(got, expected)


def test_masks_of_a_video_go_by_frame_number(tmp_path: Path) -> None:
    _video(tmp_path / "in/a b.avi", 4)
    mask = np.zeros((48, 64), bool)
    mask[5:20, 7:30] = True
    (tmp_path / "masks/a b").mkdir(parents=True)
    (tmp_path / "masks/a b/00002.png").write_bytes(encode_png(mask))
    sequence = _one(tmp_path / "in", annotations=tmp_path / "masks")
    masks = [encoded.annotation for encoded, _ in read_frames(sequence)]
    assert masks[:2] == [None, None] and masks[3] is None and masks[2]
    assert np.array_equal(decode_mask(masks[2]), mask)
    (tmp_path / "masks/a b/00004.png").write_bytes(encode_png(mask))
    (sequence,) = read_layout("video", tmp_path / "in", "x", annotations=tmp_path / "masks")
    assert "00004.png: not a frame of a b.avi, which has 00000 to 00003" in sequence.fault


def test_only_the_videos_asked_for_are_decoded_and_two_of_one_stem_are_refused(tmp_path: Path) -> None:
    _video(tmp_path / "a.avi", 2)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("no video")
    (sequence,) = read_layout("video", tmp_path, "x", sequences=["a"])
    assert not sequence.fault
    (tmp_path / "a.mov").touch()
    with pytest.raises(UserError, match=r"a\.avi and a\.mov would be one sequence"):
        read_layout("video", tmp_path, "x")


def test_a_video_that_shrank_or_vanished_since_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    _video(path, 20)
    sequence = _one(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.avi: breaks off after \d+ of 20 frames"):
        list(read_frames(sequence, 15))
    path.unlink()
    with pytest.raises(UserError, match=r"a\.avi: vanished after it was listed"):
        list(read_frames(sequence))
