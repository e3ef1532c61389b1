"""Which pixels triangles cover, for shaded pictures and for winding numbers on a grid."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CANDIDATES = 2_000_000
"""Approximate number of (triangle, pixel) pairs examined at a time, which bounds the memory."""


class Covered(NamedTuple):
    """Pairs of a triangle and a pixel whose centre lies in it.

    Attributes:
        triangle, row, column: `[N]`.
        weights: `[N, 3]`, barycentric coordinates of the pixel's centre in the triangle; they sum to 1.
    """

    triangle: Int[np.ndarray, " pairs"]
    row: Int[np.ndarray, " pairs"]
    column: Int[np.ndarray, " pairs"]
    weights: Float[np.ndarray, "pairs 3"]


def covered_pixels(triangles: Float[np.ndarray, "triangles 3 2"], height: int, width: int) -> Iterator[Covered]:
    """The pixels that triangles cover, for one batch of triangles at a time.

    Args:
        triangles: corners (row, column) in pixels; the centre of pixel (i, j) is at (i, j).
        height, width: size of the picture; pixels beyond it are left out.
    """
    size = np.array([height, width])
    first = np.clip(np.ceil(triangles.min(1)), 0, size).astype(int)
    last = np.clip(np.floor(triangles.max(1)), -1, size - 1).astype(int)
    spans = np.maximum(last - first + 1, 0)
    counts = spans.prod(1)
    batch = (np.cumsum(counts) - 1) // CANDIDATES
    for number in np.unique(batch[counts > 0]):
        yield _covered_in_boxes(triangles, first, spans, counts, np.flatnonzero((batch == number) & (counts > 0)))


def _covered_in_boxes(
    triangles: Float[np.ndarray, "triangles 3 2"],
    first: Int[np.ndarray, "triangles 2"],
    spans: Int[np.ndarray, "triangles 2"],
    counts: Int[np.ndarray, " triangles"],
    chosen: Int[np.ndarray, " chosen"],
) -> Covered:
    """The pixels in the bounding boxes of the chosen triangles that lie in the triangles themselves."""
    triangle = np.repeat(chosen, counts[chosen])
    in_box = np.arange(len(triangle)) - np.repeat(np.cumsum(counts[chosen]) - counts[chosen], counts[chosen])
    pixels = first[triangle] + np.stack(np.divmod(in_box, spans[triangle, 1]), axis=1)
    a, b, c = np.moveaxis(triangles[triangle] - pixels[:, None], 1, 0)
    areas = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1)
    total = areas.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # triangles seen edge-on cover nothing
        weights = areas / total
    inside = (weights >= 0).all(1)
    rows, columns = pixels[inside].T
    return Covered(triangle[inside], rows, columns, weights[inside])


def _cross(a: Float[np.ndarray, "pairs 2"], b: Float[np.ndarray, "pairs 2"]) -> Float[np.ndarray, " pairs"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
