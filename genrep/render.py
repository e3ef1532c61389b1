"""Latents to pixels at any size and region, in bounded memory: the one way from latents to images."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.arguments import Integer, as_floats, as_integer
from genrep.coords import Region, axis_centres, image_shape, points_at
from genrep.devices import check_memory
from genrep.errors import InputError
from genrep.pictures import from_uint8, to_uint8

__all__ = ["Decodes", "Prepares", "from_uint8", "render", "render_values", "to_uint8"]

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
    latents: Float[Tensor, "batch tokens latent"] | Any,
    size: Integer | Sequence[Integer],
    region: Region | None = None,
    chunk: Integer | None = None,
    gradients: bool = False,
    as_uint8: bool = False,
) -> Float[Tensor, "batch channels *size"] | UInt8[Tensor, "batch channels *size"]:
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
        as_uint8: pixels of 0 to 255, rounded by `to_uint8` chunk by chunk: no floats but one chunk's are ever held.

    Raises:
        InputError: an invalid size, region or chunk, no latents, a result that the device cannot hold or, with
            `as_uint8`, values that are not finite.
    """
    latents = as_floats(latents, "latents", "[batch, tokens, dim]")
    if latents.shape[:1] in ((), (0,)):
        raise InputError("there are no latents to render: give a batch of one or more")
    shape = image_shape(size)
    if chunk is None:
        chunk = CHUNK if latents.device.type == "cpu" else 128 * CHUNK
    chunk = max(1, as_integer(chunk, "chunk", low=1) // len(latents))
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
        decode = model.decoding(latents) if isinstance(model, Prepares) else functools.partial(model.decode, latents)
        return render_values(decode, shape, region, chunk, latents.device, gradients, as_uint8)


def render_values(
    values: Callable[[Tensor], Tensor],
    size: Integer | Sequence[Integer],
    region: Region | None,
    chunk: int,
    device: torch.device,
    gradients: bool = False,
    as_uint8: bool = False,
) -> Float[Tensor, "batch channels *size"] | UInt8[Tensor, "batch channels *size"]:
    """What `render` does, for any function of coordinates `[N, axes]` to values `[B, N, C]`, on a grid of any axes."""
    if gradients and as_uint8:
        raise InputError("as_uint8 rounds, which has no gradient: leave out gradients or as_uint8")
    shape = image_shape(size)
    centres = axis_centres(shape, region, device=device)
    total = math.prod(shape)

    def part(start: int) -> Tensor:
        index = torch.arange(start, min(start + chunk, total), device=device)
        return values(points_at(centres, index)).transpose(1, 2)

    first = part(0)
    dtype = torch.uint8 if as_uint8 else first.dtype
    num_bytes = math.prod(first.shape[:2]) * total * dtype.itemsize
    check_memory(num_bytes, device, f"a render of {' × '.join(map(str, shape))}")
    starts = range(0, total, chunk)
    if gradients:
        return torch.cat([first, *map(part, starts[1:])], dim=2).unflatten(2, shape)
    pixels = first.new_empty(*first.shape[:2], total, dtype=dtype)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for start in starts:
        run = part(start) if start else first
        if as_uint8:
            finite &= run.isfinite().all()  # looked at once, at the end: a GPU would have to wait for every chunk
            run = to_uint8(run)
        pixels[:, :, start : start + chunk] = run
    if as_uint8 and not bool(finite):
        raise InputError(
            "the rendered values are not finite (NaN or infinite): weights or latents are damaged, or their number "
            "type is too narrow (with fp16 try bf16 or fp32)"
        )
    return pixels.unflatten(2, shape)
