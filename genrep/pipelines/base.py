"""The base class of the pipelines: loading, settings, labels, generators, pixels in bounded memory, output."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import is_accelerate_available
from jaxtyping import Shaped
from torch import Tensor

from genrep.arguments import Integer, as_floats, as_integer, as_integers, check_finite, shown
from genrep.coords import Region, grid_shape, image_region
from genrep.devices import check_memory
from genrep.errors import InputError, did_you_mean
from genrep.models.loading import refuse_missing_pipeline
from genrep.randomness import image_generators
from genrep.signals.base import Signal

OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "kept", "latent")
"""The outputs of `Signal.output`, and "kept", the form in which data sets keep signals, and "latent", without rendering."""

PART_PIXELS = 2**22
"""Pixels rendered on the device before they are copied to the CPU (or a single image, if it has more)."""


class SignalPipeline(DiffusionPipeline):
    """A diffusers pipeline that generates images, or signals of another kind, with or without classes.

    Memory: a call holds its output (images in 8 bits) and the work of one batch. Floats exist only for one chunk of
    coordinates, whatever the size and number of images: 2,048 for all images together on the CPU, 262,144 on a GPU, 65,536
    for a generator of pixels. On a GPU at most `PART_PIXELS` rendered pixels, or one image, wait in 8 bits for the copy.

    Settings: `sampling` in the pipeline's config holds the defaults of its calls, and is saved with it.
    """

    # Offloading looks up the device of a model's first parameter. The normalizer has only buffers, so it stays on the device.
    _exclude_from_cpu_offload = ["normalizer"]  # noqa: RUF012 diffusers' own declaration
    autoencoder: Any
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """The settings of a pipeline that was made without any."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a folder written by `save_pretrained` (a run's `pipeline/`), or a Hub id. InputError if it is incomplete."""
        refuse_missing_pipeline(cls.__name__, pretrained_model_name_or_path)
        kwargs.setdefault(
            "low_cpu_mem_usage", is_accelerate_available()
        )  # else diffusers warns that accelerate is missing
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except InputError:  # a ValueError, but already with a message of ours
            raise
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{pretrained_model_name_or_path}: not a complete {cls.__name__} ({error})") from error

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 is unconditional."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The grid that the model was trained on, (height, width) for images."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Channels of the values: 1 for grey, 3 for RGB."""
        raise NotImplementedError

    @property
    def signal(self) -> Signal:
        """The kind of signal: what the values mean, how they are kept and shown."""
        return self.autoencoder.signal

    def sampling_settings(self, **arguments: Any) -> dict[str, Any]:
        """The checked settings of a call: arguments that are not None override the pipeline's. InputError if invalid."""
        saved = self.config.get("sampling") or {}
        # Checked at every call, because a saved config may have been edited.
        for name in saved:
            if name not in self.DEFAULTS:
                near = did_you_mean(name, self.DEFAULTS)
                raise InputError(
                    f"sampling: {type(self).__name__} has no setting {name!r}{near or ';'} it has {', '.join(self.DEFAULTS)}"
                )
        arguments = {name: value for name, value in arguments.items() if value is not None}
        return self._check_settings({**self.DEFAULTS, **saved, **arguments})

    def _check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _size(
        self, height: Integer | None, width: Integer | None, size: Integer | Sequence[Integer] | Any | None = None
    ) -> tuple[int, ...]:
        """The size of the output, by default the one that the model was trained on. InputError if invalid."""
        trained = self.image_shape
        if height is not None or width is not None:
            if len(trained) != 2 or size is not None:
                raise InputError("height and width are for images, instead of size: give size, one length per axis")
            size = (trained[0] if height is None else height, trained[1] if width is None else width)
        return trained if size is None else grid_shape(size, len(trained))

    def _check_labels(self, class_labels: Any, num_images: Integer | None, latents: Any = None) -> list[int]:
        """One label per image (`num_classes` means "no class"), as many as `class_labels`, `num_images` or `latents`."""
        if num_images is not None:
            num_images = as_integer(num_images, "num_images", low=1)
        if class_labels is None:
            if num_images is None:
                num_images = max(1, len(latents)) if isinstance(latents, Tensor) and latents.ndim else 1
            # One byte per image is the least it can take: this stops 10**15 images before a list of as many labels is made.
            check_memory(num_images, torch.device("cpu"), f"{num_images} images")
            return [self.num_classes] * num_images
        if not self.num_classes:
            raise InputError("this model was trained without classes: leave class_labels out and give num_images")
        labels = as_integers(class_labels, "class_labels")
        for label in labels:
            if not 0 <= label < self.num_classes:
                raise InputError(
                    f"class_labels must be in 0 to {self.num_classes - 1}, the classes of this model; got {label}"
                )
        if not labels:
            raise InputError("class_labels is empty: give one label per image")
        if num_images not in (None, len(labels)):
            raise InputError(f"class_labels must have one label per image; got {len(labels)} for {num_images} images")
        return labels

    def _check_noise(self, latents: Any, shape: Sequence[int], count: int | None = None) -> Tensor:
        """Noise `[count, *shape]` from the caller, as float32. InputError for other shapes or types, or if not finite."""
        expected = str([count or "images", *shape]).replace("'", "")
        noise = as_floats(latents, "latents", expected, torch.float32)
        if noise.ndim != 1 + len(shape) or list(noise.shape) != [count or max(1, len(noise)), *shape]:
            raise InputError(f"latents must be {expected}, noise for each image; got {list(noise.shape)}")
        check_finite(noise, "latents")
        return noise

    def _pixels(self, count: int, size: Sequence[int], output_type: str) -> Shaped[Tensor, "count channels *size"]:
        """An empty tensor for the output. InputError for an unknown output type, or one that exceeds the machine's memory."""
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}; got {shown(output_type)}")
        if output_type == "latent":
            return torch.empty(0, self.channels, *size, dtype=self.signal.dtype)
        shape, cpu = (count, self.channels, *size), torch.device("cpu")
        # np and pt are converted at the end, while the 8-bit pixels still exist. Checked before sampling, not after it.
        bytes_per_value = self.signal.dtype.itemsize + (4 if output_type in ("np", "pt") else 0)
        check_memory(bytes_per_value * math.prod(shape), cpu, f"{count} images of {' × '.join(map(str, size))} pixels")
        return torch.empty(shape, dtype=self.signal.dtype)

    @staticmethod
    def _fill(
        pixels: Shaped[Tensor, "count channels *size"],
        render: Callable[[slice], Shaped[Tensor, "part channels *size"]],
    ) -> None:
        """Render signals part by part into `pixels` on the CPU; `render` renders a slice of them."""
        # In parts, so that a GPU's memory does not bound the number and size of the images.
        step = max(1, PART_PIXELS // math.prod(pixels.shape[2:]))
        for start in range(0, len(pixels), step):
            pixels[start : start + step] = render(slice(start, start + step))

    def _decode(
        self, latents: Tensor, size: Sequence[int], region: Region | None, mask: Tensor | None, part: slice
    ) -> Tensor:
        """A slice of the latents, rendered by the autoencoder, as it is kept."""
        mask = None if mask is None else mask[part]
        return self._kept(
            self.autoencoder.render(latents[part], size=size, region=region, as_uint8=self._rounds, mask=mask)
        )

    @property
    def _rounds(self) -> bool:
        """Whether signals are kept in 8 bits, so that `render` rounds them chunk by chunk."""
        return self.signal.dtype == torch.uint8

    def _kept(self, render: Tensor) -> Tensor:
        """A render as it is kept. InputError if its values are not finite."""
        if self._rounds:  # `render` has checked its values before it rounded them
            return render
        check_finite(render, "the rendered values")
        return self.signal.keep(render)

    def _output(self, images: Any, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """Signals as they are kept, or latents, converted to `output_type`."""
        if output_type not in ("latent", "kept"):
            images = self.signal.output(images, output_type)
        self.maybe_free_model_hooks()  # with CPU offloading the last model would stay on the GPU
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def check_normalizer(normalizer: Any, autoencoder: Any) -> None:
    """InputError if a normalizer does not fit the latents of an autoencoder."""
    num_tokens, latent_dim = autoencoder.latent_shape
    shape = tuple(normalizer.mean.shape)
    if shape != (1 if autoencoder.position_dim else num_tokens, latent_dim):
        raise InputError(
            f"a normalizer with statistics {shape} does not fit an autoencoder with latents {autoencoder.latent_shape}"
        )


def check_arguments(region: Region | None, num_axes: int, batch_size: Integer | None, count: int) -> int:
    """The batch size, `count` if None. InputError for an invalid region or batch size."""
    image_region(region, num_axes)
    return count if batch_size is None else as_integer(batch_size, "batch_size", low=1)


def generators_of(generator: Any, count: int) -> list[torch.Generator]:
    """One generator per image: the given ones, or derived from the next number of a single one."""
    if generator is not None and not isinstance(generator, torch.Generator):
        generator = list(generator) if isinstance(generator, Sequence) else [generator]
        if not all(isinstance(g, torch.Generator) for g in generator):
            raise InputError(f"generator must be a torch.Generator, or one per image; got {shown(generator)}")
        if len(generator) != count:
            raise InputError(f"generator must be a single one, or one per image, {count}; got {len(generator)}")
        return generator
    # Image i depends on this number and i alone, not on the batch size. Drawing it advances the generator, so that a second
    # call gives other images.
    device = generator.device if generator is not None else "cpu"
    base = int(torch.randint(2**62, (), generator=generator, device=device))
    return image_generators(base, range(count))
