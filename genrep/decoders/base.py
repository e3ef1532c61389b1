"""The base class of decoders: a shared INR, from (coords, latents) to values, that also says what its tokens are."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.coords import Coords


class Decoder(nn.Module):
    """Subclasses implement `decoding`; callers may use `forward` or `decoding`.

    Attributes:
        num_axes: axes of a coordinate.
        position_dim: 0 if tokens have slots: every set has the same number of tokens, and the k-th token always plays the
            same role. Otherwise the first `position_dim` channels of a token are its position in [-1, 1], the order of the
            tokens has no meaning, and a mask says which of them are present.
    """

    # Models of latent sets (denoiser, normalizer, pipelines) decide by position_dim alone, never by the decoder's class.
    num_axes = 2
    position_dim = 0

    def forward(
        self,
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
        latents: Float[Tensor, "batch tokens latent"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch points channels"]:
        """Values at coordinates shared by the batch, `[N, axes]`, or separate for each signal, `[B, N, axes]`."""
        return self.masked_decoding(latents, mask)(coords)

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        """A function from coordinates to values for these latents; work that depends on the latents alone is done here, once.

        If tokens have positions, it also takes a `mask`: True where a token is present, None if all are. The returned
        function takes the coordinates that `forward` takes, or a `GridChunk`, which `render` passes:
        `FourierFeatures.projected` exploits its structure, and `as_points` turns it into plain coordinates.
        """
        raise NotImplementedError

    def masked_decoding(
        self, latents: Float[Tensor, "batch tokens latent"], mask: Bool[Tensor, "batch tokens"] | None
    ) -> Callable[[Coords], Tensor]:
        """`decoding`, with the mask if there is one."""
        # Decoders of tokens with slots do not have the argument.
        return self.decoding(latents) if mask is None else self.decoding(latents, mask)  # type: ignore[call-arg]


def with_batch(values: Float[Tensor, "*batch points dim"]) -> Float[Tensor, "#batch points dim"]:
    """Values at points shared by the batch, `[N, dim]`, as `[1, N, dim]`; batched values `[B, N, dim]` unchanged."""
    return values if values.ndim == 3 else values[None]
