"""Pictures of a generator's samples during training."""

from pathlib import Path
from typing import Any

from genrep.pictures import legible, picture_grid, save_png
from genrep.randomness import image_generators

CLASSES, PER_CLASS, WITHOUT_CLASS = 10, 8, 32
"""Classes in a preview, samples per class, and samples of a model without classes."""


def save_samples(pipeline: Any, num_classes: int, seed: int, batch_size: int, path: Path) -> Path:
    """Write a PNG with a row of samples per class. The noise is always the same, so that pictures of a run compare.

    Raises:
        InputError: the file cannot be written.
    """
    labels = [label for label in range(min(CLASSES, num_classes)) for _ in range(PER_CLASS)] or None
    count = len(labels or range(WITHOUT_CLASS))
    pictures = pipeline(
        labels,
        num_images=count,
        generator=image_generators(seed, range(count)),
        batch_size=batch_size,
        output_type="uint8",
    ).images
    return save_png(picture_grid(legible(pictures), columns=PER_CLASS), path)
