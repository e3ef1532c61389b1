"""Test-time optimisation: from the encoder's prediction, latents (and decoder) that fit given images better (section 4.5)."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import Integer, Number, as_floats, as_integer, as_rate
from genrep.coords import draw_targets, grid_shape
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder

NUM_COORDS = 2048
"""Coordinates at which a step compares every image, where there are more."""


def refine(
    autoencoder: INRAutoencoder,
    images: Float[Tensor, "batch channels *shape"] | Any,
    steps: Integer,
    *,
    lr: Number = 0.05,
    decoder_lr: Number | None = None,
    num_coords: Integer | None = None,
    seed: Integer = 0,
    coords: str = "uniform",
    targets: str = "bicubic",
    target_size: int | Sequence[int] | None = None,
    jitter_std: float = 0.15,
    jitter_clip: float = 0.25,
) -> tuple[INRAutoencoder, Float[Tensor, "batch tokens latent"]]:
    """Latents of `images`, or other signals, after `steps` of Adam on the squared error, and the autoencoder whose decoder they belong to.

    Images do not influence each other, unless the decoder is refined too: it then comes back as a copy that belongs to
    this batch, so give one image at a time for a decoder of its own.

    By default coordinates are drawn anywhere in the image and compared with the interpolated image, as in training. With
    `coords="grid"` every step sees the pixel centres alone: the image at its own size then comes out more exact, but what is
    rendered between the pixels gets worse.

    Args:
        autoencoder: encoder and decoder; it is not changed.
        images: in [-1, 1], of the encoder's size; NaN is a missing value where the model knows of them.
        steps: optimizer steps; the rate falls to 0 along half a cosine.
        lr: Adam's rate for the latents, in units of the deviation of the image's predicted latents.
        decoder_lr: Adam's rate for the decoder's weights; None leaves the decoder as it is.
        num_coords: coordinates a step, drawn anew from `seed`; None is as many as there are pixels, 2,048 at most.
        seed: of that draw.
        coords, targets, jitter_std, jitter_clip: how coordinates and what should be there are drawn, see
            `genrep.coords.draw_targets` and a run's `reconstruction`.
        target_size: size of the grid whose pixels are drawn; None is the images' own.

    Raises:
        InputError: a negative number of steps, more coordinates than there are pixels, a rate that is no positive number,
            or an unknown kind of coordinates or targets.
    """
    *_, last = refinements(
        autoencoder,
        images,
        steps,
        lr=lr,
        decoder_lr=decoder_lr,
        num_coords=num_coords,
        seed=seed,
        coords=coords,
        targets=targets,
        target_size=target_size,
        jitter_std=jitter_std,
        jitter_clip=jitter_clip,
    )
    return last


def refinements(
    autoencoder: INRAutoencoder,
    images: Float[Tensor, "batch channels *shape"] | Any,
    steps: Integer,
    *,
    lr: Number = 0.05,
    decoder_lr: Number | None = None,
    num_coords: Integer | None = None,
    seed: Integer = 0,
    coords: str = "uniform",
    targets: str = "bicubic",
    target_size: int | Sequence[int] | None = None,
    jitter_std: float = 0.15,
    jitter_clip: float = 0.25,
) -> Iterator[tuple[INRAutoencoder, Float[Tensor, "batch tokens latent"]]]:
    """`refine` as it goes: the encoder's prediction, then what there is after each step. The next step changes the decoder."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "refinement needs gradients, which torch.inference_mode forbids: use torch.no_grad() around it"
        )
    dtype = torch.promote_types(autoencoder.dtype, torch.float32)  # Adam's steps are too small for bf16
    images = as_floats(images, "images", "[batch, channels, height, width]", dtype)
    steps, seed = as_integer(steps, "steps", low=0), as_integer(seed, "seed", low=0)
    size = tuple(images.shape[2:]) if target_size is None else grid_shape(target_size, images.ndim - 2)
    num_pixels = math.prod(size)
    count = as_integer(min(NUM_COORDS, num_pixels) if num_coords is None else num_coords, "num_coords", 1, num_pixels)
    lr = as_rate(lr, "lr")
    decoder_lr = None if decoder_lr is None else as_rate(decoder_lr, "decoder_lr")
    generator = torch.Generator().manual_seed(seed)
    training = autoencoder.training
    with torch.no_grad():
        predicted, mask = autoencoder.eval().encode_set(images)  # the start is without dropout's noise
        predicted = predicted.to(dtype)
    autoencoder.train(training)
    moving = torch.arange(predicted.shape[2], device=predicted.device) >= autoencoder.position_dim  # positions stay
    unit = predicted[..., moving].std(dim=(1, 2), keepdim=True, correction=0) * moving  # each image's own
    offset = torch.zeros_like(predicted, requires_grad=True)
    parameters, rates = [offset], [lr]
    if decoder_lr is not None:
        decoder = copy.deepcopy(autoencoder.decoder)
        autoencoder = copy.copy(autoencoder)  # the same encoder, a decoder of its own
        autoencoder._modules = {**autoencoder._modules, "decoder": decoder}
        weights = list(autoencoder.decoder.requires_grad_(True).parameters())
        parameters, rates = [*parameters, *weights], [*rates, *[decoder_lr] * len(weights)]
    groups = [{"params": [parameter], "lr": rate} for parameter, rate in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
    )
    yield autoencoder, predicted
    for _ in range(steps):
        points, expected = draw_targets(
            images,
            generator,
            size=size,
            num_coords=count,
            coords=coords,
            targets=targets,
            jitter_std=jitter_std,
            jitter_clip=jitter_clip,
        )
        with torch.enable_grad():
            values = autoencoder.decode(predicted + unit * offset, points, mask)
            if autoencoder.missing:  # a missing value asks for what is there already
                expected = torch.where(expected.isfinite(), expected, values.detach())
            loss = (values - expected).square().mean(dim=(1, 2)).sum()  # each image's own mean
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        for parameter in parameters:
            parameter.grad = None
        yield autoencoder, predicted + unit * offset.detach()
