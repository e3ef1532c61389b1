"""No pixel is lost at any image size."""

import pytest
import torch

from genrep.errors import InputError
from genrep.nn.patches import PatchTokenizer


@pytest.mark.parametrize(
    ("size", "patch", "tokens", "padding"),
    [(128, 10, 169, (1, 1)), (178, 9, 400, (1, 1)), (1024, 48, 484, (16, 16)), (32, 5, 49, (1, 2))],
)
def test_token_counts_of_the_papers(size, patch, tokens, padding):
    with torch.device("meta"):
        tokenizer = PatchTokenizer((size, size), 3, patch, 8)
    assert tokenizer.num_patches == tokens
    assert tuple(tokenizer.padding[:2]) == padding


def test_every_pixel_reaches_a_token():
    tokenizer, image = PatchTokenizer((7, 10), 2, 4, 6), torch.randn(1, 2, 7, 10, requires_grad=True)
    tokenizer(image).square().sum().backward()
    assert (image.grad != 0).all()


def test_tokens_equal_a_loop_over_patches():
    tokenizer, images = PatchTokenizer((4, 6), 1, 2, 5), torch.randn(2, 1, 4, 6)
    patches = [images[:, :, y : y + 2, x : x + 2].flatten(1) for y in (0, 2) for x in (0, 2, 4)]
    torch.testing.assert_close(tokenizer(images), tokenizer.project(torch.stack(patches, 1)) + tokenizer.position)


def test_images_of_another_size_are_refused():
    with pytest.raises(
        InputError,
        match=r"images of shape \(1, 1, 4, 5\) do not fit the encoder, which was built for a batch of 1 × 4 × 4",
    ):
        PatchTokenizer((4, 4), 1, 2, 4)(torch.zeros(1, 1, 4, 5))
