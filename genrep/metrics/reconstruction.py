"""Reconstructions of a data set's signals, and their quality.

The reconstruction objective of training is in `genrep/training/reconstruction.py`.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from genrep.data.signals import SignalData
from genrep.models.autoencoder import INRAutoencoder
from genrep.signals.quality import enlarge, frames, psnr, psnr_8bit, quality, ssim

__all__ = [
    "enlarge", "frames", "psnr", "psnr_8bit", "quality", "reconstruction_psnr", "reconstruction_quality", "reconstructions", "ssim",
]  # fmt: skip


@torch.no_grad()
def reconstructions(
    autoencoder: INRAutoencoder,
    data: SignalData,
    indices: Sequence[int],
    size: int | Sequence[int] | None = None,
    batch: int = 64,
) -> Shaped[Tensor, "signals channels *size"]:
    """Signals of a data set, encoded and rendered at `size` (their own if None), as they are kept."""
    return torch.cat(
        [data.signal.keep(render).cpu() for render, _ in _renders(autoencoder, data, indices, size, batch)]
    )


def reconstruction_psnr(
    autoencoder: INRAutoencoder,
    data: SignalData,
    indices: Sequence[int],
    size: int | Sequence[int] | None = None,
    batch: int = 64,
) -> Float[Tensor, " signals"]:
    """PSNR of each signal, encoded and rendered at `size`, against the original resized to it."""
    # Of floats, as the papers measure it: on renders rounded to 8 bits 47.25 dB reads as 46.97.
    renders = _renders(autoencoder, data, indices, size, batch)
    parts = [data.signal.psnr(render, data.signal.resize(values, render.shape[2:])).cpu() for render, values in renders]
    return torch.cat([torch.zeros(0), *parts])


def reconstruction_quality(
    autoencoder: INRAutoencoder,
    data: SignalData,
    indices: Sequence[int],
    size: int | Sequence[int] | None = None,
    batch: int = 64,
) -> dict[str, Float[Tensor, " signals"]]:
    """All metrics of each signal, encoded and rendered at `size`, against the original resized to it."""
    renders = _renders(autoencoder, data, indices, size, batch)
    parts = [data.signal.measure(render, data.signal.resize(values, render.shape[2:])) for render, values in renders]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


@torch.no_grad()
def _renders(
    autoencoder: INRAutoencoder, data: SignalData, indices: Sequence[int], size: int | Sequence[int] | None, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Renders and the values that were encoded, batch by batch."""
    for start in range(0, len(indices), batch):
        values = data.signal.values(data.read(indices[start : start + batch]).to(autoencoder.device))
        latents, mask = autoencoder.encode_set(values)
        yield autoencoder.render(latents, size=data.shape if size is None else size, mask=mask), values
