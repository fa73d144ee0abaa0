"""Folders of pictures: what lies there, in which order, and which annotation belongs to which frame."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Items
from pathlib import Path

from rtnet.data.layouts.manifest import Frame
from rtnet.errors import UserError

PICTURES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
_IGNORED = frozenset({"@eadir", "__macosx", "thumbs.db", "desktop.ini"})


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder in natural order; UserError where it cannot be read."""
    return [path for path in files(folder) if path.suffix.lower() in PICTURES]


def files(folder: Path) -> list[Path]:
    """The visible files of a folder in natural order; UserError where it cannot be read or a link leads nowhere."""
    return _entries(folder, folders=False)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders within a folder in natural order; UserError where it cannot be read."""
    return _entries(folder, folders=True)


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key: digits by their value, so that frame2 comes before frame10."""
    parts: list[str | int] = list(re.split("([0-9]+)", name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def is_folder(path: Path) -> bool:
    """Whether there is a folder; UserError where a parent may not be entered."""
    return _asked(path, path.is_dir)


def is_file(path: Path) -> bool:
    """Whether there is a file; UserError where a parent may not be entered."""
    return _asked(path, path.is_file)


def number_of(path: Path) -> int:
    """The last integer in a file's stem, such as 12 of bear01_0012_gt.ppm; UserError where there is none."""
    digits = re.findall("[0-9]+", path.stem)
    if not digits:
        raise UserError(f"{path}: no frame number in this name: name it as the release does")
    return int(digits[-1])


def stem_of(path: Path) -> str:
    """What files of one frame share where they are named alike."""
    return path.stem


def match(
    images: Items[Path], annotations: Items[Path], key: Callable[[Path], str | int] = stem_of
) -> list[tuple[Path, Path | None]]:
    """Every image with its annotation, which is the one of the same key, or None.

    Raises UserError for two annotations of one frame, for two frames of one annotation, and for an annotation of no
    frame: a folder of the wrong sequence, or another way of numbering, must not pass as a sequence without annotations.
    """
    if not annotations:
        return [(image, None) for image in images]
    masks: dict[str | int, Path] = {}
    for path in annotations:
        if (other := masks.setdefault(key(path), path)) != path:
            raise UserError(f"{path}: a second annotation of one frame beside {other.name}: keep one of them")
    frames: dict[str | int, Path] = {}
    for path in images:
        if (other := frames.setdefault(key(path), path)) != path:
            raise UserError(f"{path}: a second picture of one frame beside {other.name}: keep one of them")
    if alone := [mask for its, mask in masks.items() if its not in frames]:
        raise UserError(f"{alone[0]}: an annotation without its frame: remove it or add the frame")
    return [(image, masks.get(its)) for its, image in frames.items()]


def frames_of(matched: Iterable[tuple[Path, Path | None]]) -> tuple[Frame, ...]:
    """Frames from (image, annotation): by the stems' values where all are integers, else numbered as they come.

    Raises UserError for two pictures of one frame.
    """
    listed = list(matched)
    numbered = all(re.fullmatch("[0-9]+", image.stem) for image, _ in listed)
    frames: dict[int, Frame] = {}
    names: set[str] = set()
    for place, (image, annotation) in enumerate(listed):
        number = int(image.stem) if numbered else place
        if number in frames or image.stem in names:
            raise UserError(f"{image}: frame {image.stem!r} is there twice: keep one picture of it")
        frames[number] = Frame(number, image.stem, image, annotation)
        names.add(image.stem)
    return tuple(frames[number] for number in sorted(frames))


def some(folder: Path, found: list[Path]) -> list[Path]:
    """The same pictures; UserError where there are none."""
    if not found:
        raise UserError(f"{folder}: holds no pictures: put the sequence's frames there or take the folder away")
    return found


def _asked(path: Path, question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError as error:
        raise UserError(_unreadable(path, error)) from None


def _entries(folder: Path, folders: bool) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = list(_wanted(entries, folders))
    except FileNotFoundError:
        raise UserError(f"{folder}: no such folder") from None
    except NotADirectoryError:
        raise UserError(f"{folder}: not a folder") from None
    except OSError as error:
        raise UserError(_unreadable(folder, error)) from None
    return [folder / name for name in sorted(names, key=natural)]


def _wanted(entries: Iterable[os.DirEntry[str]], folders: bool) -> Iterator[str]:
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _IGNORED:
            continue
        is_folder = entry.is_dir()
        if not is_folder and entry.is_symlink() and not entry.is_file():
            raise UserError(f"{entry.path}: a link that leads nowhere: mend or remove it")
        if is_folder if folders else entry.is_file():
            yield entry.name


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read ({error.strerror}): allow it or leave it out"
