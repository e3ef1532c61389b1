"""Small labelled sets of synthetic arrays, for trying signals other than images as `digits` serves for images."""

import functools
from collections.abc import Callable

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, list[str]]


@functools.cache
def sines(count: int = 2000, samples: int = 256) -> Arrays:
    """Curves, each a sum of three sines. The class is the band of their frequencies, in periods per curve."""
    bands = {"1 to 2 periods": (1, 2), "3 to 4": (3, 4), "5 to 7": (5, 7), "8 to 11": (8, 11)}
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(bands)
    low, high = np.array(list(bands.values()), dtype=float)[labels].T[:, :, None]
    frequencies = low + (high - low) * generator.random((count, 3))
    phases, amplitudes = 2 * np.pi * generator.random((count, 3)), 0.5 + 0.5 * generator.random((count, 3))
    at = (np.arange(samples) + 0.5) / samples
    waves = np.sin(2 * np.pi * frequencies[:, :, None] * at + phases[:, :, None])
    values = (amplitudes[:, :, None] * waves).sum(1) / amplitudes.sum(1, keepdims=True)
    return values.astype(np.float32), labels.astype(np.int64), list(bands)


@functools.cache
def blobs(count: int = 2000, frames: int = 8, side: int = 16) -> Arrays:
    """Clips `[frames, side, side]` of a bright spot crossing the picture. The class is its direction."""
    ways = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(ways)
    way = np.array(list(ways.values()), dtype=float)[labels]
    speed, width = 0.8 + 0.4 * generator.random((count, 1)), 0.18 + 0.12 * generator.random((count, 1, 1, 1))
    # a spot travels at most 1.2, so its centre stays within 0.4 + 1.2 / 2 = 1: it never leaves the picture
    middle = generator.uniform(-0.4, 0.4, (count, 2))
    time = np.linspace(-0.5, 0.5, frames)
    centres = middle[:, None] + time[:, None] * (way * speed)[:, None]  # [count, frames, (y, x)]
    at = (2 * np.arange(side) + 1) / side - 1
    y, x = (at - centres[:, :, axis, None] for axis in (0, 1))  # [count, frames, side]
    values = 2 * np.exp(-(y[..., :, None] ** 2 + x[..., None, :] ** 2) / (2 * width**2)) - 1
    return values.astype(np.float32), labels.astype(np.int64), list(ways)


MADE_UP: dict[str, Callable[[], Arrays]] = {"sines": sines, "blobs": blobs}
"""By their names in `data.source`."""
