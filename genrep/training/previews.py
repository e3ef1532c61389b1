"""Pictures of what a generator draws while it trains."""

from pathlib import Path
from typing import Any

from genrep.pictures import legible, picture_grid, save_png
from genrep.randomness import image_generators

CLASSES, PER_CLASS, WITHOUT_CLASS = 10, 8, 32
"""How many classes a preview shows, samples of each, and samples where there are no classes."""


def save_samples(pipeline: Any, num_classes: int, seed: int, batch_size: int, path: Path) -> Path:
    """A PNG with a row of samples for each class, of the same noise every time. InputError if it cannot be written."""
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
