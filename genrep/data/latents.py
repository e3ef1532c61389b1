"""The latent cache: a data set's latents, encoded once, in safetensors shards that training memory-maps.

A cache folder holds:
- `manifest.json`: what was encoded, by which autoencoder, and the hashes of all files;
- `statistics.safetensors`: mean and standard deviation, see `LatentStatistics`;
- `latents-00000-of-00003.safetensors`: `latents` [n, views, R, D], `labels` [n] if there are any and, if sets differ in
  size, `mask` [n, views, R], with rows in the order of the data set; view 0 is the signal and, with `latents.flips`, view 1
  its mirror image; with several `latents.fits`, further fits of both follow in the same order;
  if the signals differ in size, `sizes` [n, axes] (`data.native_size`);
- `held_out-00000-of-00001.safetensors`: the same for the held-out split, with one view.

With its autoencoder, a cache is all that stage 2 needs; the images may be elsewhere. Encoding on the fly, and the choice
between the two, is in `genrep/training/latents.py`.
"""

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data import BaseDataSpec, LatentsSpec
from genrep.data.signals import SignalData
from genrep.decoders.anchored import AnchoredDecoder
from genrep.encoders.fit import CloudFit
from genrep.errors import InputError
from genrep.files import file_hash, remove, replacing, write_json
from genrep.lock import LOCK, FolderLock
from genrep.models.autoencoder import INRAutoencoder

POINTS_AT_ONCE = 2**24
"""Pixels of images of different sizes that are read and encoded at a time."""
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
STATISTICS = "statistics.safetensors"
FORMAT = 2
INFORMATION = ("source", "class_names", "selection")
"""Manifest keys that may differ: they tell where the images were, not what they are."""
LATER_FIT_KEYS = {"share": None, "betas": [0.9, 0.999], "penalty": 0.0}
"""Keys of encoder fit that models of earlier versions lack, and the values at which they fit as before."""
OPTIONAL = {"fits": 1}
"""Manifest keys that are left out at these values, as in the caches of earlier versions."""


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


def autoencoder_hash(autoencoder: INRAutoencoder) -> str:
    """Hash of the weights and the config; equal for equal models, wherever they are saved."""
    public = {key: value for key, value in autoencoder.config.items() if not key.startswith("_")}
    for key, defaults in (("signal", (None, {"type": "image"})), ("missing", (False,))):
        if public.get(key) in defaults:  # models of earlier versions lack the key, and must keep their hash
            public.pop(key, None)
    public["encoder"] = {  # likewise
        key: value
        for key, value in dict(public["encoder"]).items()
        if key not in LATER_FIT_KEYS or value != LATER_FIT_KEYS[key]
    }
    # the config counts as well, since two decoders can have the same weights and other bandwidths
    digest = hashlib.sha256(json.dumps(public, sort_keys=True, default=list).encode())
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def cache_settings(autoencoder: INRAutoencoder, spec: LatentsSpec) -> dict[str, Any]:
    """The manifest entries that a cache must have for this autoencoder and these settings, whatever the images.

    InputError for several fits with an encoder that is a network.
    """
    spec.check_encoder(autoencoder.spec.encoder.type)
    settings = {
        "format": FORMAT,
        "autoencoder": autoencoder_hash(autoencoder),
        "num_views": spec.num_views,
        "fits": spec.fits,
        "latent_shape": list(autoencoder.latent_shape),
        "dtype": spec.dtype,
        "shard_size": spec.shard_size,
    }
    return {key: value for key, value in settings.items() if OPTIONAL.get(key) != value}


def cache_manifest(autoencoder: INRAutoencoder, data: SignalData, spec: LatentsSpec) -> dict[str, Any]:
    """The manifest entries that a cache must have for this autoencoder, these images and these settings."""
    return {
        **cache_settings(autoencoder, spec),
        "data": data.fingerprint(),
        "source": data.name,
        "selection": data.spec.selection(),
        "transform": data.transform(),
        "num_images": len(data),
        "labelled": data.labels is not None,
        "class_names": data.class_names,
    }


