"""Numbers on a grid of any number of axes: their range, metrics, curves and colour maps.

How they are read is in `genrep/data/arrays.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from genrep.coords import grid
from genrep.interpolation import values_at
from genrep.pictures import colour_map, line_plot, picture, strip
from genrep.signals import ArraySignalSpec
from genrep.signals.base import Signal

FRAMES = 8
"""Largest number of slices in a picture of an array with three or more axes."""


class ArraySignal(Signal):
    """Arrays `[B, C, *shape]`; networks see `low` to `high` as -1 to 1. NaN is a missing value."""

    dtype = torch.float32

    def __init__(self, spec: ArraySignalSpec):
        self.spec = spec

    def values(self, kept: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (kept.float() - self.spec.low) * (2 / (self.spec.high - self.spec.low)) - 1

    def keep(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (values.float() + 1) * ((self.spec.high - self.spec.low) / 2) + self.spec.low

    def pictures(self, kept: Float[Tensor, "batch channels *shape"]) -> UInt8[Tensor, "batch 3 height width"]:
        """One line per channel for a curve; colour maps of the channels in a row for two axes, of slices for more.

        Colours range from `low` (dark) to `high` (bright); missing values are white.
        """
        values = self.values(kept)
        if values.ndim == 3:
            return line_plot(values)
        slices = values.flatten(2, -3) if values.ndim > 4 else values[:, :, None]  # [B, C, slices, H, W]
        count = min(FRAMES, slices.shape[2])
        chosen = torch.linspace(0, slices.shape[2] - 1, count).round().long()
        return strip(colour_map(slices[:, :, chosen].flatten(1, 2)))

    def errors(
        self, kept: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> UInt8[Tensor, "batch 3 height width"]:
        """Ten times the absolute difference; the colour of `low` means no difference."""
        difference = (self.values(kept) - self.values(reference)).abs()
        return self.pictures(self.keep((10 * difference).clamp_max(2) - 1))

    def frames(self, kept: Float[Tensor, "channels *shape"]) -> UInt8[Tensor, "1 3 height width"]:
        return self.pictures(kept[None])

    def measure(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """PSNR, and RMSE in the array's own unit; missing values are excluded."""
        half = (self.spec.high - self.spec.low) / 2
        return {"psnr": self.psnr(values, reference), "rmse": half * _mean_square(values, reference).sqrt()}

    def psnr(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> Float[Tensor, " batch"]:
        """PSNR with `high` - `low` as the peak, 100 dB for equal arrays; missing values are excluded."""
        return -10 * (_mean_square(values, reference) / 4).clamp_min(1e-10).log10()

    def resize(
        self, values: Float[Tensor, "batch channels *shape"], size: Sequence[int]
    ) -> Float[Tensor, "batch channels *size"]:
        """Cubic interpolation at the centres of the new grid, without antialiasing; missing values are excluded."""
        if tuple(size) == tuple(values.shape[2:]):
            return values
        resized = values_at(values, grid(size, device=values.device), missing=bool(values.isnan().any()))
        return resized.transpose(1, 2).unflatten(2, tuple(size))

    def output(self, kept: Float[Tensor, "batch channels *shape"], output_type: str) -> Any:
        """ "np" and "pt" give arrays in their own unit, `[N, C, *shape]`; "pil" and "uint8" give pictures of them."""
        if output_type == "np":
            return kept.numpy()
        if output_type == "pt":
            return kept
        images = self.pictures(kept)
        return [picture(image) for image in images] if output_type == "pil" else images


def _mean_square(values: Tensor, reference: Tensor) -> Float[Tensor, " batch"]:
    """Mean square of the errors over the values that are not missing in the reference."""
    is_present = reference.isfinite()
    squares = torch.where(is_present, values.float() - reference.float(), 0).square()
    return squares.flatten(1).sum(1) / is_present.flatten(1).sum(1).clamp_min(1)
