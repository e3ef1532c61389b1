"""Stage 1's objective: the coordinates at which a signal is reconstructed, and its target values there.

How reconstructions are measured is in `genrep/metrics/reconstruction.py`.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.coords import grid_shape
from genrep.data.signals import Points, SignalData
from genrep.errors import InputError
from genrep.models.specs import AutoencoderSpec
from genrep.randomness import stream_generator
from genrep.specs import validate
from genrep.training.config import read_config
from genrep.training.order import TrainingBatch
from genrep.training.specs import ReconstructionSpec

NOISE_LEVEL, NOISE = "latent noise level", "latent noise"
"""Streams of random numbers, keyed by the positions of a batch and drawn by the loader's workers."""


def check_model(model: AutoencoderSpec, data: SignalData) -> None:
    """InputError if the model does not fit the data's kind of signals, or their missing values."""
    if data.may_miss and not model.missing:
        raise InputError(
            "data.missing: keep needs autoencoder.missing: true, so that the encoder sees which values are missing"
        )
    # the data determine the kind and scale of signals; the key exists for models that are built without data
    signal = model.signal
    if signal is not None and signal != data.signal.spec:
        raise InputError(f"autoencoder.signal is {signal}, but the data are {data.signal.spec}: leave it out")


def training_points(
    spec: ReconstructionSpec, data: SignalData, batch: TrainingBatch, device: torch.device, seed: int, step: int
) -> Points:
    """The coordinates to reconstruct a batch at, and the signals' values there.

    Coordinates are drawn once per step, `[N, axes]`, and shared by all parts and processes, whose number therefore does
    not change the result. With `spec.per_image` every signal has its own, `[B, N, axes]`, keyed by its position in the
    training stream, as in the papers' code. If the data have a larger source, targets come from the source, resized to
    a random size between the target size and its own; the size is the same for the whole step.
    """
    assert batch.signals is not None
    # keyed by the step alone: the same on every process, for every part, and after resuming
    generator = stream_generator(seed, "coords", step)
    shape = (
        tuple(batch.signals.shape[2:])
        if spec.target_size is None
        else grid_shape(spec.target_size, batch.signals.ndim - 2)
    )
    kept, resized_to = batch.signals, None
    if batch.source_signals is not None:
        kept, largest = batch.source_signals, batch.source_signals.shape[2:]
        # one size per step, because the values of a batch are one tensor
        share = torch.rand((), generator=generator).item()
        shape = tuple(round(low + share * (high - low)) for low, high in zip(shape, largest, strict=True))
        resized_to = shape
    image_generators = (
        [stream_generator(seed, "image coords", position) for position in batch.positions] if spec.per_image else None
    )
    return data.points(
        kept.to(device, non_blocking=True),
        image_generators or generator,
        resized_to=resized_to,
        size=shape,
        num_coords=spec.num_coords,
        coords=spec.coords,
        targets=spec.targets,
        jitter_std=spec.jitter_std,
        jitter_clip=spec.jitter_clip,
    )


def refinement_objective(place: Path | str) -> dict[str, Any]:
    """Arguments that make `genrep.refine.refine` draw coordinates and targets as the run in a folder did in training.

    A folder without a config.yaml gives the defaults.
    """
    # Refined at pixel centres only, an image improves at its own size while larger renders get worse: it overfits there.
    config = Path(place) / "config.yaml"
    section = read_config(config).get("reconstruction", {}) if config.is_file() else {}
    spec = validate(ReconstructionSpec, section, where=str(config))
    return spec.model_dump(include={"coords", "targets", "target_size", "jitter_std", "jitter_clip"})


def noise_shapes(spec: ReconstructionSpec, autoencoder: AutoencoderSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the noise that `latent_noise` needs from the training stream, by name; empty if the spec sets none."""
    if spec.latent_noise == 0:
        return {}
    return {NOISE_LEVEL: (1, 1), NOISE: (autoencoder.num_tokens, autoencoder.latent_dim)}


def latent_noise(
    spec: ReconstructionSpec, batch: TrainingBatch, device: torch.device
) -> Float[Tensor, "batch tokens latent"] | None:
    """Noise for the latents of a batch, keyed by its positions; None if `spec.latent_noise` is 0."""
    if spec.latent_noise == 0:
        return None
    # Levels are half-normal: most images get little noise, because the decoder must also work on clean latents.
    level, noise = (batch.noise[name].to(device, non_blocking=True) for name in (NOISE_LEVEL, NOISE))
    return level.abs() * spec.latent_noise * noise
