"""Kinds of signals: what values mean. The table of what there is; a new kind is a spec here and a file beside this one.

Models and pipelines save the spec of their signals, so that a folder that was copied still says what it makes. Where
signals come from is another question: see `genrep/data`. Does not import torch, so --help stays fast.
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
        """What -1 and 1 stand for."""
        return 0.0, 255.0

    def build(self) -> "Signal":
        from genrep.signals.images import ImageSignal

        return ImageSignal(self)


class ArraySignalSpec(Spec):
    """Numbers on a grid of any number of axes: a curve, a field, a clip."""

    type: Literal["array"] = "array"
    low: FiniteFloat = -1.0
    """What -1 stands for, in the array's own unit."""
    high: FiniteFloat = 1.0
    """What 1 stands for."""
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
        """What -1 and 1 stand for."""
        return self.low, self.high

    def build(self) -> "Signal":
        from genrep.signals.arrays import ArraySignal

        return ArraySignal(self)


class DistanceSignalSpec(Spec):
    """Signed distances of a shape, negative inside, in units of the side of the cube [-1, 1]³."""

    type: Literal["distance"] = "distance"

    def scale(self) -> tuple[float, float]:
        """What -1 and 1 stand for."""
        return -1.0, 1.0

    def build(self) -> "Signal":
        from genrep.signals.distances import DistanceSignal

        return DistanceSignal(self)


SignalSpec = Annotated[ImageSignalSpec | ArraySignalSpec | DistanceSignalSpec, Field(discriminator="type")]
"""Every kind there is: a union, told apart by `type`."""


class SignalOf(Spec):
    """What has a signal and nothing else to validate."""

    signal: SignalSpec
    """What the values mean."""
