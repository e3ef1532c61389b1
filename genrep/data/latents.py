"""Latents of a data set, encoded once: safetensors shards that training memory-maps, a manifest, and statistics.

A cache folder holds `manifest.json`, `statistics.safetensors` (mean and deviation for every token and channel) and
`latents-00000-of-00003.safetensors` (`latents` [n, views, R, D] and, with labels, `labels` [n]), rows in the order of
the data set. View 0 is the image, view 1 its mirror image.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data import LatentsSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.render import from_uint8

MANIFEST = "manifest.json"
STATISTICS = "statistics.safetensors"
FORMAT = 2


class LatentStatistics:
    """Mean and deviation for every token and channel over what it has seen, in float64 (Chan's pairwise update)."""

    def __init__(self, shape: Sequence[int]):
        self.count = 0
        self.mean = torch.zeros(*shape, dtype=torch.float64)
        self.squares = torch.zeros(*shape, dtype=torch.float64)

    def update(self, latents: Float[Tensor, "batch tokens latent"]) -> None:
        latents = latents.cpu().double()  # in this order: Apple's GPUs have no float64
        mean, count = latents.mean(0), len(latents)
        delta, total = mean - self.mean, self.count + count
        self.squares += ((latents - mean) ** 2).sum(0) + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def std(self) -> Float[Tensor, "tokens latent"]:
        """Population deviation."""
        return (self.squares / max(1, self.count)).sqrt()


def autoencoder_hash(autoencoder: INRAutoencoder) -> str:
    """Hash of the weights and of what they mean; equal for equal models wherever they are saved."""
    public = {key: value for key, value in autoencoder.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(public, sort_keys=True, default=list).encode())
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def cache_manifest(autoencoder: INRAutoencoder, data: ImageData, spec: LatentsSpec) -> dict[str, Any]:
    """What a cache must say to be the right one for this autoencoder, these images and these settings."""
    return {
        "format": FORMAT,
        "autoencoder": autoencoder_hash(autoencoder),
        "data": data.fingerprint(),
        "source": data.name,
        "transform": data.transform(),
        "num_images": len(data),
        "num_views": 2 if spec.flips else 1,
        "latent_shape": list(autoencoder.latent_shape),
        "dtype": spec.dtype,
        "shard_size": spec.shard_size,
        "labelled": data.labels is not None,
        "class_names": data.class_names,
    }


@torch.no_grad()
def encode_views(
    autoencoder: INRAutoencoder, pixels: Tensor, flips: bool
) -> Float[Tensor, "batch views tokens latent"]:
    """uint8 images => latents of the image and, with `flips`, of its mirror image."""
    images = from_uint8(pixels.to(autoencoder.device))
    views = [images, images.flip(-1)] if flips else [images]
    return torch.stack([autoencoder.encoder(view) for view in views], dim=1)  # unchecked: these are finite


def write_cache(
    autoencoder: INRAutoencoder,
    data: ImageData,
    spec: LatentsSpec,
    folder: Path,
    process: tuple[int, int] = (0, 1),
    barrier: Callable[[], None] = lambda: None,
) -> None:
    """Encode a data set into `folder`; shards that are there whole are kept, so an interrupted call goes on.

    Args:
        process: (rank, number of processes); each encodes its own shards.
        barrier: waits for all processes.

    Raises:
        InputError: the folder holds a cache of something else.
    """
    manifest = cache_manifest(autoencoder, data, spec)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "unfinished.json"
    if (folder / MANIFEST).exists():
        _refuse_other(folder / MANIFEST, manifest)
        return
    if unfinished.exists():
        _refuse_other(unfinished, manifest)
    barrier()
    rank, num_processes = process
    if rank == 0:
        if not unfinished.exists():  # nobody knows what shards without a manifest are of
            for stray in folder.glob("latents-*.safetensors"):
                stray.unlink()
        _write_json(unfinished, manifest)
    barrier()
    starts = range(0, len(data), spec.shard_size)
    with tqdm(total=len(data), desc="encoding", unit=" images", disable=rank > 0) as bar:
        for number, start in enumerate(starts):
            stop = min(start + spec.shard_size, len(data))
            path = folder / _shard_name(number, len(starts))
            if number % num_processes == rank and not path.exists():
                parts = []
                for first in range(start, stop, spec.batch):
                    indices = range(first, min(first + spec.batch, stop))
                    parts.append(
                        encode_views(autoencoder, data.pixels(indices), spec.flips).to(getattr(torch, spec.dtype)).cpu()
                    )
                    bar.update(len(indices) * num_processes)
                tensors = {"latents": torch.cat(parts)}
                if data.labels is not None:
                    tensors["labels"] = data.labels[start:stop].clone()
                _save_whole(tensors, path)
    barrier()
    if rank == 0:
        statistics = LatentStatistics(autoencoder.latent_shape)
        names = [_shard_name(number, len(starts)) for number in range(len(starts))]
        for name in names:
            for part in _read_shard(folder / name)["latents"].split(spec.batch):
                statistics.update(part.flatten(0, 1))
        _save_whole({"mean": statistics.mean.float(), "std": statistics.std.float()}, folder / STATISTICS)
        hashes = {name: _hash(folder / name) for name in (*names, STATISTICS)}
        _write_json(folder / MANIFEST, {**manifest, "files": hashes})
        unfinished.unlink()
    barrier()


class LatentCache:
    """A cache folder, memory-mapped.

    Args:
        folder: what `write_cache` wrote.
        expected: the manifest it must have, from `cache_manifest`; None takes any.
        verify: check the hash of every file.

    Raises:
        InputError: no cache, a damaged one, or one of other images, another autoencoder or other settings.
    """

    def __init__(self, folder: Path | str, expected: dict[str, Any] | None = None, verify: bool = True):
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).exists():
            raise InputError(
                f"{self.folder}: no latent cache here ({MANIFEST} is missing); write it with train/latents.py"
            )
        if expected is not None:
            _refuse_other(self.folder / MANIFEST, expected)
        self.manifest = _read_json(self.folder / MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise InputError(
                f"{self.folder / MANIFEST}: format {self.manifest.get('format')} is not {FORMAT}; encode again"
            )
        for name, wanted in self.manifest["files"].items() if verify else ():
            path = self.folder / name
            if path.exists() and _hash(path) != wanted:
                raise InputError(
                    f"{path}: this shard is damaged (its hash is another); delete the folder and encode again"
                )
        self.shard_size = self.manifest["shard_size"]
        count = -(-self.manifest["num_images"] // self.shard_size)
        self.shards = [_read_shard(self.folder / _shard_name(number, count)) for number in range(count)]
        found = sum(len(shard["latents"]) for shard in self.shards)
        if found != self.manifest["num_images"]:
            raise InputError(
                f"{self.folder}: {found} latents where the manifest says {self.manifest['num_images']}; delete the folder and encode again"
            )
        statistics = _read_shard(self.folder / STATISTICS)
        self.mean, self.std = statistics["mean"], statistics["std"]
        self.labels = torch.cat([shard["labels"] for shard in self.shards]) if self.manifest["labelled"] else None
        self.class_names: list[str] = self.manifest["class_names"]
        self.num_views: int = self.manifest["num_views"]

    def __len__(self) -> int:
        return int(self.manifest["num_images"])

    def latents(self, indices: Sequence[int], views: Sequence[int]) -> Float[Tensor, "batch tokens latent"]:
        """Latents by image index and view, float32."""
        rows = [
            self.shards[index // self.shard_size]["latents"][index % self.shard_size, view]
            for index, view in zip(map(int, indices), map(int, views), strict=True)
        ]
        return torch.stack(rows).float()

    def labels_of(self, indices: Sequence[int]) -> Int[Tensor, " batch"] | None:
        """Labels by image index, None without labels."""
        return None if self.labels is None else self.labels[torch.as_tensor(indices, dtype=torch.long)]


def _shard_name(number: int, count: int) -> str:
    return f"latents-{number:05d}-of-{count:05d}.safetensors"


def _read_shard(path: Path) -> dict[str, Tensor]:
    """Tensors of a shard, memory-mapped by safetensors: rows are read from disk when they are touched."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing; delete the folder and encode again") from None
    except SafetensorError as error:
        raise InputError(f"{path}: this shard is damaged ({error}); delete the folder and encode again") from error


def _save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete the folder and encode again") from error


def _refuse_other(path: Path, expected: dict[str, Any]) -> None:
    found = _read_json(path)
    differences = [
        f"{key}: the cache has {found.get(key)!r}, this run needs {value!r}"
        for key, value in expected.items()
        if key not in ("source", "class_names") and found.get(key) != value
    ]
    if differences:
        raise InputError(
            f"{path}: this cache was made from something else. Delete its folder, or set latents.folder to another.\n  "
            + "\n  ".join(differences)
        )
