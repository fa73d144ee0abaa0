"""A run's folder, STORAGE/NAME: what makes a training continue where it was.

recipe.json             the settings that decide the result; a run continues with the same ones only
epoch-0003/metrics.json, pictures/, then checkpoint.pt, which makes the epoch whole
finished.json           written when the model is registered
"""

import json
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from pipelines.config import Experiment
from pipelines.storage import absolute, open_storage, read_bytes, whole_file, write_whole
from rtnet.errors import UserError

DECISIVE = ("model", "training", "validation")


@dataclass(frozen=True)
class RunFolder:
    uri: str

    @staticmethod
    def of(experiment: Experiment) -> "RunFolder":
        return RunFolder(f"{absolute(experiment.storage)}/{experiment.name}")

    def epochs(self) -> list[int]:
        """The epochs with a whole checkpoint, rising; epoch 0 is the state before the first step."""
        system, root = open_storage(self.uri)
        found = system.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        names = [info.path.rsplit("/", 2) for info in found]
        return sorted(
            int(folder.removeprefix("epoch-"))
            for _, folder, file in (name for name in names if len(name) == 3)
            if file == "checkpoint.pt" and folder.startswith("epoch-")
        )

    def epoch_path(self, epoch: int) -> tuple[fs.FileSystem, str]:
        system, root = open_storage(self.uri)
        return system, f"{root}/epoch-{epoch:04d}"

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole; `name` may hold folders."""
        system, root = open_storage(self.uri)
        write_whole(system, f"{root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        system, root = open_storage(self.uri)
        if system.get_file_info(f"{root}/{name}").type != fs.FileType.File:
            return None
        return read_bytes(system, f"{root}/{name}")

    def write_checkpoint(self, epoch: int, state: dict[str, Any]) -> None:
        """The last file of an epoch: with it the epoch is whole."""
        from rtnet.checkpoint import write_training

        system, folder = self.epoch_path(epoch)
        with whole_file(system, f"{folder}/checkpoint.pt") as stream:
            write_training(stream, state)

    def read_checkpoint(self, epoch: int) -> dict[str, Any]:
        from rtnet.checkpoint import read_training

        system, folder = self.epoch_path(epoch)
        path = f"{folder}/checkpoint.pt"
        with system.open_input_file(path) as stream:
            return read_training(stream, origin=path)

    def metrics(self, epoch: int) -> dict[str, Any]:
        """What was measured in an epoch; empty for epoch 0."""
        return dict(json.loads(self.read(f"epoch-{epoch:04d}/metrics.json") or b"{}"))

    def pictures(self, epoch: int) -> dict[str, bytes]:
        """{file name: JPEG} of an epoch's validation pictures."""
        system, folder = self.epoch_path(epoch)
        found = system.get_file_info(fs.FileSelector(f"{folder}/pictures", allow_not_found=True))
        return {info.base_name: read_bytes(system, info.path) for info in found}

    def delete(self, name: str) -> None:
        system, root = open_storage(self.uri)
        system.delete_file(f"{root}/{name}")

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


def decisive_settings(experiment: Experiment, dataset_digest: str) -> dict[str, Any]:
    """What decides a training's result, flat: dotted field -> value."""
    values = experiment.model_dump(mode="json")
    settings = {f"{section}.{field}": value for section in DECISIVE for field, value in values[section].items()}
    settings["seed"] = values["seed"]
    settings["scaling.num_workers"] = values["scaling"]["num_workers"]
    settings["digest of the dataset"] = dataset_digest
    return settings
