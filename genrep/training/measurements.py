"""The kinds of run that train/compare.py compares: their scripts, the keys that must agree, and their measurements.

A new kind needs a subclass of Measurements, a function that measures a run, and an entry in KINDS.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genrep.errors import InputError
from genrep.specs import MAY_CHANGE, Spec, unmarked, validate
from genrep.training.comparison import Measurements, read_evaluations
from genrep.training.config import read_config
from genrep.training.specs import AutoencoderRun, FieldRun

if TYPE_CHECKING:  # so that a script's --help need not import torch
    import torch


@dataclass(frozen=True)
class AutoencoderMeasurements(Measurements):
    """Quality on `num_images` held-out images; the curve comes from the run's own evaluations, on `curve_images`."""

    encoder_parameters: int
    decoder_parameters: int
    representation: list[int]
    num_images: int
    curve_images: int

    def columns(self) -> dict[str, str]:
        return {
            "encoder + decoder parameters": f"{self.encoder_parameters:,} + {self.decoder_parameters:,}",
            "representation": " × ".join(map(str, self.representation)),
        }

    def note(self) -> str:
        return (
            f"PSNR and SSIM are measured at the end of each run on {self.num_images:,} held-out images, the two columns after "
            f"them on {self.curve_images:,}."
        )


@dataclass(frozen=True)
class FieldMeasurements(Measurements):
    """Quality on the field's signal at its last evaluation, and the field's cost."""

    parameters: int
    multiply_adds: int

    def columns(self) -> dict[str, str]:
        return {"parameters": f"{self.parameters:,}", "multiply-adds per point": f"{self.multiply_adds:,}"}


def measure_autoencoder(folder: Path, num_images: int, device: "torch.device") -> AutoencoderMeasurements:
    """Size of a trained autoencoder, and its quality on held-out images spread evenly over the split."""
    from genrep.data.signals import evenly
    from genrep.metrics.reconstruction import reconstruction_quality
    from genrep.training.describe import num_parameters
    from genrep.training.folders import load_autoencoder, run_config
    from genrep.training.latents import open_for

    spec = run_config(folder, AutoencoderRun)
    model = load_autoencoder(str(folder)).to(device)
    held_out = open_for(model, spec.data.light(), "held_out")
    indices = evenly(len(held_out), num_images)
    quality = reconstruction_quality(model, held_out, indices)
    return AutoencoderMeasurements(
        metrics={name: float(values.mean()) for name, values in quality.items()},
        encoder_parameters=num_parameters(model.encoder),
        decoder_parameters=num_parameters(model.decoder),
        representation=list(model.latent_shape),
        num_images=len(indices),
        curve_images=spec.run.evaluate_images or len(held_out),
    )


PROGRESS = ("step", "images", "seconds")
"""Keys of a line of metrics.jsonl that are not metrics."""


def measure_field(folder: Path, num_images: int, device: "torch.device") -> FieldMeasurements:
    """Size of a field, and its quality at its run's last evaluation, on the whole signal; `num_images` is ignored."""
    from genrep.models.field import NeuralField
    from genrep.training.cost import multiply_adds
    from genrep.training.describe import num_parameters
    from genrep.training.folders import model_folder

    field = NeuralField.from_pretrained(model_folder(folder)).to(device)
    last = read_evaluations(folder)[-1]
    metrics = {name: value for name, value in last.items() if name not in PROGRESS}
    return FieldMeasurements(metrics, num_parameters(field), multiply_adds(field))


def is_finished(folder: Path, spec: AutoencoderRun | FieldRun) -> bool:
    """Whether a folder holds the finished result of exactly this config, so that the run need not be started again."""
    if not (folder / "config.yaml").is_file() or not (folder / "model" / "config.json").is_file():
        return False
    written = validate(type(spec), read_config(folder / "config.yaml"), where=str(folder))
    last = read_evaluations(folder)[-1]
    return unmarked(written, MAY_CHANGE) == unmarked(spec, MAY_CHANGE) and last.get("step") == spec.run.num_steps


@dataclass(frozen=True)
class RunKind:
    """A kind of run; only runs of the same kind are compared."""

    config: type[AutoencoderRun] | type[FieldRun]
    script: str
    """The training script."""
    unit: str
    """Unit in which training is counted."""
    where: str
    """What its curves are measured on, appended to an axis label; may be empty."""
    shared: tuple[tuple[str, str], ...]
    """Keys in which compared configs must agree: (path in the validated config, its name in YAML)."""
    measure: Callable[[Path, int, "torch.device"], Measurements]


HOW_LONG = (("run.batch", "run.batch"), ("run.num_steps", "run.steps"), ("run.seconds", "run.seconds"))
AUTOENCODERS = RunKind(
    config=AutoencoderRun,
    script="train/autoencoder.py",
    unit="images",
    where="on held-out images",
    shared=(
        ("run.evaluate_images", "run.evaluate_images"),
        *HOW_LONG,
        ("data", "data"),
        ("autoencoder.image_shape", "autoencoder.image_size"),
        ("autoencoder.channels", "autoencoder.channels"),
    ),
    measure=measure_autoencoder,
)
FIELDS = RunKind(
    config=FieldRun,
    script="train/field.py",
    unit="steps",
    where="",
    shared=(*HOW_LONG, ("signal", "signal"), ("fitting.num_coords", "fitting.num_coords")),
    measure=measure_field,
)
KINDS = {"field": FIELDS, "autoencoder": AUTOENCODERS}
"""By the top-level key that only YAMLs of this kind have."""


def kind_of(path: Path | str) -> RunKind:
    """The kind of run a YAML trains; without either key an autoencoder's, whose validation reports the missing key."""
    content = read_config(path)
    return next((kind for key, kind in KINDS.items() if key in content), AUTOENCODERS)


def common_kind(paths: Sequence[str]) -> RunKind:
    """The kind of run that all these YAMLs train. InputError if they differ."""
    first, kind = paths[0], kind_of(paths[0])
    for path in paths:
        if kind_of(path) is not kind:
            raise InputError(f"{first} and {path} must both train autoencoders, or both train fields")
    return kind


def refuse_different_data(kind: RunKind, specs: Mapping[str, Spec]) -> None:
    """InputError unless the configs agree in data, evaluation and training length, so that PSNRs can be compared."""
    (first, first_spec), *rest = specs.items()
    for name, spec in rest:
        for path, key in kind.shared:
            if operator.attrgetter(path)(first_spec) != operator.attrgetter(path)(spec):
                raise InputError(
                    f"{first} and {name} differ in {key}, so their PSNR cannot be compared: set {key} to the same value"
                )
