"""FBMS-59: sequences of which some frames are annotated, as released and as commonly converted."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from rtnet.data.layouts.folders import (
    files,
    frames_of,
    is_folder,
    match,
    number_of,
    pictures,
    some,
    subfolders,
)
from rtnet.data.layouts.manifest import Listing, Sequence, Source
from rtnet.errors import UserError

_FOLDERS = {"train": "Trainingset", "test": "Testset"}
_TEST = frozenset(
    {"camel01", "cars1", "cars10", "cars4", "cars5", "cats01", "cats03", "cats06", "dogs01", "dogs02", "farm01"}
    | {"giraffes01", "goats01", "horses02", "horses04", "horses05", "lion01", "marple12", "marple2", "marple4"}
    | {"marple6", "marple7", "marple9", "people03", "people1", "people2", "rabbits02", "rabbits03", "rabbits04"}
    | {"tennis"}
)
# Regions that those who score FBMS count as background beside region 0.
_STILL_REGIONS = {"marple2": (2, 4), "marple7": (2,), "marple10": (2,), "marple13": (2,)}
_WHITE, _BLACK = 0xFFFFFF, 0


def list_fbms59(source: Source) -> Listing:
    """Trainingset/SEQUENCE and Testset/SEQUENCE, split "train" and "test", with SEQUENCE/GroundTruth as released.

    Or JPEGImages/SEQUENCE and Annotations/SEQUENCE (PNG, the object not black), as commonly converted, where the
    sequence's name tells its split. An annotation belongs to the frame of its number, the last in both names. All
    moving regions together are the object. Frames without annotation have none; an annotation without a frame is a
    fault. Raises UserError where the folder is of neither form.
    """
    root = source.root
    if source.split not in (None, *_FOLDERS):
        raise UserError(f"{root}: FBMS-59 has no split {source.split!r}: one of {', '.join(_FOLDERS)}")
    there = {split: root / folder for split, folder in _FOLDERS.items() if is_folder(root / folder)}
    if there:
        if source.split is not None and source.split not in there:
            raise UserError(f"{root / _FOLDERS[source.split]}: no such folder, so there is no split {source.split!r}")
        return [
            (Sequence(source.dataset, split, folder.name, ()), partial(_released, folder))
            for split, set_folder in there.items()
            for folder in subfolders(set_folder)
            if source.split in (None, split)
        ]
    if not is_folder(root / "JPEGImages"):
        raise UserError(f"{root}: neither Trainingset and Testset nor JPEGImages are there: no folder of FBMS-59")
    listing: Listing = []
    for folder in subfolders(root / "JPEGImages"):
        split = "test" if folder.name in _TEST else "train"
        if source.split in (None, split):
            blank = Sequence(source.dataset, split, folder.name, ())
            listing.append((blank, partial(_converted, folder, root / "Annotations" / folder.name)))
    return listing


def _released(folder: Path, blank: Sequence) -> Sequence:
    images, truth = some(folder, pictures(folder)), folder / "GroundTruth"
    beside = files(truth) if is_folder(truth) else []
    form, annotations = _annotations(beside)
    frames = frames_of(match(images, annotations, number_of))
    if form not in (".ppm", ".pgm"):
        return replace(blank, frames=frames)
    definition = next((path for path in beside if path.name.lower().endswith("def.dat")), None)
    background = _background(definition, blank.name) or (_WHITE if form == ".ppm" else _BLACK,)
    return replace(blank, frames=frames, background=background)


def _converted(images: Path, annotations: Path, blank: Sequence) -> Sequence:
    masks = pictures(annotations) if is_folder(annotations) else []
    return replace(blank, frames=frames_of(match(some(images, pictures(images)), masks, number_of)))


def _annotations(beside: list[Path]) -> tuple[str, list[Path]]:
    """The annotations' form and files. PROB files, beside some of the release's, are no annotations."""
    for form in (".ppm", ".pgm", ".png"):
        if found := [path for path in beside if path.suffix.lower() == form and "PROB" not in path.stem]:
            return form, found
    return "", []


def _background(definition: Path | None, sequence: str) -> tuple[int, ...] | None:
    """The background's grey levels or colours by the sequence's Def.dat: a number for each region, 0 the background."""
    if definition is None:
        return None
    try:
        text = definition.read_text(encoding="latin-1")
    except OSError as error:
        raise UserError(f"{definition}: cannot be read ({error.strerror})") from None
    scales = {int(region): int(scale) for region, scale in re.findall(r"Scale of region (\d+):?\s+(\d+)", text, re.I)}
    if 0 not in scales:
        raise UserError(f"{definition}: does not say 'Scale of region 0': copy the release's file again")
    return tuple(scales[region] for region in (0, *_STILL_REGIONS.get(sequence, ())) if region in scales)
