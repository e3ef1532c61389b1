"""Single signals along one axis: a series of samples, and a sum of sines, whose values between the samples are known."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.coords import grid
from genrep.data.single import SinesSourceSpec
from genrep.data.single.base import Renders
from genrep.data.single.grids import GridSignal
from genrep.devices import check_memory
from genrep.plots import draw_fit
from genrep.signals import ArraySignalSpec
from genrep.signals.arrays import ArraySignal

MAX_SAMPLES = 128
"""Largest number of samples in a picture; they are taken from the middle of the signal."""
BYTES_PER_SAMPLE = 20
"""Memory for a sample of `sines`: float64 while it is computed, float32 after."""
FINER = 9
"""Points per sample of the curves in a picture; odd, so that the samples are among the points."""


class SeriesSignal(GridSignal):
    """Samples along one axis, `[C, samples]`."""

    def picture(self, field: Renders) -> UInt8[Tensor, "3 height width"]:
        """The samples with the fit as a curve of `FINER` points per sample, and the error below."""
        count = min(MAX_SAMPLES, self.num_points)
        first = (self.num_points - count) // 2
        coarse, fine = slice(first, first + count), slice(first * FINER, (first + count) * FINER)
        fit = self.signal.keep(field.render((self.num_points * FINER,)))[:, fine]
        curve = self._curve(fine)
        picture = draw_fit(
            self._places(1)[coarse].numpy(),
            self.kept[:, coarse].numpy(),
            self._places(FINER)[fine].numpy(),
            fit.numpy(),
            None if curve is None else curve.numpy(),
        )
        return torch.from_numpy(picture).permute(2, 0, 1)

    def _places(self, finer: int) -> Float[Tensor, " points"]:
        """Coordinates of `finer` evenly spaced points per sample; 1 gives the samples themselves."""
        return grid((self.num_points * finer,))[:, 0]

    def _curve(self, fine: slice) -> Float[Tensor, "channels points"] | None:
        """The true signal at the fine points; None where it is not known."""
        return None


class Sines(NamedTuple):
    """A sum of sines over [-1, 1]."""

    frequencies: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray

    def at(self, coords: Float[Tensor, " points"]) -> Float[Tensor, "1 points"]:
        """Values at coordinates, float32; frequencies are in periods over the whole of [-1, 1]."""
        angles = np.pi * self.frequencies[:, None] * (coords.double().numpy() + 1) + self.phases[:, None]
        return torch.from_numpy((self.amplitudes[:, None] * np.sin(angles)).sum(0, keepdims=True)).float()


class SinesSignal(SeriesSignal):
    """Samples of a sum of sines.

    Args:
        kept: the samples, which may be noisy.
        signal: what the values mean.
        sines: the sum itself.
        finer: points per sample at which to measure a fit between the samples; even.
    """

    def __init__(self, kept: Float[Tensor, "1 samples"], signal: ArraySignal, sines: Sines, finer: int):
        super().__init__(kept, signal, f"a sum of {len(sines.frequencies)} sines")
        self.sines, self.finer = sines, finer

    def measure(self, field: Renders) -> dict[str, float]:
        """Metrics at the samples and, as `_between`, against the true sum between the first and the last sample."""
        places = self._places(self.finer)
        inner = places.abs() < 1 - 1 / self.num_points
        reference = self.signal.values(self.sines.at(places[inner]))
        rendered = field.render((len(places),))[:, inner]
        metrics = self.signal.measure(rendered[None], reference[None])
        return {**super().measure(field), **{f"{name}_between": float(value) for name, value in metrics.items()}}

    def _curve(self, fine: slice) -> Float[Tensor, "1 points"]:
        return self.sines.at(self._places(FINER)[fine])


def open_sines(spec: SinesSourceSpec) -> SinesSignal:
    """The sum of sines that a spec describes; its seed draws the phases and the noise on the samples.

    Plus and minus the sum of the amplitudes are 1 and -1 for the network.
    """
    generator = np.random.default_rng(spec.seed)
    frequencies = np.array(spec.frequencies)
    amplitudes = np.ones(len(frequencies)) if spec.amplitudes is None else np.array(spec.amplitudes)
    sines = Sines(frequencies, amplitudes, 2 * np.pi * generator.random(len(frequencies)))
    check_memory(
        BYTES_PER_SAMPLE * spec.length, torch.device("cpu"), "a series of signal.length", "lower signal.length"
    )
    samples = sines.at(grid((spec.length,))[:, 0])
    samples = samples + spec.noise * torch.from_numpy(generator.standard_normal(samples.shape)).float()
    high = float(amplitudes.sum())
    signal = ArraySignal(ArraySignalSpec(type="array", low=-high, high=high))
    return SinesSignal(samples, signal, sines, spec.finer)
