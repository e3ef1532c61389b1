"""A split of a data set: the interface between kinds of signals and the code that trains, encodes or measures.

data.read(indices)                  what the loader's workers fetch: stored signals `[B, C, *shape]`, in the kind's own dtype
data.signal.values(kept)            what `encode` takes: floats in about [-1, 1], NaN where a value is missing
data.points(kept, generator, ...)   what the loss compares: coordinates, values there, and their weights
data.signal.pictures, .measure      pictures for people, and the metrics of a render

Stored signals are called `kept`: uint8 pixels of images, values in their own unit of arrays.
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
    """Coordinates at which decoders are trained, and their target values.

    Attributes:
        coords: `[N, axes]`, shared by the batch, or `[B, N, axes]`.
        values: `[B, N, C]`.
        weights: `[B, N, C]`, 0 where a value is missing; None means 1 everywhere.
    """

    coords: Tensor
    values: Tensor
    weights: Tensor | None = None

    def loss(self, predicted: Float[Tensor, "batch points channels"]) -> Float[Tensor, ""]:
        """Mean squared error over all points; a missing value counts as an error of 0."""
        # Divided by all points, not by those with values: so the parts and processes of a step, which have different
        # numbers of them, still average to the loss of the whole batch.
        squares = (predicted - self.values).square()
        return (squares if self.weights is None else squares * self.weights).mean()


class SignalData(Dataset):
    """One split of a data set: signals on a grid of one shape, and their labels if there are any.

    Subclasses implement `__len__`, `read`, `transform` and `fingerprint`.

    Attributes:
        spec: the data set's spec.
        signal: the kind of signals: what their values mean.
        shape: the grid, one length per axis.
        channels: number of channels.
        labels: `[N]` int64, or None.
        class_names: names of the classes, empty without labels.
        name: source and split, for messages and reports.
        flips: whether training mirrors signals along the last axis at random.
        has_source: whether `read` can also give them at a larger size.
        may_miss: whether values may be missing.
        has_sizes: whether every signal has a size of its own instead of `shape`; `read` then takes signals of one size.
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
    has_sizes = False

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: Sequence[int], source: bool = False) -> Shaped[Tensor, "batch channels *shape"]:
        """Stored signals by index, with `source` at the larger size. InputError names one that cannot be read."""
        raise NotImplementedError

    def sizes_of(self, indices: Sequence[int]) -> Int[Tensor, "batch axes"]:
        """Sizes of signals by index, one length per axis."""
        return torch.tensor(self.shape).expand(len(indices), -1)

    def at_source_size(self, indices: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """(positions in `indices` of the signals whose originals are that large, those at the larger size or None)."""
        return [], None

    def read_training(
        self, indices: Sequence[int], positions: Sequence[int], seed: int
    ) -> Shaped[Tensor, "batch channels *shape"]:
        """Signals as training sees them, such as cropped at random; `positions` in the stream key the randomness."""
        return self.read(indices)

    def mirrored(self, kept: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Mirror images. InputError for kinds of signals that have none."""
        raise InputError(f"{self.name}: only images can be mirrored: set latents.flips to false")

    def points(
        self,
        kept: Shaped[Tensor, "batch channels *shape"],
        generator: torch.Generator | Sequence[torch.Generator],
        resized_to: Sequence[int] | None = None,
        **how: Any,
    ) -> Points:
        """Coordinates drawn at random, and the signals' values there.

        Args:
            kept: stored signals.
            generator: one, for coordinates that the batch shares, or one per signal.
            resized_to: resize the signals to this grid first.
            how: arguments of `genrep.coords.draw_targets`: size, num_coords, coords, targets, jitter_std, jitter_clip.
        """
        signals = self.signal.values(kept)
        if resized_to is not None:
            signals = self.signal.resize(signals, resized_to)
        # a missing value is NaN, and interpolation would spread it to its neighbours: draw_targets works around it
        coords, values = draw_targets(signals, generator, missing=self.may_miss, **how)
        if not self.may_miss:
            return Points(coords, values)
        # NaN times a weight of 0 would still be NaN
        is_known = values.isfinite()
        return Points(coords, values.nan_to_num(), is_known.to(values.dtype))

    def row_name(self, index: int) -> str:
        """A signal's place in the source, for messages."""
        return f"signal {index}"

    def labels_of(self, indices: Sequence[int]) -> Int[Tensor, " batch"] | None:
        """Labels by index, None without labels."""
        return None if self.labels is None else self.labels[torch.as_tensor(indices, dtype=torch.long)]

    def __getitem__(self, index: int) -> Shaped[Tensor, "channels *shape"]:
        return self.read([index])[0]

    def transform(self) -> dict[str, Any]:
        """How the values were processed, for manifests and reports."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hash of the content, independent of where it is stored."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line for people: number of signals, their size, number of classes."""
        classes = f", {len(self.class_names)} classes" if self.class_names else ", no labels"
        size = "their own size" if self.has_sizes else " × ".join(map(str, (self.channels, *self.shape)))
        return f"{self.name}: {len(self):,} of {size}{classes}"


def evenly(count: int, number: int | None) -> list[int]:
    """Up to `number` indices below `count`, evenly spaced so that all classes of a sorted data set occur; None takes all."""
    if number is None or number >= count:
        return list(range(count))
    return [index * count // number for index in range(number)]


def check_whole(data: SignalData, consumer: str) -> None:
    """InputError if values may be missing although `consumer`, named in the message, needs all of them."""
    if data.may_miss:
        raise InputError(f"{data.name}: {consumer} needs every value, but data.missing is keep: set it to refuse")


def check_signal(model: Any, data: SignalData) -> None:
    """InputError if `model.signal` is of another kind or scale than the data set's signals."""
    model_signal, data_signal = model.signal.spec, data.signal.spec
    if (type(model_signal), model_signal.scale()) != (type(data_signal), data_signal.scale()):
        raise InputError(
            f"{data.name} holds signals {data_signal}, but the model was trained on {model_signal}: give data of the same kind "
            "and range (data.value_range)"
        )
