"""Test-time optimisation of predicted latents, and optionally the decoder, for given images (locality-aware, section 4.5)."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.arguments import Integer, Number, as_floats, as_integer, as_rate
from genrep.coords import draw_targets, grid_shape
from genrep.encoders.fit import CloudFit
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder

NUM_COORDS = 2048
"""Default number of coordinates per image and step, if the image has as many pixels."""


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
    """Fit latents to `images` (or other signals) by `steps` steps of Adam on the squared error.

    Returns the autoencoder whose decoder the latents belong to, and the latents. Images do not influence each other, unless the
    decoder is refined too: the result is then a copy for this whole batch, so pass one image at a time to get one decoder per
    image.

    By default coordinates are drawn anywhere in the image and compared with the interpolated image, as in training. With
    `coords="grid"` only pixel centres are fitted: the image is more exact at its own size, but worse between the pixels.

    Args:
        autoencoder: encoder and decoder; not modified.
        images: images in [-1, 1] at the encoder's size; NaN is a missing value if the model supports them.
        steps: optimizer steps; the learning rate falls to 0 along half a cosine.
        lr: learning rate for the latents, in units of the standard deviation of the image's predicted latents.
        decoder_lr: learning rate for the decoder's weights; None keeps the decoder fixed.
        num_coords: coordinates per step, drawn at random; None is one per pixel, at most 2,048.
        seed: seed of the coordinates.
        coords, targets, jitter_std, jitter_clip: how coordinates and targets are drawn, see `genrep.coords.draw_targets` and
            a run's `reconstruction`.
        target_size: size of the grid whose pixels are drawn; None is the images' own.

    Raises:
        InputError: a negative number of steps, more coordinates than pixels, a learning rate that is not positive, or an
            unknown kind of coordinates or targets.
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
    """`refine` step by step: the encoder's prediction, then the result of each step. Steps modify the decoder in place."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "refinement needs gradients, which torch.inference_mode forbids: use torch.no_grad() around it"
        )
    dtype = torch.promote_types(autoencoder.dtype, torch.float32)  # bf16 would round Adam's small steps away
    images = as_floats(images, "images", "[batch, channels, height, width]", dtype)
    steps, seed = as_integer(steps, "steps", low=0), as_integer(seed, "seed", low=0)
    if isinstance(autoencoder.encoder, CloudFit) and tuple(images.shape[2:]) != autoencoder.image_shape:
        raise InputError(
            f"refinement needs images of the model's size, {' × '.join(map(str, autoencoder.image_shape))}; got "
            f"{' × '.join(map(str, images.shape[2:]))}: crop or resize them"
        )
    size = tuple(images.shape[2:]) if target_size is None else grid_shape(target_size, images.ndim - 2)
    num_pixels = math.prod(size)
    count = as_integer(min(NUM_COORDS, num_pixels) if num_coords is None else num_coords, "num_coords", 1, num_pixels)
    lr = as_rate(lr, "lr")
    decoder_lr = None if decoder_lr is None else as_rate(decoder_lr, "decoder_lr")
    generator = torch.Generator().manual_seed(seed)
    training = autoencoder.training  # restored below: the caller's model must not change
    with torch.no_grad():
        predicted, mask = autoencoder.eval().encode_set(images)  # without dropout
        predicted = predicted.to(dtype)
    autoencoder.train(training)
    moving = torch.arange(predicted.shape[2], device=predicted.device) >= autoencoder.position_dim  # positions stay
    # Adam's steps are of size lr whatever the gradient. In units of each image's latents one lr suits every autoencoder.
    unit = predicted[..., moving].std(dim=(1, 2), keepdim=True, correction=0) * moving
    offset = torch.zeros_like(predicted, requires_grad=True)
    parameters, rates = [offset], [lr]
    if decoder_lr is not None:
        decoder = copy.deepcopy(autoencoder.decoder)
        autoencoder = copy.copy(autoencoder)  # shares the encoder, has a separate decoder
        autoencoder._modules = {**autoencoder._modules, "decoder": decoder}  # the original keeps its dictionary
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
            if autoencoder.missing:  # a target equal to the prediction has no error and no gradient
                expected = torch.where(expected.isfinite(), expected, values.detach())
            # The sum of each image's mean, so that an image's gradient does not depend on the batch size.
            loss = (values - expected).square().mean(dim=(1, 2)).sum()
        # Not `backward`, which would also accumulate gradients in the caller's own weights.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        for parameter in parameters:
            parameter.grad = None
        yield autoencoder, predicted + unit * offset.detach()
