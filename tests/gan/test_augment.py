"""Augmentations: what each draw does, that images are augmented independently, and that gradients pass through."""

import pytest
import torch

from genrep.gan.augment import KINDS, NUM_DRAWS, augment


def still(batch: int) -> torch.Tensor:
    """Draws that change nothing except for cutout (brightness 0, saturation 1, contrast 1, no shift)."""
    return torch.full((batch, NUM_DRAWS), 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_middle_of_colour_and_translation_changes_nothing(channels):
    images = torch.rand(3, channels, 16, 12) * 2 - 1
    torch.testing.assert_close(augment(images, ["color", "translation"], still(3)), images)
    assert torch.equal(augment(images, [], torch.rand(3, NUM_DRAWS)), images)


def test_brightness_saturation_and_contrast():
    images, draws = torch.rand(1, 3, 4, 4), still(1)
    draws[0, 0] = 0.8
    torch.testing.assert_close(augment(images, ["color"], draws), images + 0.3)
    draws = still(1)
    draws[0, 1] = 0.0
    torch.testing.assert_close(augment(images, ["color"], draws), images.mean(1, keepdim=True).expand_as(images))
    draws = still(1)
    draws[0, 2] = 0.0
    torch.testing.assert_close(augment(images, ["color"], draws), images.mean() + (images - images.mean()) / 2)


def test_each_image_has_its_own_shift_filled_with_zeros():
    images, draws = torch.rand(2, 1, 16, 16) + 1, still(2)
    draws[0, 3], draws[0, 4] = 0.0, 0.99  # up to an eighth: 2 pixels; the first to the top left, that is from (−2, +2)
    augmented = augment(images, ["translation"], draws)
    expected = torch.zeros(16, 16)
    expected[2:, :14] = images[0, 0, :14, 2:]
    torch.testing.assert_close(augmented[0, 0], expected)
    torch.testing.assert_close(augmented[1], images[1])


def test_cutout_zeroes_a_square_of_half_the_side():
    images, draws = torch.ones(2, 3, 16, 16), still(2)
    augmented = augment(images, ["cutout"], draws)
    assert (augmented == 0).sum().item() == 2 * 3 * 8 * 8 and augmented[0, 0, 4:12, 4:12].eq(0).all()
    draws[1, 5:] = 0.0  # at the corner, most of it lies outside
    assert (augment(images, ["cutout"], draws)[1] == 0).sum() == 3 * 4 * 4


def test_gradients_pass_and_every_image_depends_on_its_own_draws():
    images, draws = torch.rand(4, 1, 8, 8, requires_grad=True), torch.rand(4, NUM_DRAWS)
    whole = augment(images, KINDS, draws)
    assert torch.autograd.grad(whole.sum(), images)[0].abs().sum() > 0
    torch.testing.assert_close(augment(images[2:3], KINDS, draws[2:3]), whole[2:3])
