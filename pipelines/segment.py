"""`rtnet segment`: any video and a model -> a video with the object tinted, its masks and a contact sheet. No Ray."""

import argparse
import hashlib
import tempfile
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.store_option import add_store_option
from rtnet.errors import UserError

if TYPE_CHECKING:
    from pipelines.clips import Clip
    from pipelines.segment_outputs import Making, Outputs
    from rtnet.data.footage import Footage, TimedFrame
    from rtnet.data.images import Picture
    from rtnet.prediction import Map
    from rtnet.segmenter import Segmenter

# Measured: some twenty frames wait for their maps, others are being decoded, drawn and encoded.
_BYTES_PER_PIXEL, _NETWORK_BYTES = 230, 1_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="CLIP",
        help="a video, a folder of frames or of videos, or a pattern ('clips/*.mp4')",
    )
    parser.add_argument("--model", required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION or a weights file")
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="the video to be made; of several clips a folder"
    )
    parser.add_argument("--threshold", type=_probability, default=0.5, help="a mask is where the map is above it")
    parser.add_argument(
        "--height",
        type=_height,
        default=384,
        metavar="ROWS",
        help="what the network sees: as in its training (default: %(default)s)",
    )
    parser.add_argument("--maps", action="store_true", help="write the maps as grey pictures too")
    parser.add_argument("--rate", type=_rate, default=Fraction(24), help="pictures a second, of a folder (default: 24)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there, once the new is whole")
    add_store_option(parser)


def run_command(options: argparse.Namespace) -> None:
    """Segments the clips that are not finished. Of several, one that cannot be read stops none of the others.

    Raises UserError naming what is wrong; at the end, after the others, where clips of several could not be done.
    """
    from pipelines.clips import find_clips
    from pipelines.segment_outputs import Making, plan_outputs

    clips = find_clips(options.inputs)
    outputs = plan_outputs(clips, options.output, options.maps)
    with tempfile.TemporaryDirectory() as scratch:
        weights, model = _find_model(options, Path(scratch))
        todo = []
        for clip, target in zip(clips, outputs, strict=True):
            made = Making(_made_by(options, model, clip), clip.digest())
            if options.overwrite or not _finished(target, made):
                todo.append((clip, target, made))
        if not todo:
            return
        if len(clips) == 1:
            clips[0].footage(options.rate)  # what is no video is to be told before the network is loaded
        import rtnet

        segmenter = rtnet.load(weights, height=options.height)
    failed = []
    for clip, target, made in todo:
        try:
            segment_clip(segmenter, clip, target, options.threshold, options.rate, made)
        except KeyboardInterrupt:
            print(f"{clip.origin}: begun anew by the same command; finished clips stay", flush=True)
            raise
        except UserError as error:
            if len(clips) == 1:
                raise
            failed.append(clip.origin)
            print(f"{error} (goes on with the others)", flush=True)
    if failed:
        names = ", ".join(str(path) for path in failed)
        raise UserError(f"{len(failed)} of {len(clips)} clips are not segmented, for the reasons above: {names}")


def segment_clip(
    segmenter: "Segmenter", clip: "Clip", outputs: "Outputs", threshold: float, rate: Fraction, making: "Making"
) -> None:
    """One clip's video, masks, maps and sheet; nothing is at its place before all is whole.

    making: what is kept with them of how they came about.
    """
    from pipelines.clip_progress import ClipProgress
    from pipelines.clip_sheet import ClipSheet
    from rtnet.data.images import encode_mask, encode_png, overlay
    from rtnet.data.video_writer import VideoWriter
    from rtnet.prediction import grey_levels

    footage = clip.footage(rate)
    progress, sheet, count = ClipProgress(clip.origin, footage.expected), ClipSheet(), 0
    with (
        outputs.writing(making) as made,
        _explained(clip, made),
        VideoWriter(made.video, footage, making.by) as video,
        closing(_with_maps(segmenter, footage)) as frames,
    ):
        for frame, map_ in frames:
            mask = map_ > threshold
            drawn = overlay(frame.picture, mask)
            video.write(drawn, frame.time)
            (made.masks / f"{frame.name}.png").write_bytes(encode_mask(mask))
            if outputs.with_maps:
                (made.maps / f"{frame.name}.png").write_bytes(encode_png(grey_levels(map_)))
            sheet.add(f"{frame.name}  {float(frame.time * footage.tick):.2f} s", drawn if sheet.wants else None)
            count += 1
            progress.show(count)
        made.sheet.write_bytes(sheet.jpeg())
    progress.end(count, outputs.video, outputs.all[:-1])
    if count == 1:
        print(f"{clip.origin}: a single frame has no motion and no partner: its map is by appearance alone, and poor")
    if video.silenced:
        print(f"{outputs.video}: without sound: {video.silenced} would not play from this file in a browser")


