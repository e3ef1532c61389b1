"""Alignment of a denoiser's tokens with a classifier's features (REPA)."""

import pytest
import torch
import torch.nn.functional as F

from genrep.data import all_of
from genrep.diffusion import AlignmentSpec
from genrep.diffusion.losses import alignment_loss
from genrep.errors import InputError
from genrep.models.classifier import ImageClassifier
from genrep.render import from_uint8
from genrep.training.alignment import AlignedDenoiser, ClassifierFeatures
from tests.tiny import tiny_autoencoder, tiny_denoiser

DIGITS = all_of("image", source="digits", in_memory=True).open("train", (8, 8), 1)


def test_the_loss_is_the_negative_cosine_similarity():
    one, two = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(one.flatten(0, 1), two.flatten(0, 1), strict=True)]
    assert float(alignment_loss(one, two)) == pytest.approx(-sum(cosines) / 12, rel=1e-4)
    assert float(alignment_loss(one, 2 * one)) == pytest.approx(-1)
    assert float(alignment_loss(one, -one)) == pytest.approx(1)
    assert alignment_loss(one.bfloat16(), two.bfloat16()).dtype == torch.float32


def test_features_are_the_last_maps_of_the_frozen_classifier(tmp_path):
    classifier = ImageClassifier(8, 1, 10, width=8, norm="batch", mirrored=True).eval()
    classifier.save_pretrained(tmp_path)
    features = ClassifierFeatures(AlignmentSpec(classifier=str(tmp_path)), DIGITS, tiny_autoencoder())
    assert features.shape == (16, 16)  # 4×4 places after a halving, 2 · 8 channels
    kept = DIGITS.read(range(6))
    found = features(kept)
    maps = classifier.blocks(classifier.stem(from_uint8(kept)))
    expected = F.silu(classifier.norm(maps))
    torch.testing.assert_close(found, torch.stack([expected[:, :, y, x] for y in range(4) for x in range(4)], dim=1))
    assert not found.requires_grad


@pytest.mark.parametrize("block", [1, 2])
def test_a_learned_mixture_of_slots_stands_for_each_place(block):
    denoiser = tiny_denoiser()
    aligned = AlignedDenoiser(denoiser, block, (3, 7))
    tokens = {}
    denoiser.blocks[block - 1].register_forward_hook(lambda _, inputs, output: tokens.update(block=output))
    noisy, timesteps, labels = torch.randn(5, 4, 8), torch.tensor([1, 10, 100, 500, 900]), torch.arange(5)
    predicted, projected = aligned(noisy, timesteps, labels)
    torch.testing.assert_close(predicted, denoiser(noisy, timesteps, labels))
    mixed = torch.einsum("pr,brd->bpd", aligned.to_places.weight, tokens["block"]) + aligned.to_places.bias[:, None]
    torch.testing.assert_close(projected, aligned.to_features(mixed))
    assert projected.shape == (5, 3, 7)


def test_its_gradient_reaches_the_blocks_up_to_the_aligned_one():
    denoiser = tiny_denoiser(depth=3)
    aligned = AlignedDenoiser(denoiser, 2, (3, 7))
    for block in denoiser.blocks:  # gates start at 0, where a block's other weights have no gradient
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    alignment_loss(aligned(torch.randn(5, 4, 8), torch.full((5,), 500), None)[1], torch.randn(5, 3, 7)).backward()
    with_gradient = [any(weight.grad is not None for weight in block.parameters()) for block in denoiser.blocks]
    assert with_gradient == [True, True, False]
    assert denoiser.embed.weight.grad is not None and bool(denoiser.embed.weight.grad.abs().sum() > 0)


def test_tokens_with_positions_are_refused(tmp_path):
    cloud = tiny_autoencoder(
        encoder={"type": "fit"}, decoder={"type": "anchored"}, num_tokens=16, latent_dim=8
    )  # fmt: skip
    with pytest.raises(InputError, match="alignment needs tokens with slots; these have positions"):
        ClassifierFeatures(AlignmentSpec(classifier=str(tmp_path)), DIGITS, cloud)


def test_signals_that_the_classifier_cannot_halve_are_refused(tmp_path):
    ImageClassifier(32, 1, 10, width=8, stages=3, blocks="pooled", norm="batch").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="halves signals of at least 9 points along every axis; these have 8 × 8"):
        ClassifierFeatures(AlignmentSpec(classifier=str(tmp_path)), DIGITS, tiny_autoencoder())
