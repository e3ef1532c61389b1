"""Signed distances of a shape, negative inside. Seen as the surface where they are 0."""

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

WRONG = 0.01
"""Distance, in sides of the cube, that is shown as the brightest error."""


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
        """The surface, coloured by its distance from the reference's: dark is none, bright one per cent of the side or more."""
        pictures = []
        for own, shape in zip(kept, reference, strict=True):
            pictures.append(errors_of(extract_mesh(own[0].numpy()), functools.partial(_interpolated, shape)))
        return torch.stack(pictures)

    def frames(self, kept: Float[Tensor, "1 depth height width"]) -> UInt8[Tensor, "1 3 height width"]:
        return self.pictures(kept[None])

    def measure(
        self,
        values: Float[Tensor, "batch 1 depth height width"],
        reference: Float[Tensor, "batch 1 depth height width"],
    ) -> dict[str, Float[Tensor, " batch"]]:
        """PSNR, and the intersection over union of the insides."""
        pairs = zip(values.numpy() <= 0, reference.numpy() <= 0, strict=True)
        overlaps = [intersection_over_union(one, other) for one, other in pairs]
        return {"psnr": self.psnr(values, reference), "iou": torch.tensor(overlaps)}

    def psnr(
        self,
        values: Float[Tensor, "batch 1 depth height width"],
        reference: Float[Tensor, "batch 1 depth height width"],
    ) -> Float[Tensor, " batch"]:
        """Of the distances, with the side as the peak; 100 dB for equal ones."""
        return -10 * (values - reference).square().flatten(1).mean(1).clamp_min(1e-10).log10()

    def resize(
        self, values: Float[Tensor, "batch 1 depth height width"], size: Sequence[int]
    ) -> Float[Tensor, "batch 1 d h w"]:
        """Linear interpolation at the centres of the other grid."""
        if tuple(size) == tuple(values.shape[2:]):
            return values
        return values_at(values, grid(size, device=values.device), "bilinear").transpose(1, 2).unflatten(2, tuple(size))

    def output(self, kept: Float[Tensor, "batch 1 depth height width"], output_type: str) -> Any:
        """ "np" and "pt" are distances; "pil" and "uint8" are pictures of the surface."""
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
    """A mesh coloured by a shape's distances at the middle of its faces; a white picture of None."""
    from matplotlib import colormaps

    if mesh is None:
        return shaded(None)
    centres = torch.from_numpy(mesh.vertices[mesh.faces].mean(1)).float()
    wrong = (distances(centres).abs() / WRONG).clamp(0, 1).numpy()
    return shaded(mesh, colours=np.asarray(colormaps["viridis"](wrong))[:, :3])
