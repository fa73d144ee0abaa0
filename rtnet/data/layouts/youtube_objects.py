"""YouTube-Objects with masks: shots of videos of ten classes, about every tenth frame annotated."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from rtnet.data.layouts.folders import frames_of, is_folder, match, number_of, pictures, some, subfolders
from rtnet.data.layouts.manifest import Listing, Sequence, Source
from rtnet.errors import UserError

# A folder of pictures, and what the folder of their annotations is called in its place.
_ANNOTATIONS_OF = {"images": "labels", "JPEGImages": "Annotations", "Data": "GT"}
_NO_PART_OF_THE_NAME = frozenset({"data", "shots", "categories", *_ANNOTATIONS_OF})
_LABELS = frozenset(_ANNOTATIONS_OF.values())
_DEEPEST = 7


def list_youtube_objects(source: Source) -> Listing:
    """Every folder of pictures below the root is a sequence, named by the folders' names that differ: cat_0001_003.

    As released: CLASS/data/VIDEO/shots/SHOT/images with labels beside it, or the pictures in SHOT itself. As commonly
    converted: CLASS/VIDEO/JPEGImages with Annotations beside it, or the trees JPEGImages/CLASS/VIDEO and
    Annotations/CLASS/VIDEO. An annotation belongs to the frame of its number, the last in both names; one without a
    frame is a fault. Raises UserError where there are no pictures, or where two folders would get one name.
    """
    listing: Listing = []
    for folder in _folders(source.root, _DEEPEST):
        parts = folder.relative_to(source.root).parts
        name = "_".join(part for part in parts if part not in _NO_PART_OF_THE_NAME)
        blank = Sequence(source.dataset, source.split or "train", name or source.root.name, ())
        listing.append((blank, partial(_fill, folder, _labels(source.root, parts))))
    if not listing:
        raise UserError(f"{source.root}: no folder of pictures below it: no folder of YouTube-Objects")
    return listing


def _fill(images: Path, labels: Path, blank: Sequence) -> Sequence:
    masks = pictures(labels) if is_folder(labels) else []
    return replace(blank, frames=frames_of(match(some(images, pictures(images)), masks, number_of)))


def _labels(root: Path, parts: tuple[str, ...]) -> Path:
    if not set(parts) & set(_ANNOTATIONS_OF):
        return root.joinpath(*parts, "labels")
    return root.joinpath(*(_ANNOTATIONS_OF.get(part, part) for part in parts))


def _folders(folder: Path, deepest: int) -> Iterator[Path]:
    """The folders of pictures; one that cannot be read counts as one, so that its sequence says so."""
    try:
        inner = [path for path in subfolders(folder) if path.name not in _LABELS]
        # Beside the pictures lie annotations and, where others converted them, flow and more.
        named = [path for path in inner if path.name in _ANNOTATIONS_OF]
        if not inner and pictures(folder):
            yield folder
            return
    except UserError:
        if deepest == _DEEPEST:
            raise
        yield folder
        return
    if deepest:
        for path in named or inner:
            yield from _folders(path, deepest - 1)
