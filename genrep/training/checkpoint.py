"""Checkpoints: everything needed to resume, written under a temporary name, renamed when complete, verified when read.

A checkpoint folder holds safetensors (weights, averages), `optimizer.pt` (read with `weights_only`), and `checkpoint.json`
with the step and a hash of every file. No pickle is ever executed.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from genrep.errors import InputError
from genrep.files import file_hash, replacing, write_json

INDEX = "checkpoint.json"


@dataclass
class Checkpoint:
    """The state that a run resumes from.

    Attributes:
        step: optimizer steps completed.
        tensors: name -> tensors by name, e.g. "denoiser" -> its state dict.
        optimizers: name -> state, as returned by `Optimizer.state_dict`.
        extra: plain data.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    optimizers: Mapping[str, Any]
    extra: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-00001000`, complete or not at all, then delete all but the newest `keep`."""
    target = folder / f"step-{checkpoint.step:08d}"
    with replacing(target) as partial:
        partial.mkdir()
        for name, tensors in checkpoint.tensors.items():
            # safetensors refuses tensors that are not contiguous, such as transposed weights
            contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(contiguous, partial / f"{name}.safetensors")
        # an optimizer's state is nested (groups, step counts), which safetensors cannot hold
        for name, state in checkpoint.optimizers.items():
            torch.save(state, partial / f"{name}.pt")
        files = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
        index = {"step": checkpoint.step, "extra": dict(checkpoint.extra), "files": files}
        write_json(partial / INDEX, {**index, "sha256": _hash_index(index)})
    # only now: a full disk or a kill above must leave the previous checkpoint in place
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every byte of it.

    Raises:
        InputError: a file is damaged or missing; names it.
    """
    advice = f"delete {path} to resume from the checkpoint before it, or start over with --restart"
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        files, step, extra = index["files"], int(index["step"]), index["extra"]
        if index.pop("sha256") != _hash_index(index):
            raise ValueError("its hash does not match")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / INDEX}: damaged or missing ({error}); {advice}") from None
    # all files before any is loaded: a damaged checkpoint is refused as a whole
    for name, expected_hash in files.items():
        file = path / name
        if not file.is_file() or file_hash(file) != expected_hash:
            raise InputError(f"{file}: {'damaged' if file.is_file() else 'missing'}; {advice}")
    # load_file would memory-map the file, and Windows cannot delete a mapped checkpoint
    tensors = {
        file.removesuffix(".safetensors"): load((path / file).read_bytes())
        for file in files
        if file.endswith(".safetensors")
    }
    optimizers = {
        file.removesuffix(".pt"): torch.load(path / file, map_location="cpu", weights_only=True)
        for file in files
        if file.endswith(".pt")
    }
    return Checkpoint(step, tensors, optimizers, extra)


def _hash_index(index: Mapping[str, Any]) -> str:
    # the index lists the hashes of all other files, so its own hash covers the whole checkpoint
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
