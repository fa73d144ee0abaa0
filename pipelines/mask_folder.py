"""A folder of masks or maps, SEQUENCE/FRAME.png or .jpg, and whether it is whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pyarrow import fs

from pipelines.config import Experiment
from pipelines.predictions import INDEX, Predictions
from pipelines.storage import absolute, open_storage
from rtnet.data.layouts import Sequence
from rtnet.data.layouts.folders import PICTURES
from rtnet.errors import UserError

_ENDINGS = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Folders:
    """Where the masks lie and, if they are there, the maps that go with them."""

    masks: str
    maps: str | None
    model: Mapping[str, str] = field(default_factory=dict)
    """What made them, as `predict` says it in the folder; empty where it does not."""
    dataset: str | None = None
    """Likewise the digest of the dataset."""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """Likewise the options, and all else but the model that decides the masks."""
    statistics: str | None = None
    """Where `predict` keeps each sequence's numbers, of which the files' digests are some; None of other masks."""


def find_folders(experiment: Experiment) -> Folders:
    """The masks named or, by default, predicted; UserError where the prediction is not finished."""
    masks = absolute(experiment.evaluation.masks or f"{Predictions.of(experiment).uri}/masks").rstrip("/")
    parent, name = masks.rsplit("/", 1)
    index = Predictions(parent).index() if name == "masks" else None
    if index is None and experiment.evaluation.masks is None:
        raise UserError(f"no predictions in {parent}: run `rtnet predict` first, or name a folder in evaluation.masks")
    if index is not None and not index["complete"]:
        raise UserError(f"{parent}/{INDEX}: the predictions are not finished: run the same `rtnet predict` again")
    if not _is_folder(masks):
        raise UserError(f"{masks}: no such folder of masks: set evaluation.masks")
    maps = f"{parent}/maps" if name == "masks" and _is_folder(f"{parent}/maps") else None
    if index is None:
        return Folders(masks, maps)
    made_with = {name: value for name, value in index["made_by"].items() if name != "model.digest"}
    return Folders(masks, maps, index["model"], index["dataset"], made_with, f"{parent}/statistics")


def list_masks(folder: str, sequences: Iterable[Sequence], chosen: bool) -> dict[tuple[str, str], str]:
    """The file of each annotated frame, by (sequence, frame), as a path within the folder.

    chosen: the recipe names the sequences, so the folder may hold others. Raises UserError where an annotated frame has
    no file, or two, and where a file belongs to no frame; frames without annotation may have one.
    """
    needed = {(s.name, frame.name) for s in sequences for frame in s.frames if frame.annotation}
    known = {(s.name, frame.name) for s in sequences for frame in s.frames}
    names = {sequence for sequence, _ in known}
    found: dict[tuple[str, str], str] = {}
    extra = []
    for path in sorted(_files(folder)):
        sequence, _, file = path.partition("/")
        if chosen and sequence not in names:
            continue
        ending, key = PurePath(path).suffix.lower(), (sequence, file.rpartition(".")[0])
        if ending not in PICTURES:  # a README, a system's thumbnails
            continue
        if key not in known or ending not in _ENDINGS:
            extra.append(path)
        elif key in found:
            raise UserError(f"{folder}/{path} is a second mask of one frame beside {found[key]}: keep one of them")
        else:
            found[key] = path
    if missing := sorted(needed - found.keys()):
        file = "/".join(missing[0])
        raise UserError(f"{folder}/{file}.png is missing{_and_more(missing)}: every annotated frame needs its mask")
    if extra:
        raise UserError(f"{folder}/{extra[0]} belongs to no frame{_and_more(extra)}: take it out of the folder")
    return {key: found[key] for key in needed}


def _files(folder: str) -> set[str]:
    """Paths of the visible files within the folder."""
    system, root = open_storage(folder)
    infos = system.get_file_info(fs.FileSelector(root, recursive=True))
    paths = {info.path[len(root) :].lstrip("/") for info in infos if info.type == fs.FileType.File}
    return {path for path in paths if not path.rsplit("/", 1)[-1].startswith(".")}


def _is_folder(uri: str) -> bool:
    system, path = open_storage(uri)
    return bool(system.get_file_info(path).type == fs.FileType.Directory)


def _and_more(listed: list[Any]) -> str:
    return f", and {len(listed) - 1} more" if len(listed) > 1 else ""
