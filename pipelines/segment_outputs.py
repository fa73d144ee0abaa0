"""Where `segment` puts a clip's results: made in a folder aside, and moved when they are whole.

What made them, of which clip, and every file's size lie beside the video in a hidden file, .out.mp4.json.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.clips import Clip
from rtnet.errors import UserError

_REMEDY = "add --overwrite or give another --output"


@dataclass(frozen=True)
class Making:
    """How results come about."""

    by: str
    """Model and options, in words."""
    clip: str
    """A digest of its content."""


@dataclass(frozen=True)
class Outputs:
    """Of one clip: out.mp4 with out-masks, out-maps where they are asked for, and out-sheet.jpg beside it."""

    video: Path
    with_maps: bool

    @property
    def masks(self) -> Path:
        return self._beside("-masks")

    @property
    def maps(self) -> Path:
        return self._beside("-maps")

    @property
    def sheet(self) -> Path:
        return self._beside("-sheet.jpg")

    @property
    def all(self) -> list[Path]:
        """The video last: where it is, the rest is too."""
        return [self.masks, *([self.maps] if self.with_maps else []), self.sheet, self.video]

    @property
    def record(self) -> Path:
        return self.video.with_name(f".{self.video.name}.json")

    @property
    def aside(self) -> Path:
        return self.video.with_name(f"{self.video.name}.part")

    def finished(self, making: Making) -> bool:
        """Whether a run before made all of it, the same way and of the same clip, and it is as it was then.

        Raises UserError where it was made otherwise or was changed since, and for a file or folder that stands in the
        way.
        """
        there = [path for path in self.all if path.exists()]
        record = self._read_record()
        if record is None:
            if there and not self.aside.exists():  # else a run was killed while it moved them
                raise UserError(f"{there[0]} is there already: {_REMEDY}")
            return False
        sizes = {self.video.parent / name: size for name, size in record["sizes"].items()}
        changed = [path for path, size in sizes.items() if path.exists() and path.stat().st_size != size]
        if changed and not self.aside.exists():
            raise UserError(f"{changed[0]} was changed since it was made: {_REMEDY}")
        if record["by"] != making.by:
            raise UserError(
                f"{self.video} is there already, made otherwise ({record['by']}, not {making.by}): {_REMEDY}"
            )
        if record["clip"] != making.clip:
            raise UserError(f"{self.video} is there already, made of another clip, or of other content: {_REMEDY}")
        return not changed and all(path.exists() for path in (*sizes, *self.all))

    @contextmanager
    def writing(self, making: Making) -> Iterator["Outputs"]:
        """What is written to the outputs that it gives comes to its place when the block ends; after an exception, not.

        Raises UserError where the folder cannot be written.
        """
        inside = Outputs(self.aside / self.video.name, self.with_maps)
        try:
            shutil.rmtree(self.aside, ignore_errors=True)
            for folder in (inside.masks, *([inside.maps] if self.with_maps else [])):
                folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"{self.video.parent}: cannot be written ({error.strerror}): give another --output"
            ) from None
        try:
            yield inside
        except BaseException:
            shutil.rmtree(self.aside, ignore_errors=True)
            raise
        files = sorted(path for path in self.aside.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(self.aside)): path.stat().st_size for path in files}
        try:
            inside.record.write_text(json.dumps(asdict(making) | {"sizes": sizes}))
        except OSError as error:
            raise UserError(f"{self.aside}: cannot be written ({error.strerror}): make room") from None
        for made, place in zip((inside.record, *inside.all), (self.record, *self.all), strict=True):
            if place.exists():
                place.rename(self.aside / f"old-{place.name}")
            made.rename(place)
        shutil.rmtree(self.aside)

    def _read_record(self) -> dict[str, Any] | None:
        """{"by", "clip", "sizes": {path beside the video: bytes}}; None where there is none."""
        try:
            return dict(json.loads(self.record.read_bytes()))
        except (OSError, ValueError):
            return None

    def _beside(self, ending: str) -> Path:
        return self.video.with_name(f"{self.video.stem}{ending}")


def plan_outputs(clips: Sequence[Clip], output: str, with_maps: bool) -> list[Outputs]:
    """For one clip `output` is a video to be or a folder; for several it is a folder, which gets NAME.mp4 of each.

    Raises UserError for a name that can be neither.
    """
    from rtnet.data.video_writer import CONTAINERS

    target = Path(output).expanduser()
    is_folder = target.is_dir() or not target.suffix
    if not is_folder and target.suffix.lower() not in CONTAINERS:
        raise UserError(
            f"--output {output}: *{target.suffix} can't hold H.264 with frames' times: "
            f"end it in {', '.join(CONTAINERS)}, or give a folder"
        )
    if len(clips) > 1 and not is_folder:
        raise UserError(f"--output {output}: there are {len(clips)} clips: give a folder")
    outputs = [Outputs(target / f"{clip.name}.mp4" if is_folder else target, with_maps) for clip in clips]
    inputs = {path.resolve() for clip in clips for path in (clip.origin, *clip.pictures)}
    for place in (path for planned in outputs for path in planned.all):
        if place.resolve() in inputs:
            raise UserError(f"--output {output}: {place} is one of the clips and would be lost: give another --output")
    return outputs
