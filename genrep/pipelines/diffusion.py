"""Latent diffusion: from noise to latents to images of any size."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import ImagePipelineOutput, SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from jaxtyping import Bool, Float
from torch import Tensor

from genrep.arguments import Integer, Number, as_integer, as_integers, as_number, shown
from genrep.coords import Region
from genrep.diffusion.guidance import check_guide, guided_prediction
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import PIPELINES
from genrep.pipelines.base import SignalPipeline, check_arguments, check_normalizer, generators_of


class LatentDiffusionPipeline(SignalPipeline):
    """Samples latent sets with a denoiser and renders them with the autoencoder's decoder.

    Args:
        autoencoder: the model of stage 1.
        denoiser: predicts clean standardised latents.
        normalizer: standardises latents, and back.
        scheduler: any diffusers scheduler with `prediction_type="sample"`; if it clips samples to ±1, as DDPM and DDIM do by
            default, the pipeline switches that off.
        id2label: names of the classes, by label.
        sampling: defaults for calls: any of `num_inference_steps` (50 if not given), `guidance_scale` (1.0) and
            `guidance_interval` ((0, 1)).
        token_counts: how many of the training data's token sets have how many tokens, {tokens: sets}, to draw `num_tokens`
            from; None if unknown.
        guide: a smaller denoiser, or one that was trained for less, of the same latents and classes; with it guidance is
            autoguidance (`genrep.diffusion.guidance`). None guides by the prediction without class.

    Raises:
        InputError: components that do not fit each other, or an invalid setting.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = PIPELINES["LatentDiffusionPipeline"].defaults
    model_cpu_offload_seq = "guide->denoiser->autoencoder"  # the order of use
    _optional_components = ["guide"]  # noqa: RUF012 diffusers' own declaration
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 diffusers' own declaration
    autoencoder: Any
    denoiser: Any
    normalizer: Any
    scheduler: Any
    guide: Any

    def __init__(
        self,
        autoencoder: INRAutoencoder,
        denoiser: LatentDenoiser,
        normalizer: LatentNormalizer,
        scheduler: Any,
        id2label: dict | None = None,
        sampling: dict | None = None,
        token_counts: dict | None = None,
        guide: LatentDenoiser | None = None,
    ):
        super().__init__()
        _check_scheduler(scheduler)
        if denoiser.spec.position_dim != autoencoder.position_dim:
            raise InputError(
                f"a denoiser with position_dim {denoiser.spec.position_dim} does not fit an autoencoder with position_dim "
                f"{autoencoder.position_dim}"
            )
        if denoiser.latent_shape != autoencoder.latent_shape:
            raise InputError(
                f"a denoiser with latents {denoiser.latent_shape} does not fit an autoencoder with latents {autoencoder.latent_shape}"
            )
        check_normalizer(normalizer, autoencoder)
        check_guide(guide, denoiser)
        self.register_modules(
            autoencoder=autoencoder, denoiser=denoiser, normalizer=normalizer, scheduler=scheduler, guide=guide
        )
        self.register_to_config(id2label=id2label, sampling=sampling, token_counts=token_counts)
        if sampling:  # invalid settings are an error here, before a long call
            self.sampling_settings()

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write every component, and `model_index.json`, which lists them."""
        # diffusers would leave out a guide that was set after the constructor, with `pipeline.guide = ...`.
        self.register_modules(guide=self.guide)
        super().save_pretrained(save_directory, **kwargs)

    @property
    def num_classes(self) -> int:
        """Classes of the denoiser; 0 is unconditional."""
        return int(self.denoiser.config["num_classes"])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The encoder's grid, (height, width) for images."""
        return tuple(self.autoencoder.image_shape)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.autoencoder.config["channels"])

    # The next three are diffusers' interface for callbacks, under its names.

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the current or last call; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Number of noise levels that the current or last call visits."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: no further steps follow, and the current latents are rendered."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Integer | Sequence[Integer] | Any | None = None,
        num_images: Integer | None = None,
        guidance_scale: Number | None = None,
        guidance_interval: Sequence[Number] | Any | None = None,
        num_inference_steps: Integer | None = None,
        height: Integer | None = None,
        width: Integer | None = None,
        region: Region | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | Any | None = None,
        batch_size: Integer | None = None,
        output_type: str | Any = "pil",
        return_dict: bool = True,
        latents: Float[Tensor, "images tokens latent"] | Any | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | Any | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | Any = ("latents",),
        size: Integer | Sequence[Integer] | Any | None = None,
        num_tokens: Integer | Sequence[Integer] | str | Any | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Sample images. Guidance and steps that are None take the pipeline's settings (`sampling`).

        Args:
            class_labels: one label per image: integers, or a 1-d array or tensor of them; None samples without class.
            num_images: number of images if there are no labels; None is the number of `latents`, or 1.
            guidance_scale: w of guidance, x0 = worse + w (denoiser - worse), away from the guide's prediction or, without a
                guide, from that without class; 1 disables it.
            guidance_interval: range of noise levels that is guided, from 0 at the clean end to 1 at the noisy end.
            num_inference_steps: number of sampling steps.
            height, width: size in pixels; None is the encoder's.
            region: (y0, x0, y1, x1) in [-1, 1] coordinates; None is the whole image.
            generator: one per image, or a single one: image i then depends on its next number and i alone.
            batch_size: images denoised at a time; None is all. It only affects memory.
            output_type: "pil", "np" ([N, H, W, C] float in [0, 1]), "pt" ([N, C, H, W] float in [0, 1]), "uint8" ([N, C, H, W]
                in 0..255), all from the same 8-bit pixels, or "latent" ([N, R, D]). For signals that are arrays, "np" and "pt"
                are [N, C, *size] in their own unit, "pil" and "uint8" pictures of them. "kept" is the form in which data sets
                keep signals: 8 bits, or that array.
            return_dict: return an ImagePipelineOutput instead of a tuple.
            latents: noise from N(0, 1) to start from, `[N, R, D]`; the generator then only serves schedulers that draw noise.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}) after each step of each batch; if it
                returns "latents" (standardised and noisy), they replace the batch's.
            callback_on_step_end_tensor_inputs: the tensors passed to it, a subset of `_callback_tensor_inputs`.
            size: instead of height and width, for signals with any number of axes: one length per axis, or one for all.
            num_tokens: size of the token sets, one number or one per sample, if tokens have positions; "data" draws each
                sample's from those of the training data (`token_counts`), with its generator; None is the largest that the
                denoiser was trained with.

        Raises:
            InputError: an invalid argument, latents or an output that are not finite, or an output that exceeds the machine's
                memory.
        """
        # Checks come first, so that a mistake costs no sampling. Components may have been swapped since the constructor.
        _check_scheduler(self.scheduler)
        check_guide(self.guide, self.denoiser)
        settings = self.sampling_settings(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, guidance_interval=guidance_interval
        )
        # The number of images is known from labels, `num_images` or `latents`; everything else must agree with it.
        labels = self._check_labels(class_labels, num_images, latents)
        count, size = len(labels), self._size(height, width, size)
        batch_size = check_arguments(region, len(size), batch_size, count)
        pixels = self._pixels(count, size, output_type)
        generators = generators_of(generator, count)
        mask = self._token_mask(num_tokens, generators)
        noise = None if latents is None else self._check_noise(latents, self.denoiser.latent_shape, count)
        # diffusers' callback objects say themselves which tensors they take.
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise InputError(f"callback_on_step_end must be a function; got {shown(callback_on_step_end)}")
        for name in callback_on_step_end_tensor_inputs:
            if name not in self._callback_tensor_inputs:
                raise InputError(
                    f"callback_on_step_end_tensor_inputs: {name!r} is not one of {', '.join(self._callback_tensor_inputs)}"
                )

        # Attributes, because diffusers' callbacks read and set them between steps.
        self._guidance_scale, self._interrupt = settings["guidance_scale"], False
        results = []
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            sampled = self._sample_latents(
                labels[part],
                generators[part],
                settings["num_inference_steps"],
                settings["guidance_interval"],
                None if noise is None else noise[part],
                None if mask is None else mask[part],
                callback_on_step_end,
                callback_on_step_end_tensor_inputs,
            )
            if output_type == "latent":
                results.append(sampled.cpu())
                continue
            self._fill(
                pixels[part],
                functools.partial(self._decode, sampled, size, region, None if mask is None else mask[part]),
            )
        return self._output(torch.cat(results) if results else pixels, output_type, return_dict)

    def _check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            low, high = (as_number(bound, "a bound", 0, 1) for bound in settings["guidance_interval"])
        except (InputError, TypeError, ValueError):
            low, high = 1.0, 0.0  # refused below, with the interval as the user wrote it
        if low > high:
            raise InputError(
                "guidance_interval must be (low, high) with 0 <= low <= high <= 1; got "
                f"{shown(settings['guidance_interval'])}"
            )
        num_levels = self.scheduler.config.num_train_timesteps
        num_steps = as_integer(settings["num_inference_steps"], "num_inference_steps", 1, num_levels)
        # With some spacings a single step is not at the noisiest level, and would take pure noise for a less noisy latent.
        if num_steps == 1:
            self.scheduler.set_timesteps(1)
            if float(self.scheduler.timesteps[0]) < num_levels - 1:
                raise InputError(
                    f"num_inference_steps must be at least 2 for {type(self.scheduler).__name__}: its only step would be at level "
                    f"{float(self.scheduler.timesteps[0]):.0f}, while pure noise is at {num_levels - 1}"
                )
        return {
            "num_inference_steps": num_steps,
            "guidance_scale": as_number(settings["guidance_scale"], "guidance_scale"),
            "guidance_interval": (low, high),
        }

    def _sample_latents(
        self,
        labels: list[int],
        generators: list[torch.Generator],
        num_steps: int,
        interval: tuple[float, float],
        noise: Tensor | None,
        mask: Tensor | None,
        callback: Callable[..., Any] | None,
        callback_inputs: Sequence[str],
    ) -> Float[Tensor, "batch tokens latent"]:
        """Latents of a batch, in the encoder's scale. The denoiser computes in its own dtype, everything else in float32."""
        device = self._execution_device  # where the models will compute, also if they are offloaded to the CPU now
        self.scheduler.set_timesteps(num_steps, device=device)  # for every batch: it also resets the solver's history
        last_level = self.scheduler.config.num_train_timesteps - 1
        if noise is None:
            shape = self.denoiser.latent_shape
            # Drawn on each generator's device, by default the CPU, where image i is the same on every machine.
            noise = torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])
        # Schedulers of sigmas (Euler, Heun) expect noise of their largest sigma; for the others the factor is 1.
        latents = noise.to(device) * self.scheduler.init_noise_sigma
        condition = torch.tensor(labels, device=device) if self.num_classes else None
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters  # not all have it
        extra = {"generator": generators} if takes_generator else {}
        self._num_timesteps = len(self.scheduler.timesteps)
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                break
            noisy = self.scheduler.scale_model_input(latents, timestep)
            # Guidance in a limited interval (Kynkäänniemi et al., 2024): outside it, guidance costs variety for no quality,
            # and twice the work.
            guided = interval[0] <= float(timestep) / last_level <= interval[1]
            scale = self.guidance_scale if guided else 1.0
            clean = guided_prediction(self.denoiser, self.guide, noisy, timestep, condition, scale, mask)
            latents = self.scheduler.step(clean, timestep, latents, return_dict=False, **extra)[0]
            if callback is not None:
                replaced = callback(self, step, timestep, dict.fromkeys(callback_inputs, latents)) or {}
                if "latents" in replaced:  # checked here, or a callback's mistake would surface inside the scheduler
                    latents = self._check_noise(replaced["latents"], latents.shape[1:], len(latents))
        # Checked once per batch, not per step, which a GPU would wait for. NaN would come out as black images.
        restored = self.normalizer.restore(latents)
        if not bool(restored.isfinite().all()):
            models = "denoiser has" if self.guide is None else "denoiser or its guide has"
            raise InputError(
                f"sampling gave latents that are not finite (NaN or infinite): the {models} diverged or is damaged, "
                f"guidance_scale {self.guidance_scale:g} is too large, or fp16 overflows (try bf16 or fp32)"
            )
        return restored

    def _token_mask(self, num_tokens: Any, generators: list[torch.Generator]) -> Bool[Tensor, "images tokens"] | None:
        """Which tokens of each sample are present; None if all are. InputError for an invalid number."""
        if num_tokens is None:
            return None
        if not self.autoencoder.position_dim:
            raise InputError("num_tokens needs tokens with positions; this model's tokens have slots: leave it out")
        max_tokens, count = self.denoiser.latent_shape[0], len(generators)
        if isinstance(num_tokens, str) and num_tokens == "data":
            num_tokens = self._counts_of_data(generators)
        counts = as_integers(num_tokens, "num_tokens", 1, max_tokens)
        counts = counts * count if len(counts) == 1 else counts
        if len(counts) != count:
            raise InputError(
                f"num_tokens must be one number, or one for each of the {count} samples; got {len(counts)}"
            )
        return (
            torch.arange(max_tokens, device=self._execution_device)
            < torch.tensor(counts, device=self._execution_device)[:, None]
        )

    def _counts_of_data(self, generators: list[torch.Generator]) -> list[int]:
        """Numbers of tokens drawn from those of the training data, one with each generator."""
        if not self.config.token_counts:
            raise InputError(
                'num_tokens "data" needs the sizes of the training data\'s token sets, which this pipeline was saved without: '
                "give a number"
            )
        sizes, weights = zip(*((int(size), sets) for size, sets in self.config.token_counts.items()), strict=True)
        total = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        draws = torch.stack([torch.rand((), generator=g, device=g.device).cpu() for g in generators]).double()
        return [sizes[k] for k in torch.searchsorted(total, draws * total[-1], right=True).tolist()]


def _check_scheduler(scheduler: Any) -> None:
    """InputError for a scheduler of another prediction type; switches off clipping to ±1, which does not bound latents."""
    if not isinstance(scheduler, SchedulerMixin):
        raise InputError(
            f"scheduler must be a diffusers scheduler, such as genrep.diffusion.schedulers.make_scheduler makes; "
            f"got {shown(scheduler)}"
        )
    if scheduler.config.prediction_type != "sample":
        raise InputError(
            'scheduler must have prediction_type="sample", since the denoiser predicts the clean latents; got '
            f"{scheduler.config.prediction_type!r}: make it with from_config(pipe.scheduler.config)"
        )
    clipping = {key: False for key in ("clip_sample", "thresholding") if scheduler.config.get(key)}
    if clipping:
        scheduler.register_to_config(**clipping)
