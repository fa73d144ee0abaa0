"""The README's picture: what `rtnet prepare` makes of generated clips.

    python experiments/picture.py DATASET docs/dataset.png

One row per sequence: frame with its annotation, forward flow, backward flow; then the same frame flipped, with the flow
of the flipped frames.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from pipelines.dataset import Dataset
from rtnet.data.images import encode_png, overlay


def main(uri: str, target: str) -> None:
    dataset = Dataset(uri)
    rows = [dataset.describe(row) | {"row": row} for row in range(dataset.index.num_rows)]
    strips = []
    for sequence in dict.fromkeys(row["sequence"] for row in rows):
        tiles = []
        for view in ("as_is", "horizontal"):
            frames = [row for row in rows if row["sequence"] == sequence and row["view"] == view]
            tiles += _tiles(dataset, frames[len(frames) // 2]["row"])
        strips.append(np.hstack(tiles))
    Path(target).write_bytes(encode_png(np.vstack(strips)))


def _tiles(dataset: Dataset, row: int) -> list[np.ndarray]:
    view = dataset.read(row)
    assert view.annotation is not None
    size = (view.image.shape[1], view.image.shape[0])
    flows = (view.flow[..., :3], view.flow[..., 3:])
    return [overlay(view.image, view.annotation), *(np.asarray(cv2.resize(flow, size)) for flow in flows)]


if __name__ == "__main__":
    main(*sys.argv[1:])
