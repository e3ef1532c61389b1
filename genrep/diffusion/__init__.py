"""The training objective of diffusion: noise levels, weighting, losses. Samplers are diffusers' schedulers. No torch here."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrep.specs import FiniteFloat, Fraction, PositiveFloat, PositiveInt, Spec


class NoiseSpec(Spec):
    """Noise levels of diffusion and how training weighs them."""

    num_timesteps: Annotated[int, Field(ge=2)] = 1000
    """T, discrete noise levels."""
    beta_start: PositiveFloat = 1e-4
    """First beta of the linear schedule (DDPM)."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Last beta of the linear schedule (DDPM)."""
    shift: PositiveFloat | Literal["auto"] = 1.0
    """log-SNR falls by 2 ln(shift), in training and in sampling; 1 is none, auto is sqrt(tokens * dim / 4096)."""
    weighting: Literal["plain", "min_snr"] = "plain"
    """Weight of the x0 loss at a noise level: 1, or min(SNR, gamma) (min-SNR)."""
    gamma: PositiveFloat = 5.0
    """The gamma of min-SNR."""
    density: Literal["uniform", "normal"] = "uniform"
    """How timesteps are drawn: uniformly, or so that log-SNR is normally distributed."""
    density_mean: FiniteFloat = 0.0
    """Mean of log-SNR for `density: normal`."""
    density_std: PositiveFloat = 2.0
    """Deviation of log-SNR for `density: normal`."""

    @model_validator(mode="after")
    def _rising(self) -> "NoiseSpec":
        if self.beta_start >= self.beta_end:
            raise ValueError(f"beta_start must lie below beta_end, got {self.beta_start} and {self.beta_end}")
        return self


class DiffusionSpec(Spec):
    """The objective of stage 2."""

    noise: NoiseSpec = NoiseSpec()
    """Noise levels and weighting."""
    loss: Literal["latents", "two_term"] = "latents"
    """MSE of standardised latents, or ANR's: mean of the rendered image's and of the L2-normalised tokens' MSE."""
    label_dropout: Fraction = 0.1
    """Share of labels dropped, so that guidance has an unconditional model."""
    image_coords: PositiveInt | None = None
    """Pixels an image that the two-term loss decodes; null is all."""
