"""Random numbers that depend only on a seed and an index, not on the batch size, number of processes or restarts.

Every draw belongs to a stream named by integers or strings, such as (seed, "noise", 7). Numbers are drawn on the CPU and
moved to the device, so that they are the same on every device and in every batch.
"""

import functools
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK_NUMBERS = 65_536
"""Numbers that `normal_at` and `uniform_at` draw at once, since seeding a generator for every index would cost more."""


def stream_seed(seed: int, *stream: int | str) -> int:
    """A seed for a stream of random numbers, a pure function of `seed` and the stream's names (strings, integers >= 0)."""
    # Hashed rather than added: with `seed + position`, neighbouring seeds would share all but one of their streams.
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))  # torch's seeds are signed


def stream_generator(seed: int, *stream: int | str) -> torch.Generator:
    """A CPU generator seeded by `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *stream))


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator per image, as diffusers' pipelines and schedulers take them: image i depends on (seed, i)."""
    return [stream_generator(seed, "image", int(index)) for index in indices]


def normal_at(indices: Sequence[int], shape: Sequence[int], seed: int, stream: str) -> Tensor:
    """Standard normal noise `[len(indices), *shape]`; row k depends on (seed, stream, indices[k]) only."""
    return _rows(torch.randn, indices, tuple(shape), seed, stream)


def uniform_at(indices: Sequence[int], shape: Sequence[int], seed: int, stream: str) -> Tensor:
    """Uniform numbers in [0, 1), `[len(indices), *shape]`; row k depends on (seed, stream, indices[k]) only."""
    return _rows(torch.rand, indices, tuple(shape), seed, stream)


def _rows(draw, indices: Sequence[int], shape: tuple[int, ...], seed: int, stream: str) -> Tensor:
    length = max(1, BLOCK_NUMBERS // max(1, math.prod(shape)))
    rows = torch.empty(len(indices), *shape)
    if length == 1:  # one row per block: drawn in place, which saves copying them
        for row, index in zip(rows, indices, strict=True):
            draw(1, *shape, generator=stream_generator(seed, stream, int(index)), out=row[None])
        return rows
    start = 0
    while start < len(indices):  # consecutive indices, as in a training step, are copied block by block
        block, offset = divmod(int(indices[start]), length)
        stop = start + 1
        while (
            stop < len(indices) and int(indices[stop]) == block * length + offset + stop - start < (block + 1) * length
        ):
            stop += 1
        rows[start:stop] = _block(draw, block, (length, *shape), seed, stream)[offset : offset + stop - start]
        start = stop
    return rows


# Consecutive steps read neighbouring rows, mostly of the same few blocks.
@functools.lru_cache(maxsize=8)
def _block(draw, block: int, shape: tuple[int, ...], seed: int, stream: str) -> Tensor:
    return draw(*shape, generator=stream_generator(seed, stream, block))
