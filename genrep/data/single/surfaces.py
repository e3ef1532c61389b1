"""The surface of a shape as points with normals, from a mesh or a point cloud, read by trimesh (the extra `shapes`)."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from genrep.errors import InputError
from genrep.signals.meshes import Mesh

SHAPE_SUFFIXES = (".obj", ".ply", ".stl", ".off")


LEAST_EXTENT = 1e-30
"""Shapes smaller than this, or larger than its inverse, are refused."""


class Surface(NamedTuple):
    """A shape as it is in its file, axes (x, y, z).

    Attributes:
        points, normals: on the surface; normals have length 1 and point outwards.
        mesh: the triangles, axes (z, y, x); None for a cloud.
        is_closed: whether the mesh has an inside.
    """

    points: Float[np.ndarray, "points 3"]
    normals: Float[np.ndarray, "points 3"]
    mesh: Mesh | None
    is_closed: bool


def read_surface(source: str, num_points: int) -> Surface:
    """Points sampled on a mesh evenly over its area, with the normals of its faces; or a cloud's own points and normals.

    Args:
        source: path of the file.
        num_points: number of points to sample on a mesh; the same ones in every call.

    Raises:
        InputError: the file is missing, damaged or of another kind, has neither faces nor normals, has non-finite
            coordinates, or all points coincide.
    """
    path = Path(source).expanduser()
    loaded = _load(path)
    vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
    if len(vertices) == 0:
        raise InputError(f"signal.source {path}: must have points; got none")
    if not np.isfinite(vertices).all():
        raise InputError(f"signal.source {path}: coordinates must be finite; got NaN or infinite ones")
    extent = np.ptp(vertices, axis=0).max()
    if not extent > 0:
        raise InputError(f"signal.source {path}: must have an extent; all of its points coincide")
    if not LEAST_EXTENT < extent < 1 / LEAST_EXTENT:  # areas and squared distances would leave float64
        raise InputError(
            f"signal.source {path}: its extent must be between {LEAST_EXTENT:g} and {1 / LEAST_EXTENT:g}; got {extent:g}"
        )
    faces = np.asarray(getattr(loaded, "faces", ()))
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise InputError(
            f"signal.source {path}: is damaged: a face refers to vertex {faces.max() if faces.min() >= 0 else faces.min()}, "
            f"and there are {len(vertices)}, counted from 0"
        )
    if len(faces):
        return _of_mesh(path, loaded, num_points)
    normals = _normals_of_cloud(path, loaded, len(vertices))
    return Surface(vertices, normals, None, False)


def _load(path: Path) -> Any:
    """trimesh's mesh or cloud."""
    import trimesh  # optional: the message about the extra is in `genrep/training/config.py`

    if not path.is_file():
        raise InputError(f"signal.source {str(path)!r} does not exist: give a mesh, or a cloud of points with normals")
    if path.suffix.lower() not in SHAPE_SUFFIXES:
        raise InputError(
            f"signal.source {path}: must be one of {', '.join(SHAPE_SUFFIXES)}; got {path.suffix or 'no suffix'}"
        )
    try:
        loaded = trimesh.load(path, process=False)  # processing would silently drop non-finite points
        return loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    except Exception as error:  # trimesh's readers raise errors of many types on damaged files
        reason = str(error) or type(error).__name__
        raise InputError(
            f"signal.source {path}: cannot be read as a shape: it is empty or damaged ({reason})"
        ) from error


def _of_mesh(path: Path, mesh: Any, num_points: int) -> Surface:
    import trimesh

    mesh.merge_vertices(merge_tex=True, merge_norm=True)  # seams of textures are not edges of the surface
    if not mesh.area > 0:
        raise InputError(f"signal.source {path}: its faces must have an area; got {len(mesh.faces)} without any")
    if mesh.is_watertight and mesh.volume < 0:
        mesh.invert()
    points, face = trimesh.sample.sample_surface(mesh, num_points, seed=0)
    triangles = Mesh(np.asarray(mesh.vertices)[:, ::-1], np.asarray(mesh.faces))
    return Surface(np.asarray(points), np.asarray(mesh.face_normals)[face], triangles, bool(mesh.is_watertight))


def _normals_of_cloud(path: Path, cloud: Any, count: int) -> Float[np.ndarray, "points 3"]:
    """The columns nx, ny and nz of a PLY file, scaled to length 1."""
    columns = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    try:
        normals = np.stack(
            [np.asarray(columns[name], dtype=np.float64).reshape(-1) for name in ("nx", "ny", "nz")], axis=1
        )
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"signal.source {path}: must have faces, or a normal (nx, ny, nz) for each point; got {count} points without either"
        ) from None
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    if len(normals) != count or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InputError(f"signal.source {path}: normals must be finite and longer than 0, one for each point")
    return normals / lengths
