"""Guidance: the prediction of a sampling step, moved away from a worse one."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrep.arguments import shown
from genrep.errors import InputError
from genrep.models.denoiser import LatentDenoiser
from genrep.models.specs import DenoiserSpec


def guided_prediction(
    denoiser: LatentDenoiser,
    guide: LatentDenoiser | None,
    noisy: Float[Tensor, "batch tokens latent"],
    timestep: Tensor,
    condition: Int[Tensor, " batch"] | None,
    scale: float,
    mask: Bool[Tensor, "batch tokens"] | None,
) -> Float[Tensor, "batch tokens latent"]:
    """The clean latents, float32, with guidance x0 = worse + w (denoiser - worse), where w is the scale.

    The worse prediction is

    - without a guide that of the denoiser itself, without the class: classifier-free guidance (Ho & Salimans, 2022);
    - with a guide the guide's, for the same class: autoguidance (Karras et al., 2024, "Guiding a Diffusion Model with a Bad
      Version of Itself"). The guide makes the denoiser's mistakes, only larger ones, so that the difference points
      away from them. That needs no classes, and costs less variety than moving away from all other classes.

    Args:
        denoiser, guide: from noisy to clean latents; the guide is smaller or has been trained for less.
        noisy: noisy latents.
        timestep: their noise level, one number.
        condition: class labels; None for denoisers without classes.
        scale: w; at 1 only the denoiser is called.
        mask: which tokens are present; None is all.
    """
    times = timestep.expand(len(noisy))
    # At scale 1 the worse prediction cancels: half the work. Without guide and classes there is none.
    if scale == 1 or (guide is None and condition is None):
        return denoiser(noisy, times, condition, mask).float()
    if guide is not None:
        # In this order, in which the pipeline offloads them: then the guide alone, the smaller one, moves in every step.
        worse = guide(noisy, times, condition, mask).float()
        prediction = denoiser(noisy, times, condition, mask).float()
    else:
        assert condition is not None
        # Both predictions in one batch.
        labels = torch.cat([condition, torch.full_like(condition, denoiser.spec.num_classes)])
        masks = None if mask is None else torch.cat([mask, mask])
        both = denoiser(torch.cat([noisy, noisy]), timestep.expand(len(labels)), labels, masks).float()
        prediction, worse = both.chunk(2)
    # Guiding x0 equals guiding ε: each is linear in the other at a given x_t.
    return worse + scale * (prediction - worse)


def check_guide(guide: Any, denoiser: Any) -> None:
    """InputError if a guide is no denoiser, or one of other latents or classes than `denoiser`. None is no guide."""
    if guide is None:
        return
    # The spec rather than the type, which torch.compile changes.
    if not isinstance(getattr(guide, "spec", None), DenoiserSpec):
        raise InputError(f"guide must be a LatentDenoiser, such as another pipeline's `denoiser`; got {shown(guide)}")
    if _sizes(guide) != _sizes(denoiser):
        raise InputError(f"a guide with {_sizes(guide)} does not fit a denoiser with {_sizes(denoiser)}")


def _sizes(denoiser: Any) -> str:
    spec = denoiser.spec
    return f"latents {denoiser.latent_shape}, position_dim {spec.position_dim} and {spec.num_classes} classes"
