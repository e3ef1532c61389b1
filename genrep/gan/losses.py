"""Adversarial losses, as functions of logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hinge_discriminator_loss(real: Float[Tensor, "batch logits"], fake: Float[Tensor, "other logits"]) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (LoE eq. 9 in its usual form; the paper's signs are misprinted)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Float[Tensor, "batch logits"]) -> Tensor:
    """-E[D(G(z))] (LoE eq. 10)."""
    return -fake.mean()


def r1_penalty(logits: Float[Tensor, "batch logits"], real: Float[Tensor, "batch *shape"]) -> Tensor:
    """E[|∇_x D(x)|²] at real samples, D the sum of a sample's logits' mean (R1, Mescheder et al., 2018).

    `logits` must depend on `real`, which requires gradients.
    """
    (gradient,) = torch.autograd.grad(logits.mean(1).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
