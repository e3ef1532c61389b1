"""The latent cache: a data set's latents, encoded once, in safetensors shards that training memory-maps.

A cache folder holds:
- `manifest.json`: what was encoded, by which autoencoder, and the hashes of all files;
- `statistics.safetensors`: mean and standard deviation, see `LatentStatistics`;
- `latents-00000-of-00003.safetensors`: `latents` [n, views, R, D], `labels` [n] if there are any and, if sets differ in
  size, `mask` [n, views, R], with rows in the order of the data set; view 0 is the signal and, with `latents.flips`, view 1
  its mirror image; with several `latents.fits`, further fits of both follow in the same order;
  if the signals differ in size, `sizes` [n, axes] (`data.native_size`);
- `held_out-00000-of-00001.safetensors`: the same for the held-out split, with one view.

With its autoencoder, a cache is all that stage 2 needs; the images may be elsewhere. `genrep/data/encoding.py` writes one.
Encoding on the fly, and the choice between the two, is in `genrep/training/latents.py`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from genrep.data import BaseDataSpec
from genrep.data.shards import (
    MANIFEST,
    OPTIONAL,
    STATISTICS,
    UNFINISHED,
    damaged,
    hashing_bar,
    missing,
    opened,
    read_manifest,
    read_optional,
    read_shard,
    refuse_other,
    shard_name,
)
from genrep.errors import InputError
from genrep.files import file_hash, remove
from genrep.lock import LOCK, FolderLock


class LatentStatistics:
    """Running mean and standard deviation of latents, in float64.

    Tokens with slots have statistics per token and channel, `[R, D]`. Tokens with positions have them per channel, over all
    tokens in use, `[1, D]`, because the order of tokens means nothing there.
    """

    def __init__(self, latent_shape: Sequence[int], position_dim: int = 0):
        self.shape = (1, latent_shape[1]) if position_dim else tuple(latent_shape)
        self.has_slots, self.count = position_dim == 0, 0
        self.mean = torch.zeros(self.shape, dtype=torch.float64)
        self.squares = torch.zeros(self.shape, dtype=torch.float64)

    def update(
        self, latents: Float[Tensor, "batch tokens latent"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> None:
        latents = latents.cpu().double()  # first to the CPU: Apple's GPUs have no float64
        if not self.has_slots:
            latents = (latents.flatten(0, 1) if mask is None else latents[mask.cpu()])[:, None]
        if len(latents) == 0:
            return
        # Chan, Golub and LeVeque's pairwise update (1983): the sum of squares minus the squared sum would lose the
        # variance of channels whose mean is large.
        mean, count = latents.mean(0), len(latents)
        delta, total = mean - self.mean, self.count + count
        self.squares += ((latents - mean) ** 2).sum(0) + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def std(self) -> Float[Tensor, "rows latent"]:
        """Population standard deviation."""
        return (self.squares / max(1, self.count)).sqrt()


def has_cache(folder: Path | str, split: str = "train") -> bool:
    """Whether a folder holds a complete cache that includes this split."""
    path = Path(folder) / MANIFEST
    return path.exists() and (split == "train" or "held_out" in read_manifest(path))


def delete_cache(folder: Path) -> None:
    """Delete the contents of a cache's folder, complete or not. Does nothing to a folder that holds no cache.

    Raises:
        InputError: the folder is in use by another process.
    """
    if (folder / MANIFEST).exists() or (folder / UNFINISHED).exists():
        with FolderLock(folder, "a latent cache"):
            for path in folder.iterdir():
                if path.name != LOCK:  # the lock's own file stays until it is released
                    remove(path)


class LatentCache:
    """One split of a latent cache, memory-mapped: rows are read from disk when accessed.

    Pickling sends only the folder's name, and shards are opened on first use, so that a loader's workers read the files
    themselves.

    Args:
        folder: a folder written by `write_cache`.
        expected: entries that the manifest must have, from `cache_manifest` or `cache_settings`; None accepts any cache.
        verify: check the hash of every file; otherwise the sizes of the shards and the hash of the statistics.
        split: `train`, or `held_out` if the cache has it.

    Attributes:
        manifest: content of `manifest.json`.
        mean, std: statistics of the training split, see `LatentStatistics`.
        labels: `[N]` int64, or None.
        sizes: `[N, axes]` int32, the size of every signal; None if all have the autoencoder's.
        class_names: names of the classes, empty without labels.
        fits: number of fits of every signal.
        flips: whether there are mirror images.
        num_views: number of latent sets per signal: `fits`, or twice as many with mirror images.
        name: source and split of the images when they were encoded.

    Raises:
        InputError: no cache there, a damaged one, or one of other images, another autoencoder or other settings.
    """

    def __init__(
        self,
        folder: Path | str,
        expected: dict[str, Any] | None = None,
        verify: bool = False,
        split: str = "train",
    ):
        self.folder, self.split = Path(folder), split
        path = self.folder / MANIFEST
        if not path.exists():
            raise InputError(
                f"{self.folder}: no latent cache here ({MANIFEST} is missing); create it with train/latents.py"
            )
        if expected is not None:
            refuse_other(path, expected)
        self.manifest = read_manifest(path)
        if split == "held_out" and "held_out" not in self.manifest:
            raise InputError(f"{path}: the cache has no held-out latents; add them with train/latents.py")
        self._of_split = self.manifest if split == "train" else self.manifest["held_out"]
        self.name: str = self._of_split["source"]
        self.class_names: list[str] = self.manifest["class_names"]
        self.num_views: int = self.manifest["num_views"] if split == "train" else 1
        self.fits: int = self.manifest.get("fits", OPTIONAL["fits"]) if split == "train" else 1
        self.flips = self.num_views == 2 * self.fits
        self.shard_size: int = self.manifest["shard_size"]
        count = -(-len(self) // self.shard_size)
        prefix = "latents" if split == "train" else "held_out"
        self._shards = [self.folder / shard_name(prefix, number, count) for number in range(count)]
        self._opened: dict[int, Tensor] = {}
        self._check_lengths()
        # the statistics are small, and a bit flipped there would shift every latent: they are hashed in any case
        if verify:
            self.verify()
        else:
            self._compare_hash(self.folder / STATISTICS)
        self.mean, self.std = (read_shard(self.folder / STATISTICS, name) for name in ("mean", "std"))
        self.labels = (
            torch.cat([read_shard(shard, "labels") for shard in self._shards]) if self._of_split["labelled"] else None
        )

        # labels, masks and sizes are small next to the latents, and read whole
        self._masks = self._read_optional("mask")
        self.sizes = self._read_optional("sizes")

    def __len__(self) -> int:
        return int(self._of_split["num_images"])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def fingerprint(self) -> str:
        """The fingerprint of the images that were encoded, as `SignalData.fingerprint` gave it."""
        return str(self._of_split["data"])

    def is_of(self, spec: BaseDataSpec) -> bool:
        """Whether the images were selected by the same keys, wherever they are. True for caches too old to record the keys."""
        return self.manifest.get("selection", spec.selection()) == spec.selection()

    def verify(self) -> None:
        """Check the hash of every file, which reads the whole cache. InputError names a damaged file."""
        paths = [self.folder / name for name in self.manifest["files"]]
        with hashing_bar(paths) as bar:
            for path in paths:
                self._compare_hash(path)
                bar.update(path.stat().st_size)

    @property
    def token_counts(self) -> Counter[int]:
        """How many sets, over all views, have how many tokens in use."""
        if self._masks is None:
            return Counter({self.manifest["latent_shape"][0]: len(self) * self.num_views})
        return Counter(self._masks.sum(-1).flatten().tolist())

    def view(self, fit: Int[Tensor, " batch"], mirrored: Bool[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The views that hold these fits of images, or of their mirror images."""
        return fit * (2 if self.flips else 1) + mirrored

    def latents(
        self, indices: Sequence[int], views: Sequence[int] | None = None
    ) -> Float[Tensor, "batch tokens latent"]:
        """Latents by image index and view (None takes view 0, the image itself), in float32."""
        return self.stored(indices, views).float()

    def stored(
        self, indices: Sequence[int], views: Sequence[int] | None = None
    ) -> Shaped[Tensor, "batch tokens latent"]:
        """The same in the dtype of the cache."""
        image_indices = torch.as_tensor(indices, dtype=torch.long)
        shards = image_indices // self.shard_size
        rows = (image_indices % self.shard_size) * self.num_views
        if views is not None:
            rows += torch.as_tensor(views, dtype=torch.long)
        touched_shards = shards.unique().tolist()
        if len(touched_shards) == 1:  # no copy of the rows into a second tensor
            return self._open(touched_shards[0]).index_select(0, rows)
        latents = torch.empty(len(rows), *self.manifest["latent_shape"], dtype=getattr(torch, self.manifest["dtype"]))
        for shard in touched_shards:
            in_shard = (shards == shard).nonzero()[:, 0]
            latents[in_shard] = self._open(shard).index_select(0, rows[in_shard])
        return latents

    def masks(self, indices: Sequence[int], views: Sequence[int] | None = None) -> Bool[Tensor, "batch tokens"] | None:
        """Which tokens are in use, by index and view; None if all sets have the same size."""
        if self._masks is None:
            return None
        view = [0] * len(indices) if views is None else list(views)
        return self._masks[torch.as_tensor(indices, dtype=torch.long), torch.as_tensor(view, dtype=torch.long)]

    def labels_of(self, indices: Sequence[int]) -> Int[Tensor, " batch"] | None:
        """Labels by image index, None without labels."""
        return None if self.labels is None else self.labels[torch.as_tensor(indices, dtype=torch.long)]

    def _read_optional(self, name: str) -> Tensor | None:
        """A tensor of all shards; None if they lack it."""
        parts = [read_optional(shard, name) for shard in self._shards]
        return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])

    def _open(self, number: int) -> Tensor:
        if number not in self._opened:
            # flattened to [n · views, R, D], so that a row is one latent set whatever the view
            self._opened[number] = read_shard(self._shards[number], "latents").flatten(0, 1)
        return self._opened[number]

    def _check_lengths(self) -> None:
        """InputError unless every file has the size recorded for it, and the shards together one latent set per image."""
        # Finds interrupted copies without reading the data: hashing would read 168 GB for ImageNet.
        sizes, num_sets = self.manifest.get("sizes", {}), 0  # earlier versions wrote no sizes
        for path in (*self._shards, self.folder / STATISTICS):
            with opened(path) as file:  # refuses a file that is shorter or longer than its header says
                num_sets += file.get_slice("latents").get_shape()[0] if path.name != STATISTICS else 0
            size = path.stat().st_size
            if size != sizes.get(path.name, size):
                raise damaged(path, f"it has {size:,} bytes instead of {sizes[path.name]:,}")
        if num_sets != len(self):
            raise InputError(
                f"{self.folder}: the shards hold {num_sets} latent sets, but the manifest says {len(self)}; delete the folder and "
                "encode again"
            )

    def _compare_hash(self, path: Path) -> None:
        if not path.exists():
            raise missing(path)
        if file_hash(path) != self.manifest["files"].get(path.name):
            raise damaged(path, "its hash does not match")