def has_cache(folder: Path | str, split: str = "train") -> bool:
    """Whether a folder holds a complete cache that includes this split."""
    path = Path(folder) / MANIFEST
    return path.exists() and (split == "train" or "held_out" in _read_manifest(path))


@torch.no_grad()
def encode_views(
    autoencoder: INRAutoencoder, data: SignalData, kept: Tensor, flips: bool, fits: int = 1
) -> tuple[Float[Tensor, "batch views tokens latent"], Bool[Tensor, "batch views tokens"] | None]:
    """Stored signals => the latents of every signal and, with `flips`, of its mirror image, in every fit; and their mask."""
    # mirrored before encoding: mirroring the tokens of a set afterwards has no meaning
    kept = kept.to(autoencoder.device)
    views = [kept, data.mirrored(kept)] if flips else [kept]
    sets = [autoencoder.encode_set(data.signal.values(view), fit) for fit in range(fits) for view in views]
    masks = [mask for _, mask in sets if mask is not None]
    return torch.stack([latents for latents, _ in sets], dim=1), torch.stack(masks, dim=1) if masks else None


def count_tokens(
    latents: Shaped[Tensor, "*sets tokens latent"], mask: Bool[Tensor, "*sets tokens"] | None
) -> Counter[int]:
    """How many sets have how many tokens in use."""
    if mask is None:
        return Counter({latents.shape[-2]: math.prod(latents.shape[:-2])})
    return Counter(mask.sum(-1).flatten().tolist())


def groups_of_size(data: SignalData, indices: Sequence[int]) -> Iterator[list[int]]:
    """Which of the `indices` to encode together, as positions in that list: signals of the same size, as many as fit memory."""
    if not data.has_sizes:
        yield list(range(len(indices)))
        return
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, size in enumerate(data.sizes_of(indices).tolist()):
        rows_of.setdefault(tuple(size), []).append(row)
    for size, rows in rows_of.items():
        at_once = max(1, POINTS_AT_ONCE // math.prod(size))
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once]


@torch.no_grad()
def encode_rows(
    autoencoder: INRAutoencoder, data: SignalData, indices: Sequence[int], flips: bool, fits: int = 1
) -> tuple[Float[Tensor, "batch views tokens latent"], Bool[Tensor, "batch views tokens"] | None, list[float]]:
    """`encode_views` of signals by index, and if they are fitted, the PSNR of the first view of each."""
    order: list[int] = []
    parts, masks = [], []
    decibels: list[float] = []
    for rows in groups_of_size(data, indices):
        kept = data.read([indices[row] for row in rows])
        views, mask = encode_views(autoencoder, data, kept, flips, fits)
        parts.append(views)
        masks += [] if mask is None else [mask]
        order += rows
        # how good a fit is depends on its settings, so it is worth knowing before all signals are fitted
        if isinstance(autoencoder.encoder, CloudFit):
            decibels += _psnr(autoencoder, data, kept, views, mask)
    back = torch.tensor(order).argsort()
    return torch.cat(parts)[back], torch.cat(masks)[back] if masks else None, decibels


def _psnr(
    autoencoder: INRAutoencoder, data: SignalData, kept: Tensor, views: Tensor, mask: Tensor | None
) -> list[float]:
    """PSNR of the render of each signal's first view."""
    # of one view: a render is cheap next to the hundreds of steps of a fit, whose last losses are of parts of the pixels
    values = data.signal.values(kept.to(autoencoder.device))
    size = values.shape[2:]
    mask = None if mask is None else mask[:, 0]
    render = autoencoder.render(views[:, 0], size=size, region=autoencoder.region_of(size), mask=mask)
    psnr: list[float] = data.signal.psnr(render, values).tolist()
    return psnr