def _with_maps(segmenter: "Segmenter", footage: "Footage") -> Generator[tuple["TimedFrame", "Map"], None, None]:
    """Each frame with its map; frames are held while theirs is awaited."""
    waiting: deque[TimedFrame] = deque()

    def pictures() -> Iterator["Picture"]:  # read by another thread
        for place, frame in enumerate(footage.frames()):
            if place == 0:
                _refuse_too_large(footage, frame)
            waiting.append(frame)
            yield frame.picture

    for map_ in segmenter.segment(pictures()):
        yield waiting.popleft(), map_


def _refuse_too_large(footage: "Footage", frame: "TimedFrame") -> None:
    from pipelines.memory import free_memory

    height, width = frame.picture.shape[:2]
    needed, free = height * width * _BYTES_PER_PIXEL + _NETWORK_BYTES, free_memory()
    if needed > free:
        raise UserError(
            f"{footage.origin}: frames of {width} x {height} need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free: make the video smaller (ffmpeg -i IN -vf scale=-2:1080 OUT) or use a larger machine"
        )


def _find_model(options: argparse.Namespace, scratch: Path) -> tuple[Path, str]:
    """The weights file, and the first digits of its SHA-256."""
    from pipelines.storage import local_copy

    if not options.model.startswith("models:/"):
        path = local_copy(options.model, scratch)
        if not path.is_file():
            raise UserError(f"{path}: no such weights file; of a registered model write models:/NAME@ALIAS")
        with path.open("rb") as file:
            return path, hashlib.file_digest(file, "sha256").hexdigest()[:12]
    from pipelines.registry import download_model, resolve_model
    from pipelines.tracking import absolute_store

    uri = absolute_store(options.tracking)
    model = resolve_model(uri, options.model)
    return download_model(uri, model, scratch), model.digest[:12]


def _made_by(options: argparse.Namespace, model: str, clip: "Clip") -> str:
    rate = f", {options.rate} pictures a second" if clip.pictures else ""
    return f"model {model}, height {options.height}, threshold {options.threshold:g}{rate}"


def _finished(outputs: "Outputs", making: "Making") -> bool:
    finished = outputs.finished(making)
    if finished:
        print(f"{outputs.video}: there already, of this clip by the same model and options: nothing to do", flush=True)
    return finished


@contextmanager
def _explained(clip: "Clip", made: "Outputs") -> Iterator[None]:
    """Every mistake names the clip, or the place that cannot be written."""
    import av

    try:
        yield
    except UserError as error:
        raise error if str(clip.origin) in str(error) else UserError(f"{clip.origin}: {error}") from None
    except (OSError, av.FFmpegError) as error:
        place = made.video.parents[1]
        raise UserError(f"{place}: the results cannot be written ({error.strerror}): make room or change it") from error


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number within 0..1")
    return value


def _height(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no whole number within 32..4096") from None
    if not 32 <= value <= 4096:
        raise argparse.ArgumentTypeError(f"{text} is not within 32..4096")
    return value


def _rate(text: str) -> Fraction:
    """Such as 25, 29.97 or 30000/1001."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is no rate such as 24 or 30000/1001")
    return value
