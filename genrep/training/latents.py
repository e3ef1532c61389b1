"""Latents for a training loop: from the cache, or encoded on the fly. The cache itself is in `genrep/data/latents.py`."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from genrep.coords import grid, random_subset
from genrep.data import BaseDataSpec, LatentsSpec
from genrep.data.latents import (
    LatentCache,
    LatentStatistics,
    cache_manifest,
    cache_settings,
    encode_views,
    has_cache,
    write_cache,
)
from genrep.data.signals import Points, SignalData, check_signal, evenly
from genrep.data.sources import MissingSource
from genrep.diffusion import DiffusionSpec
from genrep.errors import InputError
from genrep.interpolation import values_at
from genrep.models.autoencoder import INRAutoencoder
from genrep.training.order import TrainingBatch

LatentSets = tuple[Shaped[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"] | None]
"""Latents, and the mask of the tokens that are there: None where all are."""


class CachedLatents:
    """Latents from a cache, which the stream reads; a mirrored signal is the view that was encoded mirrored."""

    wants_signals = False

    def __init__(self, cache: LatentCache):
        self.cache, self.mean, self.std = cache, cache.mean, cache.std
        self.flips = cache.num_views == 2

    def sets(self, batch: TrainingBatch) -> LatentSets:
        """A batch's latents in the number type of the cache, and their mask."""
        assert batch.latents is not None, "the stream was opened without the cache"
        return batch.latents, batch.mask


class EncodedLatents:
    """Latents encoded when they are needed; the statistics are those of evenly spaced signals."""

    wants_signals = True
    cache = None

    def __init__(self, autoencoder: INRAutoencoder, data: SignalData, spec: LatentsSpec):
        self.autoencoder, self.data, self.flips = autoencoder, data, spec.flips
        statistics = LatentStatistics(autoencoder.latent_shape, autoencoder.position_dim)
        chosen = evenly(len(data), spec.statistics_images)
        for start in range(0, len(chosen), spec.batch):
            kept = data.read(chosen[start : start + spec.batch])
            latents, mask = encode_views(autoencoder, data, kept, spec.flips)
            statistics.update(latents.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
        self.mean, self.std = statistics.mean.float(), statistics.std.float()

    def sets(self, batch: TrainingBatch) -> LatentSets:
        assert batch.signals is not None, "the stream was opened without signals"
        return encode_batch(self.autoencoder, self.data, batch.signals)


def encode_batch(autoencoder: INRAutoencoder, data: SignalData, kept: Tensor) -> LatentSets:
    """Latents of signals as their data set keeps them, and their mask."""
    latents, mask = encode_views(autoencoder, data, kept, flips=False)
    return latents[:, 0], None if mask is None else mask[:, 0]


def open_for(autoencoder: INRAutoencoder, data: BaseDataSpec, split: str) -> SignalData:
    """A split of the signals that an autoencoder was made for. InputError where they mean something else."""
    signals = data.open(split, autoencoder.image_shape, autoencoder.config["channels"])
    check_signal(autoencoder, signals)
    return signals


def open_split(
    data: BaseDataSpec, latents: LatentsSpec, autoencoder: INRAutoencoder, split: str, signals: bool = False
) -> SignalData | LatentCache:
    """A split of stage 2: its cache where that is whole and enough, else the images.

    Where `data.source` is there, a cache is held against the images; where it is not, against the keys that chose them.

    Args:
        split: `train` or `held_out`.
        signals: they are needed whatever is cached.

    Raises:
        MissingSource: the images are needed, and `data.source` is not there.
        InputError: the cache was made from something else.
    """
    if latents.folder is None or not has_cache(latents.folder):
        return open_for(autoencoder, data, split)
    if signals or not has_cache(latents.folder, split):
        try:
            return open_for(autoencoder, data, split)
        except MissingSource as error:
            why = (
                "this run needs the signals too"
                if signals
                else "it has no held-out latents, which train/latents.py adds"
            )
            raise MissingSource(f"{error}. The latent cache {latents.folder} alone does not do: {why}") from error
    cache = LatentCache(latents.folder, cache_settings(autoencoder, latents), split=split)
    try:
        signals_there = open_for(autoencoder, data.light(), split)
    except MissingSource as error:
        if cache.is_of(data):
            if split == "train" and os.environ.get("RANK", "0") == "0":
                print(f"data.source {data.source!r} is not there: training on the latent cache {latents.folder} alone")
            return cache
        raise MissingSource(
            f"{error}. The latent cache {latents.folder} was made with data {cache.manifest['selection']}, which is not "
            "what this config says: give that, or the images"
        ) from error
    if split == "train":
        return LatentCache(latents.folder, cache_manifest(autoencoder, signals_there, latents))
    return cache if cache.fingerprint() == signals_there.fingerprint() else open_for(autoencoder, data, split)


def open_latents(
    autoencoder: INRAutoencoder,
    data: SignalData | LatentCache,
    spec: LatentsSpec,
    process: tuple[int, int],
    barrier: Callable[[], None],
) -> CachedLatents | EncodedLatents:
    """The cache that `spec.folder` names, written first if it is missing; or, without a folder, encoding on the fly.

    Args:
        data: the training split, as `open_split` gives it.
        process: (rank, number of processes).
        barrier: waits for all processes.

    Raises:
        InputError: the folder holds the latents of other images, of another autoencoder or of other settings, or it is
            damaged; with `spec.verify`, a single changed bit.
    """
    if isinstance(data, LatentCache):
        cache = data
    elif spec.folder is None:
        return EncodedLatents(autoencoder, data, spec)
    else:
        if not has_cache(spec.folder):
            write_cache(autoencoder, data, spec, Path(spec.folder), process, barrier, held_out_signals(data, spec))
        cache = LatentCache(spec.folder, cache_manifest(autoencoder, data, spec))
    if spec.verify:
        if process[0] == 0:
            cache.verify()
        barrier()
    return CachedLatents(cache)


def held_out_signals(data: SignalData, spec: LatentsSpec) -> SignalData | None:
    """The held-out split that belongs into the cache of a training split; None where there is none, or none is wanted."""
    if not spec.held_out or not data.spec.holds_out:
        return None
    return data.spec.light().open("held_out", data.shape, data.channels)


def check_decoded_points(objective: DiffusionSpec, autoencoder: INRAutoencoder) -> None:
    """InputError for more points of the two-term loss than a signal has."""
    count, total = objective.image_coords, math.prod(autoencoder.image_shape)
    if count is not None and count > total:
        raise InputError(f"diffusion.image_coords {count} is more than an image's {total} pixels")


def decoded_points(
    objective: DiffusionSpec,
    autoencoder: INRAutoencoder,
    kept: Shaped[Tensor, "batch channels *shape"],
    generator: torch.Generator,
) -> Points:
    """Where the two-term loss decodes signals, as they are kept, and their values there: all of the grid, or as many as it says."""
    coords = grid(autoencoder.image_shape, device=kept.device)
    if objective.image_coords is not None:
        coords = coords[random_subset(len(coords), objective.image_coords, generator).to(kept.device)]
    return Points(coords, values_at(autoencoder.signal.values(kept), coords, "nearest"))
