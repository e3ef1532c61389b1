"""Adversarial losses, as functions of logits: those of each discriminator `[B, logits]`, which all weigh the same.

Those of a denoiser are in `genrep/diffusion/losses.py`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logits = Sequence[Float[Tensor, "_ _"]]
"""A discriminator's logits each; how many there are in one, such as patches, gives it no weight."""


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (LoE eq. 9 in its usual form; the paper's signs are misprinted)."""
    losses = [F.relu(1 - one).mean() + F.relu(1 + other).mean() for one, other in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def hinge_generator_loss(fake: Logits) -> Tensor:
    """-E[D(G(z))] (LoE eq. 10)."""
    return -torch.stack([logits.mean() for logits in fake]).mean()


def r1_penalty(logits: Logits, real: Sequence[Tensor]) -> Tensor:
    """Σ E[|∇ D(x)|²] over the discriminators, D the mean of one's logits (R1, Mescheder et al., 2018).

    `real` is what they saw, which requires gradients; a discriminator may have seen a part of it only.
    """
    total = torch.zeros((), device=real[0].device)
    for one in logits:
        for gradient in torch.autograd.grad(one.mean(1).sum(), real, create_graph=True, allow_unused=True):
            if gradient is not None:
                total = total + gradient.square().flatten(1).sum(1).mean()
    return total


def share_above_zero(logits: Logits) -> Float[Tensor, ""]:
    """Share of the logits that say "real", the mean over the discriminators: 0.5 where they cannot tell."""
    return torch.stack([(part > 0).float().mean() for part in logits]).mean()
