"""The base class of signals: how their values are kept, drawn and measured."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


class Signal(ABC):
    """What the values of a signal mean.

    Networks work with `values`: floats, roughly in [-1, 1], NaN where a value is missing. Data sets, pipelines and
    files hold them in the form `kept`: 8-bit pixels for an image, numbers in their own unit for an array.

    Attributes:
        spec: the spec that is saved with a model.
        dtype: number type of the kept form.
    """

    spec: Any
    dtype: torch.dtype

    @abstractmethod
    def values(self, kept: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Kept form => values."""

    @abstractmethod
    def keep(self, values: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Values => kept form."""

    @abstractmethod
    def pictures(self, kept: Shaped[Tensor, "batch channels *shape"]) -> UInt8[Tensor, "batch colours height width"]:
        """One picture per signal, grey or RGB, all of the same size."""

    @abstractmethod
    def errors(
        self, kept: Shaped[Tensor, "batch channels *shape"], reference: Shaped[Tensor, "batch channels *shape"]
    ) -> UInt8[Tensor, "batch colours height width"]:
        """Pictures of ten times the difference between signals and reference, of the same size as `pictures`."""

    def stills(self, kept: Shaped[Tensor, "channels *shape"]) -> list[Shaped[Tensor, "channels *still"]]:
        """What to draw of a signal when two are shown side by side: the signal itself or, for a video, a few frames."""
        return [kept]

    @abstractmethod
    def frames(self, kept: Shaped[Tensor, "channels *shape"]) -> UInt8[Tensor, "frames colours height width"]:
        """All pictures of one signal: one, or a video's frames."""

    @abstractmethod
    def measure(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """All metrics of `values` against `reference`, one number per signal: name -> `[B]`; `psnr` is among them."""

    @abstractmethod
    def psnr(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> Float[Tensor, " batch"]:
        """PSNR in dB, which is cheap enough to follow during training."""

    def measure_kept(
        self, kept: Shaped[Tensor, "batch channels *shape"], reference: Shaped[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Further metrics of signals in kept form, for kinds where that is less exact than the values."""
        return {}

    @abstractmethod
    def resize(
        self, values: Float[Tensor, "batch channels *shape"], size: Sequence[int]
    ) -> Float[Tensor, "batch channels *size"]:
        """Signals interpolated on another grid: the reference for renders of another size."""

    @abstractmethod
    def output(self, kept: Shaped[Tensor, "batch channels *shape"], output_type: str) -> Any:
        """What a pipeline returns for an `output_type` of "pil", "np", "pt" or "uint8"."""
