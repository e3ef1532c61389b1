"""Levels-of-Experts: an MLP whose weights are tiled over space, on a different grid in each layer (LoE, section 3)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.fields.base import Field
from genrep.nn.expert_linear import ExpertLinear
from genrep.nn.fourier import PositionalEncoding
from genrep.nn.point_order import PointOrder
from genrep.nn.tiling import grid_tiling
from genrep.nn.tiling import layout as make_layout


class Prepared(NamedTuple):
    """The order in which the layers process the points, and the network's inputs."""

    order: PointOrder
    inputs: Tensor


class LevelsOfExpertsField(Field):
    """Expert linear layers, each followed by leaky ReLU (slope 0.2), then a plain linear layer (supplement A to C).

    Args:
        num_axes: number of coordinate axes.
        channels: channels of the values.
        widths, tile, layout, blending, finest, cells, affine_std, layout_seed, num_frequencies: see `LevelsOfExpertsSpec`.
    """

    def __init__(
        self,
        num_axes: int,
        channels: int,
        *,
        widths: Sequence[int],
        tile: int | Sequence[int],
        layout: str,
        blending: str,
        finest: float | None,
        cells: Sequence[float] | None,
        affine_std: float,
        layout_seed: int,
        num_frequencies: int,
    ):
        super().__init__()
        tiles = [tile] * len(widths) if isinstance(tile, int) else tile
        sizes = [(n,) * num_axes for n in tiles]
        if cells is not None:
            self.tilings = [
                grid_tiling(size, (n,) * num_axes, blending=blending) for size, n in zip(sizes, cells, strict=True)
            ]
        else:
            self.tilings = make_layout(
                layout, sizes, blending=blending, finest=finest, seed=layout_seed, affine_std=affine_std
            )
        self.encoding = PositionalEncoding(num_axes, num_frequencies) if num_frequencies else None
        inputs = self.encoding.num_features if self.encoding else 1
        pairs = itertools.pairwise([inputs, *widths])
        self.layers = nn.ModuleList(
            ExpertLinear(a, b, tiling) for (a, b), tiling in zip(pairs, self.tilings, strict=True)
        )
        self.to_values = nn.Linear(widths[-1], channels)
        nn.init.kaiming_uniform_(self.to_values.weight, a=0.2)  # like every layer (supplement A)
        nn.init.zeros_(self.to_values.bias)

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Prepared:
        return self._prepare(coords, len(self.layers))

    def values(self, prepared: Prepared) -> Float[Tensor, "points channels"]:
        return prepared.order.restore(self.to_values(self._hidden(prepared)))[:, 0]

    def activations(self, coords: Float[Tensor, "points axes"]) -> dict[str, Float[Tensor, "points width"]]:
        activations = {}
        # computed from the input for every depth, because only the order of the last prepared layer can be undone
        for depth in range(1, len(self.layers) + 1):
            prepared = self._prepare(coords, depth)
            activations[f"layer {depth}"] = prepared.order.restore(self._hidden(prepared))[:, 0]
        return activations

    def _prepare(self, coords: Tensor, depth: int) -> Prepared:
        """`prepare` for the first `depth` layers only."""
        order = PointOrder(coords, self.tilings[:depth])
        inputs = self.encoding(order.coords) if self.encoding else torch.ones_like(coords[:, :1])
        return Prepared(order, inputs[:, None])

    def _hidden(self, prepared: Prepared) -> Float[Tensor, "points 1 width"]:
        """Activations after the prepared layers, with the points in the order that the last of them leaves."""
        order, inputs = prepared
        hidden = inputs.to(self.to_values.weight.dtype)
        for layer, layer_order in zip(self.layers, order.layers, strict=False):
            hidden = F.leaky_relu_(layer(layer_order.to_input_order(hidden), layer_order), 0.2)
        return hidden
