"""The adversarial objective: its spec; losses and augmentation are in the files beside this one."""

from typing import Annotated, Literal

from pydantic import Field

from genrep.specs import NonNegativeFloat, PositiveInt, Spec


class GANSpec(Spec):
    """Objective of a GAN: the hinge loss and what steadies it."""

    target: Literal["images", "latents"] = "images"
    """What the generator makes: pixels, or the latents of a frozen autoencoder, which renders them."""
    sees: Literal["images", "latents", "both"] = "images"
    """What the discriminators see; latents and both are of target latents."""
    real: Literal["reconstructions", "images"] = "reconstructions"
    """The real images that the discriminators see beside rendered latents: what the decoder makes of them, or themselves."""
    conditional: bool = True
    """Give the class to generator and discriminators, where the data has classes."""
    r1: NonNegativeFloat = 0.0
    """γ of the R1 penalty γ/2 E|∇D(x)|² at real samples; 0 is none."""
    r1_every: PositiveInt = 16
    """Steps between R1 penalties, each as many times as strong (lazy R1)."""
    augment: list[Literal["color", "translation", "cutout"]] = Field(default_factory=list)
    """Differentiable augmentation of the images that the discriminator sees."""
    discriminator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Learning rate of the discriminators; null is the generator's."""
