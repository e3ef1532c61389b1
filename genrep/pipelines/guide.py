"""Loading a guide, the worse denoiser of autoguidance, for a pipeline."""

from pathlib import Path
from typing import Any

import torch

from genrep.diffusion.guidance import check_guide
from genrep.errors import InputError
from genrep.models.denoiser import LatentDenoiser
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import load_pipeline, pipeline_name

TOLERANCE = 0.01
"""Largest difference of two normalizers of the same latents, in standard deviations."""


def load_guide(place: str | Path, pipeline: Any) -> LatentDenoiser:
    """The denoiser of a run or pipeline folder, as a guide for `pipeline`.

        pipeline.guide = load_guide("runs/digits/guide", pipeline)

    Raises:
        InputError: no diffusion pipeline in the folder, or one of other latents, noise levels or classes.
    """
    name = pipeline_name(place)
    if name != "LatentDiffusionPipeline":
        raise InputError(
            f"{place} has a {name}; a guide is the denoiser of a LatentDiffusionPipeline, from train/diffusion.py"
        )
    other = load_pipeline(place)
    try:
        check_guide(other.denoiser, pipeline.denoiser)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    # What the sizes do not tell: the guide would see latents and noise levels other than those it was trained on.
    if not _equal_statistics(other.normalizer, pipeline.normalizer):
        raise InputError(
            f"{place}: this guide was trained on other latents, whose mean and standard deviation differ from those of the "
            "pipeline that it should guide: train both on latents of the same autoencoder and data set"
        )
    if not _equal_levels(other.scheduler, pipeline.scheduler):
        raise InputError(
            f"{place}: this guide was trained with other noise levels than the pipeline that it should guide: train both "
            "with the same diffusion.noise"
        )
    return other.denoiser


def _equal_statistics(first: LatentNormalizer, second: LatentNormalizer) -> bool:
    # Not exactly equal: latents that were encoded on another machine, or in bfloat16, differ by rounding. Those of another
    # autoencoder differ by about one standard deviation.
    mean, std, other_mean, other_std = (x.float().cpu() for x in (first.mean, first.std, second.mean, second.std))
    differences = torch.stack([mean - other_mean, std - other_std]).abs() / std
    return bool((differences <= TOLERANCE).all())


def _equal_levels(first: Any, second: Any) -> bool:
    """Whether a timestep is the same noise level for two schedulers, whatever their classes."""
    levels, other_levels = (scheduler.alphas_cumprod.double().cpu() for scheduler in (first, second))
    return len(levels) == len(other_levels) and torch.allclose(levels, other_levels, rtol=1e-3, atol=0)
