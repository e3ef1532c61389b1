"""SCONE: Fourier bases collaged by learned spatial masks (Li et al., Learning Spatially Collaged Fourier Bases, 2024)."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genrep.fields.base import Field, last
from genrep.nn.sines import AngleLinear, Places, places_of, siren_bound

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "sin_squared": lambda angles: angles.sin().square(),
    "sigmoid": torch.sigmoid,
    "gaussian": lambda angles: angles.square().neg().exp(),
    "sin": lambda angles: 0.5 + 0.5 * angles.sin(),
    "cos": lambda angles: 0.5 + 0.5 * angles.cos(),
    "tanh": lambda angles: 0.5 + 0.5 * angles.tanh(),
}
"""σ of eq. 4, with values in [0, 1]: the activations of figure 7, whose prefix N- is the 0.5 + 0.5 of the last three."""


class SconeField(Field):
    """SCONE, equations 3 and 4, with L layers l = 1 to L:

        g_l(x) = sin(ω_l (B_l x + c_l))                     the bases
        M_l    = σ(s_l ω₀ (W_l z_(l-1) + b_l)),  z_0 = x    the masks
        z_l    = M_l ∘ g_l(x)                               their collage; the values are W z_L + b

    B and c are trained. Both are initialised by PyTorch's default, U(-1/√axes, 1/√axes); the paper gives this for B on
    two axes and has no c. W and b are both drawn within the bound of SIREN's weights. s is 1, or trained with
    `learn_input_scale` (the suffix -L in figure 7). Coordinates are not normalised further, and the output has no
    activation.

    With mask "random_binary" (the ablation of figure 7), z_l = M_l ∘ ω₀ (W_l z_(l-1) + b_l) ∘ g_l(x), where M_l is a
    fixed random bit for each channel and each cell of a grid.

    Args:
        num_axes: number of coordinate axes.
        channels: channels of the values.
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
        pairs = itertools.pairwise([num_axes, *widths])
        masks = [AngleLinear(inputs, outputs, mask_omega) for inputs, outputs in pairs]
        for number, layer in enumerate(masks):
            bound = siren_bound(layer.in_features, mask_omega, first=number == 0)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)
        self.masks = nn.ModuleList(masks)
        self.bases = nn.ModuleList(
            AngleLinear(num_axes, width, omega) for width, omega in zip(widths, omegas, strict=True)
        )
        self.input_scales = nn.Parameter(torch.ones(len(widths))) if learn_input_scale else None
        self.to_values = nn.Linear(widths[-1], channels)

    def prepare(self, coords: Float[Tensor, "points axes"]) -> Places:
        return places_of(coords)

    def hidden_layers(self, prepared: Places) -> Iterator[tuple[str, Tensor]]:
        """Masks, bases and collages, computed as the equations are written, so that derivatives of any order exist."""
        coords, collage = prepared.coords, prepared.coords
        for number, basis in enumerate(self.bases, start=1):
            angles, waves = self._angles(number - 1, collage), torch.sin(basis(coords))
            if self.mask == "random_binary":
                mask = random_mask(coords, angles.shape[1], self.mask_cells, [self.mask_seed, number]).to(waves.dtype)
                collage = mask * angles * waves
            else:
                mask = MASKS[self.mask](angles)
                collage = mask * waves
            yield f"mask {number}", mask
            yield f"basis {number}", waves
            yield f"layer {number}", collage

    def values(self, prepared: Places) -> Float[Tensor, "points channels"]:
        coords = prepared.coords
        # `Collage` is for plain training: first derivatives by the weights, not compiled
        is_training = torch.is_grad_enabled() and not coords.requires_grad and not torch.compiler.is_compiling()
        if is_training and self.mask in MASKS_AND_SLOPES:
            with torch.autocast(coords.device.type, enabled=False):
                collage = self._collage(prepared).to(self.to_values.weight.dtype)
            return torch.addmm(self.to_values.bias[:, None], self.to_values.weight, collage).T
        return self.to_values(last(self.hidden_layers(prepared)).to(self.to_values.weight.dtype))

    def _angles(self, number: int, inputs: Tensor) -> Float[Tensor, "points width"]:
        """The masks' arguments in layer `number`, counted from 0."""
        layer = self._mask_layer(number)
        weight, bias = self._scaled(number)
        with torch.autocast(inputs.device.type, enabled=False):
            return F.linear(inputs.to(weight.dtype), layer.omega * weight, layer.omega * bias)

    def _mask_layer(self, number: int) -> AngleLinear:
        layer = self.masks[number]
        assert isinstance(layer, AngleLinear)
        return layer

    def _scaled(self, number: int) -> tuple[Tensor, Tensor]:
        """s W and s b of the masks of layer `number`, in float32 or better."""
        weight, bias = self._mask_layer(number).precise()
        if self.input_scales is None:
            return weight, bias
        scale = self.input_scales[number].to(weight.dtype)
        return scale * weight, scale * bias

    def _collage(self, places: Places) -> Float[Tensor, "width points"]:
        """The last collage of `hidden_layers`, transposed, computed in fewer passes over the activations."""
        collage = None
        for number, basis in enumerate(self.bases):
            assert isinstance(basis, AngleLinear)
            weights = *self._scaled(number), *basis.precise()
            omegas = self._mask_layer(number).omega, basis.omega
            if number == 0 and self.mask in SINE_MASKS:
                collage = SineCollage.apply(*weights, omegas, places, self.mask)
            else:
                collage = Collage.apply(collage, *weights, omegas, places, self.mask)
        assert collage is not None
        return collage


