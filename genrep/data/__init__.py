"""Data sets of images and of latents. The specs of both are here, light; the work is in the files beside this one."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrep.specs import Fraction, NonNegativeInt, PositiveInt, Size, Spec

Grey = Annotated[int, Field(ge=0, le=255)]
"""A grey level, 0 black to 255 white."""


class DataSpec(Spec):
    """Where images come from and how they are split and read."""

    source: str = "digits"
    """`digits` or `photographs` (scikit-learn's and scikit-image's), an image folder, a folder or glob of parquet or Arrow files, or a Hub id."""
    train_split: str = "train"
    """Split to train on; slices as in `datasets`: train[:-5000]."""
    held_out_split: str | None = None
    """Split to measure on: test, train[-5000:]. Null: a part of the training split, see held_out_fraction."""
    held_out_fraction: Fraction = 0.2
    """Share of the training split that is held out, drawn by split_seed, where held_out_split is null."""
    split_seed: NonNegativeInt = 0
    """Seed of that draw."""
    image_column: str = "image"
    """Column that holds the images."""
    label_column: str | None = "label"
    """Column that holds the class labels; null is unlabelled."""
    source_size: PositiveInt | None = None
    """Keep images at this larger size too, so that stage 1 can train on random target sizes; null is off."""
    flip: bool = False
    """Mirror images left to right at random in training."""
    crop: Literal["centre", "random"] = "centre"
    """Training images: resized to cover and cropped in the centre, as held-out ones are; or cropped anywhere, unresized."""
    background: Grey = 255
    """Grey level behind images that are transparent: 0 black, 255 white."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded: stop and name it, or check all before the start, name and count them, go on."""
    in_memory: bool = False
    """Decode everything once and keep the pixels in memory."""
    num_workers: NonNegativeInt = 0
    """Processes that read and decode images, read cached latents and draw noise ahead of training, on each GPU; 0 is none."""

    @model_validator(mode="after")
    def _one_crop(self) -> "DataSpec":
        if self.crop == "random" and self.source_size is not None:
            raise ValueError(
                "crop random takes pieces of the unresized image, and source_size a resized one: give one of them"
            )
        return self


class SignalSpec(Spec):
    """The one signal that a field stands for."""

    source: str
    """An image, an animated file, a folder of frames, or `camera`, scikit-image's photograph."""
    size: Size | None = None
    """Resize and crop the pictures to this; null is their own size."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; null is the pictures' own."""
    background: Grey = 255
    """Grey level behind pictures that are transparent: 0 black, 255 white."""


class LatentsSpec(Spec):
    """Where latents come from in stage 2."""

    folder: Annotated[str, Field(min_length=1)] | None = None
    """Folder of the cache; null encodes on the fly, without one."""
    flips: bool = False
    """Encode every image's mirror image too: a token set cannot be flipped."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number type in the cache."""
    shard_size: PositiveInt = 16384
    """Images a shard."""
    batch: PositiveInt = 256
    """Images encoded at a time."""
    held_out: bool = True
    """Encode the held-out split into the cache too, so that measuring on it needs no images either."""
    verify: bool = False
    """Compare every shard with its hash before the start, which reads the whole cache; file sizes are always compared."""
    statistics_images: PositiveInt = 10_000
    """Images whose latents give mean and deviation when there is no cache."""
