"""From latents to pixels at any size and region, in bounded memory. All rendering goes through here."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.arguments import Integer, as_floats, as_integer
from genrep.coords import Coords, GridChunk, Region, axis_centres, image_shape
from genrep.devices import check_memory
from genrep.errors import InputError
from genrep.pictures import from_uint8, to_uint8

__all__ = ["Decodes", "Prepares", "from_uint8", "render", "render_values", "to_uint8"]

CHUNK = 2048
"""Coordinates decoded at a time: few enough that activations stay in a CPU's cache (2,048 × 256 floats are 2 MB)."""


@runtime_checkable
class Decodes(Protocol):
    """Anything with `decode(latents, coords) -> values`, such as an autoencoder."""

    def decode(self, latents: Tensor, coords: Tensor) -> Tensor: ...


@runtime_checkable
class Prepares(Protocol):
    """Models that compute what depends on the latents alone, such as keys and values, once for all coordinates.

    `render` passes chunks of a grid to the returned function; `genrep.coords.as_points` turns them into a tensor.
    """

    def decoding(self, latents: Tensor) -> Callable[[Coords], Tensor]: ...


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

    Besides the output, memory holds one chunk.

    Args:
        model: has `decode(latents, coords)`, or also `decoding(latents)`, which is then called once.
        latents: `[B, R, D]`.
        size: size in pixels, one number or (height, width).
        region: `(y0, x0, y1, x1)` in [-1, 1] coordinates; None is the whole image.
        chunk: coordinates × images decoded at a time. None is 2,048 on the CPU, 262,144 on a GPU.
        gradients: keep the graph for gradients with respect to latents and decoder, which takes memory for every pixel.
        as_uint8: return pixels of 0 to 255, rounded by `to_uint8` chunk by chunk, so that floats exist for one chunk only.

    Raises:
        InputError: an invalid size, region or chunk, no latents, an output that the device cannot hold or, with `as_uint8`,
            values that are not finite.
    """
    latents = as_floats(latents, "latents", "[batch, tokens, dim]")
    if latents.shape[:1] in ((), (0,)):
        raise InputError("there are no latents to render: give a batch of one or more")
    shape = image_shape(size)
    if chunk is None:
        # On a GPU a chunk must be large enough to outweigh its kernel launches, and caches matter less.
        chunk = CHUNK if latents.device.type == "cpu" else 128 * CHUNK
    chunk = max(1, as_integer(chunk, "chunk", low=1) // len(latents))  # coordinates are shared by the batch
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
        if isinstance(model, Prepares):
            return _render_chunks(model.decoding(latents), shape, region, chunk, latents.device, gradients, as_uint8)

        def decode(coords: Tensor) -> Tensor:
            return model.decode(latents, coords)

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
    """`render` for any function from coordinates `[N, axes]` to values `[B, N, C]`, on a grid of any number of axes."""
    return _render_chunks(lambda grid: values(grid.points), size, region, chunk, device, gradients, as_uint8)


def _render_chunks(
    values: Callable[[GridChunk], Tensor],
    size: Integer | Sequence[Integer],
    region: Region | None,
    chunk: int,
    device: torch.device,
    gradients: bool,
    as_uint8: bool,
) -> Float[Tensor, "batch channels *size"] | UInt8[Tensor, "batch channels *size"]:
    """`render_values` for a function that takes chunks of a grid."""
    if gradients and as_uint8:
        raise InputError("as_uint8 rounds and has no gradients: leave out gradients or as_uint8")
    shape = image_shape(size)
    centres = tuple(axis_centres(shape, region, device=device))
    total = math.prod(shape)

    def part(start: int) -> Tensor:
        return values(GridChunk(centres, start, min(start + chunk, total))).transpose(1, 2)

    # The first chunk tells the channels and the dtype, and thus the memory, before the rest is computed.
    first = part(0)
    dtype = torch.uint8 if as_uint8 else first.dtype
    num_bytes = math.prod(first.shape[:2]) * total * dtype.itemsize
    check_memory(num_bytes, device, f"a render of {' × '.join(map(str, shape))}")
    starts = range(0, total, chunk)
    if gradients:  # assigning slices in place would add a node to the graph for every chunk
        return torch.cat([first, *map(part, starts[1:])], dim=2).unflatten(2, shape)
    pixels = first.new_empty(*first.shape[:2], total, dtype=dtype)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for start in starts:
        values_of_chunk = part(start) if start else first
        if as_uint8:
            finite &= (
                values_of_chunk.isfinite().all()
            )  # read once, at the end: a GPU would be waited for at every chunk
            values_of_chunk = to_uint8(values_of_chunk)
        pixels[:, :, start : start + chunk] = values_of_chunk
    if as_uint8 and not bool(finite):
        raise InputError(
            "the rendered values are not finite (NaN or infinite): weights or latents are damaged, or fp16 overflows "
            "(try bf16 or fp32)"
        )
    return pixels.unflatten(2, shape)
