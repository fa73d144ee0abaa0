"""Dataset folders and video files -> a manifest of sequences. Nothing is decoded but videos, to count their frames."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from rtnet.data.layouts.davis import list_davis16, list_davis17
from rtnet.data.layouts.fbms import list_fbms59
from rtnet.data.layouts.folders import is_file, is_folder
from rtnet.data.layouts.manifest import Fill, Frame, Listing, Sequence, Source
from rtnet.data.layouts.plain import list_frames, list_stills
from rtnet.data.layouts.video import list_videos
from rtnet.data.layouts.youtube_objects import list_youtube_objects
from rtnet.errors import UserError

__all__ = ["LAYOUTS", "Frame", "Sequence", "read_layout"]

LAYOUTS: dict[str, Callable[[Source], Listing]] = {
    "davis16": list_davis16,
    "davis17": list_davis17,
    "fbms59": list_fbms59,
    "youtube_objects": list_youtube_objects,
    "stills": list_stills,
    "frames": list_frames,
    "video": list_videos,
}
_WITH_ANNOTATIONS = ("stills", "frames", "video")
_NAMES_SAID = 20


def read_layout(
    layout: str,
    root: Path,
    dataset: str,
    split: str | None = None,
    sequences: Iterable[str] | None = None,
    annotations: Path | None = None,
) -> list[Sequence]:
    """The sequences of a source, in the order of its lists or its names.

    layout: one of LAYOUTS; their docstrings say what each expects of a folder.
    root: the dataset's folder; for "video" also a video file, or a .txt file that lists some.
    dataset: what the sequences' dataset is called.
    split: of a layout with official splits (davis16, davis17, fbms59) only this one, None for all; sequences of the
    others are all said to be of this split, None for "train".
    sequences: only those of these names, None for all.
    annotations: for "stills", "frames" and "video" the folder of masks, where it is not beside the images.
    What is wrong with one sequence does not raise: it comes without frames and says so in its `fault`. Raises
    UserError for everything else: no such layout, folder or name, or a folder that is not of this layout.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: one of {', '.join(LAYOUTS)}")
    root = Path(root)
    if not is_folder(root) and not (layout == "video" and is_file(root)):
        what = "not a folder" if is_file(root) else "no such folder"
        raise UserError(f"{root}: {what}: give the folder of the {layout} dataset")
    if annotations is not None:
        annotations = Path(annotations)
        if layout not in _WITH_ANNOTATIONS:
            raise UserError(f"{annotations}: layout {layout!r} finds its annotations itself: leave this folder out")
        if not is_folder(annotations):
            raise UserError(f"{annotations}: no such folder of annotations")
    listing = LAYOUTS[layout](Source(root, dataset, split, annotations))
    if not listing:
        raise UserError(f"{root}: no sequences")
    return [_filled(blank, fill) for blank, fill in _chosen(root, listing, sequences)]


def _chosen(root: Path, listing: Listing, sequences: Iterable[str] | None) -> Listing:
    names = [blank.name for blank, _ in listing]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{root}: two sequences are called {twice!r}: rename or remove one")
    if sequences is None:
        return listing
    wanted = list(sequences)
    if unknown := [name for name in wanted if name not in names]:
        there = sorted(names)
        more = f" and {len(there) - _NAMES_SAID} more" if len(there) > _NAMES_SAID else ""
        raise UserError(f"{root}: no sequence {unknown[0]!r}: there are {', '.join(there[:_NAMES_SAID])}{more}")
    return [entry for entry in listing if entry[0].name in wanted]


def _filled(blank: Sequence, fill: Fill) -> Sequence:
    try:
        return fill(blank)
    except UserError as error:
        return replace(blank, fault=" ".join(str(error).splitlines()))
