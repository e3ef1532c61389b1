"""Where anchors are drawn: the gradient in closed form, the shares of a draw, flat and tiny images."""

import pytest
import torch
import torch.nn.functional as F

from genrep.encoders.anchors import draw_anchors, gradient_norm
from genrep.randomness import stream_generator


def draws(weights, count, number):
    return [draw_anchors(weights, count, stream_generator(0, "anchors", k)) for k in range(number)]


def test_the_gradient_of_images_is_sobels():
    """Over all channels and both directions, borders replicated."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 6, 7)
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    slopes = [F.conv2d(padded, weight[None, None]).unflatten(0, (2, 3))[:, :, 0] for weight in (kernel, kernel.T)]
    expected = sum(slope.square().sum(1) for slope in slopes).sqrt()
    torch.testing.assert_close(gradient_norm(images), expected)


@pytest.mark.parametrize("shape", [(9,), (5, 6), (4, 5, 6)], ids=str)
def test_the_gradient_of_a_slope_is_its_steepness(shape):
    values = sum(
        (axis + 1) * torch.arange(float(n)).view(-1, *[1] * k)
        for axis, (n, k) in enumerate(zip(shape, reversed(range(len(shape))), strict=True))
    )
    inside = tuple(slice(1, -1) for _ in shape)
    steepness = sum((axis + 1) ** 2 for axis in range(len(shape))) ** 0.5
    norms = gradient_norm(values[None, None])[0][inside]
    torch.testing.assert_close(norms, torch.full_like(norms, steepness))


def test_anchors_are_drawn_without_replacement_by_their_weights():
    """One of each draw: in proportion. Two of three pixels: as drawing one after another has it."""
    weights = torch.tensor([1.0, 2.0, 5.0])
    first = torch.cat(draws(weights, 1, 2000)).bincount(minlength=3) / 2000
    torch.testing.assert_close(first, weights / 8, atol=0.035, rtol=0)
    left_out = [({0, 1, 2} - set(pair.tolist())).pop() for pair in draws(weights, 2, 2000)]
    shares = torch.tensor(left_out).bincount(minlength=3) / 2000
    both = lambda a, b: a / 8 * b / (8 - a) + b / 8 * a / (8 - b)  # noqa: E731
    torch.testing.assert_close(shares, torch.tensor([both(2, 5), both(1, 5), both(1, 2)]), atol=0.035, rtol=0)


def test_flat_pixels_come_in_only_where_the_others_are_too_few():
    weights = torch.zeros(50)
    weights[[4, 9, 30]] = torch.tensor([1e-30, 1.0, 1e30])
    for pixels in draws(weights, 3, 20):
        assert pixels.tolist() == [4, 9, 30]
    others = torch.cat([pixels[~torch.isin(pixels, torch.tensor([4, 9, 30]))] for pixels in draws(weights, 10, 300)])
    assert len(others) == 300 * 7
    counts = others.bincount(minlength=50)
    assert counts[[4, 9, 30]].tolist() == [0, 0, 0] and counts.sort().values[3] > 15  # 45 each, on average


@pytest.mark.parametrize("num", [1, 2, 9])
def test_a_flat_image_has_anchors_on_all_its_pixels_if_need_be(num):
    assert draw_anchors(torch.zeros(num), num, stream_generator(0)).tolist() == list(range(num))


@pytest.mark.slow
def test_beyond_the_categories_of_multinomial():
    """torch.multinomial ends at 2^24; here the last pixel counts like any other."""
    weights = torch.zeros(2**24 + 3)
    weights[-2:] = 1
    assert draw_anchors(weights, 2, stream_generator(0)).tolist() == [2**24 + 1, 2**24 + 2]
