"""Evaluations as `evaluate` leaves them, of masks that are drawn from the annotations, without Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.scoring import Job, score_sequence, table
from pipelines.sections import Source
from pipelines.sources import list_sources
from rtnet.data.images import decode_annotation, encode_png

Method = Callable[[np.ndarray, int], np.ndarray]
"""(annotation, bool (H, W); the frame's place) -> a map, float (H, W) in 0..1."""


def write_masks(folder: Path, sources: dict[str, Source], method: Method, split: str = "val") -> None:
    """Fills folder/maps and folder/masks with a method's results for every annotated frame."""
    for sequence in list_sources(sources):
        for place, frame in enumerate(sequence.frames if sequence.split == split else ()):
            assert frame.annotation is not None
            map_ = method(decode_annotation(frame.annotation.read_bytes()), place)
            for kind, picture in (("maps", (255 * map_).astype(np.uint8)), ("masks", map_ > 0.5)):
                target = folder / kind / sequence.name / f"{frame.name}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(encode_png(picture))


def write_evaluation(
    folder: Path,
    name: str,
    sources: dict[str, Source],
    masks: Path,
    maps: Path | None,
    split: str = "val",
    **facts: Any,
) -> Path:
    """Writes folder/scores.json with the scores of the masks; the folder. facts: replace what it holds."""
    results = {}
    for sequence in list_sources(sources):
        if sequence.split == split:
            found = score_sequence(Job(sequence, str(masks), str(maps) if maps else None, 0.5))
            assert not found["error"], found["error"]
            results[sequence.name] = json.loads(found["result"])
    scores = {
        "name": name,
        "evaluation": f"{'+'.join(sources)}-{split}",
        "masks": str(masks),
        "maps": str(maps) if maps else None,
        "saliency_on": str(maps or masks),
        "model": {},
        "run": {},
        "split": split,
        "threshold": 0.5,
        "rule": "davis",
        "content": "3f0c" * 16,
        "sources": {key: each.model_dump(mode="json") for key, each in sources.items()},
        "commit": "0123456789abcdef",
        "dataset": None,
        "created": "2026-01-02T03:04:05+00:00",
        "scores": table(results),
        "frames": {key: result["frames"] for key, result in results.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores | facts, indent=2))
    return folder
