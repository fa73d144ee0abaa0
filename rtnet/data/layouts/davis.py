"""DAVIS 2016 and 2017: pictures and annotations in two trees, and lists that say what belongs to which split."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from rtnet.data.layouts.folders import files, frames_of, is_file, is_folder, match, pictures, some
from rtnet.data.layouts.manifest import Listing, Sequence, Source
from rtnet.errors import UserError

_SPLITS16 = ("train", "val")
_SPLITS17 = ("train", "val", "test-dev", "test-challenge")
# A sequence's name may hold spaces, so a line is cut where its second path begins and not at every space.
_LINE = re.compile(r"/?(?P<image>JPEGImages/\S.*?)\s+/?(?P<annotation>Annotations/\S.*)")


def list_davis16(source: Source) -> Listing:
    """JPEGImages/480p, Annotations/480p and ImageSets/480p with train.txt, val.txt or both; other lists don't count.

    A line of a list is the path of an image and of its annotation. A listed file that is missing, or a frame listed
    twice, is a fault of its sequence. Raises UserError for another line, and for a sequence in both lists.
    """
    lists = _lists(source, Path("ImageSets", "480p"), _SPLITS16, "DAVIS 2016")
    images = source.root / "JPEGImages" / "480p"
    if not is_folder(images):
        raise UserError(
            f"{source.root}: no sequences: {images} is missing, so this is no folder in DAVIS 2016's layout"
        )
    found: dict[tuple[str, str], list[tuple[str, Path, Path]]] = {}
    for split, path in lists.items():
        for number, line in _lines(path):
            match = _LINE.fullmatch(line)
            if match is None:
                raise UserError(f"{path}: line {number} is not the path of an image and of its annotation: {line}")
            image, annotation = source.root / match["image"], source.root / match["annotation"]
            where = f"line {number} of {path}"
            found.setdefault((split, image.parent.name), []).append((where, image, annotation))
    _check_names(source.root, lists, list(found))
    return [
        (Sequence(source.dataset, split, name, ()), partial(_fill16, listed))
        for (split, name), listed in found.items()
        if source.split in (None, split)
    ]


def list_davis17(source: Source) -> Listing:
    """JPEGImages/480p/SEQUENCE, Annotations/480p/SEQUENCE and ImageSets/2017/SPLIT.txt with one sequence a line.

    Full-Resolution stands in for 480p, and Annotations_unsupervised for Annotations, where those are missing. Every
    palette index is an object but 0, and 255, which is void. Frames of train and val must all be annotated; of a
    test split those are that are. Raises UserError for a line that is no sequence's name, and for a name listed twice.
    """
    lists = _lists(source, Path("ImageSets", "2017"), _SPLITS17, "DAVIS 2017")
    images = _resolution(source.root / "JPEGImages")
    if images is None:
        raise UserError(f"{source.root}: no sequences: {source.root / 'JPEGImages' / '480p'} is missing")
    annotations = source.root / "Annotations" / images.name
    if not is_folder(annotations) and is_folder(other := source.root / "Annotations_unsupervised" / images.name):
        annotations = other
    listing: Listing = []
    for split, path in lists.items():
        for number, name in _lines(path):
            if "/" in name or name in (".", ".."):
                raise UserError(f"{path}: line {number} is not a sequence's name: {name}")
            blank = Sequence(source.dataset, split, name, (), void=255)
            listing.append((blank, partial(_fill17, images / name, annotations / name)))
    _check_names(source.root, lists, [(blank.split, blank.name) for blank, _ in listing])
    return [entry for entry in listing if source.split in (None, entry[0].split)]


def _fill16(listed: list[tuple[str, Path, Path]], blank: Sequence) -> Sequence:
    for where, image, annotation in listed:
        for kind, file in (("image", image), ("annotation", annotation)):
            if not is_file(file):
                raise UserError(f"{file}: {kind} missing, though {where} lists it")
    return replace(blank, frames=frames_of((image, annotation) for _, image, annotation in listed))


def _fill17(images: Path, annotations: Path, blank: Sequence) -> Sequence:
    promised = not blank.split.startswith("test")
    masks = files(annotations) if promised or is_folder(annotations) else []
    frames = frames_of(match(some(images, pictures(images)), [mask for mask in masks if mask.suffix.lower() == ".png"]))
    for frame in frames:
        if promised and frame.annotation is None:
            raise UserError(f"{annotations / frame.name}.png: annotation missing: every frame of {blank.split} has one")
    return replace(blank, frames=frames)


def _lists(source: Source, folder: Path, splits: tuple[str, ...], release: str) -> Mapping[str, Path]:
    """The list of each split that there is; UserError where the one asked for, or all, are missing."""
    root = source.root
    if not is_folder(root / "JPEGImages"):
        raise UserError(f"{root}: no sequences: it has no JPEGImages, so this is no folder in {release}'s layout")
    if source.split not in (None, *splits):
        raise UserError(f"{root}: {release} has no split {source.split!r}: one of {', '.join(splits)}")
    lists = {split: root / folder / f"{split}.txt" for split in splits}
    found = {split: path for split, path in lists.items() if is_file(path)}
    if not found:
        raise UserError(f"{root}: {' and '.join(map(str, lists.values()))} are missing: at least one is needed")
    if source.split is not None and source.split not in found:
        raise UserError(f"{lists[source.split]}: missing, so split {source.split!r} is unknown: put the list there")
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped, with their numbers from 1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list ({error})") from None
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _check_names(root: Path, lists: Mapping[str, Path], listed: list[tuple[str, str]]) -> None:
    """listed: (split, sequence)."""
    if not listed:
        raise UserError(f"{root}: no sequences: {' and '.join(map(str, lists.values()))} list none")
    seen: dict[str, str] = {}
    for split, name in listed:
        if name in seen:
            first, second = lists[seen[name]].name, lists[split].name
            where = f"in both {first} and {second}" if first != second else f"twice in {first}"
            raise UserError(f"{root}: sequence {name!r} is {where}: take it out of one place")
        seen[name] = split


def _resolution(folder: Path) -> Path | None:
    return next((found for size in ("480p", "Full-Resolution") if is_folder(found := folder / size)), None)