def check_sizes(autoencoder: INRAutoencoder, data: SignalData) -> None:
    """InputError if signals have sizes of their own that the autoencoder cannot encode."""
    if not data.has_sizes:
        return
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    if not (isinstance(encoder, CloudFit) and isinstance(decoder, AnchoredDecoder)):
        raise InputError(
            f"data.native_size needs an autoencoder that encodes images of any size (encoder fit), and this one takes "
            f"{' × '.join(map(str, autoencoder.image_shape))}: leave native_size out"
        )
    sizes = data.sizes_of(range(len(data)))
    areas = sizes.prod(dim=1)
    for index in (int(areas.argmin()), int(areas.argmax())):
        try:
            encoder.num_anchors(sizes[index].tolist(), decoder)
        except InputError as error:
            raise InputError(f"{data.name}: {data.row_name(index)}: {error}") from None


def write_cache(
    autoencoder: INRAutoencoder,
    data: SignalData,
    spec: LatentsSpec,
    folder: Path,
    process: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] = lambda: None,
    held_out: SignalData | None = None,
) -> None:
    """Encode a data set into `folder`. After an interruption, calling it again keeps the complete shards and continues.

    A complete cache is left alone, except that a missing held-out split is added.

    Args:
        process: (rank, number of processes); each process encodes its own shards.
        barrier: waits for all processes.
        held_out: the held-out split, to be encoded as well.

    Raises:
        InputError: the folder holds a cache of something else, is in use by another process, or is not writable.
    """
    rank, num_processes = process
    manifest = cache_manifest(autoencoder, data, spec)

    # A manifest is the mark of a complete cache; it is written last. Shards are written under temporary names. So a folder
    # without a manifest is work in progress, and every shard in it is complete.
    def is_done() -> bool:
        if not (folder / MANIFEST).exists():
            return False
        _refuse_other(folder / MANIFEST, manifest)
        return held_out is None or has_cache(folder, "held_out")

    if is_done():  # before locking, which writes: a shared cache may be read-only
        return
    for signals in (data, held_out):
        if signals is not None:
            check_sizes(autoencoder, signals)  # all of them now, rather than one after hours of encoding
    with FolderLock(folder, "a latent cache") if rank == 0 else contextlib.nullcontext():
        barrier()  # from here on only these processes change the folder
        if is_done():
            return
        adds_held_out, unfinished = (folder / MANIFEST).exists(), folder / UNFINISHED
        new_manifest = _read_manifest(folder / MANIFEST) if adds_held_out else dict(manifest)
        if held_out is not None:
            new_manifest["held_out"] = _describe_held_out(held_out)
        # an interrupted call of the same settings is continued, one of others is refused
        unfinished_manifest = _read_json(unfinished) if unfinished.exists() else None
        if unfinished_manifest is not None:
            _refuse_other(unfinished, manifest)
        if rank == 0:
            # Shards without a manifest could be of anything: only those that an unfinished call of this same cache left,
            # described by UNFINISHED, are kept.
            strays = ["*.partial"]
            if unfinished_manifest is None and not adds_held_out:
                strays.append("latents-*.safetensors")
            if unfinished_manifest is None or _held_out_data(unfinished_manifest) != _held_out_data(new_manifest):
                strays.append("held_out-*.safetensors")
            for stray in [path for pattern in strays for path in folder.glob(pattern)]:
                remove(stray)
            if not adds_held_out:
                write_json(unfinished, new_manifest)
        barrier()

        def encode(images: SignalData, prefix: str, flips: bool, fits: int) -> list[str]:
            starts = range(0, len(images), spec.shard_size)
            # the number of shards is part of their names, so that shards of another size are not taken for these
            names = [_shard_name(prefix, number, len(starts)) for number in range(len(starts))]
            with tqdm(total=len(images), desc=f"encoding {images.name}", unit=" images", disable=rank > 0) as bar:
                decibels: list[float] = []
                for number, start in enumerate(starts):
                    stop = min(start + spec.shard_size, len(images))
                    # a shard that exists is complete: an interrupted call left it
                    if number % num_processes != rank or (folder / names[number]).exists():
                        continue
                    parts, masks = [], []
                    for first in range(start, stop, spec.batch):
                        indices = range(first, min(first + spec.batch, stop))
                        # batches never cross shards: the latents are the same to the bit however many processes encode
                        views, mask, psnr = encode_rows(autoencoder, images, indices, flips, fits)
                        decibels += psnr
                        if decibels and rank == 0:
                            bar.set_postfix(psnr=f"{sum(decibels) / len(decibels):.2f} dB")
                        parts.append(views.to(getattr(torch, spec.dtype)).cpu())
                        masks += [] if mask is None else [mask.cpu()]
                        bar.update(len(indices) * num_processes)
                    tensors = {"latents": torch.cat(parts)}
                    if masks:
                        tensors["mask"] = torch.cat(masks)
                    if images.has_sizes:
                        tensors["sizes"] = images.sizes_of(range(start, stop)).int()
                    if images.labels is not None:
                        tensors["labels"] = images.labels[start:stop].clone()
                    _save_whole(tensors, folder / names[number])
            return names

        # held-out signals are measured, never mirrored: one view is enough
        names = [] if adds_held_out else encode(data, "latents", spec.flips, spec.fits)
        held_out_names = [] if held_out is None else encode(held_out, "held_out", flips=False, fits=1)
        barrier()
        if rank == 0:
            # computed from the finished shards: a call that continued has not seen all of the latents
            if not adds_held_out:
                statistics = LatentStatistics(autoencoder.latent_shape, autoencoder.position_dim)
                for name in names:
                    masks = _read_optional(folder / name, "mask")
                    for number, part in enumerate(_read_shard(folder / name, "latents").split(spec.batch)):
                        mask = None if masks is None else masks[number * spec.batch :][: len(part)].flatten(0, 1)
                        statistics.update(part.flatten(0, 1), mask)
                _save_whole({"mean": statistics.mean.float(), "std": statistics.std.float()}, folder / STATISTICS)
                names.append(STATISTICS)
            new_files = [folder / name for name in (*names, *held_out_names)]
            new_manifest["files"] = {**new_manifest.get("files", {}), **_hashes(new_files)}
            sizes = {path.name: path.stat().st_size for path in new_files}
            new_manifest["sizes"] = {**new_manifest.get("sizes", {}), **sizes}
            write_json(folder / MANIFEST, new_manifest)  # last: a folder with a manifest is a complete cache
            remove(unfinished)
        barrier()


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
            _refuse_other(path, expected)
        self.manifest = _read_manifest(path)
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
        self._shards = [self.folder / _shard_name(prefix, number, count) for number in range(count)]
        self._opened: dict[int, Tensor] = {}
        self._check_lengths()
        # the statistics are small, and a bit flipped there would shift every latent: they are hashed in any case
        if verify:
            self.verify()
        else:
            self._compare_hash(self.folder / STATISTICS)
        self.mean, self.std = (_read_shard(self.folder / STATISTICS, name) for name in ("mean", "std"))
        self.labels = (
            torch.cat([_read_shard(shard, "labels") for shard in self._shards]) if self._of_split["labelled"] else None
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
        with _hashing_bar(paths) as bar:
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
        parts = [_read_optional(shard, name) for shard in self._shards]
        return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])

    def _open(self, number: int) -> Tensor:
        if number not in self._opened:
            # flattened to [n · views, R, D], so that a row is one latent set whatever the view
            self._opened[number] = _read_shard(self._shards[number], "latents").flatten(0, 1)
        return self._opened[number]

    def _check_lengths(self) -> None:
        """InputError unless every file has the size recorded for it, and the shards together one latent set per image."""
        # Finds interrupted copies without reading the data: hashing would read 168 GB for ImageNet.
        sizes, num_sets = self.manifest.get("sizes", {}), 0  # earlier versions wrote no sizes
        for path in (*self._shards, self.folder / STATISTICS):
            with _opened(path) as file:  # refuses a file that is shorter or longer than its header says
                num_sets += file.get_slice("latents").get_shape()[0] if path.name != STATISTICS else 0
            size = path.stat().st_size
            if size != sizes.get(path.name, size):
                raise _damaged(path, f"it has {size:,} bytes instead of {sizes[path.name]:,}")
        if num_sets != len(self):
            raise InputError(
                f"{self.folder}: the shards hold {num_sets} latent sets, but the manifest says {len(self)}; delete the folder and "
                "encode again"
            )

    def _compare_hash(self, path: Path) -> None:
        if not path.exists():
            raise _missing(path)
        if file_hash(path) != self.manifest["files"].get(path.name):
            raise _damaged(path, "its hash does not match")


