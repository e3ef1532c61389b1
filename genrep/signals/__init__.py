"""Kinds of signal: what the values mean. To add a kind, write a spec here and a file in this folder.

Models and pipelines save the spec of their signals, so that a copied folder still says what it generates. Where signals
come from is in `genrep/data`. Does not import torch, so --help stays fast.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from genrep.specs import FiniteFloat, Spec

if TYPE_CHECKING:
    from genrep.signals.base import Signal


class ImageSignalSpec(Spec):
    """Pictures: an image, or the frames of a video; grey or RGB, 8 bits per channel."""

    type: Literal["image"] = "image"

    def scale(self) -> tuple[float, float]:
        """The values that networks see as -1 and 1."""
        return 0.0, 255.0

    def build(self) -> "Signal":
        from genrep.signals.images import ImageSignal

        return ImageSignal(self)


class ArraySignalSpec(Spec):
    """Numbers on a grid of any number of axes: a curve, a field, a clip."""

    type: Literal["array"] = "array"
    low: FiniteFloat = -1.0
    """The value that networks see as -1, in the array's own unit."""
    high: FiniteFloat = 1.0
    """The value that networks see as 1."""
    unit: str = ""
    """Unit of the values, for pictures and reports."""
    axes: list[str] = Field(default_factory=list)
    """Names of the axes, first to last, for pictures; empty leaves them out."""

    @model_validator(mode="after")
    def _rising(self) -> "ArraySignalSpec":
        if not self.low < self.high:
            raise ValueError(f"low must be below high; got {self.low:g} and {self.high:g}")
        return self

    def scale(self) -> tuple[float, float]:
        """The values that networks see as -1 and 1."""
        return self.low, self.high

    def build(self) -> "Signal":
        from genrep.signals.arrays import ArraySignal

        return ArraySignal(self)


class DistanceSignalSpec(Spec):
    """Signed distances of a shape, negative inside, in units of the side of the cube [-1, 1]³."""

    type: Literal["distance"] = "distance"

    def scale(self) -> tuple[float, float]:
        """The values that networks see as -1 and 1."""
        return -1.0, 1.0

    def build(self) -> "Signal":
        from genrep.signals.distances import DistanceSignal

        return DistanceSignal(self)


SignalSpec = Annotated[ImageSignalSpec | ArraySignalSpec | DistanceSignalSpec, Field(discriminator="type")]
"""All kinds of signal: a union distinguished by `type`."""


class SignalOf(Spec):
    """Validates a signal's spec alone."""

    signal: SignalSpec
    """What the values mean."""
