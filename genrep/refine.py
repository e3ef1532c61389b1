"""Test-time optimisation: from the encoder's prediction, latents (and decoder) that fit given images better (section 4.5)."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import Integer, as_floats, as_integer
from genrep.coords import grid, random_subset, values_at
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder

NUM_COORDS = 2048
"""Pixels of every image that a step compares, where there are more."""


def refine(
    autoencoder: INRAutoencoder,
    images: Float[Tensor, "batch channels height width"] | Any,
    steps: Integer,
    *,
    lr: float = 0.05,
    decoder_lr: float | None = None,
    num_coords: Integer | None = None,
    seed: Integer = 0,
) -> tuple[INRAutoencoder, Float[Tensor, "batch tokens latent"]]:
    """Latents of `images` after `steps` of Adam on the squared error, and the autoencoder whose decoder they belong to.

    Images do not influence each other, unless the decoder is refined too: it then comes back as a copy that belongs to
    this batch, so give one image at a time for a decoder of its own.

    Args:
        autoencoder: encoder and decoder; it is not changed.
        images: in [-1, 1], of the encoder's size.
        steps: optimizer steps; the rate falls to 0 along half a cosine.
        lr: Adam's rate for the latents, in units of the deviation of the image's predicted latents.
        decoder_lr: Adam's rate for the decoder's weights; None leaves the decoder as it is.
        num_coords: pixels a step, drawn anew from `seed`; None is all, 2,048 at most.
        seed: of that draw.

    Raises:
        InputError: a negative number of steps, more coordinates than there are pixels, or a rate that is no positive number.
    """
    *_, last = refinements(autoencoder, images, steps, lr=lr, decoder_lr=decoder_lr, num_coords=num_coords, seed=seed)
    return last


def refinements(
    autoencoder: INRAutoencoder,
    images: Float[Tensor, "batch channels height width"] | Any,
    steps: Integer,
    *,
    lr: float = 0.05,
    decoder_lr: float | None = None,
    num_coords: Integer | None = None,
    seed: Integer = 0,
) -> Iterator[tuple[INRAutoencoder, Float[Tensor, "batch tokens latent"]]]:
    """`refine` as it goes: the encoder's prediction, then what there is after each step. The next step changes the decoder."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "refinement needs gradients, which torch.inference_mode forbids: use torch.no_grad() around it"
        )
    dtype = torch.promote_types(autoencoder.dtype, torch.float32)  # Adam's steps are too small for bf16
    images = as_floats(images, "images", "[batch, channels, height, width]", dtype)
    steps, seed = as_integer(steps, "steps"), as_integer(seed, "seed", low=0)
    coords = grid(images.shape[-2:], device=images.device)
    count = min(NUM_COORDS, len(coords)) if num_coords is None else as_integer(num_coords, "num_coords")
    if steps < 0 or not 0 < count <= len(coords):
        raise InputError(
            f"{steps} refinement steps on {count} of {len(coords)} pixels cannot be: give 0 steps or more, and 1 pixel to all"
        )
    if not all(0 < rate < math.inf for rate in (lr, 1.0 if decoder_lr is None else decoder_lr)):
        raise InputError(f"refinement rates {lr} and {decoder_lr} cannot be: give positive numbers")
    generator = torch.Generator().manual_seed(seed)
    training = autoencoder.training
    with torch.no_grad():
        predicted = autoencoder.eval().encode(images).to(dtype)  # the start is without dropout's noise
    autoencoder.train(training)
    targets = values_at(images, coords, "nearest")  # [B, N, C]
    unit = predicted.std(dim=(1, 2), keepdim=True, correction=0)  # each image's own
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
        chosen = random_subset(len(coords), count, generator).to(coords.device)
        with torch.enable_grad():
            values = autoencoder.decode(predicted + unit * offset, coords[chosen])
            loss = (values - targets[:, chosen]).square().mean(dim=(1, 2)).sum()  # each image's own mean
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        for parameter in parameters:
            parameter.grad = None
        yield autoencoder, predicted + unit * offset.detach()
