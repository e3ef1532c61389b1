"""Data order as a pure function of (seed, position), which makes a resumed run equal an uninterrupted one.

Training counts images by their position in an endless stream. Position p is image `permutation_e[p mod N]`, where the
permutation of epoch e = p // N is drawn from (seed, e). A step takes the next `batch` positions, divided among the
processes: two processes together see exactly what one would have seen.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genrep.data.latents import LatentCache
from genrep.data.signals import SignalData
from genrep.errors import InputError
from genrep.randomness import normal_at, stream_generator, uniform_at
from genrep.training.interrupts import ignore_signals


class DataOrder:
    """Maps positions in the training stream to indices of signals."""

    def __init__(self, num_images: int, seed: int):
        self.num_images, self.seed = num_images, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)  # a batch may span two epochs

    def indices(self, positions: list[int]) -> list[int]:
        return [
            int(self._permutation(position // self.num_images)[position % self.num_images]) for position in positions
        ]

    def _draw(self, epoch: int) -> Tensor:
        return torch.randperm(self.num_images, generator=stream_generator(self.seed, "order", epoch))

    def __getstate__(self) -> dict[str, int]:  # the cache cannot be pickled; worker processes rebuild it
        return {"num_images": self.num_images, "seed": self.seed}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class PositionBatches:
    """Batch sampler: the positions of this process's parts of every step from `first_step` up to `last_step`."""

    def __init__(self, batch: int, accumulation: int, process: tuple[int, int], first_step: int, last_step: int):
        rank, num_processes = process
        # unequal parts would weigh the images of a step differently, and depend on the number of processes
        if batch % (accumulation * num_processes):
            raise InputError(
                f"run.batch must be a multiple of {accumulation * num_processes} (run.accumulation {accumulation} × processes "
                f"{num_processes}); got {batch}"
            )
        self.part = batch // (accumulation * num_processes)
        self.rank, self.num_processes, self.accumulation = rank, num_processes, accumulation
        self.batch, self.first_step, self.last_step = batch, first_step, last_step

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            for part in range(self.accumulation):
                # the k-th parts of all processes together are the k-th part that a single process would have
                start = step * self.batch + (part * self.num_processes + self.rank) * self.part
                yield list(range(start, start + self.part))


@dataclass
class TrainingBatch:
    """What a training loop receives: positions in the stream, and the signals there.

    Attributes:
        positions: positions in the stream, the key of all randomness.
        indices: indices into the data set.
        mirrored: `[B]` bool, which images are mirrored.
        signals: `[B, C, *shape]` in the stored form, already mirrored; None if only latents are read.
        source_signals: the same at `data.source_size`, or None.
        labels: `[B]` int64, or None.
        latents: `[B, R, D]` in the dtype of the cache, those of the mirror image where `mirrored`, of a random one of the
            cache's fits; None without a cache.
        mask: `[B, R]` bool, which tokens are in use; None when all are.
        noise: standard normal numbers `[B, ...]` by the name of their stream, keyed by the positions.
    """

    positions: list[int]
    indices: list[int]
    mirrored: Tensor
    signals: Any
    source_signals: Tensor | None
    labels: Tensor | None
    latents: Tensor | None = None
    mask: Tensor | None = None
    noise: dict[str, Tensor] = field(default_factory=dict)

    def pin_memory(self) -> "TrainingBatch":
        """The same in page-locked memory, which a GPU copies from without blocking the CPU. The loader calls this."""
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        pinned: dict[str, Any] = {
            name: part.pin_memory() if isinstance(part, Tensor) else part for name, part in parts.items()
        }
        # the only tensors that are not attributes themselves
        pinned["noise"] = {name: part.pin_memory() for name, part in self.noise.items()}
        return TrainingBatch(**pinned)


