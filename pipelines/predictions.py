"""The folder that `predict` fills and `evaluate` reads.

OUTPUT/maps/SEQUENCE/FRAME.png       the map, grey: round(255 p)
OUTPUT/masks/SEQUENCE/FRAME.png      0 and 255
OUTPUT/overlays/SEQUENCE/FRAME.jpg   of some frames
OUTPUT/statistics/SEQUENCE.parquet   a row of numbers for each frame (frame_statistics.py)
OUTPUT/predictions.json              the index: what made them, and the sequences that are whole; one is named
                                     after its last file is written
"""

import json
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from pipelines.config import Experiment
from pipelines.frame_statistics import as_parquet
from pipelines.storage import absolute, open_storage, read_json, write_whole
from rtnet.errors import UserError

INDEX = "predictions.json"


@dataclass(frozen=True)
class Predictions:
    """One output folder or URI. One process, the driver, writes its index."""

    uri: str

    @staticmethod
    def of(experiment: Experiment) -> "Predictions":
        """Where the experiment's predictions lie."""
        default = f"{experiment.storage}/{experiment.name}/predictions"
        return Predictions(absolute(experiment.prediction.output or default))

    def index(self) -> dict[str, Any] | None:
        """The index, or None where there is none.

        {"made_by", "model", "dataset": digest or None, "sequences": {name: {"frames", "stamp", "bytes": of all maps and
        masks}}, "skipped": {name: reason}, "complete": whether all that was asked for last is there}
        """
        system, root = open_storage(self.uri)
        if system.get_file_info(f"{root}/{INDEX}").type != fs.FileType.File:
            return None
        return read_json(system, f"{root}/{INDEX}")

    def claim(
        self, made_by: dict[str, Any], model: dict[str, str], dataset: str | None, stamps: dict[str, str]
    ) -> set[str]:
        """The sequences that are whole. Begins the index where there is none.

        made_by: all that decides the results but the sequences' content, flat. model: where it came from, which does
        not. stamps: of the content of each sequence that is asked for; one whose content has changed, or that has lost
        files, isn't whole. Raises UserError naming a difference to what was begun here before, or what has changed.
        """
        before = self.index() or {"made_by": made_by, "sequences": {}}
        for key in sorted(made_by.keys() | before["made_by"].keys()):
            old, new = before["made_by"].get(key), made_by.get(key)
            if old != new:
                if key == "model.digest":
                    old, new = before["model"]["uri"], f"{model['uri']}, another file"
                raise UserError(
                    f"{self.uri} holds predictions made with {key} {old}, now asked for with {new}: "
                    "give another prediction.output, or delete that folder"
                )
        kept = {name: e for name, e in before["sequences"].items() if stamps.get(name, e["stamp"]) == e["stamp"]}
        there = self._there() if kept.keys() & stamps.keys() else {}
        for name in sorted(kept.keys() & stamps.keys()):
            files, size = there.get(name, (0, 0))
            if files < 2 * kept[name]["frames"]:
                print(f"{self.uri}: '{name}' has lost {2 * kept[name]['frames'] - files} files and is made anew")
                del kept[name]
            elif (files, size) != (2 * kept[name]["frames"], kept[name]["bytes"]):
                raise UserError(
                    f"{self.uri}: maps or masks of '{name}' were changed since they were predicted: move changed ones "
                    f"to a folder of their own and delete {self.uri}/masks/{name}, to have it made anew, or give "
                    "another prediction.output"
                )
        whole = stamps.keys() <= kept.keys()
        model = before.get("model", model)
        index = {"made_by": made_by, "model": model, "dataset": dataset, "sequences": kept, "skipped": {}}
        if not whole or index | {"complete": True} != before:
            self._write(index | {"complete": False})
        return set(kept)

    def add(self, sequence: str, stamp: str, rows: list[dict[str, Any]]) -> None:
        """Names a sequence whose other files are all written. rows: those of `frame_statistics`."""
        index = self.index()
        assert index is not None
        system, root = open_storage(self.uri)
        write_whole(system, f"{root}/statistics/{sequence}.parquet", as_parquet(rows))
        entry = {"frames": len(rows), "stamp": stamp, "bytes": sum(row["bytes"] for row in rows)}
        self._write(index | {"sequences": index["sequences"] | {sequence: entry}})

    def complete(self, skipped: dict[str, str]) -> None:
        """Says that all sequences are there, but those skipped."""
        index = self.index()
        assert index is not None
        if not index["complete"]:
            self._write(index | {"complete": True, "skipped": skipped})

    def _there(self) -> dict[str, tuple[int, int]]:
        """{sequence: (files, bytes)} of the maps and masks."""
        system, root = open_storage(self.uri)
        found: dict[str, tuple[int, int]] = {}
        for folder in (f"{root}/maps", f"{root}/masks"):
            for info in system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True)):
                if info.type == fs.FileType.File:
                    name = info.path.removeprefix(f"{folder}/").rpartition("/")[0]
                    files, size = found.get(name, (0, 0))
                    found[name] = (files + 1, size + info.size)
        return found

    def _write(self, index: dict[str, Any]) -> None:
        system, root = open_storage(self.uri)
        try:
            write_whole(system, f"{root}/{INDEX}", json.dumps(index, indent=2, sort_keys=True).encode())
        except OSError as error:
            raise UserError(f"prediction.output {self.uri} can't be written: {error}") from error
