"""Rows of a dataset as one picture to look at."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from rtnet.data.images import Picture, encode_png, overlay

if TYPE_CHECKING:
    from pipelines.dataset import Dataset

_WIDTH = 320  # of one picture, pixels
_LABEL = 18  # rows


def contact_sheet(dataset: "Dataset", rows: list[int]) -> bytes:
    """A PNG with a line for each row: the frame with its annotation, forward and backward flow, above them its name."""
    return encode_png(np.vstack([_line(dataset, row) for row in rows]))


def label(text: str, width: int) -> Picture:
    """A white line with this text."""
    image = Image.new("RGB", (width, _LABEL), "white")
    try:
        ImageDraw.Draw(image).text((4, 3), text, fill="black")
    except UnicodeEncodeError:  # Pillow's font where it was built without FreeType
        ImageDraw.Draw(image).text((4, 3), text.encode("ascii", "replace").decode(), fill="black")
    return np.asarray(image, np.uint8)


def _line(dataset: "Dataset", row: int) -> Picture:
    view, entry = dataset.read(row), dataset.describe(row)
    height = max(1, round(_WIDTH * view.image.shape[0] / view.image.shape[1]))
    frame = view.image if view.annotation is None else overlay(view.image, view.annotation)
    tiles = [_fitted(picture, height) for picture in (frame, view.flow[..., :3], view.flow[..., 3:])]
    name = f"{entry['dataset']}/{entry['split']}/{entry['sequence']}  {entry['name']}  {entry['view']}"
    return np.vstack([label(name, 3 * _WIDTH), np.hstack(tiles)])


def _fitted(picture: Picture, height: int) -> Picture:
    smaller = picture.shape[1] > _WIDTH
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (_WIDTH, height), interpolation=method), np.uint8)
