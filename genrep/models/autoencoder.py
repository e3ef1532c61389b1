"""The INR autoencoder: any encoder with any decoder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor

from genrep.coords import Region
from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import AutoencoderSpec
from genrep.render import render
from genrep.specs import validate


class INRAutoencoder(StrictLoading, ModelMixin, ConfigMixin):
    """Images to a set of latent tokens and, through a shared coordinate network, to values anywhere.

    Args:
        encoder: `{"type": ..., ...}`, one of `genrep.encoders`.
        decoder: `{"type": ..., ...}`, one of `genrep.decoders`.
        image_size: what the encoder takes: a number, or [height, width].
        channels: 1 (grey) or 3 (RGB).
        num_tokens: R, the tokens of a representation.
        latent_dim: D, the width of a token.

    Raises:
        InputError: an unknown key or type, or a value that cannot be.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        image_size: int | Sequence[int] = 128,
        channels: int = 3,
        num_tokens: int = 256,
        latent_dim: int = 512,
    ):
        super().__init__()
        spec = validate(
            AutoencoderSpec,
            {
                "encoder": dict(encoder),
                "decoder": dict(decoder),
                "image_size": image_size if isinstance(image_size, int) else list(image_size),
                "channels": channels,
                "num_tokens": num_tokens,
                "latent_dim": latent_dim,
            },
            where=type(self).__name__,
        )
        self.image_shape = spec.image_shape
        self.latent_shape = (num_tokens, latent_dim)
        groups = spec.decoder.token_groups(channels, num_tokens)
        self.encoder = spec.encoder.build(self.image_shape, channels, num_tokens, latent_dim, groups)
        self.decoder = spec.decoder.build(self.image_shape, channels, num_tokens, latent_dim)

    @classmethod
    def _remedy(cls, info: Mapping[str, Any]) -> str:
        if "encoder.head.0.weight" in info["unexpected_keys"]:
            return (
                "a TransINR of an earlier version has one head for the tokens of all layers: "
                'add "shared_head": true to the decoder in config.json'
            )
        return super()._remedy(info)

    def encode(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens latent"]:
        """Images in [-1, 1] of the size the encoder was built for -> latents `[B, R, D]`."""
        return self.encoder(images)

    def decode(
        self,
        latents: Float[Tensor, "batch tokens latent"],
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
    ) -> Float[Tensor, "batch points channels"]:
        """Values at coordinates in [-1, 1], axes (y, x): `[N, c]` shared by the batch, or `[B, N, c]`."""
        self._check_latents(latents)
        self._check_coords(coords, len(latents))
        return self.decoder(coords, latents)

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Tensor], Tensor]:
        """`decode` for these latents and many sets of coordinates: what depends on the latents alone is done once."""
        self._check_latents(latents)
        values = self.decoder.decoding(latents)

        def checked(coords: Tensor) -> Tensor:
            self._check_coords(coords, len(latents))
            return values(coords)

        return checked

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 3 or tuple(latents.shape[1:]) != self.latent_shape:
            raise InputError(
                f"latents of shape {tuple(latents.shape)} do not fit: this decoder takes [batch, {self.latent_shape[0]}, {self.latent_shape[1]}]"
            )

    def _check_coords(self, coords: Tensor, batch: int) -> None:
        axes = self.decoder.num_axes
        if coords.shape[-1] != axes or coords.ndim not in (2, 3) or (coords.ndim == 3 and len(coords) != batch):
            raise InputError(
                f"coordinates of shape {tuple(coords.shape)} do not fit: give [points, {axes}], or [{batch}, points, {axes}] for "
                f"latents of batch {batch}"
            )

    def render(
        self,
        latents: Float[Tensor, "batch tokens latent"],
        size: int | Sequence[int] | None = None,
        region: Region | None = None,
        chunk: int | None = None,
        gradients: bool = False,
    ) -> Float[Tensor, "batch channels height width"]:
        """Images of any size and region, see `genrep.render.render`; the size is the encoder's when None."""
        return render(self, latents, self.image_shape if size is None else size, region, chunk, gradients)

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
        noise: Float[Tensor, "batch tokens latent"] | None = None,
    ) -> Float[Tensor, "batch points channels"]:
        """Reconstruction at coordinates: `decode(encode(images), coords)`.

        With `noise` the decoder learns to forgive a generator's errors: it is added to the latents, in units of each
        channel's deviation from image to image (of one token, the mean over tokens), so that larger latents do not escape
        it. The unit is measured on these images, two or more: like batch norm it changes a little with the parts that a
        batch is computed in.
        """
        latents = self.encode(images)
        if noise is not None:
            if len(images) < 2:
                raise InputError(
                    "latent noise is in units of the deviation from image to image: give every process two images at a time "
                    "or more (run.batch, run.accumulation), or set reconstruction.latent_noise to 0"
                )
            latents = latents + noise * latents.detach().var(dim=0).mean(dim=0).sqrt()
        return self.decode(latents, coords)

    def freeze(self) -> "INRAutoencoder":
        """Evaluation mode, and no parameter takes a gradient: what stage 2 works with."""
        return self.eval().requires_grad_(False)
