"""Video files: which there are, and how many frames each gives."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video, our errors say

from rtnet.data.layouts.folders import PICTURES, files, is_file, is_folder, pictures
from rtnet.data.layouts.manifest import Frame, Listing, Sequence, Source
from rtnet.errors import UserError

VIDEOS = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg"}
    | {".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)
# These containers list their frames. Of others FFmpeg multiplies duration by rate: wrong where the rate varies.
_COUNTED = frozenset({".3gp", ".avi", ".m4v", ".mov", ".mp4"})


def list_videos(source: Source) -> Listing:
    """A video file, the video files of a folder, or those that a .txt file lists: a path a line, from its folder on.

    Each is a sequence named as the file's stem, its frames from 0 on.
    `annotations` holds VIDEO/00000.png and so on for the frames that are annotated; a mask of no frame is a fault.
    All frames are decoded once to count them. A video that cannot be decoded, or breaks off early, has a fault.
    Raises UserError for a folder without videos and for two videos of one stem.
    """
    videos = _listed(source.root) if source.root.suffix.lower() == ".txt" else [source.root]
    if is_folder(source.root):
        videos = _videos(source.root)
    names = [path.stem for path in videos]
    for path, name in zip(videos, names, strict=True):
        if names.count(name) > 1:
            others = " and ".join(other.name for other in videos if other.stem == name)
            raise UserError(f"{path}: {others} would be one sequence, {name!r}: rename all but one")
    masks = source.annotations
    if masks is not None and not any(is_folder(masks / name) for name in names):
        raise UserError(f"{masks}: holds no folder named like a video, such as {names[0]}")
    blank = Sequence(source.dataset, source.split or "train", "", (), kind="video")
    return [(replace(blank, name=path.stem), partial(_fill, path, masks)) for path in videos]


def open_video(path: Path) -> cv2.VideoCapture:
    """The opened video; UserError where there is none or it cannot be opened."""
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: vanished after it was listed") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): allow it or leave it out") from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    # An absolute path is never taken for a URL, and this backend not for a pattern of pictures' names.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise UserError(f"{path}: not a video that OpenCV can open: copy it again or convert it")
    return capture


def _listed(path: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of videos ({error})") from None
    videos = [path.parent / line for line in lines if line]
    if missing := [video for video in videos if not is_file(video)]:
        raise UserError(f"{path}: lists {missing[0]}, and there is no such file")
    if not videos:
        raise UserError(f"{path}: lists no video")
    return videos


def _videos(root: Path) -> list[Path]:
    found = [path for path in files(root) if path.suffix.lower() in VIDEOS]
    if not found:
        raise UserError(f"{root}: holds no video file, such as one ending in .mp4")
    return found


def _fill(path: Path, annotations: Path | None, blank: Sequence) -> Sequence:
    if path.suffix.lower() in PICTURES:
        raise UserError(f"{path}: a picture, not a video: for pictures use layout 'frames'")
    count = _count(path)
    folder = None if annotations is None else annotations / path.stem
    masks: dict[int, Path] = {}
    for mask in pictures(folder) if folder is not None and is_folder(folder) else ():
        number = int(mask.stem) if mask.stem.isascii() and mask.stem.isdigit() else count
        if number >= count:
            raise UserError(f"{mask}: not a frame of {path.name}, which has 00000 to {count - 1:05d}: remove it")
        if number in masks:
            raise UserError(f"{mask}: a second annotation of frame {number}: keep one of them")
        masks[number] = mask
    frames = (Frame(number, f"{number:05d}", path, masks.get(number)) for number in range(count))
    return replace(blank, frames=tuple(frames))


def _count(path: Path) -> int:
    """How many frames can be decoded one after another; UserError where that is none or far fewer than promised."""
    capture = open_video(path)
    try:
        promised, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        count, latest = 0, 0.0
        while capture.grab():
            count += 1
            latest = max(latest, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    finally:
        capture.release()
    if not count:
        raise UserError(f"{path}: no frame of this video can be decoded: copy it again or convert it")
    missing = promised - count
    ends_early = path.suffix.lower() in _COUNTED or rate <= 0 or latest + 2 / rate < 0.99 * promised / rate
    if missing >= 1 and missing > 0.01 * promised and ends_early:
        raise UserError(f"{path}: the video breaks off after {count} of {promised:.0f} frames: copy it again")
    return count
