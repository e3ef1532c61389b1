"""Alignment of a denoiser's tokens with a classifier's features of the clean image (REPA, Yu et al., 2025).

REPA compares patch by patch. Slots of a latent set belong to no patch, so a learned mixture of the slots stands for each
place of the classifier's maps. The classifier is trained on the data set itself, so no weights are downloaded. Its features
must not measure the result as well: they would rate it too well.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from genrep.data.signals import SignalData
from genrep.diffusion import AlignmentSpec
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.training.folders import load_classifier


class ClassifierFeatures:
    """A frozen classifier's last maps, as features of places.

    Args:
        spec: names the classifier's folder.
        data: the training signals.
        autoencoder: the model of stage 1.

    Attributes:
        shape: (places, features).
        hash: of the classifier's files.

    Raises:
        InputError: tokens with positions, which have no slots to mix; there is no convolutional classifier in the folder, or
            one that does not fit the signals; values may be missing.
    """

    def __init__(self, spec: AlignmentSpec, data: SignalData, autoencoder: INRAutoencoder):
        if autoencoder.position_dim:
            raise InputError("diffusion.alignment needs tokens with slots; these have positions: set it to null")
        self.classifier, self.hash = load_classifier(spec.classifier, data, "diffusion.alignment.classifier")
        self.signal = data.signal
        _, places, features = self._of(torch.zeros(1, data.channels, *data.shape)).shape
        self.shape = (places, features)

    def __call__(self, kept: Shaped[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch places features"]:
        """Features of stored signals."""
        return self._of(self.signal.values(kept))

    @torch.no_grad()
    def _of(self, values: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch places features"]:
        return self.classifier.feature_maps(values)[-1].flatten(2).mT


class AlignedDenoiser(nn.Module):
    """A denoiser, and a projection of its tokens to features of places, which only training needs.

    Args:
        denoiser: of tokens with slots.
        block: number of the block whose tokens are projected, counted from 1.
        shape: (places, features).
    """

    def __init__(self, denoiser: LatentDenoiser, block: int, shape: tuple[int, int]):
        super().__init__()
        spec = denoiser.spec
        self.denoiser, self.block = denoiser, block
        self.to_places = nn.Linear(spec.num_tokens, shape[0])
        # three layers, as in the paper
        self.to_features = nn.Sequential(
            nn.Linear(spec.dim, 2 * spec.dim),
            nn.SiLU(),
            nn.Linear(2 * spec.dim, 2 * spec.dim),
            nn.SiLU(),
            nn.Linear(2 * spec.dim, shape[1]),
        )
        # diffusers' declaration of what to compile
        self._repeated_blocks, self.compile_repeated_blocks = (
            denoiser._repeated_blocks,
            denoiser.compile_repeated_blocks,
        )

    def forward(
        self,
        noisy_latents: Float[Tensor, "batch tokens latent"],
        timesteps: Float[Tensor, " batch"] | Int[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch tokens latent"], Float[Tensor, "batch places features"]]:
        """`LatentDenoiser.forward`'s prediction, and the projection."""
        predicted, tokens = self.denoiser.predict(noisy_latents, timesteps, class_labels, block=self.block)
        assert tokens is not None
        return predicted, self.to_features(self.to_places(tokens.mT).mT)
