"""What there is to predict, in units that an actor takes: sequences of files whole, those of a dataset in pieces."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.preparer import estimator_name
from pipelines.sections import Flow
from pipelines.sources import flow_of, read_sources
from pipelines.storage import absolute
from rtnet.data.layouts import Sequence
from rtnet.data.prediction_pairs import PairRule
from rtnet.errors import UserError

_FRAMES_PER_UNIT = 64


@dataclass(frozen=True)
class Unit:
    """The places start..stop-1 of a sequence, whose frames are called `names`."""

    sequence: str
    start: int
    stop: int
    names: tuple[str, ...]
    rule: PairRule
    shown: frozenset[int]  # places whose overlays are written
    stamp: str  # of the whole sequence: changes with whatever decides its maps but the model and options
    first: int = 0  # the place of the first frame that is read
    rows: np.ndarray | None = None  # int64 (frames that are read, views): rows of the dataset, or
    source: Sequence | None = None  # the files, and
    flow: Flow | None = None  # how their flow is computed


def units_of(experiment: Experiment) -> tuple[list[Unit], dict[str, str]]:
    """(units, {sequence: what is wrong with its files}). Raises UserError where there is nothing to predict."""
    if experiment.prediction.input == "dataset":
        return _of_dataset(experiment, Dataset(absolute(experiment.data.dataset))), {}
    return _of_files(experiment)


def pair_rule(experiment: Experiment) -> PairRule:
    options = experiment.prediction
    return PairRule(experiment.training.reach, options.partners, options.both, experiment.seed)


def _of_dataset(experiment: Experiment, dataset: Dataset) -> list[Unit]:
    options = experiment.prediction
    rows = _rows_of_views(dataset, options.split, list(options.views))  # (frames, views)
    names, frames = dataset.column("sequence")[rows[:, 0]], dataset.column("name")[rows[:, 0]]
    owners = dataset.column("dataset")[rows[:, 0]]
    _refuse_one_name_for_two(dict(zip(zip(owners, names, strict=True), names, strict=True)), dataset.uri)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    units = []
    for begin, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        own = rows[begin:end]
        rule = _of_stills(pair_rule(experiment)) if dataset.column("still")[own[0, 0]] else pair_rule(experiment)
        stamp = _digest([str(digest) for digest in dataset.column("digest")[own].ravel()])
        step = -(-_FRAMES_PER_UNIT // rule.block) * rule.block
        for start in range(0, len(own), step):
            stop = min(start + step, len(own))
            first, last = max(start - rule.behind, 0), min(stop + rule.ahead, len(own))
            units.append(
                Unit(
                    sequence=str(names[begin]),
                    start=start,
                    stop=stop,
                    names=tuple(str(name) for name in frames[begin + start : begin + stop]),
                    rule=rule,
                    shown=_evenly(len(own), options.overlays),
                    stamp=stamp,
                    first=first,
                    rows=own[first:last],
                )
            )
    return units


def _of_files(experiment: Experiment) -> tuple[list[Unit], dict[str, str]]:
    options = experiment.prediction
    found = read_sources(experiment)
    wanted = [sequence for sequence in found if sequence.split == options.split]
    if not wanted:
        splits = ", ".join(sorted({sequence.split for sequence in found}))
        raise UserError(f"no sequences in split '{options.split}'; there are some in {splits}: set prediction.split")
    _refuse_one_name_for_two({(s.dataset, s.name): s.name for s in wanted}, "data.sources")
    units, faults = [], {}
    for sequence in wanted:
        flow = flow_of(experiment, sequence.dataset)
        if flow.estimator == "files":
            raise UserError(
                f"data.sources.{sequence.dataset}: prediction.input=sources computes flow and reads none from files: "
                "set flow.estimator, or prepare a dataset"
            )
        if sequence.fault:
            faults[sequence.name] = sequence.fault
            continue
        rule = _of_stills(pair_rule(experiment)) if sequence.kind == "stills" else pair_rule(experiment)
        count = len(sequence.frames)
        units.append(
            Unit(
                sequence=sequence.name,
                start=0,
                stop=count,
                names=tuple(frame.name for frame in sequence.frames),
                rule=rule,
                shown=_evenly(count, options.overlays),
                stamp=_stamp_of_files(sequence, flow),
                source=sequence,
                flow=flow,
            )
        )
    return units, faults


def _rows_of_views(dataset: Dataset, split: str, views: list[str]) -> np.ndarray:
    """int64 (frames, views), sequences together and in frame order."""
    rows = dataset.rows(split, views=views)
    number = np.array([views.index(view) for view in dataset.column("view")[rows]])
    if len(views) == 1:
        return rows[:, None]
    columns = [rows[number == view] for view in range(len(views))]
    if len({len(column) for column in columns}) > 1:
        raise UserError(
            f"dataset {dataset.uri}: not every frame of split '{split}' has the views {', '.join(views)}: "
            "set prediction.views to as_is"
        )
    return np.stack(columns, axis=1)


def _of_stills(rule: PairRule) -> PairRule:
    """Each by itself."""
    return replace(rule, reach=0, partners=1, both=False)


def _evenly(count: int, wanted: int) -> frozenset[int]:
    wanted = min(wanted, count)
    return frozenset(int(place) for place in np.linspace(0, count - 1, wanted + 2).round()[1:-1])


def _refuse_one_name_for_two(owners: dict[tuple[str, str], str], where: str) -> None:
    """Maps lie in SEQUENCE/FRAME.png: two datasets' sequences of one name would overwrite one another."""
    for name, times in Counter(owners.values()).items():
        if times > 1:
            both = " and ".join(dataset for dataset, other in owners if other == name)
            raise UserError(
                f"{where}: {both} have each a sequence '{name}' in this split, and its maps one folder: "
                "predict them by two recipes"
            )


def _stamp_of_files(sequence: Sequence, flow: Flow) -> str:
    files = dict.fromkeys(frame.image for frame in sequence.frames)
    facts = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}: each frame's file must be there and readable") from None
        facts.append([file.name, status.st_size, status.st_mtime_ns])
    estimator = "" if sequence.kind == "stills" else estimator_name(flow)
    return _digest([estimator, [frame.name for frame in sequence.frames], facts])


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
