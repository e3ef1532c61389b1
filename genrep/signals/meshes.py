"""Triangle meshes: extracting them from a grid of distances, telling inside from outside, and comparing them.

Vertices are coordinates in [-1, 1], with axes in array order (z, y, x), as everywhere. Lengths are in units of the side
of the cube [-1, 1]³, as in the papers on shapes, whose cube has side 1.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from genrep.files import replacing
from genrep.signals.raster import covered_pixels

SIDE = 2.0
"""Side of the cube in coordinates: the unit of lengths."""
OFF_THE_EDGES = np.array([0.7071, 0.5772]) * 1e-6
"""Shift of the rays in pixels, so that none passes exactly through an edge, where two triangles would count it twice."""


class Mesh(NamedTuple):
    """Triangles, counterclockwise as seen from outside in (x, y, z).

    Attributes:
        vertices: `[V, 3]`, (z, y, x).
        faces: `[F, 3]`, indices of vertices.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]

    def write_ply(self, path: Path) -> Path:
        """Write a binary PLY, axes (x, y, z), and return its path. InputError if the file cannot be written."""
        header = (
            "ply\nformat binary_little_endian 1.0\n"
            f"element vertex {len(self.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
            f"element face {len(self.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        )
        rows = np.empty(len(self.faces), dtype=[("count", "u1"), ("vertices", "<i4", 3)])
        rows["count"], rows["vertices"] = 3, self.faces
        with replacing(path) as partial:
            partial.write_bytes(header.encode() + self.vertices[:, ::-1].astype("<f4").tobytes() + rows.tobytes())
        return path


def extract_mesh(distances: Float[np.ndarray, "depth height width"]) -> Mesh | None:
    """The surface where distances at the centres of a grid's cells are 0, by marching cubes; None if there is none."""
    from skimage.measure import marching_cubes

    if not distances.min() < 0 < distances.max():
        return None
    index, faces, _, _ = marching_cubes(distances, level=0, gradient_direction="ascent")
    vertices = (2 * index.astype(np.float64) + 1) / np.array(distances.shape) - 1
    return Mesh(vertices, faces.astype(np.int64))


def inside(mesh: Mesh, size: int) -> Bool[np.ndarray, "size size size"]:
    """Which cell centres of a cubic grid are inside a closed mesh: those whose winding number is not 0.

    A ray along z through every (y, x) counts the faces through which it enters and leaves.
    """
    at = (mesh.vertices + 1) * (size / 2) - 0.5  # in cells
    at[:, 1:] += OFF_THE_EDGES
    triangles = at[mesh.faces]
    crossings = np.zeros((size, size, size + 1), dtype=np.int32)  # [y, x, z]
    for pairs in covered_pixels(triangles[:, :, 1:], size, size):
        corners = triangles[pairs.triangle]
        height = (pairs.weights * corners[:, :, 0]).sum(1)
        first = np.clip(np.ceil(height), 0, size).astype(int)  # the first centre beyond the face
        (ay, ax), (by, bx) = ((corners[:, k] - corners[:, 0])[:, 1:].T for k in (1, 2))
        np.add.at(crossings, (pairs.row, pairs.column, first), np.sign(ay * bx - ax * by).astype(np.int32))
    np.cumsum(crossings, axis=2, dtype=np.int32, out=crossings)  # in place: by default, two copies of 64 bits
    return (crossings[:, :, :size] != 0).transpose(2, 0, 1)


def intersection_over_union(one: Bool[np.ndarray, "*shape"], other: Bool[np.ndarray, "*shape"]) -> float:
    """Intersection over union of two sets of grid points; 1 if both are empty."""
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else 1.0


def chamfer_distance(one: Float[np.ndarray, "points 3"], other: Float[np.ndarray, "others 3"]) -> float:
    """Mean distance from each set's points to the nearest of the other set, summed; in units of the cube's side."""
    from scipy.spatial import cKDTree

    return sum(float(cKDTree(a).query(b)[0].mean()) for a, b in ((one, other), (other, one))) / SIDE
