"""What the pipelines share: loading, labels, generators, output."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import is_accelerate_available
from torch import Tensor

from genrep.coords import image_shape
from genrep.errors import InputError
from genrep.models.loading import refuse_missing_pipeline
from genrep.pictures import picture
from genrep.randomness import image_generators

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class ImagePipeline(DiffusionPipeline):
    """A diffusers pipeline that makes images of classes, or without class."""

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
    def image_shape(self) -> tuple[int, int]:
        """(height, width) that the model was trained at."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        raise NotImplementedError

    def _size(self, height: int | None, width: int | None) -> tuple[int, ...]:
        """The size asked for; where None, what the model was trained at. InputError for one that cannot be."""
        default_height, default_width = self.image_shape
        return image_shape((default_height if height is None else height, default_width if width is None else width))

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

    def _output(self, results: list[Tensor], output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """uint8 images (latents for `latent`), as `output_type` says."""
        images: Any = torch.cat(results)
        if output_type == "np":
            images = images.permute(0, 2, 3, 1).numpy().astype("float32") / 255
        elif output_type == "pil":
            images = [picture(image) for image in images]
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def check_batch_size(batch_size: int | None) -> None:
    """InputError for a number of images at a time that cannot be."""
    if batch_size is not None and batch_size < 1:
        raise InputError(
            f"batch_size {batch_size} cannot be: give a positive number of images, or None for all at a time"
        )


def generators_of(given: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """A generator an image: those given, or from the next number of one for all."""
    if isinstance(given, Sequence):
        if len(given) != count:
            raise InputError(
                f"{len(given)} generators for {count} images: give one generator an image, or a single one"
            )
        return list(given)
    device = given.device if given is not None else "cpu"
    base = int(torch.randint(2**62, (), generator=given, device=device))  # a second call with this generator differs
    return image_generators(base, range(count))
