"""The coordinate generator of Levels-of-Experts: noise and coordinates to values (section 4.4, supplement E)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrep.arguments import as_floats
from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import GeneratorSpec
from genrep.nn.expert_linear import ExpertLinear
from genrep.nn.fourier import CoordinateEmbedding, PositionalEncoding
from genrep.nn.point_order import LayerOrder, PointOrder
from genrep.nn.tiling import Tiling, grid_tiling
from genrep.specs import from_arguments


class Prepared(NamedTuple):
    """The order of the points in the layers, and their encoding in that order."""

    order: PointOrder
    encoding: Tensor


class ExpertBlock(nn.Module):
    """A residual block whose first linear layer has weight tiles; a linear shortcut if the width changes (LoE fig. 10)."""

    def __init__(self, inputs: int, outputs: int, tiling: Tiling, num_blocks: int, start: str):
        super().__init__()
        # The last layer starts 1/√num_blocks as large as Kaiming's, and the shortcut keeps the variance, so that values keep
        # the size of the input through the stack. Figure 10 does not say how the paper does it; with Kaiming alone its seven
        # blocks would start with images of a standard deviation of 20 instead of 2.
        self.first, self.second = ExpertLinear(inputs, outputs, tiling, start), nn.Linear(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)
        nn.init.kaiming_uniform_(self.second.weight, a=0.2)
        with torch.no_grad():
            self.second.weight.mul_(num_blocks**-0.5)
        nn.init.zeros_(self.second.bias)
        if isinstance(self.skip, nn.Linear):
            nn.init.kaiming_uniform_(self.skip.weight, a=1)  # gain 1: no activation follows

    def forward(
        self, values: Float[Tensor, "points batch inputs"], order: LayerOrder
    ) -> Float[Tensor, "points batch outputs"]:
        values = order.to_input_order(values)
        hidden = self.first(F.leaky_relu(values, 0.2), order)
        return order.to_output_order(self.skip(values)) + self.second(F.leaky_relu_(hidden, 0.2))


class CoordinateGenerator(StrictLoading, ModelMixin, ConfigMixin):
    """G(p, z): a residual network applied to every point, with one noise vector for all points of a sample.

    The first layer takes the point's encoding (in the CE baseline also a learned embedding of its place), the noise and the
    class. Residual blocks follow, each with one expert layer.

    Args:
        num_axes: axes of the coordinates: 2 for images, 1 for the tokens of a latent set.
        channels: channels of the values: an image's, or the width of a token.
        num_classes: number of classes; 0 is unconditional.
        noise_dim, widths, tile, cells, tiles_start, noise_gain, num_frequencies, embedding_dim, embedding_size: see
            `GeneratorArchitecture`.

    Raises:
        InputError: an unknown key, a wrong type or an invalid value.
    """

    @register_to_config
    def __init__(
        self,
        num_axes: int = 2,
        channels: int = 3,
        num_classes: int = 0,
        noise_dim: int = 512,
        widths: Sequence[int] = (512, 512, 256, 256, 256, 128, 128, 32),
        tile: int | Sequence[int] = (4, 8, 8, 4, 4, 4, 4),
        cells: Sequence[int] = (4, 8, 16, 32, 64, 128, 256),
        tiles_start: str = "apart",
        noise_gain: float | int = 1.0,
        num_frequencies: int = 8,
        embedding_dim: int = 0,
        embedding_size: int | Sequence[int] = 256,
    ):
        super().__init__()
        spec = from_arguments(GeneratorSpec, locals(), where=type(self).__name__)
        self.num_axes, self.noise_dim, self.num_classes = num_axes, noise_dim, num_classes
        self.encoding = PositionalEncoding(num_axes, num_frequencies)
        self.embedding = CoordinateEmbedding(num_axes, embedding_size, embedding_dim) if embedding_dim else None
        self.of_place = nn.Linear(self.encoding.num_features + embedding_dim, widths[0])
        self.of_noise = nn.Linear(noise_dim, widths[0], bias=False)
        self.of_class = nn.Embedding(num_classes, widths[0]) if num_classes else None
        self.tilings = [
            grid_tiling((n,) * num_axes, (count,) * num_axes) for n, count in zip(spec.tiles, cells, strict=True)
        ]
        self.blocks = nn.ModuleList(
            ExpertBlock(a, b, tiling, len(self.tilings), tiles_start)
            for a, b, tiling in zip(widths, widths[1:], self.tilings, strict=False)
        )
        self.to_values = nn.Linear(widths[-1], channels)
        # The paper's first layer is one Linear of place and noise, concatenated. Here it is two, so that the noise's part is
        # computed once per sample, initialised as the columns of that one Linear. With a Kaiming initialisation each, the
        # place's 34 numbers would weigh as much as the noise's 512, and the first images would have a standard deviation of
        # 8.7 instead of 2.1.
        inputs = self.of_place.in_features
        first = torch.empty(widths[0], inputs + noise_dim)
        nn.init.kaiming_uniform_(first, a=0.2)
        with torch.no_grad():
            self.of_place.weight.copy_(first[:, :inputs])
            self.of_noise.weight.copy_(first[:, inputs:] * noise_gain)
        nn.init.kaiming_uniform_(self.to_values.weight, a=0.2)
        for layer in (self.of_place, self.to_values):
            nn.init.zeros_(layer.bias)

    def prepare(self, coords: Float[Tensor, "points axes"], batch: int = 1) -> Prepared:
        """Precompute what depends on the coordinates alone; `forward` takes the result in their place."""
        # Without gradients and without the embedding, which is trained: a plan may outlive a step.
        order = PointOrder(coords, self.tilings, batch)
        with torch.no_grad():
            return Prepared(order, self.encoding(order.coords))

    def forward(
        self,
        coords: Any,
        noise: Float[Tensor, "batch noise"] | Any,
        class_labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch points channels"]:
        """Values at coordinates `[N, axes]` in [-1, 1], or at the result of `prepare`, for noise from N(0, 1).

        InputError for noise or coordinates of another shape, and for labels that are missing or superfluous.
        """
        noise = as_floats(noise, "noise", "[batch, noise]", self.of_noise.weight.dtype)
        if (class_labels is None) != (self.of_class is None):
            needed = "one class label per sample" if self.num_classes else "no class labels"
            raise InputError(f"this generator has {self.num_classes} classes: give {needed}")
        order, encoding = self.prepare(coords, len(noise)) if isinstance(coords, Tensor) else coords
        if noise.shape[-1] != self.noise_dim or order.coords.shape[-1] != self.num_axes:
            raise InputError(
                f"this generator takes coordinates with {self.num_axes} axes and noise of {self.noise_dim} numbers; got "
                f"{order.coords.shape[-1]} and {noise.shape[-1]}"
            )
        encoding = encoding.to(self.of_place.weight.dtype)
        if self.embedding is not None:
            encoding = torch.cat([encoding, self.embedding(order.coords)], dim=-1)
        per_sample = self.of_noise(noise)  # [B, width]
        if self.of_class is not None:
            per_sample = per_sample + self.of_class(class_labels)
        hidden = (
            self.of_place(encoding)[:, None] + per_sample
        )  # [N, B, width]: the rows of a point together, for the tiles
        for block, layer_order in zip(self.blocks, order.layers, strict=True):
            hidden = block(hidden, layer_order)
        values = self.to_values(F.leaky_relu(hidden, 0.2))
        return order.restore(values).transpose(0, 1)
