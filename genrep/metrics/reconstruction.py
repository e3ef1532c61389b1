"""PSNR and SSIM of reconstructions."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from genrep.coords import image_shape
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.render import from_uint8, to_uint8

SSIM_WINDOW = 11


def psnr(
    images: UInt8[Tensor, "batch channels height width"], reference: UInt8[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio of each image in dB, -10 log10(MSE) at a peak of 1; 100 dB for equal images."""
    difference = (images.float() - reference.float()) / 255
    return -10 * difference.square().flatten(1).mean(1).clamp_min(1e-10).log10()


def ssim(
    images: UInt8[Tensor, "batch channels height width"], reference: UInt8[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Structural similarity of each image (scikit-image; Gaussian 11×11 window, sigma 1.5, population covariance).

    Raises InputError for images smaller than the window.
    """
    from skimage.metrics import structural_similarity

    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise InputError(
            f"SSIM needs images of {SSIM_WINDOW}×{SSIM_WINDOW} pixels or more, got {images.shape[-2]}×{images.shape[-1]}"
        )
    options = {
        "channel_axis": 0,
        "data_range": 255,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    pairs = zip(images.cpu().numpy(), reference.cpu().numpy(), strict=True)
    return torch.tensor(
        np.array([structural_similarity(image, target, **options) for image, target in pairs]), dtype=torch.float32
    )


def frames(pixels: UInt8[Tensor, "channels *shape"]) -> UInt8[Tensor, "frames channels height width"]:
    """The pictures of a signal, one for an image; every axis but the last two counts frames."""
    return pixels.flatten(1, -3).transpose(0, 1) if pixels.ndim > 3 else pixels[None]


def enlarge(
    pixels: UInt8[Tensor, "batch channels height width"], size: int | Sequence[int]
) -> UInt8[Tensor, "batch channels h w"]:
    """Bicubic resize, antialiased where it shrinks: the reference for renders at another size than the image's."""
    shape = image_shape(size)
    if shape == tuple(pixels.shape[-2:]):
        return pixels
    shrinks = shape[0] < pixels.shape[-2] or shape[1] < pixels.shape[-1]
    return to_uint8(
        F.interpolate(from_uint8(pixels), size=shape, mode="bicubic", align_corners=False, antialias=shrinks)
    )


@torch.no_grad()
def reconstructions(
    autoencoder: INRAutoencoder,
    data: ImageData,
    indices: Sequence[int],
    size: int | Sequence[int] | None = None,
    batch: int = 64,
) -> UInt8[Tensor, "images channels height width"]:
    """Images of a data set, encoded and rendered at `size` (their own when None)."""
    parts = []
    for start in range(0, len(indices), batch):
        latents = autoencoder.encode(from_uint8(data.pixels(indices[start : start + batch]).to(autoencoder.device)))
        parts.append(to_uint8(autoencoder.render(latents, size=data.image_shape if size is None else size)).cpu())
    return torch.cat(parts)


def reconstruction_psnr(
    autoencoder: INRAutoencoder,
    data: ImageData,
    indices: Sequence[int],
    size: int | Sequence[int] | None = None,
    batch: int = 64,
) -> Float[Tensor, " images"]:
    """PSNR in dB of each image, encoded and rendered at `size`, against `enlarge` of the original."""
    parts = [torch.zeros(0)]
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        rendered = reconstructions(autoencoder, data, part, size, batch)
        parts.append(psnr(rendered, enlarge(data.pixels(part), rendered.shape[-2:])))
    return torch.cat(parts)
