"""RTNet for unsupervised video object segmentation: `rtnet.load(FILE).segment(frames)`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtnet.segmenter import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` late: torch takes seconds to import, and most modules here need none of it."""
    if name == "load":
        from rtnet.segmenter import load

        return load
    raise AttributeError(f"module 'rtnet' has no attribute {name!r}")