class Collage(torch.autograd.Function):
    """One layer's M ∘ g = σ(a) sin p, `[width, points]`, where a = ω₀ (W z + b) and p = ω (B x + c).

    z None means x; `omegas` are ω₀ and ω, which are multiplied in here, where that records nothing for the backward pass.
    It computes σ and σ' together. Of its own results it saves σ'(a) sin p, which times the gradient of the result is the
    gradient of a, and what `Places.weighted` returns for the gradients of B and c. That takes two thirds of the passes
    over the activations that separate sines, activation and product take, and fewer on a grid. It has only first
    derivatives by the weights; where coordinates require gradients, `values` uses `hidden_layers` instead, which has all
    derivatives.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        basis_weight: Tensor,
        basis_bias: Tensor,
        omegas: tuple[float, float],
        places: Places,
        mask: str,
    ) -> Tensor:
        mask_omega, basis_omega = omegas
        mask_and_slope, factor = MASKS_AND_SLOPES[mask]
        if inputs is None:
            angles = places.linear(mask_omega * weight, mask_omega * bias)
        else:
            angles = torch.addmm(bias[:, None], weight, inputs, beta=mask_omega, alpha=mask_omega)
        masks, slope = mask_and_slope(angles)
        sine, slopes = places.sine(basis_omega * basis_weight, basis_omega * basis_bias)
        ctx.save_for_backward(inputs, weight, slope.mul_(sine), *places.weighted(slopes, masks))
        ctx.places, ctx.mask_scale, ctx.basis_omega = places, mask_omega * factor, basis_omega
        return sine.mul_(masks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (inputs, weight, angle_slope), slopes = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        with torch.autocast(gradient.device.type, enabled=False):
            by_basis = ctx.places.sine_gradients(gradient, slopes)
            # After the line above, in whose memory it then lies: that is in the cache.
            by_angle = angle_slope * gradient
            if inputs is None:
                by_inputs, by_mask = None, ctx.places.gradients(by_angle)
            else:
                by_inputs = torch.mm(ctx.mask_scale * weight.T, by_angle)
                by_mask = torch.mm(by_angle, inputs.T), by_angle.sum(1)
        return by_inputs, *_times(ctx.mask_scale, by_mask), *_times(ctx.basis_omega, by_basis), None, None, None


class SineCollage(torch.autograd.Function):
    """`Collage` of the first layer with a mask that is itself a sine of a linear function of x: see `SINE_MASKS`."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        basis_weight: Tensor,
        basis_bias: Tensor,
        omegas: tuple[float, float],
        places: Places,
        mask: str,
    ) -> Tensor:
        mask_omega, basis_omega = omegas
        frequency, phase = SINE_MASKS[mask]
        mask_omega = frequency * mask_omega
        masks, mask_slopes = places.sine(mask_omega * weight, mask_omega * bias + phase)
        masks.mul_(0.5).add_(0.5)
        sine, slopes = places.sine(basis_omega * basis_weight, basis_omega * basis_bias)
        ctx.save_for_backward(*places.weighted(mask_slopes, sine), *places.weighted(slopes, masks))
        ctx.places, ctx.scales = places, (0.5 * mask_omega, basis_omega)
        return masks * sine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, (mask_scale, basis_omega) = ctx.saved_tensors, ctx.scales
        mask_slopes, slopes = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        with torch.autocast(gradient.device.type, enabled=False):
            by_mask = ctx.places.sine_gradients(gradient, mask_slopes)
            by_basis = ctx.places.sine_gradients(gradient, slopes)
        return *_times(mask_scale, by_mask), *_times(basis_omega, by_basis), None, None, None


