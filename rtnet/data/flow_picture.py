"""Flow as a picture: hue is direction, saturation is speed, by the colour wheel of Baker et al. (IJCV 2011)."""

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


def flow_picture(flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Flow, float (H, W, 2) in pixels, u to the right and v down, as uint8 (H, W, 3) RGB.

    The flow is divided by the picture's own largest radius (+ 1e-5), so zero flow is white and the magnitudes of two
    pictures don't compare. Unknown flow (not finite, or above 1e9 in size) is black and doesn't count for the radius.
    """
    u = np.asarray(flow[..., 0], np.float32)
    v = np.asarray(flow[..., 1], np.float32)
    known = (np.abs(u) <= _UNKNOWN) & (np.abs(v) <= _UNKNOWN)  # False for NaN
    if not known.all():
        u, v = np.where(known, u, 0), np.where(known, v, 0)
    radius = np.sqrt(u * u + v * v)
    scale = np.float32(1 / (radius.max(initial=0) + 1e-5))
    colours = _colours(np.arctan2(-v, -u))  # (H, W, 3)
    colours -= 1
    colours *= (radius * scale)[..., None]
    colours += 1
    picture = (colours * 255).astype(np.uint8)
    picture[~known] = 0
    return picture


def _colours(angle: NDArray[np.float32]) -> NDArray[np.float32]:
    """The wheel's colour, (H, W, 3) in 0..1, at each angle in -pi..pi, between its entries interpolated linearly."""
    wheel, step = _WHEEL
    place = (angle * np.float32(0.5 / np.pi) + np.float32(0.5)) * (len(wheel) - 1)
    entry = np.clip(place.astype(np.intp), 0, len(wheel) - 1)
    place -= entry
    result: NDArray[np.float32] = step.take(entry, axis=0)
    result *= place[..., None]
    result += wheel.take(entry, axis=0)
    return result


def _wheel() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The 55 colours, (55, 3) in 0..1, and what is added from each to the next; after the last comes the first."""
    rows = []
    colour = np.array([255, 0, 0])
    for steps, channel, rises in _SEGMENTS:
        ramp = 255 * np.arange(steps) // steps
        part = np.repeat(colour[None], steps, axis=0)
        part[:, channel] = ramp if rises else 255 - ramp
        rows.append(part)
        colour = colour.copy()
        colour[channel] = 255 if rises else 0
    wheel = (np.concatenate(rows) / 255).astype(np.float32)
    return wheel, np.roll(wheel, -1, axis=0) - wheel


_WHEEL = _wheel()
