"""PSNR and SSIM against closed forms and scikit-image."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio

from genrep.data import DataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.metrics.reconstruction import enlarge, psnr, reconstruction_psnr, reconstructions, ssim
from tests.tiny import tiny_autoencoder


def noisy_pair(size=16, channels=3):
    one = torch.randint(0, 256, (4, channels, size, size), dtype=torch.uint8)
    return one, (one.int() + torch.randint(-20, 20, one.shape)).clamp(0, 255).to(torch.uint8)


def test_psnr_in_closed_form_and_as_scikit_image():
    zeros = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    assert float(psnr(zeros + 51, zeros)) == pytest.approx(-20 * math.log10(0.2), abs=1e-4)
    assert float(psnr(zeros, zeros)) == pytest.approx(100)
    one, two = noisy_pair()
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255) for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(psnr(one, two).numpy(), expected, rtol=1e-5)


def test_psnr_is_of_each_image_and_not_pooled():
    zeros = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    other = zeros.clone()
    other[0] += 10
    assert psnr(other, zeros).tolist() == pytest.approx([20 * math.log10(25.5), 100])


def test_ssim_equals_the_ten_line_definition():
    """Gaussian 11×11 window of sigma 1.5, valid region, population covariance, k = (0.01, 0.03)."""
    one, two = noisy_pair(24)
    axis = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = (window / window.sum())[:, None] * (window / window.sum())[None]

    def blur(x):
        return F.conv2d(x.flatten(0, 1)[:, None], window[None, None])

    x, y = one.double(), two.double()
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    maps = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    torch.testing.assert_close(ssim(one, two).double(), maps.reshape(4, -1).mean(1), atol=1e-5, rtol=0)
    assert ssim(one, one).tolist() == pytest.approx([1.0] * 4)


def test_ssim_of_images_smaller_than_its_window_is_refused():
    small = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match="SSIM needs images of 11×11 pixels or more, got 8×8"):
        ssim(small, small)


def test_enlarging_to_the_same_size_changes_nothing():
    one, _ = noisy_pair(8)
    assert torch.equal(enlarge(one, 8), one)
    assert enlarge(one, (16, 12)).shape == (4, 3, 16, 12)


def test_reconstruction_psnr_is_that_of_the_reconstructions():
    data, autoencoder = ImageData(DataSpec(), "held_out", (8, 8), 1), tiny_autoencoder()
    indices = [5, 2, 9]
    rendered = reconstructions(autoencoder, data, indices, 12)
    assert rendered.shape == (3, 1, 12, 12) and rendered.dtype == torch.uint8
    expected = psnr(rendered, enlarge(data.pixels(indices), 12))
    torch.testing.assert_close(reconstruction_psnr(autoencoder, data, indices, 12, batch=2), expected)
