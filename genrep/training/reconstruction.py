"""Stage 1's objective: at which coordinates an image is asked for, and what should be there."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genrep.coords import grid, image_shape, jitter_gaussian, jitter_uniform, random_subset, values_at
from genrep.randomness import normal_at
from genrep.training.specs import ReconstructionSpec


def coords_and_targets(
    spec: ReconstructionSpec,
    images: Float[Tensor, "batch channels height width"],
    source_images: Float[Tensor, "batch channels source_height source_width"] | None,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "points 2"], Float[Tensor, "batch points channels"]]:
    """Coordinates that the batch shares, and the images' values there.

    ANR's way is `coords: gaussian, targets: pixel`: a shifted coordinate keeps its pixel's value, which teaches blocks
    with seams between them. `coords: uniform, targets: bicubic` asks for the interpolated image anywhere. With
    `source_images` the targets are the source, resized to a random size between the target size and its own.
    """
    shape: tuple[int, ...] = tuple(images.shape[-2:]) if spec.target_size is None else image_shape(spec.target_size)
    if source_images is not None:
        largest = source_images.shape[-2:]
        share = torch.rand((), generator=generator).item()
        shape = tuple(round(low + share * (high - low)) for low, high in zip(shape, largest, strict=True))
        images = F.interpolate(source_images, size=shape, mode="bicubic", align_corners=False, antialias=True)
    centres = grid(shape, device=images.device)
    if spec.num_coords is not None:
        centres = centres[random_subset(len(centres), spec.num_coords, generator).to(centres.device)]
    coords = centres
    if spec.coords == "gaussian":
        coords = jitter_gaussian(centres, shape, generator, spec.jitter_std, spec.jitter_clip)
    elif spec.coords == "uniform":
        coords = jitter_uniform(centres, shape, generator)
    if spec.targets == "pixel":
        return coords, values_at(images, centres, "nearest")
    return coords, values_at(images, coords, "bicubic")


def latent_noise(
    spec: ReconstructionSpec, positions: Sequence[int], latent_shape: tuple[int, int], seed: int
) -> Float[Tensor, "batch tokens latent"] | None:
    """Noise for the latents of the images at `positions`, which key it; None where the spec asks for none."""
    if spec.latent_noise == 0:
        return None
    level = normal_at(positions, (1, 1), seed, "latent noise level").abs() * spec.latent_noise
    return level * normal_at(positions, latent_shape, seed, "latent noise")
