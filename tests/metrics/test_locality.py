"""Where a token acts, against a plain computation; spread in closed form."""

import pytest
import torch

from genrep.coords import grid
from genrep.errors import InputError
from genrep.metrics.locality import spread, token_differences
from genrep.models.autoencoder import INRAutoencoder
from tests.decoders.test_modulated_mlp import tiny_inr


@pytest.mark.parametrize("kind", ["multiband", "ipc", "anr"])
@pytest.mark.parametrize("size", [6, (5, 7)], ids=str)
def test_token_differences_equal_a_plain_computation(kind, size):
    autoencoder, latents, tokens = tiny_inr(kind, channels=3), torch.randn(2, 4, 8), [2, 0, 3, 2]
    unchanged, shape = latents.clone(), (6, 6) if size == 6 else size
    differences = token_differences(autoencoder, latents, tokens, size)
    assert differences.shape == (2, 4, *shape) and torch.equal(latents, unchanged)
    whole = autoencoder.decode(latents, grid(size))
    for place, token in enumerate(tokens):
        kept = torch.arange(4) != token
        without = autoencoder.decode(latents * kept[:, None], grid(size))
        expected = sum((without[..., c] - whole[..., c]).abs() for c in range(3)) / 3
        torch.testing.assert_close(differences[:, place], expected.reshape(2, *shape), atol=1e-5, rtol=1e-4)
    assert (differences.amax(dim=(2, 3)) > 1e-4).all()


def test_a_token_that_is_zero_already_makes_no_difference():
    autoencoder, latents = tiny_inr("multiband"), torch.randn(2, 4, 8)
    latents[0, 1] = 0
    differences = token_differences(autoencoder, latents, [0, 1], 6)
    assert not differences[0, 1].any()
    assert differences[1, 1].any() and differences[0, 0].any()


def test_no_gradient_is_kept():
    autoencoder = tiny_inr("multiband").requires_grad_(True)
    assert not token_differences(autoencoder, torch.randn(1, 4, 8, requires_grad=True), [0], 6).requires_grad


@pytest.mark.parametrize("tokens", [[4], [0, -1], [1, 9, 0]])
def test_an_unknown_token_is_refused(tokens):
    wrong = next(token for token in tokens if token not in range(4))
    with pytest.raises(InputError, match=rf"tokens must be in 0 to 3; got {wrong}"):
        token_differences(tiny_inr("multiband"), torch.randn(1, 4, 8), tokens, 6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_spread_in_closed_form(scale):
    """k equal pixels of N cover k / N; values 1 and 3 cover (1 + 3)² / (1 + 9) pixels."""
    pictures = torch.zeros(2, 3, 4, 5)
    pictures[0, 0, 1, 2] = pictures[0, 1] = pictures[1, 0, :2] = 1
    pictures[1, 1, 0, 0], pictures[1, 1, 3, 4] = 1, 3
    expected = torch.tensor([[1 / 20, 1, 0], [10 / 20, 16 / 10 / 20, 0]])
    torch.testing.assert_close(spread(scale * pictures), expected)
    torch.testing.assert_close(spread(scale * pictures[0, 0]), expected[0, 0])


def test_no_token_is_refused():
    with pytest.raises(InputError, match="tokens is empty: give one index or more"):
        token_differences(tiny_inr("multiband"), torch.randn(1, 4, 8), [], 6)


def test_a_token_with_a_position_is_left_out_in_place_of_zeroed():
    torch.manual_seed(0)
    model = INRAutoencoder({"type": "fit"}, {"type": "anchored"}, 6, 2, 7, 5).freeze()
    latents, mask = torch.randn(2, 7, 5), torch.tensor([[True] * 7, [True] * 6 + [False]])
    differences = token_differences(model, latents, [1, 6], 6, mask)
    for k, token in ((0, 1), (0, 6), (1, 1)):
        others = mask[k] & (torch.arange(7) != token)
        both = [model.render(latents[k : k + 1, there]) for there in (mask[k], others)]
        torch.testing.assert_close(differences[k, int(token == 6)], (both[0] - both[1])[0].abs().mean(0))
    assert not differences[1, 1].any()
