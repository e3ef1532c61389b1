"""The field of one signal, as it is saved and loaded."""

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
        shape: the signal's own size, one number an axis: (height, width), (frames, height, width).
        channels: of its values.
        signal: `{"type": ..., ...}`, one of `genrep.signals`: what the values mean; None is pictures.

    Raises:
        InputError: an unknown key, a wrong type or an impossible value.
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
        """What depends on these coordinates alone, to give to `forward` again and again in their place."""
        return self.field.prepare(coords)

    def forward(self, coords: Any) -> Float[Tensor, "points channels"]:
        """Values, in [-1, 1] up to the model's error, at coordinates in [-1, 1], `[N, axes]`, axes in array order.

        InputError for coordinates of another shape, of whole numbers or (except where a graph is recorded) not finite.
        What `prepare` made of some is taken as it is.
        """
        if isinstance(coords, Tensor):
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
        """The signal at any size and region, `[C, *size]`; beside it only `chunk` points are held.

        Args:
            size: one number for all axes, or one an axis; None is the signal's own.
            region: starts, then ends, of every axis in [-1, 1]; None is all of it.
            chunk: points at a time.

        Raises:
            InputError: an invalid size or region, or a result that the device cannot hold.
        """
        shape = self.shape if size is None else grid_shape(size, len(self.shape))
        chunk = as_integer(chunk, "chunk", low=1)
        return render_values(lambda coords: self.field(coords)[None], shape, region, chunk, self.device)[0]
