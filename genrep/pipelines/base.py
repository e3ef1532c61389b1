"""What the pipelines share: loading, settings, labels, generators, pixels in bounded memory, output."""

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
"""Pictures, arrays and tensors as `Signal.output` makes them; "kept" is what data sets keep, "latent" is not rendered."""

PART_PIXELS = 2**22
"""Pixels that are rendered before they go to the CPU, unless one image has more."""


class SignalPipeline(DiffusionPipeline):
    """A diffusers pipeline that makes images, or signals of another kind, of classes or without class.

    Memory: a call holds its result, images in 8 bits, and the work of one batch. Besides that a decoder's or generator's floats exist
    for one chunk of coordinates (of all images together 2,048 on the CPU and 262,144 on a GPU; a generator of pixels: 65,536),
    whatever the size and the number of images; on a GPU pixels wait in 8 bits, at most `PART_PIXELS` or one image.

    Settings: `sampling` in the pipeline's config says how it draws unless a call says otherwise, and is saved with it.
    """

    # Offloading asks a model's first parameter where it is, and the normalizer, a few numbers, has none: it stays on the device
    _exclude_from_cpu_offload = ["normalizer"]  # noqa: RUF012 diffusers' own declaration
    autoencoder: Any
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Settings of a pipeline that was made without any."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a folder that `save_pretrained` wrote (a run's `pipeline/`), or a Hub id. InputError if it is not whole."""
        refuse_missing_pipeline(cls.__name__, pretrained_model_name_or_path)
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())  # else diffusers warns that it is not there
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except InputError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{pretrained_model_name_or_path}: not a whole {cls.__name__} ({error})") from error

    @property
    def num_classes(self) -> int:
        """Classes of the model; 0 is unconditional."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The grid that the model was trained at, (height, width) of images."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Of the values: 1 for grey, 3 for RGB."""
        raise NotImplementedError

    @property
    def signal(self) -> Signal:
        """What the values mean, how they are kept and shown."""
        return self.autoencoder.signal

    def sampling_settings(self, **given: Any) -> dict[str, Any]:
        """Settings of a call, checked: those given that are not None, over the pipeline's own. InputError for invalid ones."""
        own = self.config.get("sampling") or {}
        for name in own:
            if name not in self.DEFAULTS:
                near = did_you_mean(name, self.DEFAULTS)
                raise InputError(
                    f"sampling: {type(self).__name__} has no setting {name!r}{near or ';'} it has {', '.join(self.DEFAULTS)}"
                )
        given = {name: value for name, value in given.items() if value is not None}
        return self._check_settings({**self.DEFAULTS, **own, **given})

    def _check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _size(
        self, height: Integer | None, width: Integer | None, size: Integer | Sequence[Integer] | Any | None = None
    ) -> tuple[int, ...]:
        """The size asked for; where None, what the model was trained at. InputError for an invalid one."""
        own = self.image_shape
        if height is not None or width is not None:
            if len(own) != 2 or size is not None:
                raise InputError("height and width are of images, in place of size: give size, one length per axis")
            size = (own[0] if height is None else height, own[1] if width is None else width)
        return own if size is None else grid_shape(size, len(own))

    def _check_labels(self, class_labels: Any, num_images: Integer | None, latents: Any = None) -> list[int]:
        """A label an image, `num_classes` standing for "no class"; as many as labels, `num_images` or given latents."""
        if num_images is not None:
            num_images = as_integer(num_images, "num_images", low=1)
        if class_labels is None:
            if num_images is None:
                num_images = max(1, len(latents)) if isinstance(latents, Tensor) and latents.ndim else 1
            check_memory(num_images, torch.device("cpu"), f"{num_images} images")  # a byte each is the least
            return [self.num_classes] * num_images
        if not self.num_classes:
            raise InputError(
                "class labels were given, but this model was trained without classes: leave them out and give num_images"
            )
        labels = as_integers(class_labels, "class_labels")
        for label in labels:
            if not 0 <= label < self.num_classes:
                raise InputError(
                    f"class label {label} is not one of 0 to {self.num_classes - 1}, the classes of this model"
                )
        if not labels:
            raise InputError("class_labels is empty: give one label for each image")
        if num_images not in (None, len(labels)):
            raise InputError(f"{len(labels)} class labels for {num_images} images: give one label for each image")
        return labels

    def _check_noise(self, latents: Any, shape: Sequence[int], count: int | None = None) -> Tensor:
        """Given noise `[count, *shape]`, float32. InputError for other shapes, types, or numbers that are not finite."""
        wanted = str([count or "images", *shape]).replace("'", "")
        noise = as_floats(latents, "latents", wanted, torch.float32)
        if noise.ndim != 1 + len(shape) or list(noise.shape) != [count or max(1, len(noise)), *shape]:
            raise InputError(f"latents must be {wanted}, noise for each image; got {list(noise.shape)}")
        check_finite(noise, "latents")
        return noise

    def _pixels(self, count: int, size: Sequence[int], output_type: str) -> Shaped[Tensor, "count channels *size"]:
        """Room for the result. InputError for an unknown type of output, or for more than the machine holds."""
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type {shown(output_type)} is not one of {', '.join(OUTPUT_TYPES)}")
        if output_type == "latent":
            return torch.empty(0, self.channels, *size, dtype=self.signal.dtype)
        shape, cpu = (count, self.channels, *size), torch.device("cpu")
        bytes_each = self.signal.dtype.itemsize + (4 if output_type in ("np", "pt") else 0)  # floats besides
        check_memory(bytes_each * math.prod(shape), cpu, f"{count} images of {' × '.join(map(str, size))} pixels")
        return torch.empty(shape, dtype=self.signal.dtype)

    @staticmethod
    def _fill(
        pixels: Shaped[Tensor, "count channels *size"],
        render: Callable[[slice], Shaped[Tensor, "part channels *size"]],
    ) -> None:
        """Render signals part by part into their place on the CPU; `render` makes those of a slice."""
        step = max(1, PART_PIXELS // math.prod(pixels.shape[2:]))
        for start in range(0, len(pixels), step):
            pixels[start : start + step] = render(slice(start, start + step))

    def _decode(
        self, latents: Tensor, size: Sequence[int], region: Region | None, mask: Tensor | None, part: slice
    ) -> Tensor:
        """What is kept of the latents of a slice, rendered by the autoencoder."""
        mask = None if mask is None else mask[part]
        return self._kept(
            self.autoencoder.render(latents[part], size=size, region=region, as_uint8=self._rounds, mask=mask)
        )

    @property
    def _rounds(self) -> bool:
        """Whether renders are kept in 8 bits, which `render` then rounds chunk by chunk."""
        return self.signal.dtype == torch.uint8

    def _kept(self, render: Tensor) -> Tensor:
        """A render as it is kept. InputError for values that are not finite, which `render` itself looks for where it rounds."""
        if self._rounds:
            return render
        check_finite(render, "the rendered values")
        return self.signal.keep(render)

    def _output(self, images: Any, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """What is kept of the signals, or latents for "latent", as `output_type` says."""
        if output_type not in ("latent", "kept"):
            images = self.signal.output(images, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def check_normalizer(normalizer: Any, autoencoder: Any) -> None:
    """InputError if a normalizer is not of the latents of an autoencoder."""
    num_tokens, latent_dim = autoencoder.latent_shape
    shape = tuple(normalizer.mean.shape)
    if shape != (1 if autoencoder.position_dim else num_tokens, latent_dim):
        raise InputError(
            f"a normalizer of latents {shape} does not fit an autoencoder of latents {autoencoder.latent_shape}"
        )


def check_arguments(region: Region | None, num_axes: int, batch_size: Integer | None, count: int) -> int:
    """Images at a time, all when `batch_size` is None. InputError for an invalid region or batch size."""
    image_region(region, num_axes)
    return count if batch_size is None else as_integer(batch_size, "batch_size", low=1)


def generators_of(given: Any, count: int) -> list[torch.Generator]:
    """A generator an image: those given, or from the next number of one for all."""
    if given is not None and not isinstance(given, torch.Generator):
        given = list(given) if isinstance(given, Sequence) else [given]
        if not all(isinstance(generator, torch.Generator) for generator in given):
            raise InputError(f"generator must be a torch.Generator, or one an image; got {shown(given)}")
        if len(given) != count:
            raise InputError(
                f"{len(given)} generators for {count} images: give one generator an image, or a single one"
            )
        return given
    device = given.device if given is not None else "cpu"
    base = int(torch.randint(2**62, (), generator=given, device=device))  # a second call with this generator differs
    return image_generators(base, range(count))
