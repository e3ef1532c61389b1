"""SCONE: Fourier bases, collaged by learned spatial masks (Li et al., Learning Spatially Collaged Fourier Bases, 2024)."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.fields.base import Field, last
from genrep.nn.sines import AngleLinear, siren_bound

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "sin_squared": lambda angles: angles.sin().square(),
    "sigmoid": torch.sigmoid,
    "gaussian": lambda angles: angles.square().neg().exp(),
    "sin": lambda angles: 0.5 + 0.5 * angles.sin(),
    "cos": lambda angles: 0.5 + 0.5 * angles.cos(),
    "tanh": lambda angles: 0.5 + 0.5 * angles.tanh(),
}
"""σ of eq. 4, each with values in [0, 1]: the activations of figure 7. Its prefix N- is the 0.5 + 0.5 of the last three."""


class SconeField(Field):
    """SCONE, equations 3 and 4, l = 1 to L, of L masks and bases:

        g_l(x) = sin(ω_l (B_l x + c_l))                     the bases
        M_l    = σ(s_l ω₀ (W_l z_(l-1) + b_l)),  z_0 = x    the masks
        z_l    = M_l ∘ g_l(x)                               their collage, and W z_L + b for the values

    B and c are trained. They start from PyTorch's default, U(-1/√axes, 1/√axes); the paper gives that for B of two axes
    and has no c. W and b start as SIREN's weights do, both from the same bound. s is 1, or trained where
    `learn_input_scale` is set (the suffix -L in figure 7). Coordinates are not normalised further, and no activation
    follows the output.

    With mask "random_binary" (the ablation of figure 7) it is z_l = M_l ∘ ω₀ (W_l z_(l-1) + b_l) ∘ g_l(x), where M_l is 0 or 1
    at random in each cell of a grid and each channel, and fixed.

    Args:
        num_axes: of the coordinates, any number.
        channels: of the values.
        widths, omegas, mask_omega, mask, learn_input_scale, mask_cells, mask_seed: see `SconeSpec`.
    """

    def __init__(
        self,
        num_axes: int,
        channels: int,
        *,
        widths: Sequence[int],
        omegas: Sequence[float | int],
        mask_omega: float | int,
        mask: str,
        learn_input_scale: bool,
        mask_cells: int,
        mask_seed: int,
    ):
        super().__init__()
        self.mask, self.mask_cells, self.mask_seed = mask, mask_cells, mask_seed
        pairs = list(itertools.pairwise([num_axes, *widths]))
        self.masks = nn.ModuleList(AngleLinear(inputs, outputs, mask_omega) for inputs, outputs in pairs)
        self.bases = nn.ModuleList(
            AngleLinear(num_axes, width, omega) for width, omega in zip(widths, omegas, strict=True)
        )
        self.input_scales = nn.Parameter(torch.ones(len(widths))) if learn_input_scale else None
        self.to_values = nn.Linear(widths[-1], channels)
        for number, layer in enumerate(self.masks):
            bound = siren_bound(layer.in_features, mask_omega, first=number == 0)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)

    def hidden_layers(self, prepared: Float[Tensor, "points axes"]) -> Iterator[tuple[str, Tensor]]:
        collage = prepared
        for number, (layer, basis) in enumerate(zip(self.masks, self.bases, strict=True), start=1):
            angles = layer(collage)
            if self.input_scales is not None:
                angles = self.input_scales[number - 1].to(angles.dtype) * angles
            waves = torch.sin(basis(prepared))
            if self.mask == "random_binary":
                mask = random_mask(prepared, angles.shape[1], self.mask_cells, [self.mask_seed, number]).to(waves.dtype)
                collage = angles * mask * waves
            else:
                mask = MASKS[self.mask](angles)
                collage = mask * waves
            yield f"mask {number}", mask
            yield f"basis {number}", waves
            yield f"layer {number}", collage

    def values(self, prepared: Float[Tensor, "points axes"]) -> Float[Tensor, "points channels"]:
        return self.to_values(last(self.hidden_layers(prepared)).to(self.to_values.weight.dtype))


def random_mask(
    coords: Float[Tensor, "points axes"], width: int, cells: int, seed: Sequence[int]
) -> Bool[Tensor, "points width"]:
    """A fair coin in every cell of a grid of `cells` along each axis of [-1, 1] and every channel, fixed by the seed.

    Computed from the number of a point's cell, not kept: a mask of every pixel of a photograph and every channel would be
    larger than the network by three orders of magnitude.
    """
    places = ((coords.float() + 1) * (cells / 2)).long().clamp_(0, cells - 1)
    number = places[:, 0]
    for axis in range(1, places.shape[1]):
        number = number * cells + places[:, axis]
    channel = torch.arange(width, device=coords.device)
    for part in seed:
        channel = _mixed(channel + (part + 1) * 0x632BE59BD9B4E019 % 2**63)
    return (_mixed(number)[:, None] * (channel | 1)) < 0  # the top bit of the product with an odd number of the channel


def _mixed(numbers: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the result depends on every bit of an int64."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Right, filled with zeros, of an int64."""
    return (numbers >> bits) & (2 ** (64 - bits) - 1)
