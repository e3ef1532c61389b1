"""Tiny real models: the public classes at sizes that run in milliseconds."""

import torch

from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser

AUTOENCODER = {
    "encoder": {
        "type": "cross_attention", "patch_size": 4, "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "head_dim": 8, "mlp_dim": 32,
    },
    "decoder": {"type": "localized_attention", "hidden_dim": 16, "depth": 3, "num_heads": 2, "head_dim": 8, "num_frequencies": 4},
    "image_size": 8,
    "channels": 1,
    "num_tokens": 4,
    "latent_dim": 8,
}  # fmt: skip


def tiny_autoencoder(seed: int = 0, **options) -> INRAutoencoder:
    """A frozen autoencoder for 8×8 grey images with 4 tokens of width 8 and random weights from `seed`."""
    torch.manual_seed(seed)
    return INRAutoencoder(**{**AUTOENCODER, **options}).freeze()


def tiny_denoiser(num_classes: int = 10, seed: int = 0, **options) -> LatentDenoiser:
    """A denoiser for 4 tokens of width 8."""
    torch.manual_seed(seed)
    return LatentDenoiser(
        4, 8, num_classes, **{"dim": 16, "depth": 2, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, **options}
    )
