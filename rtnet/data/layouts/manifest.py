"""What reading a dataset gives: sequences of frames, and where their files lie."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Frame:
    """One frame and where its files lie."""

    number: int
    """Within the sequence; the file stem's value where all stems are integers, else the frame's place."""
    name: str
    """The stem that its files share, and what masks of this frame are called; of a video file's frame five digits."""
    image: Path
    """The picture file; the video file for a video's frames."""
    annotation: Path | None


@dataclass(frozen=True)
class Sequence:
    """A video, annotated or not, or a group of stills: its frames ordered by number, and how to read them."""

    dataset: str
    split: str
    name: str
    frames: tuple[Frame, ...]
    kind: Literal["frames", "video", "stills"] = "frames"
    """Picture files of one video; frames of a video file; single images, which have no neighbours and no flow."""
    void: int | None = None
    """The palette index or grey level of an annotation that is neither object nor background: read as background."""
    background: tuple[int, ...] | None = None
    """The grey levels, or colours as 0xRRGGBB, of an annotation that are background; everything else is object.
    None: see `rtnet.data.images.decode_annotation`."""
    fault: str = ""
    """One line that says why the sequence cannot be used, "" where it can; with a fault there are no frames."""


@dataclass(frozen=True)
class Source:
    """What `read_layout` was asked for; a layout heeds what it knows."""

    root: Path
    dataset: str
    split: str | None
    annotations: Path | None


Fill: TypeAlias = Callable[[Sequence], Sequence]
"""Gives a sequence its frames; raises UserError with what is wrong with this sequence alone."""

Listing: TypeAlias = list[tuple[Sequence, Fill]]
"""A source's sequences in its order, without their frames, so that those not asked for cost nothing."""
