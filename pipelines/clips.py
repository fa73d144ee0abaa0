"""What `segment` is given on the command line -> clips: videos, folders of frames, patterns of either."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from rtnet.errors import UserError

if TYPE_CHECKING:
    from rtnet.data.footage import Footage


@dataclass(frozen=True)
class Clip:
    name: str
    """The video's stem or the folder's name; no two clips share it."""
    origin: Path
    """The video, the folder, or the picture where it is a single one that was named."""
    pictures: tuple[Path, ...] = ()
    """The frames of a folder; empty for a video."""

    def digest(self) -> str:
        """SHA-256 over its files' content; empty where one can't be read, which its footage will tell."""
        together = hashlib.sha256()
        try:
            for path in self.pictures or (self.origin,):
                with path.open("rb") as file:
                    together.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            return ""
        return together.hexdigest()

    def footage(self, rate: Fraction) -> "Footage":
        """rate: of pictures, a second; a video has its own. Raises UserError for what is no video."""
        from rtnet.data.footage import footage_of_pictures, open_footage

        return footage_of_pictures(self.origin, self.pictures, rate) if self.pictures else open_footage(self.origin)


def find_clips(inputs: Sequence[str]) -> list[Clip]:
    """The clips in the order given. A folder is one clip where it holds pictures, else its videos are one each.

    Picture files, named or matched, are together one clip of their folder. Raises UserError for what is not there,
    holds neither or both, and for two clips of one name.
    """
    from rtnet.data.layouts.folders import PICTURES, natural

    paths = [path for given in inputs for path in _matching(given)]
    clips: dict[Path, Clip] = {}
    for path in paths:
        if path.is_dir():
            clips |= {clip.origin: clip for clip in _of_folder(path)}
        elif path.suffix.lower() in PICTURES:
            together = [other for other in paths if other.parent == path.parent and other.suffix.lower() in PICTURES]
            pictures = tuple(sorted(set(together), key=lambda picture: natural(picture.name)))
            origin = path.parent if len(pictures) > 1 else path
            clips[path.parent] = Clip(path.parent.resolve().name, origin, pictures)
        else:
            clips[path] = Clip(path.stem, path)
    owners: dict[str, Path] = {}
    for clip in clips.values():
        if (other := owners.setdefault(clip.name, clip.origin)) != clip.origin:
            raise UserError(f"{clip.origin} and {other} are both named {clip.name}: rename one of them")
        _refuse_equal_stems(clip.pictures)
    return list(clips.values())


def _matching(given: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.exists():
        return [path]
    if not has_magic(given):
        raise UserError(f"{given}: no such file or folder")
    found = [Path(match) for match in sorted(glob(str(path), recursive=True))]  # noqa: PTH207
    if not found:
        raise UserError(f"{given}: nothing matches this pattern")
    return found


def _of_folder(folder: Path) -> list[Clip]:
    from rtnet.data.layouts.folders import files, pictures
    from rtnet.data.layouts.video import VIDEOS

    frames = pictures(folder)
    videos = [path for path in files(folder) if path.suffix.lower() in VIDEOS]
    if frames and videos:
        raise UserError(f"{folder}: holds pictures and videos: say which by a pattern, such as '{folder}/*.mp4'")
    if not frames and not videos:
        raise UserError(f"{folder}: holds neither pictures nor videos: give a folder of frames or a video")
    if frames:
        return [Clip(folder.resolve().name, folder, tuple(frames))]
    return [Clip(path.stem, path) for path in videos]


def _refuse_equal_stems(pictures: Sequence[Path]) -> None:
    stems: dict[str, Path] = {}
    for picture in pictures:
        if (other := stems.setdefault(picture.stem, picture)) != picture:
            raise UserError(f"{picture}: {other.name} would have a mask of the same name: leave one of them out")
