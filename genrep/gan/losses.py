"""Adversarial losses as functions of the logits `[B, logits]` of each discriminator; all discriminators weigh the same.

The losses of a denoiser are in `genrep/diffusion/losses.py`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logits = Sequence[Float[Tensor, "_ _"]]
"""One tensor per discriminator. A discriminator with more logits, such as more patches, has no larger weight."""


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (LoE eq. 9 in its usual form; the paper's signs are misprinted)."""
    pairs = zip(real, fake, strict=True)
    losses = [F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean() for real_logits, fake_logits in pairs]
    return torch.stack(losses).mean()


def hinge_generator_loss(fake: Logits) -> Tensor:
    """-E[D(G(z))] (LoE eq. 10)."""
    return -torch.stack([logits.mean() for logits in fake]).mean()


def r1_penalty(logits: Logits, real: Sequence[Tensor]) -> Tensor:
    """Σ E[|∇D(x)|²] over the discriminators, where D is the mean of a discriminator's logits (R1, Mescheder et al., 2018).

    `real` are the discriminators' inputs, which must require gradients.
    """
    total = torch.zeros((), device=real[0].device)
    for discriminator_logits in logits:
        mean_logits = discriminator_logits.mean(1).sum()  # samples are independent: the sum's gradient has one row each
        for gradient in torch.autograd.grad(mean_logits, real, create_graph=True, allow_unused=True):
            if gradient is not None:  # None: this discriminator does not see that input
                total = total + gradient.square().flatten(1).sum(1).mean()
    return total


def share_above_zero(logits: Logits) -> Float[Tensor, ""]:
    """Share of the logits that say "real", averaged over the discriminators; 0.5 if they cannot tell."""
    return torch.stack([(discriminator_logits > 0).float().mean() for discriminator_logits in logits]).mean()
