"""The Siemens star: wedges whose distance falls to nothing in the centre, so that all spatial frequencies occur."""

import numpy as np
from jaxtyping import UInt8

OVERSAMPLING = 8
"""Points that a pixel is an average of, along each axis: 64 levels between a wedge and its neighbour."""


def siemens_star(height: int, width: int, num_spokes: int) -> UInt8[np.ndarray, "height width"]:
    """Grey levels of a star of `num_spokes` dark wedges, antialiased: a disc as wide as the shorter side, on white.

    The first wedge begins at the x axis and goes towards the y axis of the array (downwards).
    """
    radius = min(height, width) / 2
    y, x = (_centres(length) for length in (height, width))
    bright = np.empty((height, width))
    for row in range(height):  # oversampled, a row of pixels at a time
        above = y[row * OVERSAMPLING : (row + 1) * OVERSAMPLING, None]
        wedge = np.floor(np.arctan2(above, x) / np.pi * num_spokes).astype(int)
        is_dark = (wedge % 2 == 0) & (np.hypot(above, x) < radius)
        bright[row] = 1 - is_dark.reshape(OVERSAMPLING, width, OVERSAMPLING).mean((0, 2))
    return np.round(255 * bright).astype(np.uint8)


def _centres(length: int) -> np.ndarray:
    """Of the oversampled pixels along an axis, in pixels from the middle."""
    return (np.arange(length * OVERSAMPLING) + 0.5) / OVERSAMPLING - length / 2
