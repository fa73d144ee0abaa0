"""Frames spread evenly over a clip of any length, as one picture to look at."""

import cv2
import numpy as np

from pipelines.contact_sheet import label
from rtnet.data.images import Picture, encode_jpeg

_COLUMNS, _SHOWN = 4, 12
_WIDTH = 320  # of one frame, pixels
_HEIGHT = 320  # at most


class ClipSheet:
    """Takes every frame and keeps few, small, at equal distances: the distance doubles whenever there are too many."""

    def __init__(self) -> None:
        self._seen, self._distance = 0, 1
        self._kept: list[Picture] = []

    @property
    def wants(self) -> bool:
        """Whether the next frame would be kept: a picture of another need not be drawn."""
        return self._seen % self._distance == 0

    def add(self, text: str, picture: Picture | None) -> None:
        """The next frame, uint8 (H, W, 3), with what is written above it; None where it is not wanted."""
        if self.wants and picture is not None:
            self._kept.append(_tile(text, picture))
        self._seen += 1
        if len(self._kept) == 4 * _SHOWN:
            self._kept = self._kept[::2]
            self._distance *= 2

    def jpeg(self) -> bytes:
        """At most twelve frames, the first and the last kept one among them; at least one has been added."""
        places = np.linspace(0, len(self._kept) - 1, min(_SHOWN, len(self._kept))).round().astype(int)
        tiles = [self._kept[place] for place in places]
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % _COLUMNS if len(tiles) > _COLUMNS else 0)
        rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
        return encode_jpeg(np.vstack(rows))


def _tile(text: str, picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)
    return np.vstack([label(text, size[0]), small])
