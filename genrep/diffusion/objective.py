"""The objective of stage 2, for `train/diffusion.py` and for your own training loops."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrep.diffusion import DiffusionSpec
from genrep.diffusion.losses import alignment_loss, latent_loss, two_term_loss
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer


class DenoisingObjective:
    """The loss of a denoiser that predicts clean latents (x0) at random noise levels, with random label dropout.

        objective = DenoisingObjective(DiffusionSpec(), NoiseLevels(NoiseSpec(), (R, D)), normalizer, num_classes=10)
        loss = objective(denoiser, latents, class_labels, noise=torch.randn_like(latents), draws=torch.rand(B, 2))

    The caller supplies all random numbers, and thus controls what they depend on. `spec.loss: two_term` also needs points to
    decode at, and the values there.

    Args:
        spec: loss and label dropout.
        levels: noise levels and their weights.
        normalizer: standardises the latents for the denoiser.
        num_classes: classes of the denoiser; 0 is unconditional.
        decode: (latents, coords) => values, the frozen autoencoder's; for the two-term loss.
    """

    def __init__(
        self,
        spec: DiffusionSpec,
        levels: NoiseLevels,
        normalizer: LatentNormalizer,
        num_classes: int = 0,
        decode: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.spec, self.levels, self.normalizer = spec, levels, normalizer
        self.num_classes, self.decode = num_classes, decode

    def __call__(
        self,
        denoiser: Callable[..., Tensor],
        latents: Float[Tensor, "batch tokens latent"],
        class_labels: Int[Tensor, " batch"] | None,
        noise: Float[Tensor, "batch tokens latent"],
        draws: Float[Tensor, "batch 2"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
        points: Any | None = None,
        features: Float[Tensor, "batch places features"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean loss of a batch.

        Args:
            denoiser: (noisy latents, timesteps, class labels, [mask]) => clean latents.
            latents: the encoder's latents, not standardised.
            class_labels: one label per set; None for an unconditional denoiser.
            noise: noise from N(0, 1), on the latents' device.
            draws: uniform numbers in [0, 1) on the CPU; the first chooses the noise level, the second drops the label.
            mask: which tokens are present; None is all.
            points: `coords` and `values` of the signals, for the two-term loss.
            features: of the clean signals, for `spec.alignment`; the denoiser then returns its projection of them as well.

        Raises:
            InputError: a mask with the two-term loss.
        """
        if mask is not None and self.spec.loss != "latents":
            raise InputError(
                "diffusion.loss: two_term needs tokens with slots; use latents for sets that differ in size"
            )
        clean = self.normalizer.standardize(latents)
        timesteps = self.levels.timesteps(draws[:, 0])
        if class_labels is not None:  # the label num_classes means "no class"
            dropped = draws[:, 1] < self.spec.label_dropout
            class_labels = torch.where(dropped.to(class_labels.device), self.num_classes, class_labels).to(
                latents.device, non_blocking=True
            )
        noisy = self.levels.add_noise(clean, noise, timesteps)
        options = {} if mask is None else {"mask": mask}
        # non_blocking: a plain copy to a GPU waits until it has done all that was asked of it before
        predicted = denoiser(noisy, timesteps.to(latents.device, non_blocking=True), class_labels, **options)
        if features is None:
            return self._loss(predicted, clean, latents, timesteps, mask, points)
        assert self.spec.alignment is not None, "features are for the alignment"
        predicted, projected = predicted
        loss = self._loss(predicted, clean, latents, timesteps, mask, points)
        return loss + self.spec.alignment.weight * alignment_loss(projected, features)

    def _loss(
        self,
        predicted: Float[Tensor, "batch tokens latent"],
        clean: Float[Tensor, "batch tokens latent"],
        latents: Float[Tensor, "batch tokens latent"],
        timesteps: Int[Tensor, " batch"],
        mask: Bool[Tensor, "batch tokens"] | None,
        points: Any | None,
    ) -> Float[Tensor, ""]:
        """The denoising loss; `predicted` and `clean` are standardised, `latents` the same as `clean` before that."""
        weight = self.levels.weight(timesteps).to(latents.device, non_blocking=True)
        if self.spec.loss == "latents":
            return latent_loss(predicted, clean, weight, mask)
        assert self.decode is not None and points is not None, "the two-term loss compares decoded values"
        # ANR's terms, decoded values and normalised tokens, are of the encoder's own latents.
        restored = self.normalizer.restore(predicted)
        return two_term_loss(restored, latents, self.decode(restored, points.coords), points.values, weight)
