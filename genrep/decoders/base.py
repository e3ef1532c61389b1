"""What every decoder is: a shared INR, (coords, latents) to values."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn


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

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Tensor], Tensor]:
        """Coordinates to values, for these latents: what depends on them alone is done here, once."""
        raise NotImplementedError
