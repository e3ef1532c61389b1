"""What stage 2 and the sampling scripts find of earlier stages: model folders, configs, sizes; and dry runs."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from genrep.data import DataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.specs import AutoencoderSpec
from genrep.specs import Spec, validate
from genrep.training.config import read_config
from genrep.training.specs import AutoencoderRun

S = TypeVar("S", bound=Spec)


def model_folder(place: str | Path, name: str = "model") -> Path:
    """The folder to load from: `place/model` of a run folder, or `place` itself."""
    return Path(place) / name if (Path(place) / name).is_dir() else Path(place)


def load_autoencoder(place: str, config_path: str | None = None) -> INRAutoencoder:
    """Stage 1's model, frozen, from a run or model folder. InputError says how to train it if it is not there."""
    folder = model_folder(place)
    if not (folder / "config.json").exists():
        maker = _maker(place, config_path)
        how = (
            f"train it first: python train/autoencoder.py {maker}"
            if maker
            else "give the run or model folder of stage 1"
        )
        raise InputError(f"autoencoder {place!r}: no model there (no {folder / 'config.json'}); {how}")
    return INRAutoencoder.from_pretrained(folder).freeze()


def describe_autoencoder(place: str, config_path: str) -> AutoencoderSpec:
    """What stage 1's model is, for a dry run: from its folder or, if it is not trained yet, from the YAML that makes it."""
    folder = model_folder(place)
    if (folder / "config.json").exists():
        config = INRAutoencoder.load_config(folder)
        return validate(
            AutoencoderSpec,
            {key: value for key, value in config.items() if key in AutoencoderSpec.model_fields},
            where=str(folder),
        )
    maker = _maker(place, config_path)
    if maker is None:
        raise InputError(
            f"autoencoder {place!r}: no model there, and no YAML beside {config_path} makes one; give the run or model folder of stage 1"
        )
    print(f"autoencoder {place} is not trained yet; sizes are taken from {maker}")
    return validate(AutoencoderRun, read_config(maker), where=str(maker)).autoencoder


def run_config(folder: Path | str, kind: type[S]) -> S:
    """The config of a run folder. InputError if there is none."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(
            f"{folder}: no run folder (no config.yaml there); give the folder that a training script wrote"
        )
    return validate(kind, read_config(path), where=str(path))


def folder_hash(folder: Path) -> str:
    """Hash of the model files (JSON and safetensors) in a folder and below it."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def build_empty(model_class: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """A model without memory for its weights (torch's meta device)."""
    with torch.device("meta"):
        return model_class(**arguments)


def num_parameters(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def print_parts(name: str, model: nn.Module) -> None:
    """Parameters of a model, by part."""
    print(f"{name}: {num_parameters(model):,} parameters")
    for part, module in model.named_children():
        print(f"  {part}: {num_parameters(module):,}")


def print_memory(part: int, state: int, activations: int) -> None:
    """What `training_memory` found, for a part of a step of `part` images."""
    print(
        f"memory of a training step in fp32: {state / 2**30:.2f} GiB of weights, gradients and averages, and for {part} images at a "
        f"time (run.batch / run.accumulation / processes) {activations / 2**30:.2f} GiB of activations; work space comes on top"
    )


def check_data(spec: DataSpec, image_shape: tuple[int, int], channels: int) -> int:
    """Open both splits and read one image of each, for a dry run; returns the number of classes."""
    light = spec.model_copy(update={"in_memory": False, "on_bad_image": "stop"})
    for split in ("train", "held_out"):
        data = ImageData(light, split, image_shape, channels)
        pixels = data[0]
        classes = f", {len(data.class_names)} classes" if data.class_names else ", no labels"
        print(f"data: {data.name}: {len(data):,} images as {' × '.join(map(str, pixels.shape))}{classes}")
    return len(data.class_names)


def _maker(place: str, config_path: str | None) -> Path | None:
    """The stage-1 YAML beside `config_path` whose run folder is `place`."""
    for path in sorted(Path(config_path).parent.glob("*.yaml")) if config_path else []:
        content = read_config(path)
        if isinstance(content.get("autoencoder"), dict) and Path(content.get("run", {}).get("folder", "")) == Path(
            place
        ):
            return path
    return None
