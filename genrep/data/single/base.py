"""The seam between one signal and the loop that fits a field to it.

single.points(how, generator, share)        where a step evaluates the field, and the target values there
single.measure(field)                       how close the field is to the signal: all metrics by name
single.picture(field), single.save(field)   a picture of the fit, and files other than the model
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from genrep.data.single import PointsSpec
from genrep.signals.base import Signal


@runtime_checkable
class Renders(Protocol):
    """What can be measured and drawn: a `NeuralField`, or any function of coordinates that renders like one."""

    def render(self, size: Any = None) -> Tensor: ...


class SignalPoints(NamedTuple):
    """Coordinates and the values there.

    Attributes:
        coords: `[N, axes]`, in [-1, 1].
        values: `[N, C]`, on the networks' scale.
    """

    coords: Tensor
    values: Tensor


class Share(NamedTuple):
    """One process's part of a step's points: every process draws the same points, and uses its part of them."""

    rank: int = 0
    num_processes: int = 1

    def of(self, points: Shaped[Tensor, "points *rest"]) -> Shaped[Tensor, "share *rest"]:
        return points.tensor_split(self.num_processes)[self.rank]


WHOLE = Share()
"""The share of a process that runs alone."""


class SingleSignal(ABC):
    """One signal. Every kind implements the methods below; what the values mean is up to `signal`.

    Attributes:
        signal: what the values mean.
        shape: the grid that a field renders by default, one length per axis.
        channels: channels of the values.
        num_points: number of points of the whole signal.
        device: where `points` returns its tensors; see `to`.
    """

    signal: Signal
    shape: tuple[int, ...]
    channels: int
    num_points: int
    device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Return points on this device from now on; call this before the first use of `points`."""
        self.device = device

    @abstractmethod
    def hash(self) -> str:
        """A hash of the content; a run is not resumed on a different signal."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: the signal's size and source."""

    @abstractmethod
    def is_fixed(self, how: PointsSpec) -> bool:
        """Whether every step has the same points, so that they need to be computed only once."""

    @abstractmethod
    def points(
        self,
        how: PointsSpec,
        generator: torch.Generator,
        share: Share = WHOLE,
    ) -> SignalPoints:
        """This process's share of a step's points, on `device`; they depend only on the generator's state.

        Args:
            how: how many points to draw, and how.
            generator: on the CPU.
            share: which part of the points to return.
        """

    @abstractmethod
    def measure(self, field: Renders) -> dict[str, float]:
        """All metrics of a field, by name."""

    @abstractmethod
    def picture(self, field: Renders) -> UInt8[Tensor, "colours height width"]:
        """A field's render next to the signal and, where it can be drawn, the error."""

    def save(self, field: Renders, folder: Path) -> Sequence[Path]:
        """Write this kind's files other than the model, such as a mesh, into a folder; returns their paths."""
        return []


class Rendered:
    """A field with its current weights, whose renders are cached on the CPU: measuring and drawing share one per grid."""

    def __init__(self, field: Renders):
        self.render = functools.cache(lambda size=None: field.render(size).cpu())
