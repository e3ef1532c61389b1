"""The files of a latent cache: shards in the safetensors format, and the manifest that describes them."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from genrep.errors import InputError
from genrep.files import file_hash, replacing

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
STATISTICS = "statistics.safetensors"
FORMAT = 2
INFORMATION = ("source", "class_names", "selection")
"""Manifest keys that may differ: they tell where the images were, not what they are."""
OPTIONAL = {"fits": 1}
"""Manifest keys that are left out at these values, as in the caches of earlier versions."""


def shard_name(prefix: str, number: int, count: int) -> str:
    return f"{prefix}-{number:05d}-of-{count:05d}.safetensors"


def damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path}: this shard is damaged ({why}); delete the folder and encode again")


def missing(path: Path) -> InputError:
    return InputError(f"{path}: this shard is missing; delete the folder and encode again")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose header has been read and checked."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise missing(path) from None
    except SafetensorError as error:
        raise damaged(path, error) from error


def read_shard(path: Path, name: str) -> Tensor:
    """A tensor of a shard, memory-mapped: rows are read from disk when accessed, and processes share them in memory."""
    with opened(path) as file:
        return file.get_tensor(name)


def read_optional(path: Path, name: str) -> Tensor | None:
    """A tensor of a shard; None if the shard lacks it, as one whose sets all have the same size lacks the mask."""
    with opened(path) as file:
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 a safetensors file is not a mapping


def save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial)


def hashing_bar(paths: Sequence[Path]) -> tqdm:
    total = sum(path.stat().st_size for path in paths if path.exists())  # the bar is shown from 1 GiB
    return tqdm(total=total, desc="hashing the latents", unit="B", unit_scale=True, disable=total < 2**30)


def hashes(paths: Sequence[Path]) -> dict[str, str]:
    hashes = {}
    with hashing_bar(paths) as bar:
        for path in paths:
            hashes[path.name] = file_hash(path)
            bar.update(path.stat().st_size)
    return hashes


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete the folder and encode again") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: damaged (it must hold a JSON object; got {type(content).__name__}); delete the folder and encode again"
        )
    return content


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a complete cache. InputError if it has another format, or lacks a required entry."""
    manifest = read_json(path)
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


def refuse_other(path: Path, expected: dict[str, Any]) -> None:
    """InputError if a manifest's entries differ from the expected ones."""
    manifest = read_json(path)
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
