"""The objective of stage 2 against its formula written out."""

import pytest
import torch
import torch.nn.functional as F

from genrep.data.signals import Points
from genrep.diffusion import DiffusionSpec, NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.objective import DenoisingObjective
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer

TOKENS, DIM, BATCH = 3, 4, 5


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    normalizer = LatentNormalizer.from_statistics(normal(TOKENS, DIM), normal(TOKENS, DIM).abs() + 0.5)
    latents, noise = normal(BATCH, TOKENS, DIM), normal(BATCH, TOKENS, DIM)
    return normalizer, latents, noise, torch.rand(BATCH, 2, generator=generator)


def objective(normalizer, num_classes=0, decode=None, **spec):
    spec = DiffusionSpec(**spec)
    return DenoisingObjective(spec, NoiseLevels(spec.noise, (TOKENS, DIM)), normalizer, num_classes, decode)


@pytest.mark.parametrize("weighting", ["plain", "min_snr", "velocity"])
def test_the_loss_is_the_weighted_error_at_the_drawn_level(parts, weighting):
    """Mean over the batch of w(t) |x̂ - x|² / (R D), x standardised, x̂ seen through √ᾱ x + √(1 - ᾱ) ε."""
    normalizer, latents, noise, draws = parts
    noise_spec = NoiseSpec(weighting=weighting)
    seen = []

    def denoiser(noisy, timesteps, labels):
        seen.append((noisy, timesteps, labels))
        return 0.3 * noisy

    loss = objective(normalizer, noise=noise_spec)(denoiser, latents, None, noise, draws)
    clean = (latents - normalizer.mean) / normalizer.std
    beta = torch.linspace(noise_spec.beta_start, noise_spec.beta_end, noise_spec.num_timesteps, dtype=torch.float64)
    signal = torch.cumprod(1 - beta, 0)
    timesteps = (draws[:, 0].double() * noise_spec.num_timesteps).floor().long()
    kept = signal[timesteps][:, None, None].float()
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    snr = kept[:, 0, 0] / (1 - kept[:, 0, 0])
    weight = {"plain": torch.ones(BATCH), "min_snr": snr.clamp_max(5), "velocity": (snr + 1).clamp_max(5)}[weighting]
    expected = (weight * (0.3 * noisy - clean).square().mean((1, 2))).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(seen[0][0], noisy)
    assert torch.equal(seen[0][1], timesteps) and seen[0][2] is None


def test_labels_are_dropped_where_the_draw_says(parts):
    normalizer, latents, noise, draws = parts
    seen = []

    def denoiser(noisy, timesteps, labels):
        seen.append(labels)
        return noisy

    labels = torch.tensor([0, 1, 2, 0, 1])
    objective(normalizer, num_classes=3, label_dropout=0.5)(denoiser, latents, labels, noise, draws)
    assert torch.equal(seen[0], torch.where(draws[:, 1] < 0.5, 3, labels))
    assert 0 < int((seen[0] == 3).sum()) < BATCH


def test_the_two_terms_are_of_the_image_and_of_unit_tokens(parts):
    """ANR, figure 14: the mean of the decoded image's MSE and of d times that of L2-normalised tokens, on the encoder's latents."""
    normalizer, latents, noise, draws = parts
    coords, values = torch.zeros(7, 2), torch.ones(BATCH, 7, 1)

    def decode(latents, coords):
        return latents.mean((1, 2))[:, None, None].expand(-1, len(coords), 1)

    two = objective(normalizer, decode=decode, loss="two_term")
    loss = two(lambda noisy, *_: torch.zeros_like(noisy), latents, None, noise, draws, points=Points(coords, values))
    restored = normalizer.mean.expand_as(latents)
    image = (decode(restored, coords) - values).square().mean((1, 2))
    token = DIM * (F.normalize(restored, dim=-1) - F.normalize(latents, dim=-1)).square().mean((1, 2))
    torch.testing.assert_close(loss, (0.5 * (image + token)).mean())
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    with pytest.raises(InputError, match="two_term needs tokens with slots; use latents for sets that differ in size"):
        two(lambda *_: latents, latents, None, noise, draws, mask, Points(coords, values))


def test_alignment_adds_its_weighted_loss(parts):
    normalizer, latents, noise, draws = parts
    projected, features = torch.randn(BATCH, 2, 6), torch.randn(BATCH, 2, 6)
    alignment = {"classifier": "runs/classifier", "weight": 0.3}
    plain = objective(normalizer)(lambda noisy, *_: 0.3 * noisy, latents, None, noise, draws)
    aligned = objective(normalizer, alignment=alignment)
    loss = aligned(lambda noisy, *_: (0.3 * noisy, projected), latents, None, noise, draws, features=features)
    torch.testing.assert_close(loss, plain - 0.3 * F.cosine_similarity(projected, features, dim=-1).mean())
    without = aligned(lambda noisy, *_: 0.3 * noisy, latents, None, noise, draws)  # as on held-out signals
    torch.testing.assert_close(without, plain)
