"""Test images, and ways to open them."""

import numpy as np
import torch
from PIL import Image

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData

SIZES = [(8, 8), (16, 24), (24, 16), (20, 8), (9, 13)]


def random_image(height: int, width: int, mode: str, seed: int) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def opened(source, split="train", shape=(8, 8), channels=1, **options) -> ImageData:
    if split == "train":
        options.setdefault("held_out_fraction", 0.0)
    return ImageData(ImageDataSpec(source=str(source), **options), split, shape, channels)


def everything(data: ImageData) -> torch.Tensor:
    return data.read(range(len(data)))


def plain(image: Image.Image, mode: str) -> torch.Tensor:
    """Resize until the 8×8 square is just covered, then crop the centre: two steps of PIL, for sizes with whole pixels."""
    scale = 8 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - 8) // 2, (height - 8) // 2
    image = image.convert(mode).resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 8, top + 8))
    array = np.array(image)
    return torch.from_numpy(array[None] if mode == "L" else array.transpose(2, 0, 1).copy())
