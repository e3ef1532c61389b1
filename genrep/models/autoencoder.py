"""The INR autoencoder: any encoder with any decoder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from genrep.arguments import Integer, as_floats, as_integer, check_finite, in_training
from genrep.coords import Coords, Region, grid_shape, region_of
from genrep.encoders.fit import CloudFit
from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import AutoencoderSpec
from genrep.render import render
from genrep.signals import ImageSignalSpec
from genrep.specs import from_arguments


class INRAutoencoder(StrictLoading, ModelMixin, ConfigMixin):
    """From signals to sets of latent tokens, and from these, through a shared coordinate network, to values anywhere.

    Args:
        encoder: `{"type": ..., ...}`, one of `genrep.encoders`.
        decoder: `{"type": ..., ...}`, one of `genrep.decoders`.
        image_size: the grid that the encoder takes: one number for a square image, or one length per axis.
        channels: channels of the values: for images 1 (grey) or 3 (RGB).
        num_tokens: R, the number of tokens of a representation.
        latent_dim: D, the width of a token.
        signal: `{"type": ..., ...}`, one of `genrep.signals`: what the values mean; None is images.
        missing: values may be missing (NaN); the encoder gets an extra channel that says which are present.

    Raises:
        InputError: an unknown key or type, or an invalid value.
    """

    _supports_gradient_checkpointing = False
    _repeated_blocks = ["EncoderBlock", "DecoderBlock"]  # noqa: RUF012 diffusers' own declaration

    @register_to_config
    def __init__(
        self,
        encoder: Mapping[str, Any] | Any,
        decoder: Mapping[str, Any] | Any,
        image_size: int | Sequence[int] = 128,
        channels: int = 3,
        num_tokens: int = 256,
        latent_dim: int = 512,
        signal: Mapping[str, Any] | Any | None = None,
        missing: bool = False,
    ):
        super().__init__()
        self.spec = spec = from_arguments(AutoencoderSpec, locals(), where=type(self).__name__)
        self.image_shape = spec.image_shape
        self.latent_shape = (num_tokens, latent_dim)
        self.signal, self.missing = (spec.signal or ImageSignalSpec()).build(), missing
        groups = spec.decoder.token_groups(channels, num_tokens)
        observed = channels + missing
        self.encoder = spec.encoder.build(self.image_shape, observed, num_tokens, latent_dim, groups)
        self.decoder = spec.decoder.build(self.image_shape, channels, spec.tokens_at_image_size, latent_dim)
        assert self.decoder.position_dim == spec.decoder.position_dim, (
            "a decoder and its spec must agree on position_dim"
        )

    @property
    def position_dim(self) -> int:
        """The decoder's `position_dim`: leading channels of a token that are its position; 0 if tokens have slots."""
        return int(self.decoder.position_dim)

    @classmethod
    def _remedy(cls, info: Mapping[str, Any]) -> str:
        if "encoder.head.0.weight" in info["unexpected_keys"]:
            return (
                "in earlier versions TransINR had one head for the tokens of all layers: "
                'add "shared_head": true to the decoder in config.json'
            )
        return super()._remedy(info)

    # `encode`, `decode`, `decoding` and `render` are for users: they convert floating-point tensors to the model's dtype, and
    # refuse values that are not finite, once per call and only if no graph is recorded. `forward` is for training loops and
    # checks no values. CPU offloading only hooks `forward`; `apply_forward_hook` runs its hook for these methods too.

    @apply_forward_hook
    def encode(self, images: Float[Tensor, "batch channels *shape"] | Any) -> Float[Tensor, "batch tokens latent"]:
        """Images in [-1, 1], or other signals on the grid that the encoder was built for => latents `[B, R, D]`.

        InputError for signals of another shape, for integers (`genrep.render.from_uint8` converts pixels), for an empty batch,
        and for values that are not finite (with `missing`, NaN is a missing value).
        """
        return self.encode_set(images)[0]

    @apply_forward_hook
    def encode_set(
        self, images: Float[Tensor, "batch channels *shape"] | Any, fit: Integer = 0
    ) -> tuple[Float[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"] | None]:
        """The latents of `encode`, and a mask of the tokens that are present (None if all are).

        The encoder may be a network or an optimisation; callers need not know which. An optimisation gives other latents of
        the same images for every number `fit` >= 0; `encode` gives those of 0. InputError for another number if the encoder
        is a network. Clouds can be fitted to images of any size, which then cover `region_of(size)`.
        """
        fit = as_integer(fit, "fit", 0)
        if fit and not isinstance(self.encoder, CloudFit):
            raise InputError(
                f"fit must be 0, because this model's encoder is a network, which gives an image only one encoding; got {fit}"
            )
        images = as_floats(images, "images", "[batch, channels, height, width]", self.dtype)
        axes = len(self.image_shape)
        if images.ndim != 2 + axes:
            expected = "[batch, channels, height, width]" if axes == 2 else f"[batch, channels] and {axes} more axes"
            raise InputError(f"images must be {expected}; got {list(images.shape)}")
        if images.shape[:1] == (0,):
            raise InputError("there are no images to encode: give a batch of one or more")
        if not in_training(self, images):
            check_finite(images.masked_fill(images.isnan(), 0) if self.missing else images, "images")
        encoded = self._encoded(images, fit)
        return encoded if isinstance(encoded, tuple) else (encoded, None)

    def _encoded(self, values: Tensor, fit: int = 0) -> Any:
        """The encoder's result, latents or (latents, mask)."""
        observed = self.observed(values)
        if isinstance(self.encoder, CloudFit):
            return self.encoder(observed, self.decoder, fit)
        return self.encoder(observed)

    def observed(self, values: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch observed *shape"]:
        """What the encoder is given: the values and, where some may be missing, a channel that says which are there."""
        if not self.missing:
            return values
        # 0 replaces missing values, and the extra channel tells it from a measured 0. A point is present if all its channels
        # are.
        present = values.isfinite().all(dim=1, keepdim=True)
        return torch.cat([torch.where(present, values, 0), present.to(values.dtype)], dim=1)

    def region_of(self, size: Integer | Sequence[Integer]) -> tuple[float, ...]:
        """The region that an image of `size` covers if its pixels are as large as the model's, for `render`.

        It is centred at 0, and is [-1, 1] for the model's own size. Anchored clouds are fitted to images of any size there.
        """
        return region_of(grid_shape(size, self.decoder.num_axes), self.image_shape)

    @apply_forward_hook
    def decode(
        self,
        latents: Float[Tensor, "batch tokens latent"] | Any,
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"] | Any,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch points channels"]:
        """Values at coordinates in [-1, 1], axes in array order (y, x): `[N, c]` shared by the batch, or `[B, N, c]`.

        `mask` says which tokens are present, if sets differ in size. InputError for latents or coordinates of another shape,
        integers, or values that are not finite.
        """
        latents, coords = self._latents(latents, mask), as_floats(coords, "coords", "[points, axes]")
        self._check_coords(coords, len(latents))
        if not in_training(self, latents, coords):
            check_finite(coords, "coords")
        return self.decoder(coords, latents, mask)

    @apply_forward_hook
    def decoding(
        self, latents: Float[Tensor, "batch tokens latent"] | Any, mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Callable[[Coords], Tensor]:
        """`decode` for these latents as a function of coordinates; work that depends on the latents alone is done once.

        The function takes the coordinates that `decode` takes, or chunks of a grid (`GridChunk`), which are faster.
        InputError for latents that `decode` refuses, and for coordinates of another shape; their values are not checked.
        """
        latents = self._latents(latents, mask)
        values = self.decoder.masked_decoding(latents, mask)

        def checked(coords: Coords) -> Tensor:
            self._check_coords(coords, len(latents))
            return values(coords)

        return checked

    def _latents(self, latents: Any, mask: Tensor | None = None) -> Tensor:
        """Latents in the model's dtype. InputError for latents that do not fit or are not finite."""
        if mask is not None and not self.position_dim:
            raise InputError(
                "mask needs tokens with positions; this decoder's tokens have slots, which are always all present"
            )
        latents = as_floats(latents, "latents", "[batch, tokens, dim]", self.dtype)
        self._check_latents(latents)
        if not in_training(self, latents):
            check_finite(latents, "latents")
        return latents

    def _check_latents(self, latents: Tensor) -> None:
        num_tokens, width = self.latent_shape
        fits = latents.ndim == 3 and latents.shape[2] == width and (self.position_dim or latents.shape[1] == num_tokens)
        if not fits:
            taken = "tokens" if self.position_dim else num_tokens
            raise InputError(f"latents must be [batch, {taken}, {width}] for this decoder; got {list(latents.shape)}")

    def _check_coords(self, coords: Coords, batch: int) -> None:
        axes, shape = self.decoder.num_axes, tuple(coords.shape)
        if len(shape) not in (2, 3) or shape[-1] != axes or (len(shape) == 3 and shape[0] != batch):
            raise InputError(
                f"coords must be [points, {axes}], or [{batch}, points, {axes}] for {batch} latent sets; got {list(shape)}"
            )

    @apply_forward_hook
    def render(
        self,
        latents: Float[Tensor, "batch tokens latent"] | Any,
        size: Integer | Sequence[Integer] | None = None,
        region: Region | None = None,
        chunk: Integer | None = None,
        gradients: bool = False,
        as_uint8: bool = False,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch channels *size"] | UInt8[Tensor, "batch channels *size"]:
        """Signals at any size and region, see `genrep.render.render`; a size of None is the encoder's.

        InputError for latents that `decode` refuses, and for what `genrep.render.render` refuses.
        """
        shape = self.image_shape if size is None else grid_shape(size, self.decoder.num_axes)
        model = self if mask is None else _Masked(self, mask)
        return render(model, latents, shape, region, chunk, gradients, as_uint8)

    def forward(
        self,
        images: Float[Tensor, "batch channels *shape"],
        coords: Float[Tensor, "points axes"] | Float[Tensor, "batch points axes"],
        noise: Float[Tensor, "batch tokens latent"] | None = None,
    ) -> Float[Tensor, "batch points channels"]:
        """Reconstruction at coordinates: `decode(encode(images), coords)`.

        `noise` is added to the latents in units of each channel's standard deviation over the images, so that the decoder
        learns to tolerate a generator's errors. InputError for noise with a single image.
        """
        latents = self._encoded(images)
        if noise is not None:
            if len(images) < 2:
                raise InputError(
                    "latent noise is in units of the standard deviation over images, so every process needs at least two at a "
                    "time: change run.batch or run.accumulation, or set reconstruction.latent_noise to 0"
                )
            # Relative units, or the encoder would escape the noise by making its latents larger. A token's variance over the
            # images is averaged over tokens. Like batch norm's, it depends a little on how a batch is split into parts.
            latents = latents + noise * latents.detach().var(dim=0).mean(dim=0).sqrt()
        self._check_latents(latents)
        self._check_coords(coords, len(latents))
        return self.decoder(coords, latents)

    def freeze(self) -> "INRAutoencoder":
        """Switch to evaluation mode without gradients for the parameters, as stage 2 needs it."""
        return self.eval().requires_grad_(False)


class _Masked:
    """An autoencoder with a fixed mask, in the form that `render` takes."""

    def __init__(self, autoencoder: INRAutoencoder, mask: Tensor):
        self.autoencoder, self.mask = autoencoder, mask

    def decode(self, latents: Tensor, coords: Tensor) -> Tensor:
        return self.autoencoder.decode(latents, coords, self.mask)

    def decoding(self, latents: Tensor) -> Callable[[Coords], Tensor]:
        return self.autoencoder.decoding(latents, self.mask)