def _describe_held_out(data: SignalData) -> dict[str, Any]:
    return {
        "data": data.fingerprint(),
        "source": data.name,
        "num_images": len(data),
        "labelled": data.labels is not None,
    }


def _held_out_data(manifest: dict[str, Any]) -> str | None:
    return manifest.get("held_out", {}).get("data")


def _shard_name(prefix: str, number: int, count: int) -> str:
    return f"{prefix}-{number:05d}-of-{count:05d}.safetensors"


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path}: this shard is damaged ({why}); delete the folder and encode again")


def _missing(path: Path) -> InputError:
    return InputError(f"{path}: this shard is missing; delete the folder and encode again")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose header has been read and checked."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise _missing(path) from None
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_shard(path: Path, name: str) -> Tensor:
    """A tensor of a shard, memory-mapped: rows are read from disk when accessed, and processes share them in memory."""
    with _opened(path) as file:
        return file.get_tensor(name)


def _read_optional(path: Path, name: str) -> Tensor | None:
    """A tensor of a shard; None if the shard lacks it, as one whose sets all have the same size lacks the mask."""
    with _opened(path) as file:
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 a safetensors file is not a mapping


def _save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial)


def _hashing_bar(paths: Sequence[Path]) -> tqdm:
    total = sum(path.stat().st_size for path in paths if path.exists())  # the bar is shown from 1 GiB
    return tqdm(total=total, desc="hashing the latents", unit="B", unit_scale=True, disable=total < 2**30)


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    hashes = {}
    with _hashing_bar(paths) as bar:
        for path in paths:
            hashes[path.name] = file_hash(path)
            bar.update(path.stat().st_size)
    return hashes


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete the folder and encode again") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: damaged (it must hold a JSON object; got {type(content).__name__}); delete the folder and encode again"
        )
    return content


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a complete cache. InputError if it has another format, or lacks a required entry."""
    manifest = _read_json(path)
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: format must be {FORMAT}; got {manifest.get('format')}: delete the folder and encode again"
        )
    of_split = {"data": str, "source": str, "num_images": int, "labelled": bool}
    kinds = {
        "num_views": int,
        "shard_size": int,
        "latent_shape": list,
        "dtype": str,
        "class_names": list,
        "files": dict,
    }
    parts = [("", {**of_split, **kinds}, manifest)]
    if "held_out" in manifest:
        parts.append(("held_out.", of_split, manifest["held_out"]))
    for prefix, required, part in parts:
        for key, kind in required.items():
            if not isinstance(part, dict) or not isinstance(part.get(key), kind):
                raise InputError(
                    f"{path}: damaged ({prefix}{key} is missing or wrong); delete the folder and encode again"
                )
    return manifest


def _refuse_other(path: Path, expected: dict[str, Any]) -> None:
    """InputError if a manifest's entries differ from the expected ones."""
    manifest = _read_json(path)
    differences = [
        f"{key}: the cache has {manifest.get(key, OPTIONAL.get(key))!r}, this run needs {value!r}"
        for key, value in {**OPTIONAL, **expected}.items()
        if key not in INFORMATION and manifest.get(key, OPTIONAL.get(key)) != value
    ]
    if differences:
        raise InputError(
            f"{path}: this cache was made from something else. Delete its folder, or set latents.folder to another one.\n  "
            + "\n  ".join(differences)
        )
