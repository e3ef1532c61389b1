"""Latents for a training loop: from the cache, or encoded on the fly. The cache itself is in `genrep/data/latents.py`."""

import os
from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float, Shaped
from torch import Tensor

from genrep.data import DataSpec, LatentsSpec
from genrep.data.images import ImageData, evenly
from genrep.data.latents import (
    LatentCache,
    LatentStatistics,
    cache_manifest,
    cache_settings,
    encode_views,
    has_cache,
    write_cache,
)
from genrep.data.sources import MissingSource
from genrep.models.autoencoder import INRAutoencoder
from genrep.training.order import TrainingBatch


class CachedLatents:
    """Latents from a cache, which the stream reads; a mirrored image is the view that was encoded mirrored."""

    wants_pixels = False

    def __init__(self, cache: LatentCache):
        self.cache, self.mean, self.std = cache, cache.mean, cache.std
        self.flips = cache.num_views == 2

    def latents(self, batch: TrainingBatch) -> Shaped[Tensor, "batch tokens latent"]:
        """A batch's latents in the number type of the cache."""
        assert batch.latents is not None, "the stream was opened without the cache"
        return batch.latents


class EncodedLatents:
    """Latents encoded when they are needed; the statistics are those of evenly spaced images."""

    wants_pixels = True
    cache = None

    def __init__(self, autoencoder: INRAutoencoder, data: ImageData, spec: LatentsSpec):
        self.autoencoder, self.flips = autoencoder, spec.flips
        statistics = LatentStatistics(autoencoder.latent_shape)
        chosen = evenly(len(data), spec.statistics_images)
        for start in range(0, len(chosen), spec.batch):
            statistics.update(
                encode_views(autoencoder, data.pixels(chosen[start : start + spec.batch]), spec.flips).flatten(0, 1)
            )
        self.mean, self.std = statistics.mean.float(), statistics.std.float()

    def latents(self, batch: TrainingBatch) -> Float[Tensor, "batch tokens latent"]:
        assert batch.pixels is not None, "the stream was opened without pixels"
        return encode_views(self.autoencoder, batch.pixels, flips=False)[:, 0]


def open_split(
    data: DataSpec, latents: LatentsSpec, autoencoder: INRAutoencoder, split: str, pixels: bool = False
) -> ImageData | LatentCache:
    """A split of stage 2: its cache where that is whole and enough, else the images.

    Where `data.source` is there, a cache is held against the images; where it is not, against the keys that chose them.

    Args:
        split: `train` or `held_out`.
        pixels: the images are needed whatever is cached.

    Raises:
        MissingSource: the images are needed, and `data.source` is not there.
        InputError: the cache was made from something else.
    """
    shape, channels = autoencoder.image_shape, autoencoder.config["channels"]
    if latents.folder is None or not has_cache(latents.folder):
        return ImageData(data, split, shape, channels)
    if pixels or not has_cache(latents.folder, split):
        try:
            return ImageData(data, split, shape, channels)
        except MissingSource as error:
            why = "this run needs pixels too" if pixels else "it has no held-out latents, which train/latents.py adds"
            raise MissingSource(f"{error}. The latent cache {latents.folder} alone does not do: {why}") from error
    cache = LatentCache(latents.folder, cache_settings(autoencoder, latents), split=split)
    try:
        images = ImageData(data.model_copy(update={"in_memory": False}), split, shape, channels)
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
        return LatentCache(latents.folder, cache_manifest(autoencoder, images, latents))
    return cache if cache.fingerprint() == images.fingerprint() else ImageData(data, split, shape, channels)


def open_latents(
    autoencoder: INRAutoencoder,
    data: ImageData | LatentCache,
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
            write_cache(autoencoder, data, spec, Path(spec.folder), process, barrier, held_out_images(data, spec))
        cache = LatentCache(spec.folder, cache_manifest(autoencoder, data, spec))
    if spec.verify:
        if process[0] == 0:
            cache.verify()
        barrier()
    return CachedLatents(cache)


def held_out_images(data: ImageData, spec: LatentsSpec) -> ImageData | None:
    """The held-out split that belongs into the cache of a training split; None where there is none, or none is wanted."""
    if not spec.held_out or (data.spec.held_out_split is None and data.spec.held_out_fraction == 0):
        return None
    return ImageData(data.spec.model_copy(update={"in_memory": False}), "held_out", data.image_shape, data.channels)
