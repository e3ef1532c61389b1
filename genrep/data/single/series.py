"""One signal of one axis, for a field: a row of samples, and a sum of sines, which is known between its samples too."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.coords import grid
from genrep.data import SinesSourceSpec
from genrep.data.single.base import Renders
from genrep.data.single.grids import GridSignal
from genrep.plots import draw_fit
from genrep.signals import ArraySignalSpec
from genrep.signals.arrays import ArraySignal

SHOWN = 128
"""Samples at most that a picture shows, from the middle of the signal."""
FINER = 9
"""Points of the curves in a picture for each sample; an odd number, so that the samples are among them."""


class SeriesSignal(GridSignal):
    """Samples along one axis, `[C, samples]`."""

    def picture(self, field: Renders) -> UInt8[Tensor, "3 height width"]:
        """The fit's curve, drawn ten times as fine as the samples, over the samples; below it the error."""
        count = min(SHOWN, self.num_points)
        first = (self.num_points - count) // 2
        shown, fine = slice(first, first + count), slice(first * FINER, (first + count) * FINER)
        fit = self.signal.keep(field.render((self.num_points * FINER,)))[:, fine]
        at, samples, places, curve = (
            self._places(1)[shown],
            self.kept[:, shown],
            self._places(FINER)[fine],
            self._curve(fine),
        )
        picture = draw_fit(
            at.numpy(), samples.numpy(), places.numpy(), fit.numpy(), None if curve is None else curve.numpy()
        )
        return torch.from_numpy(picture).permute(2, 0, 1)

    def _places(self, finer: int) -> Float[Tensor, " points"]:
        """Coordinates of the samples, or of as many times as many points."""
        return grid((self.num_points * finer,))[:, 0]

    def _curve(self, fine: slice) -> Float[Tensor, "channels points"] | None:
        """The signal itself at the fine points; None where it is not known."""
        return None


class Sines(NamedTuple):
    """A sum of sines over [-1, 1]."""

    frequencies: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray

    def at(self, coords: Float[Tensor, " points"]) -> Float[Tensor, "1 points"]:
        """Its values, float32; frequencies are periods over the whole of [-1, 1]."""
        angles = np.pi * self.frequencies[:, None] * (coords.double().numpy() + 1) + self.phases[:, None]
        return torch.from_numpy((self.amplitudes[:, None] * np.sin(angles)).sum(0, keepdims=True)).float()


class SinesSignal(SeriesSignal):
    """Samples of a sum of sines.

    Args:
        kept: the samples, perhaps noisy.
        signal: what they mean.
        sines: the sum itself.
        finer: points for each sample at which a fit is measured between them, an even number.
    """

    def __init__(self, kept: Float[Tensor, "1 samples"], signal: ArraySignal, sines: Sines, finer: int):
        super().__init__(kept, signal, f"a sum of {len(sines.frequencies)} sines")
        self.sines, self.finer = sines, finer

    def measure(self, field: Renders) -> dict[str, float]:
        """At the samples, and `_between` them, from the first to the last: the second against the sum of sines itself."""
        places = self._places(self.finer)
        inner = places.abs() < 1 - 1 / self.num_points
        reference = self.signal.values(self.sines.at(places[inner]))
        rendered = field.render((len(places),))[:, inner]
        metrics = self.signal.measure(rendered[None], reference[None])
        return {**super().measure(field), **{f"{name}_between": float(value) for name, value in metrics.items()}}

    def _curve(self, fine: slice) -> Float[Tensor, "1 points"]:
        return self.sines.at(self._places(FINER)[fine])


def open_sines(spec: SinesSourceSpec) -> SinesSignal:
    """The sum of sines that a spec gives; its seed draws the phases, and the noise on its samples.

    Networks see plus and minus the sum of the amplitudes as 1 and -1.
    """
    generator = np.random.default_rng(spec.seed)
    frequencies = np.array(spec.frequencies)
    amplitudes = np.ones(len(frequencies)) if spec.amplitudes is None else np.array(spec.amplitudes)
    sines = Sines(frequencies, amplitudes, 2 * np.pi * generator.random(len(frequencies)))
    samples = sines.at(grid((spec.length,))[:, 0])
    samples = samples + spec.noise * torch.from_numpy(generator.standard_normal(samples.shape)).float()
    high = float(amplitudes.sum())
    signal = ArraySignal(ArraySignalSpec(type="array", low=-high, high=high))
    return SinesSignal(samples, signal, sines, spec.finer)
