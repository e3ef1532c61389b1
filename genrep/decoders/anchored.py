"""ARC's decoder: an MLP over the latents anchored nearest to a coordinate and their offsets from it (eqs. 1 to 11)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrep.coords import Coords, as_points
from genrep.decoders.base import Decoder, with_batch
from genrep.errors import InputError
from genrep.nn.neighbours import NearestPoints


class AnchoredDecoder(Decoder):
    """f(x) = MLP(Concat(w₁, ..., w_n, Δp₁, ..., Δp_n)) of the n anchors (p, w) nearest to x, nearest first.

    A token holds an anchor's position, (y, x) for images, and then its feature. The image is [-1, 1]; anchors may lie
    outside it. Distances and the offsets Δp = p - x are measured in pixels of the model's image size, whatever size is
    rendered, so that every render uses the units of training. The offsets are divided by `offset_scale`. With the paper's
    settings (4 neighbours, features of 32, RGB) the decoder has 19,043 parameters.

    Args:
        channels: channels of the values.
        latent_dim: D, the number of axes plus the width of a feature.
        num_neighbours: n, the anchors that a coordinate sees.
        hidden_dim: width of the MLP.
        depth: Linear layers of the MLP, the output layer included.
        pixel: size of a pixel along each axis, in coordinates.
        offset_scale: pixels in an offset of 1.
    """

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        *,
        num_neighbours: int,
        hidden_dim: int,
        depth: int,
        pixel: Sequence[float],
        offset_scale: float,
    ):
        super().__init__()
        self.num_axes = self.position_dim = len(pixel)
        self.channels = channels
        self.num_neighbours, self.pixel, self.offset_scale = num_neighbours, tuple(pixel), offset_scale
        layers: list[nn.Module] = []
        width = num_neighbours * latent_dim
        for _ in range(depth - 1):
            layers += [nn.Linear(width, hidden_dim), nn.ReLU(inplace=True)]
            width = hidden_dim
        self.mlp = nn.Sequential(*layers, nn.Linear(width, channels))

    def decoding(
        self, latents: Float[Tensor, "batch tokens latent"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Callable[[Coords], Tensor]:
        nearest = self.nearest(latents[..., : self.num_axes], mask)

        def values(coords: Coords) -> Tensor:
            points = with_batch(as_points(coords))
            return self.at(points, latents, nearest(points))

        return values

    def nearest(
        self, positions: Float[Tensor, "batch tokens axes"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Callable[[Coords], Int[Tensor, "batch points neighbours"]]:
        """U_n (eq. 7): a function from coordinates to the indices of their nearest tokens, nearest first.

        InputError if a cloud has fewer than `num_neighbours` tokens.
        """
        fewest = positions.shape[1] if mask is None else int(mask.sum(1).min())
        if fewest < self.num_neighbours:
            raise InputError(
                f"a cloud must have at least {self.num_neighbours} anchors, the neighbours that this decoder looks at; got {fewest}: "
                "add anchors, or hide fewer of them"
            )
        pixel = torch.tensor(self.pixel, device=positions.device)
        search = NearestPoints(positions.float() / pixel, self.num_neighbours, mask)
        return lambda coords: search(as_points(coords).float() / pixel)

    def offsets(
        self, points: Float[Tensor, "#batch points axes"], anchors: Float[Tensor, "batch points neighbours axes"]
    ) -> Float[Tensor, "batch points neighbours axes"]:
        """Δp: from each point to its anchors, in units of `offset_scale` pixels."""
        unit = anchors.new_tensor([self.offset_scale * length for length in self.pixel])
        return (anchors - points[:, :, None]) / unit

    def at(
        self,
        points: Float[Tensor, "#batch points axes"],
        latents: Float[Tensor, "batch tokens latent"],
        index: Int[Tensor, "batch points neighbours"],
    ) -> Float[Tensor, "batch points channels"]:
        """Values at points, from the tokens whose indices `nearest` returned for them."""
        first = torch.arange(len(latents), device=index.device)[:, None, None] * latents.shape[1]
        neighbours = latents.flatten(0, 1)[index + first]  # [B, N, n, D]
        offsets = self.offsets(points.to(latents.dtype), neighbours[..., : self.num_axes])
        return self.mlp(torch.cat([neighbours[..., self.num_axes :].flatten(2), offsets.flatten(2)], dim=-1))
