"""Latent diffusion: noise to latents to images of any size."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor

from genrep.coords import Region, image_region
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines.base import OUTPUT_TYPES, ImagePipeline, check_batch_size, generators_of
from genrep.render import to_uint8


class LatentDiffusionPipeline(ImagePipeline):
    """Samples latent sets with a denoiser and renders them with the autoencoder's decoder.

    Args:
        autoencoder: stage 1.
        denoiser: predicts clean standardised latents.
        normalizer: latents to standardised latents and back.
        scheduler: any diffusers scheduler with `prediction_type="sample"`; where it would clip samples to ±1, as DDPM and
            DDIM do by default, the pipeline switches that off.
        id2label: names of the classes, by label.
    """

    autoencoder: Any
    denoiser: Any
    normalizer: Any
    scheduler: Any

    def __init__(
        self,
        autoencoder: INRAutoencoder,
        denoiser: LatentDenoiser,
        normalizer: LatentNormalizer,
        scheduler: Any,
        id2label: dict | None = None,
    ):
        super().__init__()
        _check_scheduler(scheduler)
        if denoiser.latent_shape != autoencoder.latent_shape:
            raise InputError(
                f"a denoiser of latents {denoiser.latent_shape} does not fit an autoencoder of latents {autoencoder.latent_shape}"
            )
        self.register_modules(autoencoder=autoencoder, denoiser=denoiser, normalizer=normalizer, scheduler=scheduler)
        self.register_to_config(id2label=id2label)

    @property
    def num_classes(self) -> int:
        """Classes of the denoiser; 0 is unconditional."""
        return int(self.denoiser.config["num_classes"])

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the encoder's images."""
        return tuple(self.autoencoder.image_shape)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.autoencoder.config["channels"])

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | None = None,
        num_images: int | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 50,
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
            class_labels: one label an image; None samples without class.
            num_images: how many, where there are no labels; 1 when None.
            guidance_scale: w of classifier-free guidance, x0 = uncond + w (cond - uncond); 1 is none.
            guidance_interval: share of the noise levels that is guided, 0 the clean end and 1 the noisy one.
            num_inference_steps: sampling steps.
            height, width: pixels; the encoder's size when None.
            region: (y0, x0, y1, x1) in [-1, 1] coordinates; None is the whole image.
            generator: one an image, or one for all: then image i depends on that generator's next number and i alone.
            batch_size: images denoised and rendered at a time; all when None. It changes nothing but memory.
            output_type: "pil", "np" ([N, H, W, C] in [0, 1]), "pt" ([N, C, H, W] uint8) or "latent" ([N, R, D]).
            return_dict: an ImagePipelineOutput, or a tuple.

        Raises:
            InputError: a label, size, region, interval or number of generators that cannot be.
        """
        _check_scheduler(self.scheduler)
        labels = self._check_labels(class_labels, num_images)
        count = len(labels)
        size = self._size(height, width)
        image_region(region)
        low, high = guidance_interval
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"guidance_interval {guidance_interval} cannot be: give two shares of the noise levels, 0 <= low <= high <= 1"
            )
        num_levels = self.scheduler.config.num_train_timesteps
        if not 1 <= num_inference_steps <= num_levels:
            raise InputError(f"num_inference_steps {num_inference_steps} cannot be: give 1 to {num_levels}")
        check_batch_size(batch_size)
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type {output_type!r} is not one of {', '.join(OUTPUT_TYPES)}")
        generators = generators_of(generator, count)

        results = []
        for start in range(0, count, batch_size or count):
            part = slice(start, start + (batch_size or count))
            latents = self._sample_latents(
                labels[part], generators[part], num_inference_steps, guidance_scale, (low, high)
            )
            if output_type == "latent":
                results.append(latents.cpu())
                continue
            # A large picture is rounded before the next one is rendered: floats take four times the memory of pixels
            one_by_one = size[0] * size[1] > 512**2
            for each in latents.split(1 if one_by_one else len(latents)):
                results.append(to_uint8(self.autoencoder.render(each, size=size, region=region)).cpu())
        return self._output(results, output_type, return_dict)

    def _sample_latents(
        self,
        labels: list[int],
        generators: list[torch.Generator],
        num_steps: int,
        scale: float,
        interval: tuple[float, float],
    ) -> Float[Tensor, "batch tokens latent"]:
        device, dtype = self._execution_device, self.denoiser.dtype
        self.scheduler.set_timesteps(num_steps, device=device)
        noise = torch.stack(
            [
                torch.randn(self.denoiser.latent_shape, generator=generator, device=generator.device)
                for generator in generators
            ]
        )
        latents = noise.to(device, dtype) * self.scheduler.init_noise_sigma
        condition = torch.tensor(labels, device=device) if self.num_classes else None
        last_level = self.scheduler.config.num_train_timesteps - 1
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generators} if takes_generator else {}
        for timestep in self.progress_bar(self.scheduler.timesteps):
            noisy = self.scheduler.scale_model_input(latents, timestep)
            guided = scale != 1 and condition is not None and interval[0] <= float(timestep) / last_level <= interval[1]
            clean = self._predict(noisy, timestep, condition, scale if guided else 1.0)
            latents = self.scheduler.step(clean, timestep, latents, return_dict=False, **extra)[0]
        return self.normalizer.restore(latents)

    def _predict(self, noisy: Tensor, timestep: Tensor, condition: Tensor | None, scale: float) -> Tensor:
        """The clean latents; with guidance, both predictions in one batch."""
        if scale == 1 or condition is None:
            return self.denoiser(noisy, timestep.expand(len(noisy)), condition)
        both = torch.cat([condition, torch.full_like(condition, self.num_classes)])
        conditional, unconditional = self.denoiser(torch.cat([noisy, noisy]), timestep.expand(len(both)), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)


def _check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler of another prediction, and switch off clipping to ±1: latents are not bounded by it."""
    if scheduler.config.prediction_type != "sample":
        raise InputError(
            f"scheduler with prediction_type={scheduler.config.prediction_type!r}: the denoiser predicts the clean latents, "
            'so it takes prediction_type="sample"; make it with from_config(pipe.scheduler.config)'
        )
    clipping = {key: False for key in ("clip_sample", "thresholding") if scheduler.config.get(key)}
    if clipping:
        scheduler.register_to_config(**clipping)
