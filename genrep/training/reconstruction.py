"""Stage 1's objective: at which coordinates a signal is asked for, and what should be there.

Not what measures reconstructions: that is in `genrep/metrics/reconstruction.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.coords import grid_shape
from genrep.data.signals import Points, SignalData
from genrep.errors import InputError
from genrep.models.specs import AutoencoderSpec
from genrep.randomness import normal_at, stream_generator
from genrep.specs import validate
from genrep.training.config import read_config
from genrep.training.order import TrainingBatch
from genrep.training.specs import ReconstructionSpec


def check_model(model: AutoencoderSpec, data: SignalData) -> None:
    """InputError for a model that does not fit what the data say of their values."""
    if data.may_miss and not model.missing:
        raise InputError(
            "data.missing is keep, but the encoder is not told where values are missing: set autoencoder.missing: true"
        )
    given = model.signal
    if given is not None and given != data.signal.spec:
        raise InputError(f"autoencoder.signal is {given}, but the data are {data.signal.spec}: leave it out")


def training_points(
    spec: ReconstructionSpec, data: SignalData, batch: TrainingBatch, device: torch.device, seed: int, step: int
) -> Points:
    """Coordinates to reconstruct a batch at, and the signals' values there, as the data draw them.

    The coordinates are those of the step, `[N, axes]`: the parts of a batch and the processes share them, so that their
    number changes nothing. With `spec.per_image` each signal has its own, `[B, N, axes]`, keyed by its position in the
    training stream, as the papers' code draws them. Where the data have a larger source, targets are the source, resized
    to a random size between the target size and its own, one size for the whole step.
    """
    assert batch.signals is not None
    generator = stream_generator(seed, "coords", step)
    shape = (
        tuple(batch.signals.shape[2:])
        if spec.target_size is None
        else grid_shape(spec.target_size, batch.signals.ndim - 2)
    )
    kept, resized_to = batch.signals, None
    if batch.source_signals is not None:
        kept, largest = batch.source_signals, batch.source_signals.shape[2:]
        share = torch.rand((), generator=generator).item()
        shape = tuple(round(low + share * (high - low)) for low, high in zip(shape, largest, strict=True))
        resized_to = shape
    each = (
        [stream_generator(seed, "image coords", position) for position in batch.positions] if spec.per_image else None
    )
    how = {"num_coords": spec.num_coords, "coords": spec.coords, "targets": spec.targets}
    jitter = {"jitter_std": spec.jitter_std, "jitter_clip": spec.jitter_clip}
    return data.points(
        kept.to(device, non_blocking=True), each or generator, resized_to=resized_to, size=shape, **how, **jitter
    )


def refinement_objective(place: Path | str) -> dict[str, Any]:
    """Arguments of `genrep.refine.refine` that ask for images as the run in a folder did in training.

    Of a folder without a run's config.yaml those of the defaults.
    """
    config = Path(place) / "config.yaml"
    given = read_config(config).get("reconstruction", {}) if config.is_file() else {}
    spec = validate(ReconstructionSpec, given, where=str(config))
    return spec.model_dump(include={"coords", "targets", "target_size", "jitter_std", "jitter_clip"})


def latent_noise(
    spec: ReconstructionSpec, positions: Sequence[int], latent_shape: tuple[int, int], seed: int
) -> Float[Tensor, "batch tokens latent"] | None:
    """Noise for the latents of the images at `positions`, which key it; None where the spec asks for none."""
    if spec.latent_noise == 0:
        return None
    level = normal_at(positions, (1, 1), seed, "latent noise level").abs() * spec.latent_noise
    return level * normal_at(positions, latent_shape, seed, "latent noise")
