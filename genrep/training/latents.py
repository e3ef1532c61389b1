"""Latents for a training loop: from the cache, or encoded on the fly."""

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from genrep.data import LatentsSpec
from genrep.data.images import ImageData, evenly
from genrep.data.latents import LatentCache, LatentStatistics, cache_manifest, encode_views, write_cache
from genrep.models.autoencoder import INRAutoencoder
from genrep.training.order import TrainingBatch


class CachedLatents:
    """Latents from a cache; a mirrored image is the view that was encoded mirrored."""

    wants_pixels = False

    def __init__(self, cache: LatentCache):
        self.cache, self.mean, self.std = cache, cache.mean, cache.std
        self.flips = cache.num_views == 2

    def latents(self, batch: TrainingBatch) -> Float[Tensor, "batch tokens latent"]:
        return self.cache.latents(batch.indices, batch.mirrored.long().tolist())


class EncodedLatents:
    """Latents encoded when they are needed; the statistics are those of evenly spaced images."""

    wants_pixels = True

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


def open_latents(
    autoencoder: INRAutoencoder,
    data: ImageData,
    spec: LatentsSpec,
    process: tuple[int, int],
    barrier: Callable[[], None],
) -> CachedLatents | EncodedLatents:
    """The cache that `spec.folder` names, written first if it is missing; or, without a folder, encoding on the fly.

    Raises InputError if the folder holds the latents of other images, of another autoencoder or of other settings.
    """
    if spec.folder is None:
        return EncodedLatents(autoencoder, data, spec)
    write_cache(autoencoder, data, spec, Path(spec.folder), process, barrier)
    return CachedLatents(LatentCache(spec.folder, cache_manifest(autoencoder, data, spec), spec.verify))
