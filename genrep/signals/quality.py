"""PSNR and SSIM of floats, as the papers measure them; `psnr_8bit` is that of 8-bit pixels, as in a PNG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, Shaped, UInt8
from torch import Tensor

from genrep.coords import image_shape
from genrep.errors import InputError
from genrep.pictures import from_uint8

SSIM_WINDOW = 11


def psnr(
    images: Num[Tensor, "batch channels height width"], reference: Num[Tensor, "batch channels height width"] | Any
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio of each image in dB, -10 log10(MSE) at a peak of 1; 100 dB for equal images.

    Floats are compared as they are, neither rounded nor clamped, as in the code published with the papers. `psnr_8bit`
    may be lower or higher: rounding adds an error, which turns 47.25 dB into 46.97 and 55 into 53.8, and clamping
    removes errors where images are black or white (digits of 30.4 dB read as 31.1).

    Args:
        images, reference: floats in [-1, 1]; the peak of 1 is that of the same images in [0, 1].

    Raises:
        InputError: images that are not floats, or of different shapes.
    """
    _check_shapes(images, reference)
    for name, pixels in (("images", images), ("reference", reference)):
        if not pixels.is_floating_point():
            raise InputError(
                f"{name} must be floats in [-1, 1]; got {pixels.dtype}. Convert uint8 with from_uint8, or use psnr_8bit"
            )
    difference = (images.float() - reference.float()) / 2
    return -10 * difference.square().flatten(1).mean(1).clamp_min(1e-10).log10()


def psnr_8bit(
    images: UInt8[Tensor, "batch channels height width"], reference: UInt8[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """`psnr` of images that were clamped and rounded to 8 bits, as those read from files are."""
    return psnr(from_uint8(images), from_uint8(reference))


def ssim(
    images: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "batch channels height width"] | Any
) -> Float[Tensor, " batch"]:
    """Structural similarity of each image (scikit-image; Gaussian 11×11 window, sigma 1.5, population covariance).

    Floats in [-1, 1], unrounded like those of `psnr`, compared in [0, 1] at a data range of 1.

    Raises:
        InputError: images smaller than the window, or of different shapes.
    """
    _check_shapes(images, reference)
    from skimage.metrics import structural_similarity

    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise InputError(
            f"images must have at least {SSIM_WINDOW}×{SSIM_WINDOW} pixels for SSIM; got {images.shape[-2]}×{images.shape[-1]}"
        )
    options = {
        "channel_axis": 0,
        "data_range": 1.0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    pairs = zip(*((part.cpu().double().numpy() + 1) / 2 for part in (images, reference)), strict=True)
    return torch.tensor(
        np.array([structural_similarity(image, target, **options) for image, target in pairs]), dtype=torch.float32
    )


def _check_shapes(images: Tensor, reference: Any) -> None:
    if getattr(reference, "shape", None) != images.shape:  # tensors of other shapes may broadcast
        other = list(reference.shape) if isinstance(reference, Tensor) else type(reference).__name__
        raise InputError(f"images and reference must have the same shape; got {list(images.shape)} and {other}")


def quality(
    images: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "batch channels height width"]
) -> dict[str, Float[Tensor, " batch"]]:
    """`psnr` of each image and, unless the images are smaller than its window, `ssim`."""
    metrics = {"psnr": psnr(images, reference)}
    if min(images.shape[-2:]) >= SSIM_WINDOW:
        metrics["ssim"] = ssim(images, reference)
    return metrics


def frames(pixels: Shaped[Tensor, "channels *shape"]) -> Shaped[Tensor, "frames channels height width"]:
    """The pictures of a signal, one for an image; every axis but the last two counts frames."""
    return pixels.flatten(1, -3).transpose(0, 1) if pixels.ndim > 3 else pixels[None]


def enlarge(
    images: Float[Tensor, "batch channels height width"], size: int | Sequence[int]
) -> Float[Tensor, "batch channels h w"]:
    """Bicubic resize, antialiased when shrinking: the reference for renders at sizes other than the image's.

    The result is neither rounded nor clamped: bicubic enlargements overshoot [-1, 1] slightly next to edges.
    """
    shape = image_shape(size)
    if shape == tuple(images.shape[-2:]):
        return images
    shrinks = shape[0] < images.shape[-2] or shape[1] < images.shape[-1]
    return F.interpolate(images, size=shape, mode="bicubic", align_corners=False, antialias=shrinks)
