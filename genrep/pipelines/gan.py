"""GAN: from noise to images of any size, or to latents that a decoder renders."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import Integer, Number, as_number
from genrep.coords import Region, grid, image_shape
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import PIPELINES
from genrep.pipelines.base import SignalPipeline, check_arguments, check_normalizer, generators_of
from genrep.render import render_values
from genrep.signals import SignalOf
from genrep.signals.base import Signal
from genrep.specs import validate

CHUNK = 65_536
"""Coordinates × images that a generator of pixels evaluates at a time."""


class GANPipeline(SignalPipeline):
    """Draws noise and renders the generator's output.

    Args:
        generator_model: from coordinates of pixels to colours or, with an autoencoder, from the tokens' places to latents.
        autoencoder, normalizer: stage 1 and the scale of its latents; None for a generator of pixels.
        sample_size: the grid that a generator of signals was trained on, (height, width) for images; None with an autoencoder.
        id2label: names of the classes, by label.
        sampling: defaults for calls: {"truncation": 1.0}.
        signal: what the values of a generator of signals mean, one of `genrep.signals`; None is images.

    Raises:
        InputError: components that do not fit each other, or an invalid setting.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = PIPELINES["GANPipeline"].defaults
    model_cpu_offload_seq = "generator_model->autoencoder"
    # A GAN of pixels has neither; diffusers would refuse to load a pipeline without them.
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
        sampling: dict | None = None,
        signal: dict | None = None,
    ):
        super().__init__()
        if (autoencoder is None) != (normalizer is None) or (autoencoder is None) != (sample_size is not None):
            raise InputError(
                "give autoencoder and normalizer for a GAN of latents, or sample_size for a GAN of pixels, and not both"
            )
        # For a GAN of latents a token is a point: its coordinate is its place in the set, its values are its D channels.
        expected = (
            (1, autoencoder.latent_shape[1])
            if autoencoder is not None
            else (len(image_shape(sample_size)) if sample_size is not None else 2, generator_model.config["channels"])
        )
        if (generator_model.num_axes, generator_model.config["channels"]) != expected:
            raise InputError(
                f"generator_model must have {expected[0]} axes and {expected[1]} channels here; got "
                f"{generator_model.num_axes} and {generator_model.config['channels']}"
            )
        if autoencoder is not None and normalizer is not None:
            if autoencoder.position_dim:
                raise InputError(
                    "a GAN of latents needs tokens with slots, and this autoencoder's tokens have positions: use "
                    "LatentDiffusionPipeline"
                )
            check_normalizer(normalizer, autoencoder)
        self.register_modules(generator_model=generator_model, autoencoder=autoencoder, normalizer=normalizer)
        self.register_to_config(
            id2label=id2label,
            sample_size=None if sample_size is None else list(image_shape(sample_size)),
            sampling=sampling,
            signal=signal,
        )
        if sampling:
            self.sampling_settings()

    @property
    def num_classes(self) -> int:
        """Number of classes of the generator; 0 is unconditional."""
        return int(self.generator_model.num_classes)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The grid that it was trained on, (height, width) for images."""
        return tuple(self.autoencoder.image_shape if self.autoencoder is not None else self.config["sample_size"])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int((self.autoencoder or self.generator_model).config["channels"])

    @property
    def signal(self) -> Signal:
        if self.autoencoder is not None:
            return self.autoencoder.signal
        return validate(
            SignalOf, {"signal": self.config.get("signal") or {"type": "image"}}, where="signal"
        ).signal.build()

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Integer | Sequence[Integer] | Any | None = None,
        num_images: Integer | None = None,
        truncation: Number | None = None,
        height: Integer | None = None,
        width: Integer | None = None,
        region: Region | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | Any | None = None,
        batch_size: Integer | None = None,
        output_type: str | Any = "pil",
        return_dict: bool = True,
        latents: Float[Tensor, "images noise"] | Any | None = None,
        size: Integer | Sequence[Integer] | Any | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Sample images.

        Args:
            class_labels: one label per image: integers, or a 1-d array or tensor of them; None takes the classes in turn, or
                none if the model has no classes.
            num_images: number of images if there are no labels; None is the number of `latents`, or 1.
            truncation: factor on the noise; below 1 samples are less varied and more typical. None is the pipeline's setting
                (`sampling`).
            height, width: size in pixels; None is the size that the model was trained on.
            region: (y0, x0, y1, x1) in [-1, 1] coordinates; None is the whole image.
            generator: one per image, or a single one: image i then depends on its next number and i alone.
            batch_size: images generated at a time; None is all. It only affects memory.
            output_type: "pil", "np" ([N, H, W, C] float in [0, 1]), "pt" ([N, C, H, W] float in [0, 1]), "uint8" ([N, C, H, W]
                in 0..255), all from the same 8-bit pixels, or, for a GAN of latents, "latent" ([N, R, D]). For signals that
                are arrays, "np" and "pt" are [N, C, *size] in their own unit, "pil" and "uint8" pictures of them. "kept" is
                the form in which data sets keep signals.
            return_dict: return an ImagePipelineOutput instead of a tuple.
            latents: noise vectors from N(0, 1), `[N, noise_dim]`; the generator is then not used.
            size: instead of height and width, for signals with any number of axes: one length per axis, or one for all.

        Raises:
            InputError: an invalid argument, latents or an output that are not finite, or an output that exceeds the machine's
                memory.
        """
        truncation = self.sampling_settings(truncation=truncation)["truncation"]
        labels = self._check_labels(class_labels, num_images, latents)
        # A conditional GAN has no "no class", which only guidance would need: without labels its classes take turns.
        if class_labels is None and self.num_classes:
            labels = [index % self.num_classes for index in range(len(labels))]
        size, noise_dim = self._size(height, width, size), self.generator_model.noise_dim
        generators = generators_of(generator, len(labels))
        if latents is None:
            # Drawn on each generator's device, by default the CPU, where image i is the same on every machine.
            noise = torch.stack([torch.randn(noise_dim, generator=g, device=g.device) for g in generators])
        else:
            noise = self._check_noise(latents, (noise_dim,), len(labels))
        # z itself is truncated: there is no intermediate latent space, as StyleGAN's w, to do it in.
        return self.from_noise(noise * truncation, labels, size, region, batch_size, output_type, return_dict)

    def _check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"truncation": as_number(settings["truncation"], "truncation", low=0)}

    @torch.no_grad()
    def from_noise(
        self,
        noise: Float[Tensor, "images noise"] | Any,
        labels: Sequence[Integer] | Any,
        size: Integer | Sequence[Integer],
        region: Region | None = None,
        batch_size: Integer | None = None,
        output_type: str | Any = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images from noise `[N, noise_dim]` and labels, as in `__call__`; labels are ignored if there are no classes.

        For walks between samples, which give each image its own noise.
        """
        model, results, size = self.generator_model, [], self._size(None, None, size)
        noise = self._check_noise(noise, (model.noise_dim,))
        if self.num_classes:
            if labels is None:
                raise InputError(f"this GAN has {self.num_classes} classes: give one label per noise vector")
            labels = self._check_labels(labels, len(noise))
        batch_size = check_arguments(region, len(size), batch_size, len(noise))
        if output_type == "latent" and self.autoencoder is None:
            raise InputError('output_type "latent" needs a GAN of latents; this one generates pixels')
        pixels = self._pixels(len(noise), size, output_type)
        for start in range(0, len(noise), batch_size):
            part = slice(start, start + batch_size)
            noise_part = noise[part].to(self._execution_device)
            classes = torch.tensor(labels[part], device=noise_part.device) if self.num_classes else None
            if self.autoencoder is None:
                self._fill(pixels[part], functools.partial(self._render, noise_part, classes, size, region))
                continue
            # All tokens of a set, at the centres of R cells along one axis; only the render depends on the size.
            places = grid((self.autoencoder.latent_shape[0],), device=noise_part.device)
            latents = self.normalizer.restore(model(places, noise_part, classes).float())
            if not bool(latents.isfinite().all()):
                raise InputError(
                    "the generator gave latents that are not finite (NaN or infinite): it has diverged or is damaged, or fp16 "
                    "overflows (try bf16 or fp32)"
                )
            if output_type == "latent":
                results.append(latents.cpu())
                continue
            self._fill(pixels[part], functools.partial(self._decode, latents, size, region, None))
        return self._output(torch.cat(results) if results else pixels, output_type, return_dict)

    def _render(
        self, noise: Tensor, classes: Tensor | None, size: Sequence[int], region: Region | None, part: slice
    ) -> Tensor:
        """A slice of a batch, rendered by a generator of signals, as it is kept."""
        noise = noise[part]
        values = functools.partial(
            self.generator_model, noise=noise, class_labels=None if classes is None else classes[part]
        )
        chunk = max(1, CHUNK // len(noise))  # a chunk's points are shared by the batch, see `PointOrder`
        return self._kept(render_values(values, size, region, chunk, noise.device, as_uint8=self._rounds))


def spherical(
    start: Float[Tensor, " noise"], end: Float[Tensor, " noise"], share: float | int
) -> Float[Tensor, " noise"]:
    """Spherical interpolation (slerp): `start` at share 0, `end` at 1, along the arc between their directions."""
    # Noise of many numbers lies near a sphere of radius √n; a straight line would pass through shorter vectors, at its middle
    # through 0.7 of the length, which the generator has never seen.
    angle = torch.acos(torch.clamp(F.cosine_similarity(start, end, dim=0), -1, 1))
    if float(angle) < 1e-4:  # sin(angle) would divide 0 by 0
        return torch.lerp(start, end, share)
    return (torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end) / torch.sin(angle)
