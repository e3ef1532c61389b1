"""Specs of data sets and latents. To add a kind of data set, write a spec here and a file in this package.

What the values of a signal mean, and how they are drawn and measured, is in `genrep/signals`; single signals, for fields, are in
`genrep/data/single`. Does not import torch.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from genrep.errors import InputError
from genrep.specs import (
    MAY_CHANGE,
    FiniteFloat,
    Fraction,
    NonNegativeInt,
    PositiveInt,
    Spec,
    by_type,
    validate,
)

if TYPE_CHECKING:
    from genrep.data.signals import SignalData

Grey = Annotated[int, Field(ge=0, le=255)]
"""A grey level, 0 black to 255 white."""


class BaseDataSpec(Spec):
    """What the specs of all data sets share."""

    source: Annotated[str, MAY_CHANGE]
    """Where the signals are."""
    held_out_fraction: Fraction = 0.2
    """Fraction of the signals to hold out, drawn with split_seed."""
    split_seed: NonNegativeInt = 0
    """Seed of the split."""
    in_memory: Annotated[bool, MAY_CHANGE] = False
    """Read everything once and keep it in memory."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Processes per GPU that read signals and cached latents and draw noise ahead of training; 0 uses the training process."""

    def light(self) -> "BaseDataSpec":
        """A copy that reads signals only when asked for them, the same signals in the same order."""
        return self.model_copy(update={"in_memory": False})

    def unchecked(self) -> "BaseDataSpec":
        """A copy that does not check every signal when opened, for a dry run."""
        return self

    @property
    def resizes(self) -> bool:
        """Whether the data set resizes its signals to any requested size."""
        return False

    @property
    def holds_out(self) -> bool:
        """Whether there is a held-out split."""
        return self.held_out_fraction > 0

    def check_encoded_once(self) -> None:
        """ValueError for keys that have no effect when every signal is encoded only once, as in stage 2."""

    def check_one_size(self, consumer: str) -> None:
        """InputError if signals have sizes of their own, which `consumer`, named in the message, cannot work with."""

    def selection(self) -> dict[str, Any]:
        """The keys that select and decode the signals. Without the source, a cache is compared by them."""
        raise NotImplementedError

    def largest_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The largest grid of training targets, for an encoder that sees signals on `shape`."""
        return shape

    def without_source(self) -> "BaseDataSpec":
        """A copy without the larger source signals, which only training uses."""
        return self

    def with_source(self, size: tuple[int, ...], shape: tuple[int, ...]) -> "BaseDataSpec":
        """A copy that also has its signals at the larger `size`, if this kind can (see `SignalData.at_source_size`)."""
        return self

    def open(self, split: str, shape: tuple[int, ...], channels: int) -> "SignalData":
        """The signals of a split, `train` or `held_out`, on a grid of `shape`. InputError if they do not fit it."""
        raise NotImplementedError


class ImageDataSpec(BaseDataSpec):
    """Images: where they come from, how they are split, and how they are read."""

    type: Literal["images"] = "images"
    """Kind of data set."""
    source: Annotated[str, MAY_CHANGE] = "digits"
    """Built-in `digits` (scikit-learn) or `photographs` (scikit-image, scikit-learn), a folder of images, a folder or glob of parquet or Arrow files, or a Hub id."""
    train_split: str = "train"
    """Split to train on; slices as in `datasets`, such as train[:-5000]."""
    held_out_split: str | None = None
    """Split to measure on, such as test or train[-5000:]; null takes held_out_fraction of the training split."""
    held_out_fraction: Fraction = 0.2
    """Fraction of the training split to hold out, drawn with split_seed, if held_out_split is null."""
    image_column: str = "image"
    """Column that holds the images."""
    label_column: str | None = "label"
    """Column that holds the class labels; null means unlabelled."""
    native_size: bool = False
    """Leave every image at its own size instead of resizing it to that of the model; only for latents of anchored clouds, and for classifier.type image_size."""
    longest_side: PositiveInt | None = None
    """With native_size: reduce images that are longer than this to it, keeping their proportions; null leaves all as they are."""
    source_size: PositiveInt | None = None
    """Also keep images at this larger size, so that stage 1 can train on random target sizes; null disables it."""
    flip: bool = False
    """Mirror training images left to right at random."""
    crop: Literal["centre", "random"] = "centre"
    """Training images: centre resizes them to cover the size and crops the centre, as for held-out ones; random crops anywhere without resizing."""
    margin: NonNegativeInt = 0
    """Black pixels added on every side of an image, which is resized to what they leave; see displaced_by of classifiers."""
    background: Grey = 255
    """Grey level behind transparent images: 0 black, 255 white."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """When an image cannot be decoded: stop and name it; or skip, which checks all images first and lists the ones left out."""
    in_memory: Annotated[bool, MAY_CHANGE] = False
    """Decode everything once and keep the pixels in memory."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Processes per GPU that read and decode images, read cached latents and draw noise ahead of training; 0 uses the training process."""

    @model_validator(mode="after")
    def _one_crop(self) -> "ImageDataSpec":
        if self.crop == "random" and self.source_size is not None:
            raise ValueError(
                "crop random cuts from the unresized image, but source_size asks for a resized one: give only one of them"
            )
        return self

    @model_validator(mode="after")
    def _margin_alone(self) -> "ImageDataSpec":
        others = {
            "crop random": self.crop == "random",
            "source_size": self.source_size is not None,
            "native_size": self.native_size,
        }
        for key, value in others.items() if self.margin else ():
            if value:
                raise ValueError(
                    f"margin is for images that are resized to image_size alone, not with {key}: leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def _native_alone(self) -> "ImageDataSpec":
        if self.longest_side is not None and not self.native_size:
            raise ValueError("longest_side has no effect without native_size: set native_size: true, or leave it out")
        resizing = {"crop": self.crop == "random", "source_size": self.source_size, "in_memory": self.in_memory}
        for key, value in resizing.items() if self.native_size else ():
            if value:
                raise ValueError(f"{key} has no effect on images of their own size (native_size): leave it out")
        return self

    def unchecked(self) -> "ImageDataSpec":
        return self.model_copy(update={"on_bad_image": "stop"})

    @property
    def resizes(self) -> bool:
        return True

    @property
    def holds_out(self) -> bool:
        return self.held_out_split is not None or self.held_out_fraction > 0

    def check_encoded_once(self) -> None:
        if self.flip:
            raise ValueError("data.flip has no effect on latents, which cannot be flipped: set latents.flips instead")
        if self.crop == "random":
            raise ValueError(
                "data.crop random has no effect on latents, because each image is encoded once: leave it out"
            )

    def check_one_size(self, consumer: str) -> None:
        if self.native_size:
            raise InputError(
                f"data.native_size leaves images at different sizes, but {consumer} needs all of one size: leave native_size out"
            )

    def selection(self) -> dict[str, Any]:
        chosen = {"train_split", "held_out_split", "held_out_fraction", "split_seed", "image_column", "label_column"}
        if self.native_size:  # left out otherwise, as in the caches made before the keys existed
            chosen |= {"native_size", "longest_side"}
        if self.margin:
            chosen.add("margin")
        return self.model_dump(mode="json", include={*chosen, "on_bad_image", "background"})

    def largest_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.source_size is None else (self.source_size,) * len(shape)

    def without_source(self) -> "ImageDataSpec":
        return self.model_copy(update={"source_size": None})

    def with_source(self, size: tuple[int, ...], shape: tuple[int, ...]) -> "ImageDataSpec":
        # images of other proportions would be cropped differently, so they cannot serve as a reference
        larger = max(size) > max(shape) and size[0] * shape[1] == size[1] * shape[0]
        larger = larger and not self.margin  # the margin is in pixels of `shape`
        return self.model_copy(update={"source_size": max(size) if larger else None})

    def open(self, split: str, shape: tuple[int, ...], channels: int) -> "SignalData":
        from genrep.data.images import ImageData

        return ImageData(self, split, shape, channels)


class ArrayDataSpec(BaseDataSpec):
    """Arrays on a grid of any number of axes, from NumPy files: curves, fields, clips."""

    type: Literal["arrays"]
    source: Annotated[str, MAY_CHANGE]
    """A .npy file `[N, ...]`, a .npz file, a folder of .npy files or with one subfolder of them per class, or the synthetic `sines` or `blobs`."""
    values_key: str = "values"
    """Name of the arrays in a .npz file."""
    labels_key: str | None = "labels"
    """Name of the class labels in a .npz file; null means unlabelled."""
    channel_axis: Literal["none", "first", "last"] = "none"
    """Which axis of an array holds the channels; none means a single channel."""
    value_range: list[FiniteFloat] | None = Field(default=None, min_length=2, max_length=2)
    """Lowest and highest value, scaled to -1 and 1 for the networks and the peak of PSNR; null takes those of the training split."""
    missing: Literal["refuse", "keep"] = "refuse"
    """NaN in an array: refuse it and name the array, or keep it as a missing value, which is excluded from the loss (set autoencoder.missing: true)."""
    unit: str = ""
    """Unit of the values, for pictures and reports."""
    axes: list[str] = Field(default_factory=list)
    """Names of the axes, for pictures."""

    @model_validator(mode="after")
    def _rising(self) -> "ArrayDataSpec":
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be [low, high] with low < high; got {self.value_range}")
        return self

    def selection(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"source", "unit", "axes", "in_memory", "num_workers"})

    def open(self, split: str, shape: tuple[int, ...], channels: int) -> "SignalData":
        from genrep.data.arrays import ArrayData

        return ArrayData(self, split, shape, channels)


