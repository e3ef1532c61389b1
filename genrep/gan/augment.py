"""Differentiable augmentation of what a discriminator sees (DiffAugment, Zhao et al., 2020): colour, translation, cutout.

Real and generated images are augmented alike and gradients pass through, so the generator does not learn to produce
augmented images. All random numbers come from the caller, separately for each image, so there is no hidden state.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

KINDS = ("color", "translation", "cutout")
NUM_DRAWS = 7
"""Uniform numbers needed to augment one image."""


def augment(
    images: Float[Tensor, "batch channels height width"], kinds: Sequence[str], draws: Float[Tensor, "batch draws"]
) -> Float[Tensor, "batch channels height width"]:
    """Augmented images in [-1, 1], each by its own `NUM_DRAWS` uniform numbers in [0, 1).

    Colour changes brightness by ±0.5, saturation by a factor of 0 to 2 and contrast by 0.5 to 1.5; translation shifts by up
    to an eighth of the side and fills with zeros; cutout sets a square of half the side to zero.
    """
    draws = draws.to(images.device, images.dtype)
    if "color" in kinds:
        images = images + draws[:, 0].view(-1, 1, 1, 1) - 0.5
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * 2 * draws[:, 1].view(-1, 1, 1, 1)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (draws[:, 2].view(-1, 1, 1, 1) + 0.5)
    shape = images.shape[-2:]
    if "translation" in kinds:
        # A gather from the padded image: one shift per image, without a loop over the batch.
        places = []
        for axis, side in enumerate(shape):
            reach = max(1, side // 8)
            shift = (draws[:, 3 + axis] * (2 * reach + 1)).floor().long() - reach
            places.append(torch.arange(side, device=images.device) + shift[:, None] + reach)  # into the padded image
        reaches = [max(1, side // 8) for side in shape]
        padded = F.pad(images, (reaches[1], reaches[1], reaches[0], reaches[0]))
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[batch, places[0][:, :, None], places[1][:, None, :]].permute(0, 3, 1, 2)
    if "cutout" in kinds:
        inside = []
        for axis, side in enumerate(shape):
            half = max(1, side // 4)
            centre = (
                draws[:, 5 + axis] * side
            ).floor()  # anywhere in the image, so the square may reach beyond the border
            inside.append((torch.arange(side, device=images.device) - centre[:, None] + 0.5).abs() < half)
        images = images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
    return images
