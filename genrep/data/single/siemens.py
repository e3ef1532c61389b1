"""The Siemens star: wedges that narrow to nothing at the centre, so that all spatial frequencies occur."""

import numpy as np
from jaxtyping import UInt8

OVERSAMPLING = 8
"""Points averaged per pixel along each axis, which gives 64 levels between a wedge and its neighbour."""


def siemens_star(height: int, width: int, num_spokes: int) -> UInt8[np.ndarray, "height width"]:
    """Grey levels of an antialiased star with `num_spokes` dark wedges: a disc as wide as the shorter side, on white.

    The first wedge begins at the x axis and extends towards the y axis of the array (downwards).
    """
    radius = min(height, width) / 2
    y, x = (_centres(length) for length in (height, width))
    bright = np.empty((height, width))
    for row in range(height):  # one row of pixels at a time, since the oversampled star takes 64 times the memory
        above = y[row * OVERSAMPLING : (row + 1) * OVERSAMPLING, None]
        wedge = np.floor(np.arctan2(above, x) / np.pi * num_spokes).astype(int)
        is_dark = (wedge % 2 == 0) & (np.hypot(above, x) < radius)
        bright[row] = 1 - is_dark.reshape(OVERSAMPLING, width, OVERSAMPLING).mean((0, 2))
    return np.round(255 * bright).astype(np.uint8)


def _centres(length: int) -> np.ndarray:
    """Centres of the oversampled pixels along an axis, in pixels from the middle."""
    return (np.arange(length * OVERSAMPLING) + 0.5) / OVERSAMPLING - length / 2
