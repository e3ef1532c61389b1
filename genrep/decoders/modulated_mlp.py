"""MLPs whose weights the tokens modulate: Instance Pattern Composers and TransINR, the baselines of locality-aware.

Every weight of these MLPs is normalised over its inputs, the output layer's too: `unit_columns`. The papers do not say
so, their published code does it. Columns in the papers' [inputs, outputs] are rows of PyTorch's [outputs, inputs].
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
    """Weights with the inputs of every output unit scaled to an L2 norm of 1; zeros stay zeros.

    In float32 or better: a norm that is rounded to bfloat16 is off by up to 0.4 % for all weights of a unit alike.
    """
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
    """IPC's modulated layer: W = V Z, the R tokens composed by a shared V `[outputs, R]`, then unit columns.

    Token k is an instance pattern, the weights of one hidden unit; V ~ N(0, 1) / sqrt(R · inputs).
    """

    def __init__(self, num_tokens: int, inputs: int, outputs: int):
        super().__init__()
        self.composer = nn.Linear(num_tokens, outputs, bias=False)
        nn.init.normal_(self.composer.weight, std=(num_tokens * inputs) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self, latents: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch outputs inputs"]:
        return unit_columns(self.composer.weight @ latents)

    def layer(self, latents: Float[Tensor, "batch tokens inputs"]) -> Callable[[Tensor], Tensor]:
        """The layer of these latents, `[#B, N, inputs]` to `[B, N, outputs]`."""
        weight = self.weight(latents)
        return lambda values: instance_linear(values, weight, self.bias)


class IPCDecoder(Decoder):
    """Instance Pattern Composers: Fourier features, then an MLP whose second weight alone is the image's own."""

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
        self.composed = ComposedLinear(num_tokens, hidden_dim, widths[1])
        self.rest = nn.ModuleList(UnitLinear(hidden_dim, width) for width in widths[2:])

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        composed = self.composed.layer(latents)

        def values(coords: Coords) -> Tensor:
            features = with_batch(self.encoding(as_points(coords))).to(latents.dtype)
            hidden = composed(self.first(features).relu_())  # the first layer once for all images
            for layer in self.rest:
                hidden = layer(hidden.relu_())
            return hidden

        return values


class TransINRDecoder(Decoder):
    """TransINR: Fourier features, then an MLP all of whose weights are scaled, input by input, by the image's tokens.

    A layer's output units fall into groups; a token holds one factor for each input of its group. Layers take their
    tokens in order, and of a token as many numbers as they have inputs.
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
        self.group_counts = [min(num_groups, width) for width in widths[1:]]

    def weights(self, latents: Float[Tensor, "batch tokens latent"]) -> list[Tensor]:
        """The image's own weights, `[B, outputs, inputs]` of every layer."""
        parts = latents.split(self.group_counts, dim=1)
        weights = []
        for layer, part in zip(self.layers, parts, strict=True):
            assert isinstance(layer, UnitLinear)
            factors = part[..., : layer.in_features].repeat_interleave(layer.out_features // part.shape[1], dim=1)
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
    """A linear layer with a weight of each image's own."""
    return torch.baddbmm(bias, values.expand(len(weight), -1, -1), weight.transpose(1, 2))
