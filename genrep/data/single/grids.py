"""One signal on a grid of any number of axes: an image, a video, an array."""

import functools
import hashlib
import math

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from genrep.coords import grid_at, jitter_gaussian, jitter_uniform
from genrep.data.single import PointsSpec
from genrep.data.single.base import WHOLE, Renders, Share, SignalPoints, SingleSignal
from genrep.interpolation import values_at
from genrep.pictures import side_by_side
from genrep.signals.base import Signal


class GridSignal(SingleSignal):
    """A signal on a grid, `[C, *shape]`.

    Args:
        kept: pixels, or numbers in their own unit.
        signal: what the values mean.
        source: where they come from, for `describe`.
    """

    def __init__(self, kept: Shaped[Tensor, "channels *shape"], signal: Signal, source: str = ""):
        self.kept, self.signal, self.source = kept, signal, source
        self.channels, self.shape = kept.shape[0], tuple(kept.shape[1:])
        self.num_points = math.prod(self.shape)

    @property
    def values(self) -> Float[Tensor, "channels *shape"]:
        """The values on the networks' scale."""
        return self.signal.values(self.kept)

    def hash(self) -> str:
        """A hash of the content and the shape."""
        digest = hashlib.sha256(str(tuple(self.kept.shape)).encode())
        digest.update(self.kept.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        return f"{' × '.join(map(str, self.kept.shape))} numbers from {self.source}"

    def is_fixed(self, how: PointsSpec) -> bool:
        return how.num_coords is None and how.coords == "grid"

    def points(
        self,
        how: PointsSpec,
        generator: torch.Generator,
        share: Share = WHOLE,
    ) -> SignalPoints:
        """All points of the grid, or random ones, shifted as `how.coords` says; see `PointsSpec`."""
        chosen = torch.arange(self.num_points)
        if how.num_coords is not None:
            chosen = torch.randint(self.num_points, (how.num_coords,), generator=generator)
        shifts = None if how.coords == "grid" else share.of(self._shifts(len(chosen), how, generator))
        chosen = share.of(chosen).to(self.device)
        coords = grid_at(chosen, self.shape)
        if shifts is not None:
            coords = coords + shifts.to(self.device)
        if how.targets == "pixel" or how.coords == "grid":
            return SignalPoints(coords, self._values_of(chosen))
        return SignalPoints(coords, values_at(self._values_on_device[None], coords, "bicubic")[0])

    def measure(self, field: Renders) -> dict[str, float]:
        """The signal's own metrics; for a video, their means and standard deviations over its frames."""
        metrics = self.signal.measure(field.render()[None], self.values[None])
        return {name: float(value) for name, value in metrics.items()}

    def picture(self, field: Renders) -> UInt8[Tensor, "colours height width"]:
        """The render, the signal, and ten times the error; for a video, one row for each of a few frames."""
        renders = self.signal.stills(self.signal.keep(field.render()))
        return side_by_side(
            [
                torch.cat(
                    [
                        *map(self.signal.pictures, (render[None], kept[None])),
                        self.signal.errors(render[None], kept[None]),
                    ]
                )
                for render, kept in zip(renders, self.signal.stills(self.kept), strict=True)
            ]
        )

    def _shifts(self, count: int, how: PointsSpec, generator: torch.Generator) -> Float[Tensor, "points axes"]:
        """Random shifts from the centres of the pixels."""
        zeros = torch.zeros(count, len(self.shape))
        if how.coords == "gaussian":
            return jitter_gaussian(zeros, self.shape, generator, how.jitter_std, how.jitter_clip)
        return jitter_uniform(zeros, self.shape, generator)

    def _values_of(self, chosen: Int[Tensor, " points"]) -> Float[Tensor, "points channels"]:
        """Values at these points of the grid."""
        return self.signal.values(self._rows[chosen])

    @functools.cached_property
    def _rows(self) -> Shaped[Tensor, "points channels"]:
        """The kept signal on the device, one row per point."""
        return self.kept.flatten(1).T.contiguous().to(self.device)

    @functools.cached_property
    def _values_on_device(self) -> Float[Tensor, "channels *shape"]:
        return self.values.to(self.device)
