"""Losses on worked examples."""

import torch

from genrep.diffusion.losses import latent_loss, two_term_loss


def test_latent_loss_is_the_weighted_mean():
    predicted, clean = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = sum(w * ((p - c) ** 2).mean() for w, p, c in zip((2.0, 0.5), predicted, clean, strict=True)) / 2
    torch.testing.assert_close(latent_loss(predicted, clean, torch.tensor([2.0, 0.5])), expected)


def test_two_term_loss_on_a_worked_example():
    """One token (3, 4) against (0, 2): unit vectors (0.6, 0.8) and (0, 1); d = 2; one value off by 0.5."""
    loss = two_term_loss(
        torch.tensor([[[3.0, 4.0]]]),
        torch.tensor([[[0.0, 2.0]]]),
        torch.tensor([[[0.75]]]),
        torch.tensor([[[0.25]]]),
        torch.ones(1),
    )
    token = (0.6**2 + 0.2**2) / 2 * 2
    torch.testing.assert_close(loss, torch.tensor(0.5 * (0.25 + token)))


def test_only_the_token_term_of_the_loss_ignores_length():
    clean, values, weight = torch.randn(2, 3, 4), torch.randn(2, 5, 1), torch.ones(2)
    assert two_term_loss(7 * clean, clean, values, values, weight) < 1e-10
    torch.testing.assert_close(two_term_loss(clean, clean, values + 1, values, weight), torch.tensor(0.5))
