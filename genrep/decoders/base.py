"""What every decoder is: a shared INR, (coords, latents) to values. It also says what its tokens are."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.coords import Coords


class Decoder(nn.Module):
    """A decoder writes `decoding`; the rest of the project calls either.

    Attributes:
        num_axes: axes of a coordinate.
        position_dim: 0 if tokens have slots: the k-th token of every set means the same kind of thing, and there are always as
            many. Else the first so many channels of a token are its position in [-1, 1]; the order of the tokens means
            nothing, and a mask says which of them are there. What models latent sets asks this, and nothing else.
    """

    num_axes = 2
    position_dim = 0

    def forward(
        self,
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
        latents: Float[Tensor, "batch tokens latent"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch points channels"]:
        """Values at coordinates that the batch shares `[N, axes]`, or at each signal's own `[B, N, axes]`."""
        return self.masked_decoding(latents, mask)(coords)

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        """Coordinates to values, for these latents: what depends on them alone is done here, once.

        Where tokens have positions it also takes a `mask`, True where a token is there and None where all are. The function
        takes what `forward` takes, and a `GridChunk`, which a render gives it: `FourierFeatures.projected` makes use of one,
        for everything else `as_points` makes coordinates of it.
        """
        raise NotImplementedError

    def masked_decoding(
        self, latents: Float[Tensor, "batch tokens latent"], mask: Bool[Tensor, "batch tokens"] | None
    ) -> Callable[[Coords], Tensor]:
        """`decoding`, with the mask where there is one."""
        return self.decoding(latents) if mask is None else self.decoding(latents, mask)  # type: ignore[call-arg]


def with_batch(values: Float[Tensor, "*batch points dim"]) -> Float[Tensor, "#batch points dim"]:
    """Values at points that the batch shares, `[N, dim]`, as `[1, N, dim]`; those at each signal's own as they are."""
    return values if values.ndim == 3 else values[None]