def _times(scale: float, gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    by_weight, by_bias = gradients
    return scale * by_weight, scale * by_bias


SINE_MASKS = {"sin_squared": (2.0, -math.pi / 2), "sin": (1.0, 0.0), "cos": (1.0, math.pi / 2)}
"""f and φ of the masks that are sines, σ(a) = (1 + sin(f a + φ)) / 2."""


def _sin_squared(angles: Tensor) -> tuple[Tensor, Tensor]:
    """sin² a = t² / (1 + t²) and sin a cos a = t / (1 + t²) with t = tan a, which costs less than two sines."""
    tangent = angles.tan_()
    product = torch.addcmul(tangent.new_ones(()), tangent, tangent)
    torch.div(tangent, product, out=product)
    return tangent.mul_(product), product


def _sigmoid(angles: Tensor) -> tuple[Tensor, Tensor]:
    mask = angles.sigmoid_()
    return mask, mask - mask.square()


def _gaussian(angles: Tensor) -> tuple[Tensor, Tensor]:
    mask = angles.square().neg_().exp_()
    return mask, angles.mul_(mask)


def _sin(angles: Tensor) -> tuple[Tensor, Tensor]:
    return angles.sin().mul_(0.5).add_(0.5), angles.cos_()


def _cos(angles: Tensor) -> tuple[Tensor, Tensor]:
    return angles.cos().mul_(0.5).add_(0.5), angles.sin_()


def _tanh(angles: Tensor) -> tuple[Tensor, Tensor]:
    mask = angles.tanh_().mul_(0.5).add_(0.5)
    return mask, mask - mask.square()


MASKS_AND_SLOPES: dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor]], float]] = {
    "sin_squared": (_sin_squared, 2.0),
    "sigmoid": (_sigmoid, 1.0),
    "gaussian": (_gaussian, -2.0),
    "sin": (_sin, 0.5),
    "cos": (_cos, -0.5),
    "tanh": (_tanh, 2.0),
}
"""A function that overwrites the angles and returns σ and a multiple of σ'; and the factor from the latter to σ'."""


def random_mask(
    coords: Float[Tensor, "points axes"], width: int, cells: int, seed: Sequence[int]
) -> Bool[Tensor, "points width"]:
    """A random bit for every channel and every cell of a grid of [-1, 1] with `cells` along each axis, fixed by the seed.

    The bits are computed from the number of a point's cell rather than stored: stored for every pixel of a photograph
    and every channel, they would take three orders of magnitude more memory than the network.
    """
    index = ((coords.float() + 1) * (cells / 2)).long().clamp_(0, cells - 1)
    cell = index[:, 0]
    for axis in range(1, index.shape[1]):
        cell = cell * cells + index[:, axis]
    channel = torch.arange(width, device=coords.device)
    for word in seed:
        channel = _mixed(channel + (word + 1) * 0x632BE59BD9B4E019 % 2**63)
    # the sign, which is the top bit, of the cell's hash times an odd number from the channel's
    return (_mixed(cell + 1)[:, None] * (channel | 1)) < 0


def _mixed(numbers: Tensor) -> Tensor:
    """SplitMix64's finaliser of an int64: every bit of the result depends on every bit of the input."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Logical right shift of an int64: >> alone would fill with the sign bit."""
    return (numbers >> bits) & (2 ** (64 - bits) - 1)