DataSpec = Annotated[
    Annotated[ImageDataSpec, Tag("images")] | Annotated[ArrayDataSpec, Tag("arrays")], by_type("images")
]
"""All kinds of data set: a union distinguished by `type`, images by default."""


def all_of(signal_type: str, **keys: Any) -> "ImageDataSpec | ArrayDataSpec":
    """The spec of an unlabelled data set with everything in the training split; keys that the kind lacks are dropped."""
    kind: Any = {"image": ImageDataSpec, "array": ArrayDataSpec}[signal_type]
    arguments = {
        **keys,
        "type": kind.model_fields["type"].annotation.__args__[0],
        "held_out_fraction": 0.0,
        "label_column": None,
    }
    return validate(kind, {key: value for key, value in arguments.items() if key in kind.model_fields})


class LatentsSpec(Spec):
    """Where stage 2 gets its latents from."""

    folder: Annotated[Annotated[str, Field(min_length=1)] | None, MAY_CHANGE] = None
    """Folder of the latent cache; null encodes on the fly instead."""
    flips: bool = False
    """Also encode the mirror image of every image, because a token set cannot be flipped. For images only."""
    fits: PositiveInt = 1
    """For encoder fit: number of times that every training signal is fitted, from other anchors and initial features; training sees a random fit each time. More than 1 needs a folder."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number type in the cache."""
    shard_size: Annotated[PositiveInt, MAY_CHANGE] = 16384
    """Images per shard."""
    batch: Annotated[PositiveInt, MAY_CHANGE] = 256
    """Images encoded at a time."""
    held_out: Annotated[bool, MAY_CHANGE] = True
    """Also cache the held-out split, so that measuring on it needs no images either."""
    verify: Annotated[bool, MAY_CHANGE] = False
    """Check the hash of every shard before training, which reads the whole cache; file sizes are always checked."""
    statistics_images: PositiveInt = 10_000
    """Without a cache: number of images whose latents give the mean and standard deviation."""

    @model_validator(mode="after")
    def _fits_are_cached(self) -> "LatentsSpec":
        if self.fits > 1 and self.folder is None:
            raise ValueError(
                f"fits must be 1 without a latent cache, because every fit takes hundreds of steps; got {self.fits}: set folder"
            )
        return self

    @property
    def num_views(self) -> int:
        """Number of latent sets per training signal."""
        return self.fits * (2 if self.flips else 1)

    def check_encoder(self, encoder: str) -> None:
        """InputError if signals are to be encoded several times, but an encoder of this type gives only one encoding."""
        if self.fits > 1 and encoder != "fit":
            raise InputError(
                f"latents.fits must be 1 for encoder {encoder}, a network, which gives a signal only one encoding; got {self.fits}: "
                "several fits need encoder fit"
            )
