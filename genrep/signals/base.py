"""What every kind of signal is: how its values are kept, shown and measured."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


class Signal(ABC):
    """What the values of a signal mean.

    Networks work with `values`: floats, about [-1, 1], NaN where a value is missing. Data sets, pipelines and files keep
    them as `kept`: 8-bit pixels of an image, an array's numbers in their own unit.

    Attributes:
        spec: as it is saved.
        dtype: of what is kept.
    """

    spec: Any
    dtype: torch.dtype

    @abstractmethod
    def values(self, kept: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What is kept => what networks work with."""

    @abstractmethod
    def keep(self, values: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """What networks give => what is kept."""

    @abstractmethod
    def pictures(self, kept: Shaped[Tensor, "batch channels *shape"]) -> UInt8[Tensor, "batch colours height width"]:
        """A picture of each signal, for people: grey or RGB, all of one size."""

    @abstractmethod
    def errors(
        self, kept: Shaped[Tensor, "batch channels *shape"], reference: Shaped[Tensor, "batch channels *shape"]
    ) -> UInt8[Tensor, "batch colours height width"]:
        """A picture of ten times the difference of each signal from another, as large as `pictures`."""

    def stills(self, kept: Shaped[Tensor, "channels *shape"]) -> list[Shaped[Tensor, "channels *still"]]:
        """What is shown of one signal beside another: the signal itself or, of a video, a few of its frames."""
        return [kept]

    @abstractmethod
    def frames(self, kept: Shaped[Tensor, "channels *shape"]) -> UInt8[Tensor, "frames colours height width"]:
        """All pictures of one signal: one, or a video's frames."""

    @abstractmethod
    def measure(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """All metrics of `values` against `reference`, signal by signal, by the name of the metric; `psnr` is one of them."""

    @abstractmethod
    def psnr(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> Float[Tensor, " batch"]:
        """The one that is cheap, in dB: what training watches."""

    def measure_kept(
        self, kept: Shaped[Tensor, "batch channels *shape"], reference: Shaped[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """What is measured of signals as they are kept, where that is less exact than their values."""
        return {}

    @abstractmethod
    def resize(
        self, values: Float[Tensor, "batch channels *shape"], size: Sequence[int]
    ) -> Float[Tensor, "batch channels *size"]:
        """Signals interpolated on another grid: what renders of another size are compared with."""

    @abstractmethod
    def output(self, kept: Shaped[Tensor, "batch channels *shape"], output_type: str) -> Any:
        """What a pipeline returns: "pil", "np", "pt" or "uint8", as its call says."""
