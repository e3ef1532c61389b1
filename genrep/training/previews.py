"""Pictures during training: a generator's samples, an autoencoder's reconstructions."""

from pathlib import Path
from typing import Any

import torch

from genrep.data.signals import SignalData
from genrep.models.autoencoder import INRAutoencoder
from genrep.pictures import enlarged, legible, picture_grid, save_png, side_by_side
from genrep.randomness import image_generators

CLASSES, PER_CLASS, WITHOUT_CLASS = 10, 8, 32
"""Classes in a preview, samples per class, and samples of a model without classes."""

RECONSTRUCTIONS = 8
"""Signals in a preview of reconstructions."""


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


@torch.no_grad()
def save_reconstructions(autoencoder: INRAutoencoder, held_out: SignalData, path: Path) -> Path:
    """Write a PNG with rows of signals: held-out ones, their reconstructions, larger renders, and those signals interpolated.

    Raises:
        InputError: the file cannot be written.
    """
    signal, shape = held_out.signal, autoencoder.image_shape
    kept, large = held_out.read(range(min(RECONSTRUCTIONS, len(held_out)))), enlarged(shape)
    values = signal.values(kept.to(autoencoder.device))
    latents, mask = autoencoder.encode_set(values)
    renders = [autoencoder.render(latents, size=size, mask=mask) for size in (shape, large)]
    rows = [kept, *(signal.keep(part).cpu() for part in (*renders, signal.resize(values, large)))]
    return save_png(side_by_side([signal.pictures(row) for row in rows]), path)
