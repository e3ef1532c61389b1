"""GAN: noise to images of any size, or to latents that a decoder renders."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor

from genrep.coords import Region, grid, image_region
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines.base import OUTPUT_TYPES, ImagePipeline, check_batch_size, generators_of
from genrep.render import render_values, to_uint8


class GANPipeline(ImagePipeline):
    """Draws noise, and renders what the generator makes of it.

    Args:
        generator_model: coordinates of pixels to colours or, with an autoencoder, the tokens' places to latents.
        autoencoder, normalizer: stage 1 and the scale of its latents; None for a generator of pixels.
        sample_size: (height, width) that a generator of pixels was trained at; None with an autoencoder.
        id2label: names of the classes, by label.
    """

    _optional_components = ["autoencoder", "normalizer"]  # noqa: RUF012 diffusers' own declaration
    generator_model: Any
    autoencoder: Any
    normalizer: Any

    def __init__(
        self,
        generator_model: CoordinateGenerator,
        autoencoder: INRAutoencoder | None = None,
        normalizer: LatentNormalizer | None = None,
        sample_size: Sequence[int] | None = None,
        id2label: dict | None = None,
    ):
        super().__init__()
        if (autoencoder is None) != (normalizer is None) or (autoencoder is None) != (sample_size is not None):
            raise InputError(
                "a GAN of latents needs autoencoder and normalizer, one of pixels needs sample_size: give one or the other"
            )
        wanted = (2, generator_model.config["channels"]) if autoencoder is None else (1, autoencoder.latent_shape[1])
        if (generator_model.num_axes, generator_model.config["channels"]) != wanted:
            raise InputError(
                f"a generator with {generator_model.num_axes} axes and {generator_model.config['channels']} channels does not fit: "
                f"this needs {wanted[0]} and {wanted[1]}"
            )
        self.register_modules(generator_model=generator_model, autoencoder=autoencoder, normalizer=normalizer)
        self.register_to_config(id2label=id2label, sample_size=list(sample_size) if sample_size else None)

    @property
    def num_classes(self) -> int:
        """Classes of the generator; 0 is unconditional."""
        return int(self.generator_model.num_classes)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) that it was trained at."""
        return tuple(self.autoencoder.image_shape if self.autoencoder is not None else self.config["sample_size"])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int((self.autoencoder or self.generator_model).config["channels"])

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | None = None,
        num_images: int | None = None,
        truncation: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        region: Region | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        batch_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Sample images.

        Args:
            class_labels: one label an image; None where the model has no classes.
            num_images: how many, where there are no labels; 1 when None.
            truncation: factor on the noise; below 1 samples are more alike, and nearer to the most likely one.
            height, width: pixels; what the model was trained at when None.
            region: (y0, x0, y1, x1) in [-1, 1] coordinates; None is the whole image.
            generator: one an image, or one for all: then image i depends on that generator's next number and i alone.
            batch_size: images made at a time; all when None. It changes nothing but memory.
            output_type: "pil", "np" ([N, H, W, C] in [0, 1]), "pt" ([N, C, H, W] uint8) or, of a GAN of latents, "latent".
            return_dict: an ImagePipelineOutput, or a tuple.

        Raises:
            InputError: a label, size, region, truncation or number of generators that cannot be.
        """
        labels = self._check_labels(class_labels, num_images)
        if class_labels is None and self.num_classes:  # such a GAN has no "no class": classes in turn
            labels = [index % self.num_classes for index in range(len(labels))]
        size = self._size(height, width)
        image_region(region)
        if not 0 <= truncation < float("inf"):
            raise InputError(f"truncation {truncation} cannot be: give a number from 0, 1 changes nothing")
        check_batch_size(batch_size)
        if output_type not in OUTPUT_TYPES or (output_type == "latent" and self.autoencoder is None):
            raise InputError(
                f"output_type {output_type!r} is not one of {', '.join(OUTPUT_TYPES)} (latent is of a GAN of latents)"
            )
        generators = generators_of(generator, len(labels))
        noise = torch.stack(
            [torch.randn(self.generator_model.noise_dim, generator=g, device=g.device) for g in generators]
        )
        return self.from_noise(noise * truncation, labels, size, region, batch_size, output_type, return_dict)

    @torch.no_grad()
    def from_noise(
        self,
        noise: Tensor,
        labels: Sequence[int],
        size: Sequence[int],
        region: Region | None = None,
        batch_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images of given noise `[N, noise_dim]` and labels (any where there are no classes), as `__call__` makes them."""
        model, results = self.generator_model, []
        for start in range(0, len(noise), batch_size or len(noise)):
            part = slice(start, start + (batch_size or len(noise)))
            drawn = noise[part].to(self._execution_device, model.dtype)
            classes = torch.tensor(labels[part], device=drawn.device) if self.num_classes else None
            if self.autoencoder is None:
                chunk = max(1, 65_536 // len(drawn))
                values = functools.partial(model, noise=drawn, class_labels=classes)
                results.append(to_uint8(render_values(values, size, region, chunk, drawn.device)).cpu())
                continue
            places = grid((self.autoencoder.latent_shape[0],), device=drawn.device)
            latents = self.normalizer.restore(model(places, drawn, classes))
            if output_type == "latent":
                results.append(latents.cpu())
                continue
            results.append(to_uint8(self.autoencoder.render(latents, size=size, region=region)).cpu())
        return self._output(results, output_type, return_dict)


def spherical(
    one: Float[Tensor, " noise"], other: Float[Tensor, " noise"], share: float | int
) -> Float[Tensor, " noise"]:
    """Spherical interpolation (slerp): `one` at share 0, `other` at 1, along the arc between their directions."""
    angle = torch.acos(torch.clamp(F.cosine_similarity(one, other, dim=0), -1, 1))
    if float(angle) < 1e-4:
        return torch.lerp(one, other, share)
    return (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / torch.sin(angle)
