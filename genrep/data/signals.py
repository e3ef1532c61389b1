"""The seam between kinds of signals and everything that trains, encodes or measures: a split of a data set.

data.read(indices)                  what the loader's workers fetch, `[B, C, *shape]`, in the kind's own type
data.signal.values(kept)            what `encode` takes: floats in about [-1, 1], NaN where a value is missing
data.points(kept, generator, ...)   what the loss compares: coordinates, values there, and their weights
data.signal.pictures, .measure      what people look at, and how near a render comes
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from genrep.coords import draw_targets
from genrep.errors import InputError
from genrep.signals.base import Signal


class Points(NamedTuple):
    """Where decoders are asked, and what they should say there.

    Attributes:
        coords: `[N, axes]`, shared by the batch, or `[B, N, axes]`.
        values: `[B, N, C]`.
        weights: `[B, N, C]`, 0 where a value is missing; None is 1 everywhere.
    """

    coords: Tensor
    values: Tensor
    weights: Tensor | None = None

    def loss(self, predicted: Float[Tensor, "batch points channels"]) -> Float[Tensor, ""]:
        """Mean squared error over all points; a missing value counts as one without error."""
        squares = (predicted - self.values).square()
        return (squares if self.weights is None else squares * self.weights).mean()


class SignalData(Dataset):
    """One split of a data set: signals on a grid of one shape, and labels if it has any. A kind writes `read` and `fingerprint`.

    Attributes:
        spec: as the config gives it.
        signal: what the values mean.
        shape: the grid, one length an axis.
        channels: of the values.
        labels: `[N]` int64, or None.
        class_names: names of the classes, empty without labels.
        name: source and split, for messages and reports.
        flips: training sees signals mirrored along the last axis at random.
        has_source: `read` gives them at a larger size too.
        may_miss: values may be missing.
    """

    spec: Any
    signal: Signal
    shape: tuple[int, ...]
    channels: int
    labels: Tensor | None = None
    class_names: list[str] = []  # noqa: RUF012 replaced, never changed
    name: str
    flips = False
    has_source = False
    may_miss = False

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: Sequence[int], source: bool = False) -> Shaped[Tensor, "batch channels *shape"]:
        """Signals by index, as they are kept; with `source` at the larger size. InputError names one that cannot be read."""
        raise NotImplementedError

    def at_source_size(self, indices: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """Which of these signals are that large themselves, and those at the larger size; none where there is no such source."""
        return [], None

    def read_training(
        self, indices: Sequence[int], positions: Sequence[int], seed: int
    ) -> Shaped[Tensor, "batch channels *shape"]:
        """Signals as training sees them; `positions` in the training stream key what is random about it."""
        return self.read(indices)

    def mirrored(self, kept: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Mirror images. InputError for kinds of signals that have none."""
        raise InputError(f"{self.name}: only images have mirror images: set latents.flips to false")

    def points(
        self,
        kept: Shaped[Tensor, "batch channels *shape"],
        generator: torch.Generator | Sequence[torch.Generator],
        resized_to: Sequence[int] | None = None,
        **how: Any,
    ) -> Points:
        """Coordinates drawn at random and the signals' values there, as `genrep.coords.draw_targets` does.

        Args:
            kept: signals as they are kept.
            generator: one for coordinates that the batch shares, or one a signal.
            resized_to: interpolate the signals on this grid first.
            how: size, num_coords, coords, targets, jitter_std, jitter_clip.
        """
        signals = self.signal.values(kept)
        if resized_to is not None:
            signals = self.signal.resize(signals, resized_to)
        coords, values = draw_targets(signals, generator, missing=self.may_miss, **how)
        if not self.may_miss:
            return Points(coords, values)
        there = values.isfinite()
        return Points(coords, values.nan_to_num(), there.to(values.dtype))

    def labels_of(self, indices: Sequence[int]) -> Int[Tensor, " batch"] | None:
        """Labels by index, None without labels."""
        return None if self.labels is None else self.labels[torch.as_tensor(indices, dtype=torch.long)]

    def __getitem__(self, index: int) -> Shaped[Tensor, "channels *shape"]:
        return self.read([index])[0]

    def transform(self) -> dict[str, Any]:
        """What was done to the values, for manifests and reports."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash of the content, whatever its place."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line for people: how many, how large, how many classes."""
        classes = f", {len(self.class_names)} classes" if self.class_names else ", no labels"
        return f"{self.name}: {len(self):,} of {' × '.join(map(str, (self.channels, *self.shape)))}{classes}"


def evenly(count: int, wanted: int | None) -> list[int]:
    """Up to `wanted` indices below `count`, evenly spaced, so that a sorted data set gives of all its classes; None is all."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def check_whole(data: SignalData, what: str) -> None:
    """InputError if values may be missing where `what` needs all of them."""
    if data.may_miss:
        raise InputError(f"{data.name}: {what} needs every value, and data.missing is keep: set it to refuse")


def check_signal(model: Any, data: SignalData) -> None:
    """InputError if a model's values mean something else than a data set's; `model` has `signal`."""
    own, other = model.signal.spec, data.signal.spec
    if (type(own), own.scale()) != (type(other), other.scale()):
        raise InputError(
            f"{data.name} holds signals {other}, and the model was trained on {own}: give data of the same kind and range "
            "(data.value_range)"
        )