class SignalStream(Dataset):
    """The training stream: positions => TrainingBatch. Runs in the loader's workers, off the training thread.

    Args:
        data: signals, or a latent cache if no signals are read.
        seed: seed of order, flips, crops and noise.
        flips: mirror signals at random.
        wants_signals: read the signals.
        wants_source: also read them at `data.source_size`.
        cache: where to read latents from.
        noise: shapes of the standard normal numbers to draw for every image, by the name of their stream.
    """

    def __init__(
        self,
        data: SignalData | LatentCache,
        seed: int,
        flips: bool,
        wants_signals: bool = True,
        wants_source: bool = False,
        cache: LatentCache | None = None,
        noise: Mapping[str, Sequence[int]] | None = None,
    ):
        self.data, self.seed, self.flips = data, seed, flips
        self.wants_signals, self.wants_source = wants_signals, wants_source
        self.cache, self.noise = cache, dict(noise or {})
        self.order = DataOrder(len(data), seed)

    # PyTorch's fetcher prefers __getitems__: a whole batch at once, so that noise and latents are drawn and read in blocks
    def __getitems__(self, positions: list[int]) -> TrainingBatch:
        indices = self.order.indices(positions)
        mirrored = torch.zeros(len(positions), dtype=torch.bool)
        if self.flips:
            # keyed by the position, not the image, so that an image is mirrored in some epochs and not in others
            mirrored = uniform_at(positions, (), self.seed, "flip") < 0.5
        latents, mask = self._read_latents(indices, positions, mirrored)
        return TrainingBatch(
            positions=positions,
            indices=indices,
            mirrored=mirrored,
            signals=self._read(indices, positions, mirrored) if self.wants_signals else None,
            source_signals=self._mirror(self._signals.read(indices, source=True), mirrored)
            if self.wants_source
            else None,
            labels=self.data.labels_of(indices),
            latents=latents,
            mask=mask,
            # drawn here because it is slow: 265 ms per step for 256 images of 256×256 latents on one thread
            noise={name: normal_at(positions, shape, self.seed, name) for name, shape in self.noise.items()},
        )

    @property
    def _signals(self) -> SignalData:
        assert isinstance(self.data, SignalData), "a latent cache has no signals"
        return self.data

    def _read(self, indices: list[int], positions: list[int], mirrored: Tensor) -> Tensor:
        return self._mirror(self._signals.read_training(indices, positions, self.seed), mirrored)

    def _read_latents(
        self, indices: list[int], positions: list[int], mirrored: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        if self.cache is None:
            return None, None
        fits = torch.zeros(len(positions), dtype=torch.long)
        if self.cache.fits > 1:  # keyed by the position, so that an image is seen in another fit in every epoch
            fits = (uniform_at(positions, (), self.seed, "fit") * self.cache.fits).long()
        views = self.cache.view(fits, mirrored).tolist()
        return self.cache.stored(indices, views), self.cache.masks(indices, views)

    def _mirror(self, kept: Tensor, mirrored: Tensor) -> Tensor:
        """Signals, replaced by their mirror images where `mirrored` is true."""
        if not mirrored.any():  # kinds without mirror images never get past here
            return kept
        return torch.where(mirrored.view(-1, *[1] * (kept.ndim - 1)), self._signals.mirrored(kept), kept)


def training_loader(stream: Any, batches: PositionBatches, num_workers: int, pin: bool = False) -> DataLoader:
    """The loader of a training loop: yields this process's TrainingBatch for every part of every step.

    Args:
        stream: positions => TrainingBatch.
        batches: the positions of every part.
        num_workers: processes that read ahead, two batches each; 0 reads in the training thread.
        pin: put batches into page-locked memory, for a GPU.
    """
    return DataLoader(
        stream,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_identity,
        pin_memory=pin,
        worker_init_fn=ignore_signals,
        # the loader draws a base seed for its workers: from the global generator, that would shift all that is drawn later
        generator=torch.Generator().manual_seed(0),
    )


def _identity(batch: Any) -> Any:
    """In place of the default collation, since a TrainingBatch is already a batch; at module level to be picklable."""
    return batch
