"""Latent diffusion: noise to latents to images of any size."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor

from genrep.coords import Region, image_region, image_shape
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.models.loading import refuse_missing_pipeline
from genrep.models.normalizer import LatentNormalizer
from genrep.pictures import picture
from genrep.randomness import image_generators
from genrep.render import to_uint8


class LatentDiffusionPipeline(DiffusionPipeline):
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a folder that `save_pretrained` wrote (a run's `pipeline/`), or a Hub id. InputError if it is not whole."""
        refuse_missing_pipeline(cls.__name__, pretrained_model_name_or_path)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except InputError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{pretrained_model_name_or_path}: not a whole {cls.__name__} ({error})") from error

    @property
    def num_classes(self) -> int:
        """Classes of the denoiser; 0 is unconditional."""
        return int(self.denoiser.config["num_classes"])

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
        default_height, default_width = self.autoencoder.image_shape
        size = image_shape((default_height if height is None else height, default_width if width is None else width))
        image_region(region)
        low, high = guidance_interval
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"guidance_interval {guidance_interval} cannot be: give two shares of the noise levels, 0 <= low <= high <= 1"
            )
        num_levels = self.scheduler.config.num_train_timesteps
        if not 1 <= num_inference_steps <= num_levels:
            raise InputError(f"num_inference_steps {num_inference_steps} cannot be: give 1 to {num_levels}")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise InputError(f"output_type {output_type!r} is not one of pil, np, pt, latent")
        generators = _generators(generator, count)

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
        images: Any = torch.cat(results)
        if output_type == "np":
            images = images.permute(0, 2, 3, 1).numpy().astype("float32") / 255
        elif output_type == "pil":
            images = [picture(image) for image in images]
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

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

    def _check_labels(self, class_labels: int | Sequence[int] | None, num_images: int | None) -> list[int]:
        """A label an image, `num_classes` standing for "no class"."""
        if class_labels is None:
            if num_images is not None and num_images < 1:
                raise InputError(f"num_images {num_images} cannot be: give a positive number")
            return [self.num_classes] * (1 if num_images is None else num_images)
        labels = [class_labels] if isinstance(class_labels, int) else [int(label) for label in class_labels]
        if not self.num_classes:
            raise InputError(
                "class labels were given, but this model was trained without classes: leave them out and give num_images"
            )
        for label in labels:
            if not 0 <= label < self.num_classes:
                raise InputError(
                    f"class label {label} is not one of 0 to {self.num_classes - 1}, the classes of this model"
                )
        if not labels or num_images not in (None, len(labels)):
            raise InputError(
                f"{len(labels)} class labels for {num_images} images: give one label an image, and at least one"
            )
        return labels


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


def _generators(given: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    if isinstance(given, Sequence):
        if len(given) != count:
            raise InputError(
                f"{len(given)} generators for {count} images: give one generator an image, or a single one"
            )
        return list(given)
    device = given.device if given is not None else "cpu"
    base = int(torch.randint(2**62, (), generator=given, device=device))  # a second call with this generator differs
    return image_generators(base, range(count))
