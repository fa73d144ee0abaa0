"""A small generated dataset in DAVIS 2016's layout, for machines without the real one: tests, the demo, the README."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from rtnet.data.images import encode_jpeg, encode_png

SEQUENCES: Mapping[str, Sequence[str]] = {"train": ("paper_boat", "red-kite"), "val": ("round stone", "leaf.2")}

Floats = NDArray[np.float32]


def write_clip(
    root: Path,
    sequences: Mapping[str, Sequence[str]] = SEQUENCES,
    frames: int = 12,
    height: int = 96,
    width: int = 168,
    seed: int = 0,
) -> None:
    """Write videos of a textured blob drifting, turning and changing shape before a background that pans.

    root: made where it is missing; gets JPEGImages, Annotations (PNG, 0 and 255) and ImageSets, each with its 480p
    folder as the official release has them, though the size is (height, width), and the official lists' quirks.
    sequences: the names of each split. A sequence is a function of the other arguments and its name alone.
    """
    for split, names in sequences.items():
        lines = []
        for name in names:
            scene = _Scene(np.random.default_rng([seed, crc32(name.encode())]), height, width)
            for number in range(frames):
                image, mask = scene.frame(number)
                line = ""
                for folder, stem, data in (
                    ("JPEGImages", f"{number:05d}.jpg", encode_jpeg(image, quality=95)),
                    ("Annotations", f"{number:05d}.png", encode_png(mask)),
                ):
                    path = Path(root, folder, "480p", name, stem)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                    line += f"/{folder}/480p/{name}/{stem} "
                lines.append(line + "\n")
        path = Path(root, "ImageSets", "480p", f"{split}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")


class _Scene:
    """One video: its textures and courses are drawn once, then any frame can be rendered."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.size = (height, width)
        hue = rng.uniform(0, 180)
        self.background = _texture(rng, (2 * height, 2 * width), height / 3, _palette(hue, 70, (70, 190)))
        side = 2 * height
        self.object = _texture(rng, (side, side), height / 6, _palette(hue + rng.uniform(60, 120), 190, (110, 250)))
        self.radius = rng.uniform(0.2, 0.26) * height
        self.stretch = rng.uniform(1.15, 1.5)
        self.lobes = rng.uniform(0.08, 0.16, 2)
        self.phase = rng.uniform(0, 2 * np.pi, 3)
        self.turn = rng.choice([-1, 1]) * rng.uniform(0.03, 0.06)  # radians a frame
        self.pan = rng.choice([-1, 1]) * np.array([rng.uniform(0.8, 1.4), rng.uniform(-0.4, 0.4)]) * height / 96

    def frame(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The picture, uint8 (H, W, 3), and the object's mask, bool (H, W)."""
        height, width = self.size
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        drift = self.pan * number
        swing = np.array([width, height]) / 4 * [1, 0.6]
        picture = _sample(self.background, columns + swing[0] + drift[0], rows + swing[1] + drift[1])
        # To and fro within the frame, the first swing across it against the way the background passes.
        swung = np.sin([0.09 * number - 0.6, self.phase[0] + 0.05 * number]) * [np.sign(self.pan[0]), 1]
        centre = np.array([width, height]) / 2 + swing * swung
        angle = self.phase[1] + self.turn * number
        x, y = columns - centre[0], rows - centre[1]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        inside = self._inside(along, across, number)
        texture = _sample(self.object, along + self.object.shape[1] / 2, across + self.object.shape[0] / 2)
        cover = np.clip(inside + 0.5, 0, 1)[..., None]  # a soft edge of one pixel
        shade = 1 - 0.35 * np.clip(inside / self.radius + 1, 0, 1)[..., None] * (inside < 0)[..., None]
        blend = picture * shade * (1 - cover) + texture * cover
        return np.clip(blend.round(), 0, 255).astype(np.uint8), inside > 0

    def _inside(self, along: Floats, across: Floats, number: int) -> Floats:
        """How many pixels, roughly, each pixel lies within the blob's outline; negative outside."""
        across = across * self.stretch
        direction = np.arctan2(across, along)
        wave = self.lobes[0] * np.sin(3 * direction + self.phase[2] + 0.2 * number)
        wave += self.lobes[1] * np.sin(2 * direction - 0.15 * number)
        return np.asarray(self.radius * (1 + wave) - np.hypot(along, across), np.float32)


def _texture(rng: np.random.Generator, size: tuple[int, int], grain: float, palette: Floats) -> Floats:
    """Smooth coloured noise, float32 (H, W, 3): three octaves, the coarsest of about `grain` pixels."""
    height, width = size
    noise = np.zeros(size, np.float32)
    for octave in range(3):
        cell = max(grain / 2**octave, 4)
        coarse = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
        noise += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    level = (np.tanh(noise * 0.9) + 1) / 2 * (len(palette) - 1)
    lower = np.minimum(level.astype(np.intp), len(palette) - 2)
    part = (level - lower)[..., None]
    return np.asarray(palette[lower] * (1 - part) + palette[lower + 1] * part, np.float32)


def _palette(hue: float, saturation: int, values: tuple[int, int]) -> Floats:
    """Four neighbouring colours from dark to light, (4, 3) RGB in 0..255; OpenCV counts 180 hues to the circle."""
    hues = (hue + np.array([-12, -4, 4, 12])) % 180
    hsv = np.stack([hues, np.full(4, saturation), np.linspace(*values, 4)], axis=1)
    return np.asarray(cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0], np.float32)


def _sample(texture: Floats, columns: Floats, rows: Floats) -> Floats:
    grid = (columns.astype(np.float32), rows.astype(np.float32))
    return np.asarray(cv2.remap(texture, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)
