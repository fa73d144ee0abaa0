"""Dataset folders -> a manifest of annotated frames."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rtnet.errors import UserError

_SPLITS = ("train", "val")
# A sequence's name may hold spaces, so a line is cut where its second path begins and not at every space.
_LINE = re.compile(r"/?(?P<image>JPEGImages/\S.*?)\s+/?(?P<annotation>Annotations/\S.*)")


@dataclass(frozen=True)
class Frame:
    """One frame: its number within the sequence, the name (file stem) its files share, and where they lie."""

    number: int
    name: str
    image: Path
    annotation: Path | None


@dataclass(frozen=True)
class Sequence:
    """An annotated video: its frames ordered by number, which is the file stem's where all stems are integers."""

    dataset: str
    split: str
    name: str
    frames: tuple[Frame, ...]


def davis16(root: Path, sequences: Iterable[str] | None = None) -> list[Sequence]:
    """The sequences of a folder in DAVIS 2016's official layout, at 480p.

    root: holds JPEGImages/480p, Annotations/480p and ImageSets/480p with train.txt, val.txt or both; other lists
    there are ignored. Nothing is decoded, but every listed file must exist.
    sequences: only those of these names, in the lists' order; None for all.
    Raises UserError, naming the culprit, for a missing folder, list or file, a line that is not an image and an
    annotation, a frame or a sequence listed twice, and a name that is not there.
    """
    root = Path(root)
    lists = [(split, root / "ImageSets" / "480p" / f"{split}.txt") for split in _SPLITS]
    _check_folders(root, [path for _, path in lists])
    found: dict[tuple[str, str], list[tuple[Path, Path]]] = {}
    for split, path in lists:
        if path.is_file():
            for name, files in _listed_frames(root, path):
                found.setdefault((split, name), []).append(files)
    if not found:
        raise UserError(f"{root}: no sequences: {' and '.join(str(path) for _, path in lists)} list no frames")
    names = [name for _, name in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{root}: sequence {twice[0]!r} is in both train.txt and val.txt: take it out of one")
    wanted = _wanted(root, names, sequences)
    return [
        Sequence("davis16", split, name, _frames(name, files))
        for (split, name), files in found.items()
        if name in wanted
    ]


def _check_folders(root: Path, lists: list[Path]) -> None:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give the folder that holds JPEGImages, Annotations and ImageSets")
    images = root / "JPEGImages" / "480p"
    if not images.is_dir():
        raise UserError(f"{root}: no sequences: {images} is missing, so this is no folder in DAVIS 2016's layout")
    if not any(path.is_file() for path in lists):
        raise UserError(f"{root}: {' and '.join(str(path) for path in lists)} are missing: at least one is needed")


def _listed_frames(root: Path, path: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """(sequence, (image, annotation)) of every line that is not blank."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UserError(f"{path}: line {number} is not the path of an image and of its annotation: {line.strip()}")
        image, annotation = root / match["image"], root / match["annotation"]
        for kind, file in (("image", image), ("annotation", annotation)):
            if not file.is_file():
                raise UserError(f"{file}: {kind} missing, though line {number} of {path} lists it")
        yield image.parent.name, (image, annotation)


def _wanted(root: Path, names: list[str], sequences: Iterable[str] | None) -> set[str]:
    if sequences is None:
        return set(names)
    wanted = list(sequences)
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(f"{root}: no sequence {unknown[0]!r}: there are {', '.join(sorted(names))}")
    return set(wanted)


def _frames(sequence: str, files: list[tuple[Path, Path]]) -> tuple[Frame, ...]:
    numbered = all(re.fullmatch("[0-9]+", image.stem) for image, _ in files)
    frames: dict[int, Frame] = {}
    names: set[str] = set()
    for position, (image, annotation) in enumerate(files):
        number = int(image.stem) if numbered else position
        if number in frames or image.stem in names:
            raise UserError(f"{image}: sequence {sequence!r} lists this frame twice: keep one line of each")
        frames[number] = Frame(number, image.stem, image, annotation)
        names.add(image.stem)
    return tuple(frames[number] for number in sorted(frames))
