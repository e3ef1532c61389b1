"""MLPs whose weights are modulated by the tokens: Instance Pattern Composers and TransINR, the locality-aware baselines.

Every weight of these MLPs, including the output layer's, is normalised over its inputs: `unit_columns`. The papers do not
mention it; the published code does it. Columns of the papers' [inputs, outputs] are rows of PyTorch's [outputs, inputs].
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.coords import Coords, as_points
from genrep.decoders.base import Decoder, with_batch
from genrep.nn.fourier import FourierFeatures, frequencies_of


def unit_columns(weight: Float[Tensor, "*batch outputs inputs"]) -> Float[Tensor, "*batch outputs inputs"]:
    """Weights scaled so that the inputs of every output unit have an L2 norm of 1; zeros stay zeros."""
    # In float32 or better: a norm rounded to bfloat16 is off by up to 0.4 %, in the same direction for all weights of a
    # unit, and in float16 the squares of weights of 1e-6 vanish.
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return F.normalize(precise, dim=-1).to(weight.dtype)


class UnitLinear(nn.Linear):
    """A Linear with unit columns and a bias that starts at 0."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.bias)

    def forward(self, values: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        return F.linear(values, unit_columns(self.weight), self.bias)


class ComposedLinear(nn.Module):
    """IPC's modulated layer: W = V Z, the R tokens Z composed by a shared V `[outputs, R]`, then unit columns.

    A token is an instance pattern: the input weights of one unit.
    """

    def __init__(self, num_tokens: int, inputs: int, outputs: int):
        super().__init__()
        self.composer = nn.Linear(num_tokens, outputs, bias=False)
        # V ~ N(0, 1) / sqrt(R · inputs), as in the published code
        nn.init.normal_(self.composer.weight, std=(num_tokens * inputs) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self, latents: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch outputs inputs"]:
        return unit_columns(self.composer.weight @ latents)

    def layer(self, latents: Float[Tensor, "batch tokens inputs"]) -> Callable[[Tensor], Tensor]:
        """The layer for these latents: a function from `[#B, N, inputs]` to `[B, N, outputs]`."""
        weight = self.weight(latents)
        return lambda values: instance_linear(values, weight, self.bias)


class IPCDecoder(Decoder):
    """Instance Pattern Composers: Fourier features, then an MLP in which only the second weight depends on the image."""

    def __init__(
        self,
        channels: int,
        num_tokens: int,
        *,
        hidden_dim: int,
        depth: int,
        num_features: int,
        bandwidth: float,
        num_axes: int,
    ):
        super().__init__()
        self.num_axes = num_axes
        self.encoding = FourierFeatures(num_axes, frequencies_of(num_features, num_axes), bandwidth)
        self.first = UnitLinear(self.encoding.num_features, hidden_dim)
        widths = [hidden_dim] * (depth - 1) + [channels]
        # The composed weight replaces the second layer's altogether; its bias stays shared (published code).
        self.composed = ComposedLinear(num_tokens, hidden_dim, widths[1])
        self.rest = nn.ModuleList(UnitLinear(hidden_dim, width) for width in widths[2:])

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        composed = self.composed.layer(latents)

        def values(coords: Coords) -> Tensor:
            features = with_batch(self.encoding(as_points(coords))).to(latents.dtype)
            hidden = composed(self.first(features).relu_())  # the first layer is computed once for all images
            for layer in self.rest:
                hidden = layer(hidden.relu_())
            return hidden

        return values


class TransINRDecoder(Decoder):
    """TransINR: Fourier features, then an MLP whose weights are all multiplied by factors from the image's tokens.

    The output units of a layer form groups with one token each, which holds one factor per input. Layers take their tokens
    in order, and from each token as many numbers as they have inputs.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden_dim: int,
        depth: int,
        num_features: int,
        bandwidth: float,
        num_axes: int,
        num_groups: int,
    ):
        super().__init__()
        self.num_axes = num_axes
        self.encoding = FourierFeatures(num_axes, frequencies_of(num_features, num_axes), bandwidth)
        widths = [self.encoding.num_features, *[hidden_dim] * (depth - 1), channels]
        self.layers = nn.ModuleList(UnitLinear(a, b) for a, b in itertools.pairwise(widths))
        self.group_counts = [
            min(num_groups, width) for width in widths[1:]
        ]  # 3 groups for an RGB output, one per channel

    def weights(self, latents: Float[Tensor, "batch tokens latent"]) -> list[Tensor]:
        """The modulated weights of every layer, `[B, outputs, inputs]`."""
        parts = latents.split(self.group_counts, dim=1)
        weights = []
        for layer, part in zip(self.layers, parts, strict=True):
            assert isinstance(layer, UnitLinear)
            # A group is a run of consecutive output units, which share the factors of one token.
            factors = part[..., : layer.in_features].repeat_interleave(layer.out_features // part.shape[1], dim=1)
            # Normalised after modulation: only the direction of a unit's factors matters, not their size.
            weights.append(unit_columns(layer.weight * factors))
        return weights

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        weights = self.weights(latents)

        def values(coords: Coords) -> Tensor:
            hidden = with_batch(self.encoding(as_points(coords))).to(latents.dtype)
            for number, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
                assert isinstance(layer, UnitLinear)
                hidden = instance_linear(hidden.relu_() if number else hidden, weight, layer.bias)
            return hidden

        return values


def instance_linear(
    values: Float[Tensor, "#batch points inputs"],
    weight: Float[Tensor, "batch outputs inputs"],
    bias: Float[Tensor, " outputs"],
) -> Float[Tensor, "batch points outputs"]:
    """A linear layer with a separate weight for each image."""
    # `expand` gives values shared by the batch a batch axis without copying them.
    return torch.baddbmm(bias, values.expand(len(weight), -1, -1), weight.transpose(1, 2))
