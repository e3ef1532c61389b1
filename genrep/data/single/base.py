"""The seam between one signal and the loop that fits a field to it.

single.points(how, generator, share)   where a step asks the field, and what it should say there
single.measure(field)                       how near the field comes, all metrics by name
single.picture(field), single.save(field)   what people look at, and files besides the model
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from genrep.data import PointsSpec
from genrep.signals.base import Signal


@runtime_checkable
class Renders(Protocol):
    """What is measured and shown: a `NeuralField`, or any function of coordinates that renders like one, on the CPU."""

    def render(self, size: Any = None) -> Tensor: ...


class SignalPoints(NamedTuple):
    """Coordinates and the values there.

    Attributes:
        coords: `[N, axes]`, in [-1, 1].
        values: `[N, C]`, as networks work with them.
    """

    coords: Tensor
    values: Tensor


class Share(NamedTuple):
    """One process's part of the points of a step, of which every process draws the same."""

    rank: int = 0
    num_processes: int = 1

    def of(self, points: Shaped[Tensor, "points *rest"]) -> Shaped[Tensor, "share *rest"]:
        return points.tensor_split(self.num_processes)[self.rank]


WHOLE = Share()
"""The share of a process that is alone."""


class SingleSignal(ABC):
    """One signal. A kind writes the methods below; what its values mean is `signal`.

    Attributes:
        signal: what the values mean.
        shape: the grid that a field renders unless it is asked for another one, a length an axis.
        channels: of the values.
        num_points: all the points there are.
        device: where points are wanted; see `to`.
    """

    signal: Signal
    shape: tuple[int, ...]
    channels: int
    num_points: int
    device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Give points on this device; to be called before the first are taken."""
        self.device = device

    @abstractmethod
    def hash(self) -> str:
        """Of the content: a run does not go on on another."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: how large, and from where."""

    @abstractmethod
    def is_fixed(self, how: PointsSpec) -> bool:
        """Whether every step has the same points, so that they need to be taken only once."""

    @abstractmethod
    def points(
        self,
        how: PointsSpec,
        generator: torch.Generator,
        share: Share = WHOLE,
    ) -> SignalPoints:
        """This process's share of a step's points, a function of the generator's state alone, on `device`.

        Args:
            how: how many, and how they are drawn.
            generator: on the CPU.
            share: which part of them.
        """

    @abstractmethod
    def measure(self, field: Renders) -> dict[str, float]:
        """All metrics of a field, by name."""

    @abstractmethod
    def picture(self, field: Renders) -> UInt8[Tensor, "colours height width"]:
        """A field's render beside the signal and, where there is a picture of it, the error."""

    def save(self, field: Renders, folder: Path) -> Sequence[Path]:
        """Write what a kind has besides the model, such as a mesh, into a folder; returns the files."""
        return []


class Rendered:
    """A field as it is now, each of whose grids is rendered once, on the CPU, however often it is measured and shown."""

    def __init__(self, field: Renders):
        self.render = functools.cache(lambda size=None: field.render(size).cpu())
