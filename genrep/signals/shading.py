"""A shaded picture of a mesh, with a depth buffer."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.signals.meshes import Mesh
from genrep.signals.raster import covered_pixels

OVERSAMPLING = 2
"""Points averaged per pixel along each axis."""
EYE, LIGHT = np.array([0.80, 0.35, 0.50]), np.array([0.75, 0.60, 0.15])
"""Directions (z, y, x) from the centre to the eye and to the light; y points upwards in the picture."""
REACH = 1.3
"""Distance in coordinates from the middle of the picture to its border: a cube of 0.9 fills the picture."""
CLAY = np.array([0.82, 0.80, 0.76])
"""Default colour of a mesh."""


def shaded(
    mesh: Mesh | None, size: int = 320, colours: Float[np.ndarray, "faces 3"] | None = None
) -> UInt8[Tensor, "3 size size"]:
    """A mesh seen from the front, the right and above, without perspective, on white.

    Args:
        mesh: None gives a white picture.
        size: side of the picture in pixels.
        colours: colours of the faces, in [0, 1]; None means clay.
    """
    fine = size * OVERSAMPLING
    picture = np.ones((fine, fine, 3))
    if mesh is not None:
        right, up, towards = _view()
        projected = mesh.vertices @ np.stack([-up, right, -towards], axis=1)  # row, column, depth
        corners = mesh.vertices[mesh.faces]
        face = _nearest_faces(projected[mesh.faces], fine)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
        normals *= np.where(normals @ towards < 0, -1, 1)[
            :, None
        ]  # towards the eye, since an open surface shows its back
        brightness = 0.25 + 0.75 * (normals @ (LIGHT / np.linalg.norm(LIGHT))).clip(0)
        shades = brightness[:, None] * (CLAY if colours is None else colours)
        picture[face >= 0] = shades[face[face >= 0]]
    picture = picture.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3))
    return torch.from_numpy(np.round(255 * picture).astype(np.uint8)).permute(2, 0, 1).contiguous()


def _view() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (z, y, x) to the right and upwards in the picture, and towards the eye."""
    towards = EYE / np.linalg.norm(EYE)
    upwards = np.array([0.0, 1.0, 0.0])
    right = np.cross(upwards[::-1], towards[::-1])[::-1]  # of (x, y, z)
    right = right / np.linalg.norm(right)
    return right, np.cross(towards[::-1], right[::-1])[::-1], towards


def _nearest_faces(triangles: Float[np.ndarray, "faces 3 3"], size: int) -> np.ndarray:
    """The index of the nearest face at each pixel, -1 where there is none."""
    corners = triangles[:, :, :2] * (size / 2 / REACH) + (size - 1) / 2  # in pixels
    nearest, depths = np.full((size, size), -1), np.full((size, size), np.inf)
    for pairs in covered_pixels(corners, size, size):
        depth = (pairs.weights * triangles[pairs.triangle, :, 2]).sum(1)
        order = np.lexsort((-depth, pairs.row * size + pairs.column))  # each pixel's nearest face comes last
        row, column, depth, face = (part[order] for part in (pairs.row, pairs.column, depth, pairs.triangle))
        pixel = row * size + column
        last = np.append(pixel[1:] != pixel[:-1], True)
        row, column, depth, face = (part[last] for part in (row, column, depth, face))
        closer = depth < depths[row, column]
        depths[row[closer], column[closer]], nearest[row[closer], column[closer]] = depth[closer], face[closer]
    return nearest
