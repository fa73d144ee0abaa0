"""A run's folder, STORAGE/NAME: what makes a training continue where it was.

recipe.json                   the settings that decide the result; a run continues with the same ones only
epoch-0003/checkpoint.pt      the state after an epoch; 0 is before the first step
steps/000000123.pt            the state after so many steps, within an epoch; the newest only
measured/0003.json            an epoch's losses, scores and rates; written before its checkpoint
measured/0003/*.jpg           its validation pictures
measured/0003.tracked         all of that is in the tracked run
stopped.txt                   why a rank stopped it though no machine failed; until it is begun again
finished.json                 written when the model is registered
"""

import io
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyarrow import fs

from pipelines.config import Experiment
from pipelines.storage import absolute, open_storage, read_bytes, write_whole
from rtnet.errors import UserError

STOPPED = "stopped.txt"
DECISIVE = ("model", "training", "validation")


@dataclass(frozen=True)
class RunFolder:
    uri: str

    @staticmethod
    def of(experiment: Experiment) -> "RunFolder":
        return RunFolder(f"{absolute(experiment.storage)}/{experiment.name}")

    @cached_property
    def place(self) -> tuple[fs.FileSystem, str]:
        """The file system and the folder's path on it."""
        return open_storage(self.uri)

    def epochs(self) -> list[int]:
        """The epochs with a whole checkpoint, rising; epoch 0 is the state before the first step."""
        return sorted(
            int(path.split("/")[0].removeprefix("epoch-"))
            for path in self._files("")
            if path.startswith("epoch-") and path.endswith("/checkpoint.pt")
        )

    def steps(self) -> list[int]:
        """After how many steps there are checkpoints within an epoch, rising."""
        return sorted(int(path.removesuffix(".pt")) for path in self._files("steps") if path.endswith(".pt"))

    def furthest(self) -> tuple[int, int]:
        """The newest whole epoch, and the newest number of steps within one; 0 where there is none."""
        return max(self.epochs(), default=0), max(self.steps(), default=0)

    def checkpoint(self, epoch: int) -> str:
        """Path of an epoch's checkpoint on the folder's file system."""
        return f"{self.place[1]}/epoch-{epoch:04d}/checkpoint.pt"

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole; `name` may hold folders."""
        system, root = self.place
        write_whole(system, f"{root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        system, root = self.place
        if system.get_file_info(f"{root}/{name}").type != fs.FileType.File:
            return None
        return read_bytes(system, f"{root}/{name}")

    def delete(self, name: str) -> None:
        system, root = self.place
        system.delete_file(f"{root}/{name}")

    def write_epoch(self, epoch: int, state: dict[str, Any]) -> None:
        """An epoch's state, its last file; what lay within the epoch is not needed any more."""
        self._write_state(self.checkpoint(epoch), state)
        self._forget_steps(before=None)

    def write_step(self, steps: int, state: dict[str, Any]) -> None:
        """The state after `steps` steps, within an epoch; replaces the one before."""
        self._write_state(f"{self.place[1]}/steps/{steps:09d}.pt", state)
        self._forget_steps(before=steps)

    def read_epoch(self, epoch: int) -> dict[str, Any]:
        """What `write_epoch` wrote; UserError naming the file where it is damaged."""
        return self._read_state(self.checkpoint(epoch))

    def newest(self, steps_per_epoch: int) -> dict[str, Any]:
        """The state that is furthest on, of an epoch or within one."""
        epoch, steps = self.epochs()[-1], self.steps()
        if steps and steps[-1] > epoch * steps_per_epoch:
            return self._read_state(f"{self.place[1]}/steps/{steps[-1]:09d}.pt")
        return self.read_epoch(epoch)

    def write_measured(self, epoch: int, measured: dict[str, Any], pictures: dict[str, bytes]) -> None:
        for picture, data in pictures.items():
            self.write(f"measured/{epoch:04d}/{picture}", data)
        self.write(f"measured/{epoch:04d}.json", json.dumps(measured).encode())

    def measured(self, epoch: int) -> dict[str, Any]:
        """What was measured in an epoch; empty for epoch 0."""
        return dict(json.loads(self.read(f"measured/{epoch:04d}.json") or b"{}"))

    def pictures(self, epoch: int) -> dict[str, bytes]:
        """{file name: JPEG} of an epoch's validation pictures."""
        system, root = self.place
        folder = f"{root}/measured/{epoch:04d}"
        return {name: read_bytes(system, f"{folder}/{name}") for name in self._files(f"measured/{epoch:04d}")}

    def untracked(self) -> list[int]:
        """The whole epochs whose measurements are not known to be in the tracked run, rising."""
        files = set(self._files("measured"))
        newest = max(self.epochs(), default=0)
        measured = sorted(int(name.removesuffix(".json")) for name in files if name.endswith(".json"))
        return [epoch for epoch in measured if epoch <= newest and f"{epoch:04d}.tracked" not in files]

    def mark_tracked(self, epoch: int) -> None:
        self.write(f"measured/{epoch:04d}.tracked", b"")

    def remove_torn(self) -> None:
        """Removes what a killed writer left half written. For the run's sole writer, before it begins."""
        for name in self._files(""):
            if name.endswith(".part"):
                self.delete(name)

    def claim(self, settings: dict[str, Any]) -> None:
        """Keeps the settings of a run that now begins."""
        self.write("recipe.json", json.dumps(settings, indent=2).encode())

    def refuse_other_settings(self, now: dict[str, Any]) -> None:
        """UserError where the run was begun with others."""
        kept = self.read("recipe.json")
        if kept is None or not self.epochs():
            return
        before = json.loads(kept)
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        if changed:
            key = changed[0]
            raise UserError(
                f"run {self.uri} was begun with {key} = {before.get(key)}, now it is {now.get(key)}: "
                "give the experiment another name, or delete that folder"
            )

    def _files(self, folder: str) -> list[str]:
        """All files below a folder, by their path in it."""
        system, root = self.place
        base = f"{root}/{folder}".rstrip("/")
        found = system.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
        return [info.path[len(base) + 1 :] for info in found if info.type == fs.FileType.File]

    def _write_state(self, path: str, state: dict[str, Any]) -> None:
        from rtnet.checkpoint import write_training

        # In memory first: PyTorch's own words for a full disk tell nobody anything.
        data = io.BytesIO()
        write_training(data, state)
        write_whole(self.place[0], path, data.getbuffer())

    def _read_state(self, path: str) -> dict[str, Any]:
        from rtnet.checkpoint import read_training

        # In one piece: PyTorch reads here and there, and each time is a request to a store.
        return read_training(io.BytesIO(read_bytes(self.place[0], path)), origin=path)

    def _forget_steps(self, before: int | None) -> None:
        for steps in self.steps():
            if before is None or steps < before:
                self.delete(f"steps/{steps:09d}.pt")


def decisive_settings(experiment: Experiment, dataset_digest: str) -> dict[str, Any]:
    """What decides a training's result, flat: dotted field -> value."""
    values = experiment.model_dump(mode="json")
    settings = {f"{section}.{field}": value for section in DECISIVE for field, value in values[section].items()}
    del settings["training.checkpoint_every"], settings["training.keep_checkpoints"]
    settings["seed"] = values["seed"]
    settings["scaling.num_workers"] = values["scaling"]["num_workers"]
    weights = {f"data.sources.{name}.weight": source["weight"] for name, source in values["data"]["sources"].items()}
    return settings | weights | {"digest of the dataset": dataset_digest}
