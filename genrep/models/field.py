"""The field of one signal, as a model that is saved and loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import Integer, as_floats, as_integer, check_finite, in_training
from genrep.coords import Region, grid_shape
from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import FieldModelSpec
from genrep.render import render_values
from genrep.signals import ImageSignalSpec
from genrep.specs import from_arguments


class NeuralField(StrictLoading, ModelMixin, ConfigMixin):
    """One image, video or volume as a network of its coordinates.

    Args:
        field: `{"type": ..., ...}`, one of `genrep.fields`.
        shape: the signal's own size, one number per axis: (height, width), (frames, height, width).
        channels: channels of the values.
        signal: `{"type": ..., ...}`, one of `genrep.signals`: what the values mean; None is images.

    Raises:
        InputError: an unknown key, a wrong type or an invalid value.
    """

    @register_to_config
    def __init__(
        self,
        field: Mapping[str, Any] | Any,
        shape: Sequence[int],
        channels: int = 3,
        signal: Mapping[str, Any] | Any | None = None,
    ):
        super().__init__()
        spec = from_arguments(FieldModelSpec, locals(), where=type(self).__name__)
        self.shape = tuple(spec.shape)
        self.signal = (spec.signal or ImageSignalSpec()).build()
        self.field = spec.field.build(len(self.shape), channels)

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Any:
        """Precompute what depends on these coordinates alone; `forward` takes the result in their place."""
        return self.field.prepare(coords)

    def forward(self, coords: Any) -> Float[Tensor, "points channels"]:
        """Values at coordinates `[N, axes]` in [-1, 1], axes in array order; or at the result of `prepare`.

        Values are in [-1, 1] up to the model's error. InputError for coordinates of another shape, of integers, or (except
        while a graph is recorded) not finite.
        """
        if isinstance(coords, Tensor):  # a prepared result was checked when it was made
            as_floats(coords, "coords", "[points, axes]")
            if coords.ndim != 2 or coords.shape[1] != len(self.shape):
                raise InputError(f"coords must be [points, {len(self.shape)}]; got {list(coords.shape)}")
            if not in_training(self, coords):
                check_finite(coords, "coords")
        return self.field(coords)

    @torch.no_grad()
    def render(
        self, size: Integer | Sequence[Integer] | None = None, region: Region | None = None, chunk: Integer = 65_536
    ) -> Float[Tensor, "channels *size"]:
        """The signal at any size and region, `[C, *size]`. Besides the output, memory holds one chunk.

        Args:
            size: one number for all axes, or one per axis; None is the signal's own size.
            region: the starts, then the ends, of all axes in [-1, 1]; None is the whole signal.
            chunk: points at a time.

        Raises:
            InputError: an invalid size or region, or an output that the device cannot hold.
        """
        shape = self.shape if size is None else grid_shape(size, len(self.shape))
        chunk = as_integer(chunk, "chunk", low=1)
        return render_values(lambda coords: self.field(coords)[None], shape, region, chunk, self.device)[0]
