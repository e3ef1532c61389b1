"""PSNR and SSIM against closed forms and scikit-image."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.metrics.reconstruction import (
    enlarge,
    frames,
    psnr,
    psnr_8bit,
    quality,
    reconstruction_psnr,
    reconstruction_quality,
    reconstructions,
    ssim,
)
from genrep.render import from_uint8, to_uint8
from tests.tiny import tiny_autoencoder


def noisy_pair(size=16, channels=3):
    images = torch.randint(0, 256, (4, channels, size, size), dtype=torch.uint8)
    return images, (images.int() + torch.randint(-20, 20, images.shape)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("error", [0.3, 0.02, 0.001])
def test_psnr_of_a_constant_error_in_closed_form(error):
    """An error of 2e in [-1, 1] is e at a peak of 1: -20 log10(e), also beyond [-1, 1] and below 1 / 255."""
    images = torch.rand(3, 2, 5, 5) * 2 - 1
    assert psnr(images + 2 * error, images).tolist() == pytest.approx([-20 * math.log10(error)] * 3, abs=2e-3)
    assert psnr(images, images).tolist() == [100.0] * 3


def test_psnr_of_8_bits_equals_scikit_image():
    zeros = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    assert float(psnr_8bit(zeros + 51, zeros)) == pytest.approx(-20 * math.log10(0.2), abs=1e-4)
    images, noisy = noisy_pair()
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255) for a, b in zip(images, noisy, strict=True)
    ]
    np.testing.assert_allclose(psnr_8bit(images, noisy).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("decibels", "rounded"), [(47.25, 46.97), (50.75, 50.14), (55.0, 53.8)])
def test_rounding_to_8_bits_lowers_the_psnr(decibels, rounded):
    originals = torch.randint(30, 226, (1, 3, 256, 256), dtype=torch.uint8)  # far from where rounding clamps
    noise = torch.randn(1, 3, 256, 256) * 2 * 10 ** (-decibels / 20)
    renders = from_uint8(originals) + noise
    assert float(psnr(renders, from_uint8(originals))) == pytest.approx(decibels, abs=0.05)
    assert float(psnr_8bit(to_uint8(renders), originals)) == pytest.approx(rounded, abs=0.05)


def test_psnr_of_integers_is_refused():
    pixels = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    for pair, name in (((pixels, pixels.float()), "images"), ((pixels.float(), pixels), "reference")):
        with pytest.raises(InputError, match=rf"{name} must be floats in \[-1, 1\]; got torch.uint8.*psnr_8bit"):
            psnr(*pair)


def test_psnr_is_of_each_image_and_not_pooled():
    zeros = torch.zeros(2, 1, 4, 4)
    changed = zeros.clone()
    changed[0] += 0.1
    assert psnr(changed, zeros).tolist() == pytest.approx([20 * math.log10(20), 100])


def test_ssim_equals_the_ten_line_definition():
    """Gaussian 11×11 window of sigma 1.5, valid region, population covariance, k = (0.01, 0.03)."""
    images, noisy = (from_uint8(pixels) for pixels in noisy_pair(24))
    axis = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = (window / window.sum())[:, None] * (window / window.sum())[None]

    def blur(x):
        return F.conv2d(x.flatten(0, 1)[:, None], window[None, None])

    x, y = (images.double() + 1) / 2, (noisy.double() + 1) / 2
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    maps = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    torch.testing.assert_close(ssim(images, noisy).double(), maps.reshape(4, -1).mean(1), atol=1e-5, rtol=0)
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 4)


def test_ssim_of_images_smaller_than_its_window_is_refused():
    small = torch.zeros(1, 1, 8, 8)
    with pytest.raises(InputError, match="images must have at least 11×11 pixels for SSIM; got 8×8"):
        ssim(small, small)
    assert quality(small, small).keys() == {"psnr"} and quality(small, small)["psnr"].tolist() == [100.0]
    assert quality(torch.zeros(2, 1, 11, 12), torch.zeros(2, 1, 11, 12))["ssim"].tolist() == [1.0, 1.0]


def test_enlarging_to_the_same_size_changes_nothing():
    images = from_uint8(noisy_pair(8)[0])
    assert torch.equal(enlarge(images, 8), images)
    assert enlarge(images, (16, 12)).shape == (4, 3, 16, 12)


def test_an_enlargement_is_neither_rounded_nor_clamped():
    edge = torch.ones(1, 1, 8, 8)
    edge[..., :4] = -1
    enlarged = enlarge(edge, 32)
    assert 1.05 < float(enlarged.max()) < 1.3, "a bicubic resize overshoots"
    assert float((enlarged * 127.5 - (enlarged * 127.5).round()).abs().max()) > 0.1


def test_the_pictures_of_a_signal():
    video = torch.rand(3, 5, 8, 9)
    assert torch.equal(frames(video)[2], video[:, 2]) and frames(video).shape == (5, 3, 8, 9)
    assert torch.equal(frames(video[:, 0]), video[None, :, 0])


def test_reconstruction_psnr_is_that_of_the_floats():
    data, autoencoder = ImageData(ImageDataSpec(), "held_out", (8, 8), 1), tiny_autoencoder()
    indices = [5, 2, 9]
    images = from_uint8(data.read(indices))
    rendered = autoencoder.render(autoencoder.encode(images), size=12)
    expected = psnr(rendered, enlarge(images, 12))
    torch.testing.assert_close(reconstruction_psnr(autoencoder, data, indices, 12, batch=2), expected)
    measured = reconstruction_quality(autoencoder, data, indices, 12, batch=2)
    torch.testing.assert_close(measured["psnr"], expected)
    torch.testing.assert_close(measured["ssim"], ssim(rendered, enlarge(images, 12)))
    assert torch.equal(reconstructions(autoencoder, data, indices, 12), to_uint8(rendered))
    assert reconstruction_psnr(autoencoder, data, []).shape == (0,), "a process may have no image to evaluate"
