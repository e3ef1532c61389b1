"""The training objective of diffusion: noise levels, weighting, losses. Samplers are diffusers' schedulers.

This file does not import torch, so that `--help` stays fast.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrep.specs import MAY_CHANGE, FiniteFloat, Fraction, PositiveFloat, PositiveInt, Spec


class NoiseSpec(Spec):
    """Noise levels of diffusion and how training weights them."""

    num_timesteps: Annotated[int, Field(ge=2)] = 1000
    """T, the number of discrete noise levels."""
    beta_start: PositiveFloat = 1e-4
    """First beta of the linear schedule (DDPM)."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Last beta of the linear schedule (DDPM)."""
    shift: PositiveFloat | Literal["auto"] = 1.0
    """Lower log-SNR by 2 ln(shift), in training and sampling; 1 disables it, auto is sqrt(tokens * dim / 4096)."""
    weighting: Literal["plain", "min_snr", "velocity"] = "plain"
    """Weight of the x0 loss: 1, min(SNR, gamma) (min-SNR), or min(SNR + 1, gamma) (a velocity loss, capped)."""
    gamma: PositiveFloat = 5.0
    """Largest weight for min_snr and velocity; above 1 for velocity, whose weight is otherwise the same everywhere."""
    density: Literal["uniform", "normal"] = "uniform"
    """How timesteps are drawn: uniformly, or so that log-SNR is normally distributed."""
    density_mean: FiniteFloat = 0.0
    """Mean of log-SNR for `density: normal`."""
    density_std: PositiveFloat = 2.0
    """Standard deviation of log-SNR for `density: normal`."""

    @model_validator(mode="after")
    def _rising(self) -> "NoiseSpec":
        if self.beta_start >= self.beta_end:
            raise ValueError(f"beta_start must be below beta_end; got {self.beta_start} and {self.beta_end}")
        return self

    @model_validator(mode="after")
    def _weights_differ(self) -> "NoiseSpec":
        if self.weighting == "velocity" and self.gamma <= 1:
            raise ValueError(
                f"gamma must be above 1 for weighting velocity, which is at least 1 everywhere; got {self.gamma}"
            )
        return self


class AlignmentSpec(Spec):
    """A term of the loss: the denoiser's tokens, projected, are similar to a classifier's features of the clean image (REPA)."""

    classifier: Annotated[str, MAY_CHANGE]
    """Run or model folder of a convolutional classifier (train/classifier.py). Measure with another one than this."""
    weight: PositiveFloat = 0.5
    """Weight of the term, beside 1 for the denoising loss."""
    block: PositiveInt = 2
    """Number of the block, counted from 1, whose tokens are aligned."""


class DiffusionSpec(Spec):
    """The objective of stage 2."""

    noise: NoiseSpec = NoiseSpec()
    """Noise levels and weighting."""
    loss: Literal["latents", "two_term"] = "latents"
    """MSE of standardised latents, or ANR's two terms: the mean of the decoded image's and the L2-normalised tokens' MSE."""
    label_dropout: Fraction = 0.1
    """Share of labels dropped in training, so that guidance has an unconditional model."""
    alignment: AlignmentSpec | None = None
    """A term that aligns the denoiser's tokens with a classifier's features; null is none."""
    image_coords: PositiveInt | None = None
    """Pixels per image that the two-term loss decodes; null is all."""
