"""GenRep: generative modelling over the latents of implicit neural representations.

A signal becomes a set of latent tokens, a generator learns to produce such sets, and one shared coordinate network turns
any set into a signal at any coordinates. Public names are loaded when first used, so that `import genrep` stays fast.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "CoordinateGenerator": "genrep.models.generator",
    "GANPipeline": "genrep.pipelines.gan",
    "INRAutoencoder": "genrep.models.autoencoder",
    "InputError": "genrep.errors",
    "LatentDenoiser": "genrep.models.denoiser",
    "LatentDiffusionPipeline": "genrep.pipelines.diffusion",
    "LatentNormalizer": "genrep.models.normalizer",
    "NeuralField": "genrep.models.field",
    "NoiseLevels": "genrep.diffusion.noise_levels",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genrep' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
