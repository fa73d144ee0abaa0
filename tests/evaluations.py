"""Evaluations as `evaluate` leaves them, of masks that are drawn from the annotations, without Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.mask_folder import Folders
from pipelines.score_table import table
from pipelines.scoring import combine, cut_jobs, score_job
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
    sequences = [sequence for sequence in list_sources(sources) if sequence.split == split]
    folders = Folders(str(masks), str(maps) if maps else None)
    jobs = cut_jobs(sequences, folders, "davis", 0.5, saliency=True, chosen=True)
    results = [score_job(job) for job in jobs]
    assert not any(result["error"] for result in results), results
    found = combine(jobs, [result["result"] for result in results])
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
        "content": found.content,
        "sources": {key: each.model_dump(mode="json") for key, each in sources.items()},
        "commit": "0123456789abcdef",
        "dataset": None,
        "created": "2026-01-02T03:04:05+00:00",
        "scores": table(found.frames, found.saliency),
        "frames": found.frames,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores | facts, indent=2))
    return folder
