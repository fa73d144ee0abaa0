"""Flow as a picture: hue is direction, saturation is speed, by the colour wheel of Baker et al. (IJCV 2011)."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Wheel segments between pure colours: how many steps each, and which channel (R, G, B) rises or falls over it.
_SEGMENTS = (
    (15, 1, True),  # red to yellow
    (6, 0, False),  # yellow to green
    (4, 2, True),  # green to cyan
    (11, 1, False),  # cyan to blue
    (13, 0, True),  # blue to magenta
    (6, 2, False),  # magenta to red
)
_UNKNOWN = 1e9  # Middlebury's flow files mark pixels of unknown flow by values above this
_MARGIN = np.float32(1e-5)  # added to the largest radius, as in the published flow pictures

Floats = NDArray[np.float32]


def flow_picture(flow: Floats) -> NDArray[np.uint8]:
    """Flow, float (H, W, 2) in pixels, u to the right and v down, as uint8 (H, W, 3) RGB.

    The flow is divided by the picture's own largest radius (+ 1e-5), so zero flow is white and the magnitudes of two
    pictures don't compare. Unknown flow (not finite, or above 1e9 in size) is black and doesn't count for the radius.
    With that divisor it is what torchvision's flow_to_image draws with its own (which adds 1e-7), bit for bit where
    the two agree on the angle: a last bit of torchvision's single arctangent moves about one value of a million by 1.
    """
    u, v = (np.ascontiguousarray(flow[..., channel], np.float32) for channel in (0, 1))
    known = (np.abs(u) <= _UNKNOWN) & (np.abs(v) <= _UNKNOWN)  # False for NaN
    if not known.all():
        u, v = np.where(known, u, np.float32(0)), np.where(known, v, np.float32(0))
    divisor = _radius(u, v).max(initial=np.float32(0)) + _MARGIN
    picture = _coloured(u / divisor, v / divisor)
    picture[~known] = 0
    return picture


def _coloured(u: Floats, v: Floats) -> NDArray[np.uint8]:
    """Flow whose largest radius is 1, (H, W) each, as RGB.

    Operation by operation as torchvision has them, since levels are cut off, not rounded: the last bit may matter.
    """
    radius, one = _radius(u, v), np.float32(1)
    place = _angle(-v, -u)
    place /= np.float32(np.pi)
    place += one
    place /= 2
    place *= len(_SECTORS) - 1  # 0..54: where on the wheel
    entry = place.astype(np.uint8)
    place -= entry
    rest = one - place
    picture = np.empty((*u.shape, 3), np.uint8)
    for channel, (here, after) in enumerate(_TABLES):
        colour = np.asarray(cv2.LUT(entry, here), np.float32)
        colour *= rest
        next_colour = np.asarray(cv2.LUT(entry, after), np.float32)
        next_colour *= place
        colour += next_colour
        np.subtract(one, colour, out=colour)  # from white ...
        colour *= radius
        np.subtract(one, colour, out=colour)  # ... by the speed
        colour *= 255
        picture[..., channel] = colour
    return picture


def _radius(u: Floats, v: Floats) -> Floats:
    result: Floats = np.sqrt(u * u + v * v)
    return result


def _angle(y: Floats, x: Floats) -> Floats:
    """Direction in -pi..pi, rounded from double: single arctangents err in the last bit, each processor's otherwise."""
    return np.arctan2(y.astype(np.float64), x).astype(np.float32)


def _sectors() -> Floats:
    """The wheel's 55 colours, (55, 3) in whole numbers 0..255."""
    rows = []
    colour = np.array([255, 0, 0])
    for steps, channel, rises in _SEGMENTS:
        ramp = 255 * np.arange(steps) // steps
        part = np.repeat(colour[None], steps, axis=0)
        part[:, channel] = ramp if rises else 255 - ramp
        rows.append(part)
        colour = colour.copy()
        colour[channel] = 255 if rises else 0
    return np.asarray(np.concatenate(rows), np.float32)


def _tables(sectors: Floats) -> list[tuple[Floats, Floats]]:
    """For each channel, the colour in 0..1 of every entry and of the one after it, as 256 entries for cv2.LUT.

    After the last entry comes the first. A table look-up by OpenCV takes half as long as NumPy's `take`.
    """
    here = np.zeros((256, 3), np.float32)
    after = here.copy()
    here[: len(sectors)] = sectors / np.float32(255)
    after[: len(sectors)] = np.roll(here[: len(sectors)], -1, axis=0)
    return [(here[:, channel].copy(), after[:, channel].copy()) for channel in range(3)]


_SECTORS = _sectors()
_TABLES = _tables(_SECTORS)
