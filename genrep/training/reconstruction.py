"""Stage 1's objective: at which coordinates an image is asked for, and what should be there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genrep.coords import draw_targets, image_shape
from genrep.randomness import normal_at, stream_generator
from genrep.specs import validate
from genrep.training.config import read_config
from genrep.training.specs import ReconstructionSpec


def coords_and_targets(
    spec: ReconstructionSpec,
    images: Float[Tensor, "batch channels height width"],
    source_images: Float[Tensor, "batch channels source_height source_width"] | None,
    seed: int,
    step: int,
    positions: Sequence[int],
) -> tuple[Float[Tensor, "points 2"] | Float[Tensor, "batch points 2"], Float[Tensor, "batch points channels"]]:
    """Coordinates to reconstruct images at, and the images' values there, as `draw_targets` draws them.

    The coordinates are those of the step, `[N, 2]`: the parts of a batch and the processes share them, so that their
    number changes nothing. With `spec.per_image` each image has its own, `[B, N, 2]`, keyed by its position in the
    training stream, as the papers' code draws them. With `source_images` the targets are the source, resized to a random
    size between the target size and its own, one size for the whole step.
    """
    generator = stream_generator(seed, "coords", step)
    shape: tuple[int, ...] = tuple(images.shape[-2:]) if spec.target_size is None else image_shape(spec.target_size)
    if source_images is not None:
        largest = source_images.shape[-2:]
        share = torch.rand((), generator=generator).item()
        shape = tuple(round(low + share * (high - low)) for low, high in zip(shape, largest, strict=True))
        images = F.interpolate(source_images, size=shape, mode="bicubic", align_corners=False, antialias=True)
    return draw_targets(
        images,
        [stream_generator(seed, "image coords", position) for position in positions] if spec.per_image else generator,
        size=shape,
        num_coords=spec.num_coords,
        coords=spec.coords,
        targets=spec.targets,
        jitter_std=spec.jitter_std,
        jitter_clip=spec.jitter_clip,
    )


def refinement_objective(place: Path | str) -> dict[str, Any]:
    """Arguments of `genrep.refine.refine` that ask for images as the run in a folder did in training.

    Of a folder without a run's config.yaml those of the defaults.
    """
    config = Path(place) / "config.yaml"
    given = read_config(config).get("reconstruction", {}) if config.is_file() else {}
    spec = validate(ReconstructionSpec, given, where=str(config))
    return spec.model_dump(include={"coords", "targets", "target_size", "jitter_std", "jitter_clip"})


def latent_noise(
    spec: ReconstructionSpec, positions: Sequence[int], latent_shape: tuple[int, int], seed: int
) -> Float[Tensor, "batch tokens latent"] | None:
    """Noise for the latents of the images at `positions`, which key it; None where the spec asks for none."""
    if spec.latent_noise == 0:
        return None
    level = normal_at(positions, (1, 1), seed, "latent noise level").abs() * spec.latent_noise
    return level * normal_at(positions, latent_shape, seed, "latent noise")
