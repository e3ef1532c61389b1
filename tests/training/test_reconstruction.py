"""Stage 1's objective: noised latents."""

import pytest
import torch

from genrep.coords import grid
from genrep.errors import InputError
from genrep.training.reconstruction import latent_noise
from genrep.training.specs import ReconstructionSpec
from tests.tiny import tiny_autoencoder


def test_noise_is_of_each_images_own_level_and_keyed_by_position():
    spec = ReconstructionSpec(latent_noise=0.5)
    noise = latent_noise(spec, range(2000), (4, 8), seed=1)
    levels = noise.std(dim=(1, 2))
    assert noise.shape == (2000, 4, 8)
    torch.testing.assert_close(levels.square().mean().sqrt(), torch.tensor(0.5), atol=0.03, rtol=0)  # |N(0, 0.5²)|
    assert levels.min() < 0.05 and levels.max() > 1.0
    torch.testing.assert_close(latent_noise(spec, [7, 3], (4, 8), seed=1), noise[[7, 3]])
    assert latent_noise(ReconstructionSpec(), [0], (4, 8), seed=1) is None


def test_noise_comes_in_units_of_each_channels_deviation_between_images():
    """What tells one token from another, but is the same in every image, does not count: a generator standardises it."""
    model, images, coords = tiny_autoencoder(), torch.rand(3, 1, 8, 8) * 2 - 1, grid(5)
    noise = torch.randn(3, 4, 8)
    latents = model.encode(images)
    unit = (latents - latents.mean(dim=0)).square().sum(dim=0).div(2).mean(dim=0).sqrt()  # [8]
    expected = model.decode(latents + noise * unit, coords)
    with pytest.raises(InputError, match="give every process two images at a time or more"):
        model(images[:1], coords, noise[:1])
    torch.testing.assert_close(model(images, coords, noise), expected)
    torch.testing.assert_close(model(images, coords, torch.zeros(3, 4, 8)), model(images, coords))
