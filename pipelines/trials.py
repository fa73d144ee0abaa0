"""A sweep's folder, STORAGE/SWEEP: what is known of its trials, which is what makes it continue where it was.

sweep.json              the settings that decide the trials; the sweep continues with the same ones only
tracking.json           its MLflow run
trials/NAME.json        one trial: its overrides, what it reported, how it ended
trials.csv, parallel_coordinates.png
finished.json           written when the best trial is registered
The trials' own run folders lie beside it.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Literal

from pyarrow import fs

from pipelines.storage import open_storage, read_json, write_whole
from pipelines.sweep import Overrides
from rtnet.errors import UserError

Outcome = Literal["begun", "finished", "stopped", "failed"]
Report = dict[str, float]
LAST_EPOCH = "last_epoch"  # in the report of a finished trial, whose "epoch" is the best


@dataclass
class Trial:
    """What is known of one trial; `stopped` means early, by the scheduler."""

    name: str
    overrides: Overrides
    outcome: Outcome = "begun"
    reason: str = ""
    """Why it failed, in one line."""
    seconds: float = 0.0
    reports: list[Report] = field(default_factory=list)
    """The measures of its validated epochs, in order; where it is finished, the last entry is its best epoch's."""

    @property
    def ended(self) -> bool:
        return self.outcome != "begun"

    @property
    def epochs(self) -> float:
        """So many are known to be trained."""
        return max((report.get(LAST_EPOCH, report["epoch"]) for report in self.reports), default=0)

    def best(self, metric: str) -> Report:
        """The measures of its best epoch; none where it has reported nothing."""
        if self.outcome == "finished":
            return self.reports[-1]
        return max(self.reports, key=lambda report: report[metric], default={})


@dataclass(frozen=True)
class SweepFolder:
    uri: str

    def trials(self) -> list[Trial]:
        """All trials that were begun, in the order of their names."""
        system, root = open_storage(f"{self.uri}/trials")
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        paths = sorted(info.path for info in found if info.path.endswith(".json"))
        return [Trial(**read_json(system, path)) for path in paths]

    def keep(self, trial: Trial) -> None:
        """Writes down what is known of a trial."""
        self.write(f"trials/{trial.name}.json", json.dumps(asdict(trial), indent=1).encode())

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole; `name` may hold folders."""
        system, root = open_storage(self.uri)
        write_whole(system, f"{root}/{name}", data)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file; empty where there is none."""
        system, root = open_storage(self.uri)
        path = f"{root}/{name}"
        return read_json(system, path) if system.get_file_info(path).type == fs.FileType.File else {}

    def refuse_other_settings(self, now: Mapping[str, Any]) -> None:
        """UserError where a sweep was begun here with others, or a run lies here."""
        before = self.read("sweep.json")
        if not before and self.read("recipe.json"):
            raise UserError(f"{self.uri} is the folder of a run: give the sweep another name")
        changed = [key for key in sorted(before.keys() | now) if before.get(key) != now.get(key)]
        if before and changed:
            raise UserError(
                f"sweep {self.uri} was begun with {changed[0]} = {before.get(changed[0])}, now it is "
                f"{now.get(changed[0])}: give the sweep another name, or delete that folder and its trials'"
            )

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Keeps the settings of a sweep whose trials now begin."""
        self.write("sweep.json", json.dumps(settings, indent=2).encode())


def table(trials: Sequence[Trial], metric: str) -> list[dict[str, Any]]:
    """One row for each trial, the best first and those without a score last."""
    measures = dict.fromkeys([metric, "validation/J", "validation/F"])
    rows = []
    for trial in sorted(trials, key=lambda trial: (-trial.best(metric).get(metric, -inf), trial.name)):
        best = trial.best(metric)
        row = {"trial": trial.name, **trial.overrides} | {measure: best.get(measure) for measure in measures}
        row |= {"best epoch": _whole(best.get("epoch")), "epochs": _whole(trial.epochs)}
        rows.append(row | {"seconds": round(trial.seconds), "outcome": trial.outcome, "reason": trial.reason})
    return rows


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns, numbers to the right."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [isinstance(value, str) for value in rows[0].values()]
    return "\n".join(
        "  ".join(
            c.ljust(w) if at_left else c.rjust(w) for c, w, at_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """In full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
