"""Latents to pixels at any size and region, in bounded memory: the one way from latents to images."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.coords import Region, axis_centres, image_shape, points_at
from genrep.errors import InputError

CHUNK = 2048
"""Coordinates decoded at a time: so few that what lies between two layers stays in a CPU's cache."""


@runtime_checkable
class Decodes(Protocol):
    """Anything with `decode(latents, coords) -> values`: an autoencoder, a field."""

    def decode(self, latents: Tensor, coords: Tensor) -> Tensor: ...


@runtime_checkable
class Prepares(Protocol):
    """What can do for all coordinates at once what depends on the latents alone, such as keys and values."""

    def decoding(self, latents: Tensor) -> Callable[[Tensor], Tensor]: ...


def render(
    model: Decodes,
    latents: Float[Tensor, "batch tokens latent"],
    size: int | Sequence[int],
    region: Region | None = None,
    chunk: int | None = None,
    gradients: bool = False,
) -> Float[Tensor, "batch channels height width"]:
    """Render latents at any size and region, `[B, C, H, W]`, in [-1, 1] up to the model's error.

    Beside the result only the work of one chunk is held, so memory does not grow with the size.

    Args:
        model: has `decode(latents, coords)`, and perhaps `decoding(latents)`, which is then called once; coordinates are
            shared by the batch, so they are encoded once a chunk.
        latents: `[B, R, D]`.
        size: pixels, a number or (height, width).
        region: `(y0, x0, y1, x1)` in [-1, 1] coordinates; None is the whole image.
        chunk: coordinates × images decoded at a time. None is 2,048 on the CPU, 262,144 on a GPU.
        gradients: keep the graph for gradients to latents and decoder, which takes memory for every pixel.

    Raises:
        InputError: a size, region or chunk that cannot be, or no latents.
    """
    if not len(latents):
        raise InputError("there are no latents to render: give a batch of one or more")
    shape = image_shape(size)
    if chunk is None:
        chunk = CHUNK if latents.device.type == "cpu" else 128 * CHUNK
    if chunk < 1:
        raise InputError(f"chunk {chunk} cannot be: give a positive number of coordinates")
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
        decode = model.decoding(latents) if isinstance(model, Prepares) else functools.partial(model.decode, latents)
        return render_values(decode, shape, region, max(1, chunk // len(latents)), latents.device, gradients)


def render_values(
    values: Callable[[Tensor], Tensor],
    size: int | Sequence[int],
    region: Region | None,
    chunk: int,
    device: torch.device,
    gradients: bool = False,
) -> Float[Tensor, "batch channels *size"]:
    """What `render` does, for any function of coordinates `[N, axes]` to values `[B, N, C]`, on a grid of any axes."""
    shape = image_shape(size)
    centres = axis_centres(shape, region, device=device)
    total = math.prod(shape)
    starts = range(0, total, chunk)

    def part(start: int) -> Tensor:
        index = torch.arange(start, min(start + chunk, total), device=device)
        return values(points_at(centres, index)).transpose(1, 2)

    if gradients:
        return torch.cat([part(start) for start in starts], dim=2).unflatten(2, shape)
    first = part(0)
    pixels = first.new_empty(*first.shape[:2], total)
    pixels[:, :, :chunk] = first
    for start in starts[1:]:
        pixels[:, :, start : start + chunk] = part(start)
    return pixels.unflatten(2, shape)


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] -> 0..255, round(255 (x + 1) / 2), clamped: the one rounding in the project."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..255 -> [-1, 1]; `to_uint8` undoes it exactly."""
    return pixels.float().mul_(2 / 255).sub_(1)
