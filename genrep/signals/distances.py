"""Signed distances of a shape, negative inside, drawn as the surface where they are 0."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.coords import grid
from genrep.interpolation import values_at
from genrep.pictures import picture
from genrep.signals import DistanceSignalSpec
from genrep.signals.base import Signal
from genrep.signals.meshes import Mesh, extract_mesh, intersection_over_union
from genrep.signals.shading import shaded

BRIGHTEST = 0.01
"""Smallest error, in units of the cube's side, that has the brightest colour."""


class DistanceSignal(Signal):
    """Distances `[B, 1, depth, height, width]` in units of the side of the cube [-1, 1]³, kept as networks see them."""

    dtype = torch.float32

    def __init__(self, spec: DistanceSignalSpec):
        self.spec = spec

    def values(self, kept: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return kept

    def keep(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return values.float()

    def pictures(self, kept: Float[Tensor, "batch 1 depth height width"]) -> UInt8[Tensor, "batch 3 height width"]:
        """The surface, shaded."""
        return torch.stack([shaded(extract_mesh(distances[0].numpy())) for distances in kept])

    def errors(
        self,
        kept: Float[Tensor, "batch 1 depth height width"],
        reference: Float[Tensor, "batch 1 depth height width"],
    ) -> UInt8[Tensor, "batch 3 height width"]:
        """The surface coloured by its distance from the reference's: dark for 0, bright for one per cent of the side."""
        pictures = []
        for distances, shape in zip(kept, reference, strict=True):
            pictures.append(errors_of(extract_mesh(distances[0].numpy()), functools.partial(_interpolated, shape)))
        return torch.stack(pictures)

    def frames(self, kept: Float[Tensor, "1 depth height width"]) -> UInt8[Tensor, "1 3 height width"]:
        return self.pictures(kept[None])

    def measure(
        self,
        values: Float[Tensor, "batch 1 depth height width"],
        reference: Float[Tensor, "batch 1 depth height width"],
    ) -> dict[str, Float[Tensor, " batch"]]:
        """PSNR, and the intersection over union of the interiors."""
        pairs = zip(values.numpy() <= 0, reference.numpy() <= 0, strict=True)
        overlaps = [intersection_over_union(interior, expected) for interior, expected in pairs]
        return {"psnr": self.psnr(values, reference), "iou": torch.tensor(overlaps)}

    def psnr(
        self,
        values: Float[Tensor, "batch 1 depth height width"],
        reference: Float[Tensor, "batch 1 depth height width"],
    ) -> Float[Tensor, " batch"]:
        """PSNR of the distances with the cube's side as the peak, 100 dB for equal ones."""
        return -10 * (values - reference).square().flatten(1).mean(1).clamp_min(1e-10).log10()

    def resize(
        self, values: Float[Tensor, "batch 1 depth height width"], size: Sequence[int]
    ) -> Float[Tensor, "batch 1 d h w"]:
        """Linear interpolation at the centres of the new grid."""
        if tuple(size) == tuple(values.shape[2:]):
            return values
        return values_at(values, grid(size, device=values.device), "bilinear").transpose(1, 2).unflatten(2, tuple(size))

    def output(self, kept: Float[Tensor, "batch 1 depth height width"], output_type: str) -> Any:
        """ "np" and "pt" give distances; "pil" and "uint8" give pictures of the surface."""
        if output_type == "np":
            return kept.numpy()
        if output_type == "pt":
            return kept
        surfaces = self.pictures(kept)
        return [picture(surface) for surface in surfaces] if output_type == "pil" else surfaces


def _interpolated(
    distances: Float[Tensor, "1 depth height width"], coords: Float[Tensor, "points 3"]
) -> Float[Tensor, " points"]:
    return values_at(distances[None], coords, "bilinear")[0, :, 0]


def errors_of(
    mesh: Mesh | None, distances: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]]
) -> UInt8[Tensor, "3 _ _"]:
    """A mesh whose faces are coloured by a shape's distances at their centres; a white picture if the mesh is None."""
    from matplotlib import colormaps

    if mesh is None:
        return shaded(None)
    centres = torch.from_numpy(mesh.vertices[mesh.faces].mean(1)).float()
    errors = (distances(centres).abs() / BRIGHTEST).clamp(0, 1).numpy()
    return shaded(mesh, colours=np.asarray(colormaps["viridis"](errors))[:, :3])
