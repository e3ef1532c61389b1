"""Encoding a data set into a latent cache: many signals at a time, by all processes, and again from where it stopped."""

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data import LatentsSpec
from genrep.data.latents import LatentStatistics, has_cache
from genrep.data.shards import (
    FORMAT,
    MANIFEST,
    OPTIONAL,
    STATISTICS,
    UNFINISHED,
    hashes,
    read_json,
    read_manifest,
    read_optional,
    read_shard,
    refuse_other,
    save_whole,
    shard_name,
)
from genrep.data.signals import SignalData
from genrep.decoders.anchored import AnchoredDecoder
from genrep.encoders.fit import CloudFit
from genrep.errors import InputError
from genrep.files import remove, write_json
from genrep.lock import FolderLock
from genrep.models.autoencoder import INRAutoencoder

POINTS_AT_ONCE = 2**24
"""Pixels of images of different sizes that are read and encoded at a time."""
LATER_FIT_KEYS = {"share": None, "betas": [0.9, 0.999], "penalty": 0.0}
"""Keys of encoder fit that models of earlier versions lack, and the values at which they fit as before."""


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
    rank = process[0]
    manifest = cache_manifest(autoencoder, data, spec)

    # A manifest is the mark of a complete cache; it is written last. Shards are written under temporary names. So a folder
    # without a manifest is work in progress, and every shard in it is complete.
    def is_done() -> bool:
        if not (folder / MANIFEST).exists():
            return False
        refuse_other(folder / MANIFEST, manifest)
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
        adds_held_out = (folder / MANIFEST).exists()
        new_manifest = read_manifest(folder / MANIFEST) if adds_held_out else dict(manifest)
        if held_out is not None:
            new_manifest["held_out"] = _describe_held_out(held_out)
        # an interrupted call of the same settings is continued, one of others is refused
        if (folder / UNFINISHED).exists():
            refuse_other(folder / UNFINISHED, manifest)
        if rank == 0:
            _delete_strays(folder, new_manifest)
            if not adds_held_out:
                write_json(folder / UNFINISHED, new_manifest)
        barrier()
        names, held_out_names = [], []
        if not adds_held_out:
            names = _encode_shards(autoencoder, data, spec, folder, "latents", process)
        if held_out is not None:
            # held-out signals are measured, never mirrored: one view is enough
            one_view = spec.model_copy(update={"flips": False, "fits": 1})
            held_out_names = _encode_shards(autoencoder, held_out, one_view, folder, "held_out", process)
        barrier()
        if rank == 0:
            if not adds_held_out:
                statistics = _statistics_of(autoencoder, [folder / name for name in names], spec.batch)
                save_whole({"mean": statistics.mean.float(), "std": statistics.std.float()}, folder / STATISTICS)
                names.append(STATISTICS)
            new_files = [folder / name for name in (*names, *held_out_names)]
            new_manifest["files"] = {**new_manifest.get("files", {}), **hashes(new_files)}
            sizes = {path.name: path.stat().st_size for path in new_files}
            new_manifest["sizes"] = {**new_manifest.get("sizes", {}), **sizes}
            write_json(folder / MANIFEST, new_manifest)  # last: a folder with a manifest is a complete cache
            remove(folder / UNFINISHED)
        barrier()


def _delete_strays(folder: Path, new_manifest: dict[str, Any]) -> None:
    """Delete shards that are not of the cache about to be written."""
    # Shards without a manifest could be of anything: only those that an unfinished call of this same cache left,
    # described by UNFINISHED, are kept.
    unfinished = read_json(folder / UNFINISHED) if (folder / UNFINISHED).exists() else None
    strays = ["*.partial"]
    if unfinished is None and not (folder / MANIFEST).exists():
        strays.append("latents-*.safetensors")
    if unfinished is None or _held_out_data(unfinished) != _held_out_data(new_manifest):
        strays.append("held_out-*.safetensors")
    for path in [path for pattern in strays for path in folder.glob(pattern)]:
        remove(path)


def _encode_shards(
    autoencoder: INRAutoencoder,
    data: SignalData,
    spec: LatentsSpec,
    folder: Path,
    prefix: str,
    process: tuple[int, int],
) -> list[str]:
    """Encode a split; every process writes its own shards, without those that are there. Returns the names of all shards."""
    rank, num_processes = process
    starts = range(0, len(data), spec.shard_size)
    # the number of shards is part of their names, so that shards of another size are not taken for these
    names = [shard_name(prefix, number, len(starts)) for number in range(len(starts))]
    decibels: list[float] = []
    with tqdm(total=len(data), desc=f"encoding {data.name}", unit=" images", disable=rank > 0) as bar:
        for number, start in enumerate(starts):
            stop = min(start + spec.shard_size, len(data))
            # a shard that exists is complete: an interrupted call left it
            if number % num_processes != rank or (folder / names[number]).exists():
                continue
            parts, masks = [], []
            for first in range(start, stop, spec.batch):
                indices = range(first, min(first + spec.batch, stop))
                # batches never cross shards: the latents are the same to the bit however many processes encode
                views, mask, psnr = encode_rows(autoencoder, data, indices, spec.flips, spec.fits)
                decibels += psnr
                if decibels and rank == 0:
                    bar.set_postfix(psnr=f"{sum(decibels) / len(decibels):.2f} dB")
                parts.append(views.to(getattr(torch, spec.dtype)).cpu())
                masks += [] if mask is None else [mask.cpu()]
                bar.update(len(indices) * num_processes)
            tensors = {"latents": torch.cat(parts)}
            if masks:
                tensors["mask"] = torch.cat(masks)
            if data.has_sizes:
                tensors["sizes"] = data.sizes_of(range(start, stop)).int()
            if data.labels is not None:
                tensors["labels"] = data.labels[start:stop].clone()
            save_whole(tensors, folder / names[number])
    return names


def _statistics_of(autoencoder: INRAutoencoder, shards: Sequence[Path], batch: int) -> LatentStatistics:
    """Statistics of finished shards: a call that continued has not seen all of the latents."""
    statistics = LatentStatistics(autoencoder.latent_shape, autoencoder.position_dim)
    for shard in shards:
        masks = read_optional(shard, "mask")
        for number, part in enumerate(read_shard(shard, "latents").split(batch)):
            mask = None if masks is None else masks[number * batch :][: len(part)].flatten(0, 1)
            statistics.update(part.flatten(0, 1), mask)
    return statistics


def _describe_held_out(data: SignalData) -> dict[str, Any]:
    return {
        "data": data.fingerprint(),
        "source": data.name,
        "num_images": len(data),
        "labelled": data.labels is not None,
    }


def _held_out_data(manifest: dict[str, Any]) -> str | None:
    return manifest.get("held_out", {}).get("data")
