"""Latents for a training loop, cached or encoded on the fly. The cache itself is in `genrep/data/latents.py`."""

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from genrep.coords import grid, random_subset
from genrep.data import BaseDataSpec, LatentsSpec
from genrep.data.encoding import cache_manifest, cache_settings, count_tokens, encode_views, write_cache
from genrep.data.latents import LatentCache, LatentStatistics, has_cache
from genrep.data.signals import Points, SignalData, check_signal, evenly
from genrep.data.sources import MissingSource
from genrep.diffusion import DiffusionSpec
from genrep.errors import InputError
from genrep.interpolation import values_at
from genrep.models.autoencoder import INRAutoencoder
from genrep.training.order import TrainingBatch

LatentSets = tuple[Shaped[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"] | None]
"""Latents, and the mask of the tokens in use: None when all are."""


class CachedLatents:
    """Latents from a cache, which the stream reads. Those of mirrored signals, and of further fits, are other views there."""

    wants_signals = False

    def __init__(self, cache: LatentCache):
        self.cache, self.mean, self.std = cache, cache.mean, cache.std
        self.flips, self.token_counts = cache.flips, cache.token_counts

    def sets(self, batch: TrainingBatch) -> LatentSets:
        """A batch's latents in the dtype of the cache, and their mask."""
        assert batch.latents is not None, "the stream was opened without the cache"
        return batch.latents, batch.mask


class EncodedLatents:
    """Latents encoded as they are needed; mean and std are those of `spec.statistics_images` evenly spaced signals."""

    wants_signals = True
    cache = None

    def __init__(self, autoencoder: INRAutoencoder, data: SignalData, spec: LatentsSpec):
        self.autoencoder, self.data, self.flips = autoencoder, data, spec.flips
        # a subset, because encoding the whole data set first is what on-the-fly encoding avoids
        statistics = LatentStatistics(autoencoder.latent_shape, autoencoder.position_dim)
        self.token_counts: Counter[int] = Counter()
        indices = evenly(len(data), spec.statistics_images)
        for start in range(0, len(indices), spec.batch):
            kept = data.read(indices[start : start + spec.batch])
            # with flips, training sees both views, so both count
            latents, mask = encode_views(autoencoder, data, kept, spec.flips)
            statistics.update(latents.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
            self.token_counts.update(count_tokens(latents, mask))
        self.mean, self.std = statistics.mean.float(), statistics.std.float()

    def sets(self, batch: TrainingBatch) -> LatentSets:
        assert batch.signals is not None, "the stream was opened without signals"
        return encode_batch(self.autoencoder, self.data, batch.signals)


def encode_batch(autoencoder: INRAutoencoder, data: SignalData, kept: Tensor) -> LatentSets:
    """Latents of stored signals, and their mask."""
    latents, mask = encode_views(autoencoder, data, kept, flips=False)
    return latents[:, 0], None if mask is None else mask[:, 0]


def open_for(autoencoder: INRAutoencoder, data: BaseDataSpec, split: str) -> SignalData:
    """A split of a data set, for an autoencoder. InputError if it was trained on signals of another kind or scale."""
    signals = data.open(split, autoencoder.image_shape, autoencoder.config["channels"])
    check_signal(autoencoder, signals)
    return signals


def check_cached(data: SignalData | LatentCache, folder: str | None) -> None:
    """InputError if images of different sizes would be encoded during training, rather than read from the cache."""
    if isinstance(data, SignalData) and data.has_sizes:
        raise InputError(
            f"{data.name}: images of different sizes (data.native_size) are encoded before training, and the latent cache "
            f"{folder} lacks these: add them with train/latents.py"
        )


def open_split(
    data: BaseDataSpec, latents: LatentsSpec, autoencoder: INRAutoencoder, split: str, signals: bool = False
) -> SignalData | LatentCache:
    """A split of stage 2: its cache if that is complete and sufficient, else the images.

    The cache is checked against the images if `data.source` exists, else against the keys that selected them.

    Args:
        split: `train` or `held_out`.
        signals: whether the signals are needed even if their latents are cached.

    Raises:
        MissingSource: the images are needed, and `data.source` does not exist.
        InputError: the cache was made from something else, or `latents.fits` does not fit the encoder.
    """
    latents.check_encoder(autoencoder.spec.encoder.type)  # before any work, also if there is no cache yet
    if latents.folder is None or not has_cache(latents.folder):
        return open_for(autoencoder, data, split)
    # the cache exists, but does not suffice
    if signals or not has_cache(latents.folder, split):
        try:
            return open_for(autoencoder, data, split)
        except MissingSource as error:
            why = (
                "this run also needs the signals"
                if signals
                else "it has no held-out latents, which train/latents.py adds"
            )
            raise MissingSource(f"{error}. The latent cache {latents.folder} is not enough: {why}") from error
    # whatever the images are, the latents must be those of this autoencoder
    cache = LatentCache(latents.folder, cache_settings(autoencoder, latents), split=split)
    # A cache can be trained on by itself, so that latents can be shared without the images. Only the images can prove that
    # it is theirs, though: where they exist, their fingerprint decides.
    try:
        source_signals = open_for(autoencoder, data.light(), split)
    except MissingSource as error:
        if cache.is_of(data):
            if split == "train" and os.environ.get("RANK", "0") == "0":
                print(
                    f"data.source {data.source!r} does not exist: training on the latent cache {latents.folder} alone"
                )
            return cache
        raise MissingSource(
            f"{error}. The latent cache {latents.folder} was made with data {cache.manifest['selection']}, which differs from "
            "this config: change the config, or give the images"
        ) from error
    if split == "train":
        return LatentCache(latents.folder, cache_manifest(autoencoder, source_signals, latents))
    # a changed held-out split does not spoil training: it is encoded on the fly instead of refused
    return cache if cache.fingerprint() == source_signals.fingerprint() else open_for(autoencoder, data, split)


def open_latents(
    autoencoder: INRAutoencoder,
    data: SignalData | LatentCache,
    spec: LatentsSpec,
    process: tuple[int, int],
    barrier: Callable[[], None],
) -> CachedLatents | EncodedLatents:
    """The cache in `spec.folder`, written first if it is missing; without a folder, latents encoded on the fly.

    Args:
        data: the training split, as `open_split` returns it.
        process: (rank, number of processes).
        barrier: waits for all processes.

    Raises:
        InputError: the cache was made from other images, another autoencoder or other settings, or it is damaged; with
            `spec.verify`, damage down to a single bit is found.
    """
    if isinstance(data, LatentCache):
        cache = data
    elif spec.folder is None:
        return EncodedLatents(autoencoder, data, spec)
    else:
        # every process sees the same folder, and write_cache shares the work among them
        if not has_cache(spec.folder):
            write_cache(autoencoder, data, spec, Path(spec.folder), process, barrier, held_out_signals(data, spec))
        cache = LatentCache(spec.folder, cache_manifest(autoencoder, data, spec))
    if spec.verify:
        if process[0] == 0:  # hashing reads the whole cache, 168 GB for ImageNet: once per run, not once per process
            cache.verify()
        barrier()
    return CachedLatents(cache)


def held_out_signals(data: SignalData, spec: LatentsSpec) -> SignalData | None:
    """The held-out split to cache along with a training split; None without one or with `latents.held_out: false`."""
    if not spec.held_out or not data.spec.holds_out:
        return None
    # read once from start to end, so nothing is gained by holding it in memory
    return data.spec.light().open("held_out", data.shape, data.channels)


def check_decoded_points(objective: DiffusionSpec, autoencoder: INRAutoencoder) -> None:
    """InputError if the two-term loss asks for more points than a signal has."""
    count, total = objective.image_coords, math.prod(autoencoder.image_shape)
    if count is not None and count > total:
        raise InputError(f"diffusion.image_coords must be at most {total}, the pixels of an image; got {count}")


def decoded_points(
    objective: DiffusionSpec,
    autoencoder: INRAutoencoder,
    kept: Shaped[Tensor, "batch channels *shape"],
    generator: torch.Generator,
) -> Points:
    """Grid coordinates at which the two-term loss decodes, all or `image_coords` random ones, and the signals' values there.

    Args:
        objective: names the number of points.
        autoencoder: its grid and kind of signals.
        kept: stored signals.
        generator: draws the points.
    """
    coords = grid(autoencoder.image_shape, device=kept.device)
    # ANR compares whole images; a random subset estimates the same mean without bias, at a fraction of the decoder's cost
    if objective.image_coords is not None:
        coords = coords[random_subset(len(coords), objective.image_coords, generator).to(kept.device)]
    # on the grid itself, where the nearest pixel is the exact value
    return Points(coords, values_at(autoencoder.signal.values(kept), coords, "nearest"))
