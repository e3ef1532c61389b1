"""The signed distance of a shape to fit a field to, at points near its surface that are drawn afresh at every step."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from genrep.coords import grid
from genrep.data.single import PointsSpec, ShapeSourceSpec
from genrep.data.single.base import WHOLE, Renders, Share, SignalPoints, SingleSignal
from genrep.data.single.surfaces import Surface, read_surface
from genrep.devices import check_memory
from genrep.pictures import side_by_side
from genrep.signals import DistanceSignalSpec
from genrep.signals.distances import errors_of
from genrep.signals.meshes import SIDE, Mesh, chamfer_distance, extract_mesh, inside, intersection_over_union
from genrep.signals.shading import shaded

NEIGHBOURS = 3
"""Number of nearest surface points along whose mean normal a distance is measured, as in SCONE."""
LEAF = 32
"""Points per leaf of the tree: 32 instead of 16 reduced distances far from the surface from 0.97 to 0.46 s per step."""
ROWS = 262_144
"""Number of grid points whose distances are computed at a time."""
BYTES_PER_POINT = 12
"""Memory for a point of the grid while IoU is measured: the render (4) and, for a cloud, the distances in parts and together
(8); the interior of a mesh takes less."""


class ShapeSignal(SingleSignal):
    """A shape moved and scaled into the cube [-1, 1]³, coordinates (z, y, x). The cube's side is the unit of distances.

    Distances are measured as in SCONE: from the nearest point of the surface, along the mean normal of the nearest
    three. On a smooth surface that is the true distance; beyond a sharp edge it is shorter, with the same sign.
    """

    channels = 1

    def __init__(self, spec: ShapeSourceSpec, surface: Surface):
        from scipy.spatial import cKDTree

        self.spec, self.signal = spec, DistanceSignalSpec().build()
        self.shape = (spec.grid_size,) * 3
        corners = surface.points if surface.mesh is None else surface.mesh.vertices[:, ::-1]
        low, high = corners.min(0), corners.max(0)
        self.middle, self.scale = (low + high) / 2, spec.extent * SIDE / (high - low).max()
        self.surface = (surface.points - self.middle)[:, ::-1] * self.scale
        self.normals = np.ascontiguousarray(surface.normals[:, ::-1])
        self.mesh = None
        if surface.mesh is not None:
            vertices = (surface.mesh.vertices - self.middle[::-1]) * self.scale
            self.mesh = Mesh(vertices, surface.mesh.faces)
        self.is_closed, self.num_points = surface.is_closed, len(surface.points)
        self._tree = cKDTree(self.surface, leafsize=LEAF)

    def hash(self) -> str:
        """A hash of the surface in the cube and of the grid."""
        digest = hashlib.sha256(str(self.shape).encode())
        for part in (self.surface, self.normals):
            digest.update(np.ascontiguousarray(part, dtype=np.float32).tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        kind = "a cloud" if self.mesh is None else "a closed mesh" if self.is_closed else "a mesh with holes"
        return f"distances of {self.spec.source}, {kind}: {self.num_points:,} points on its surface"

    def is_fixed(self, how: PointsSpec) -> bool:
        return False

    def points(self, how: PointsSpec, generator: torch.Generator, share: Share = WHOLE) -> SignalPoints:
        """Points of the surface moved off it by Laplace noise, and points anywhere in the cube.

        Points that leave the cube re-enter on the opposite side. Without `num_coords`, as many points are drawn as the
        surface has.
        """
        count = how.num_coords or self.num_points
        num_uniform = round(self.spec.uniform * count)
        chosen = torch.randint(self.num_points, (count - num_uniform,), generator=generator)
        near = torch.from_numpy(self.surface[chosen.numpy()]).float()
        parts = zip(near.tensor_split(len(self.spec.noise)), self.spec.noise, strict=True)
        moved = [part + SIDE * scale * _laplace(part.shape, generator) for part, scale in parts]
        uniform = torch.rand(num_uniform, 3, generator=generator) * 2 - 1
        coords = share.of(torch.remainder(torch.cat([*moved, uniform]) + 1, 2) - 1)
        values = self.distances(coords)
        return SignalPoints(coords.to(self.device), values.to(self.device)[:, None])

    def distances(self, coords: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Signed distances of points, float32."""
        places = coords.double().numpy()
        count = min(NEIGHBOURS, self.num_points)
        _, nearest = self._tree.query(places, k=count, workers=torch.get_num_threads())
        nearest = nearest.reshape(len(places), count)  # which of no points, and of one neighbour, has another shape
        normals = self.normals[nearest].mean(1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
        along = ((places - self.surface[nearest[:, 0]]) * normals).sum(1)
        return torch.from_numpy(along / SIDE).float()

    def measure(self, field: Renders) -> dict[str, float]:
        """`iou` of the interiors on the grid; `chamfer` between the extracted mesh's vertices and the surface's points.

        The interior of a closed mesh is determined by its winding number, that of other shapes by the sign of their
        distances. A field without a zero level set has no `chamfer`.
        """
        rendered = field.render()[0].numpy()
        metrics = {"iou": intersection_over_union(rendered <= 0, self.is_inside)}
        mesh = extract_mesh(rendered)
        if mesh is not None:
            metrics["chamfer"] = chamfer_distance(mesh.vertices, self.surface)
        return metrics

    def picture(self, field: Renders) -> UInt8[Tensor, "3 height width"]:
        """The field's surface, the shape, and the field's surface coloured by its distance from the shape."""
        mesh = extract_mesh(field.render()[0].numpy())
        pictures = [shaded(mesh), shaded(self._reference), errors_of(mesh, self.distances)]
        return side_by_side([torch.stack(pictures)])

    def save(self, field: Renders, folder: Path) -> Sequence[Path]:
        """The field's surface as mesh.ply, with the size and position of the shape in its file."""
        mesh = extract_mesh(field.render()[0].numpy())
        if mesh is None:
            return []
        vertices = mesh.vertices / self.scale + self.middle[::-1]
        return [Mesh(vertices, mesh.faces).write_ply(folder / "mesh.ply")]

    @functools.cached_property
    def is_inside(self) -> Bool[np.ndarray, "depth height width"]:
        """Which centres of the grid's cells are inside."""
        if self.mesh is not None and self.is_closed:
            return inside(self.mesh, self.spec.grid_size)
        return self._grid_distances <= 0

    @functools.cached_property
    def _grid_distances(self) -> Float[np.ndarray, "depth height width"]:
        starts = range(0, self.spec.grid_size**3, ROWS)
        parts = [self.distances(grid(self.shape, start=start, stop=start + ROWS)) for start in starts]
        return torch.cat(parts).view(self.shape).numpy()

    @functools.cached_property
    def _reference(self) -> Mesh | None:
        """The shape as a mesh, which for a cloud is extracted from its distances."""
        return extract_mesh(self._grid_distances) if self.mesh is None else self.mesh


def _laplace(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "points 3"]:
    """Laplace noise of scale 1."""
    uniform = torch.rand(tuple(shape), generator=generator) - 0.5
    return -uniform.sign() * torch.log1p((-2 * uniform.abs()).clamp_min(1e-7 - 1))


def open_shape(spec: ShapeSourceSpec) -> ShapeSignal:
    """The shape that a spec names. InputError where `read_surface` raises one, and for a grid that exceeds the memory."""
    size = spec.grid_size
    what = f"signal.grid_size {size}: measuring a shape on {size} × {size} × {size} points"
    check_memory(BYTES_PER_POINT * size**3, torch.device("cpu"), what, "lower signal.grid_size")
    return ShapeSignal(spec, read_surface(spec.source, spec.num_surface_points))
