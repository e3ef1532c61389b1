"""The spec of the adversarial objective; its losses and augmentation are in this folder."""

from typing import Annotated, Literal

from pydantic import Field

from genrep.specs import NonNegativeFloat, PositiveInt, Spec


class GANSpec(Spec):
    """Objective of a GAN: the hinge loss and what stabilises it."""

    target: Literal["images", "latents"] = "images"
    """What the generator produces: pixels, or latents of a frozen autoencoder, which renders them."""
    sees: Literal["images", "latents", "both"] = "images"
    """What the discriminators see; latents and both need target latents."""
    real: Literal["reconstructions", "images"] = "reconstructions"
    """Real images for target latents: the autoencoder's reconstructions, or the images themselves."""
    conditional: bool = True
    """Give the class to generator and discriminators, if the data has classes."""
    r1: NonNegativeFloat = 0.0
    """γ of the R1 penalty γ/2 E|∇D(x)|² at real samples; 0 disables it."""
    r1_every: PositiveInt = 16
    """Steps between R1 penalties, each that many times as strong (lazy R1)."""
    augment: list[Literal["color", "translation", "cutout"]] = Field(default_factory=list)
    """Differentiable augmentation of the images that the discriminators see."""
    discriminator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Learning rate of the discriminators; null is the generator's."""
