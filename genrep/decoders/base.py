"""What every decoder is: a shared INR, (coords, latents) to values."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from genrep.coords import Coords


class Decoder(nn.Module):
    """A decoder writes `decoding`; the rest of the project calls either.

    `num_axes` is the number of a coordinate's axes.
    """

    num_axes = 2

    def forward(
        self,
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
        latents: Float[Tensor, "batch tokens latent"],
    ) -> Float[Tensor, "batch points channels"]:
        """Values at coordinates that the batch shares `[N, axes]`, or at each image's own `[B, N, axes]`."""
        return self.decoding(latents)(coords)

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        """Coordinates to values, for these latents: what depends on them alone is done here, once.

        The function takes what `forward` takes, and a `GridChunk`, which a render gives it: `FourierFeatures.projected`
        makes use of one, for everything else `as_points` makes coordinates of it.
        """
        raise NotImplementedError


def with_batch(values: Float[Tensor, "*batch points dim"]) -> Float[Tensor, "#batch points dim"]:
    """Values at points that the batch shares, `[N, dim]`, as `[1, N, dim]`; those at each image's own as they are."""
    return values if values.ndim == 3 else values[None]
