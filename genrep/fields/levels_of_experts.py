"""Levels-of-Experts: an MLP whose weights are tiled over the space at a grid of every layer's own (LoE, section 3)."""

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
    """Points in the order of the layers, and the network's input there."""

    order: PointOrder
    inputs: Tensor


class LevelsOfExpertsField(Field):
    """Expert linear layers with leaky ReLU (slope 0.2) after each, then a plain Linear (supplement A to C).

    Args:
        num_axes: of the coordinates, any number.
        channels: of the values.
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
        nn.init.kaiming_uniform_(self.to_values.weight, a=0.2)  # as all layers (supplement A)
        nn.init.zeros_(self.to_values.bias)

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Prepared:
        order = PointOrder(coords, self.tilings)
        with torch.no_grad():
            inputs = self.encoding(order.coords) if self.encoding else torch.ones_like(coords[:, :1])
        return Prepared(order, inputs[:, None])

    def values(self, prepared: Prepared) -> Float[Tensor, "points channels"]:
        order, inputs = prepared
        hidden = inputs.to(self.to_values.weight.dtype)
        for layer, layer_order in zip(self.layers, order.layers, strict=True):
            hidden = F.leaky_relu_(layer(layer_order.to_input_order(hidden), layer_order), 0.2)
        return order.restore(self.to_values(hidden))[:, 0]
