"""Specs of data sets, single signals and latents. To add a kind of data set, write a spec here and a file in this package.

What the values of a signal mean, and how they are drawn and measured, is in `genrep/signals`. Does not import torch.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from genrep.specs import (
    MAY_CHANGE,
    FiniteFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Size,
    Spec,
    by_type,
    validate,
)

if TYPE_CHECKING:
    from genrep.data.signals import SignalData
    from genrep.data.single import SingleSignal

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
    source_size: PositiveInt | None = None
    """Also keep images at this larger size, so that stage 1 can train on random target sizes; null disables it."""
    flip: bool = False
    """Mirror training images left to right at random."""
    crop: Literal["centre", "random"] = "centre"
    """Training images: centre resizes them to cover the size and crops the centre, as for held-out ones; random crops anywhere without resizing."""
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

    def selection(self) -> dict[str, Any]:
        chosen = {"train_split", "held_out_split", "held_out_fraction", "split_seed", "image_column", "label_column"}
        return self.model_dump(mode="json", include={*chosen, "on_bad_image", "background"})

    def largest_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.source_size is None else (self.source_size,) * len(shape)

    def without_source(self) -> "ImageDataSpec":
        return self.model_copy(update={"source_size": None})

    def with_source(self, size: tuple[int, ...], shape: tuple[int, ...]) -> "ImageDataSpec":
        # images of other proportions would be cropped differently, so they cannot serve as a reference
        larger = max(size) > max(shape) and size[0] * shape[1] == size[1] * shape[0]
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


class PointsSpec(Spec):
    """The points of a signal that a training step uses."""

    num_coords: PositiveInt | None = None
    """Number of points per step over all processes, drawn at random; null uses every point once."""
    coords: Literal["grid", "gaussian", "uniform"] = "grid"
    """grid: pixel centres; gaussian: centres with Gaussian shifts (ANR eq. 9); uniform: anywhere within the pixel."""
    jitter_std: PositiveFloat = 0.15
    """Standard deviation of the Gaussian shifts, in pixels."""
    jitter_clip: PositiveFloat = 0.25
    """Largest Gaussian shift, in pixels; below 0.5 a point stays within its pixel."""
    targets: Literal["pixel", "bicubic"] = "pixel"
    """Target value at a shifted coordinate: that of its pixel (as in ANR), or the signal interpolated there."""


class BaseSourceSpec(Spec):
    """What the specs of all single signals share."""

    def check_points(self, how: PointsSpec) -> None:
        """ValueError for keys that have no effect on this kind of signal."""

    def open(self) -> "SingleSignal":
        """The signal. InputError if it cannot be read."""
        raise NotImplementedError


class PictureSourceSpec(BaseSourceSpec):
    """An image or a video."""

    type: Literal["pictures"] = "pictures"
    source: str
    """An image, a video, an animated file, a folder of frames, `camera` (scikit-image's photograph) or `siemens` (a drawn star)."""
    size: Size | None = None
    """Resize and crop the pictures to this size; null keeps their own, and draws `siemens` at 256×256."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; null keeps those of the pictures."""
    background: Grey = 255
    """Grey level behind transparent pictures: 0 black, 255 white."""
    num_frames: PositiveInt | None = None
    """Number of frames to take from a video, an animated file or a folder; null takes all."""
    start: NonNegativeInt = 0
    """Index of the first frame to take."""
    stride: PositiveInt = 1
    """Take every n-th frame."""
    num_spokes: PositiveInt = 36
    """Number of dark spokes of `siemens`, with as many bright ones between them."""

    def open(self) -> "SingleSignal":
        from genrep.data.single.pictures import open_pictures

        return open_pictures(self)


class ArraySourceSpec(BaseSourceSpec):
    """An array on a grid of any number of axes."""

    type: Literal["array"]
    source: str
    """A .npy file, or a .wav file, whose samples are an array `[samples, channels]` in [-1, 1]."""
    channel_axis: Literal["none", "first", "last"] = "none"
    """Which axis of a .npy file holds the channels; none means a single channel."""
    value_range: list[FiniteFloat] | None = Field(default=None, min_length=2, max_length=2)
    """Lowest and highest value, scaled to -1 and 1 for the network and the peak of PSNR; null takes the array's own."""
    unit: str = ""
    """Unit of the values, for pictures and reports."""
    axes: list[str] = Field(default_factory=list)
    """Names of the axes, for pictures."""

    def open(self) -> "SingleSignal":
        from genrep.data.single.arrays import open_array

        return open_array(self)


class SinesSourceSpec(BaseSourceSpec):
    """Samples of a sum of sines, whose true values between the samples are known."""

    type: Literal["sines"]
    frequencies: list[PositiveFloat] = Field(min_length=1)
    """Periods over the whole signal, one number per sine."""
    amplitudes: list[PositiveFloat] | None = None
    """One number per sine; null means 1 for all."""
    length: Annotated[int, Field(ge=2)] = 100
    """Number of samples, evenly spaced."""
    seed: Seed = 0
    """Seed of the phases and of the noise."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the samples."""
    finer: Annotated[int, Field(ge=2, multiple_of=2)] = 10
    """Points per sample at which to measure the fit between the samples; even, so that no point is a sample."""

    @model_validator(mode="after")
    def _one_amplitude_per_sine(self) -> "SinesSourceSpec":
        if self.amplitudes is not None and len(self.amplitudes) != len(self.frequencies):
            raise ValueError(
                f"amplitudes must have one number per sine: {len(self.frequencies)}, as in frequencies; got "
                f"{len(self.amplitudes)}"
            )
        return self

    @model_validator(mode="after")
    def _sampled_often_enough(self) -> "SinesSourceSpec":
        if 2 * max(self.frequencies) >= self.length:
            raise ValueError(
                f"length must be more than twice the highest frequency, {max(self.frequencies):g}, or its samples would equal "
                f"those of a lower one; got {self.length}"
            )
        return self

    def open(self) -> "SingleSignal":
        from genrep.data.single.series import open_sines

        return open_sines(self)


class ShapeSourceSpec(BaseSourceSpec):
    """The signed distance of a shape: negative inside, in units of the side of the cube [-1, 1]³."""

    type: Literal["shape"]
    source: str
    """A mesh, or a cloud of points with normals: .obj, .ply, .stl or .off."""
    extent: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Longest side of the shape's bounding box, relative to the cube's; the box is centred in the cube."""
    num_surface_points: PositiveInt = 100_000
    """Number of points sampled on a mesh, evenly over its area, with its normals; a cloud has its own points."""
    noise: list[PositiveFloat] = Field(default=[0.1, 0.001], min_length=1)
    """Scales of the Laplace noise that moves points off the surface; every scale gets an equal share of a step's points."""
    uniform: Fraction = 0.0
    """Share of a step's points drawn uniformly from the cube instead."""
    grid_size: Annotated[int, Field(ge=8)] = 128
    """Points along each axis of the grid on which IoU is measured and the mesh is extracted."""

    def check_points(self, how: PointsSpec) -> None:
        if how.coords != "grid" or how.targets != "pixel":
            raise ValueError(
                "fitting.coords and fitting.targets apply to signals on a grid, and a shape's distance is known everywhere: leave "
                "them out"
            )

    def open(self) -> "SingleSignal":
        from genrep.data.single.shapes import open_shape

        return open_shape(self)


SourceSpec = Annotated[
    Annotated[PictureSourceSpec, Tag("pictures")]
    | Annotated[ArraySourceSpec, Tag("array")]
    | Annotated[SinesSourceSpec, Tag("sines")]
    | Annotated[ShapeSourceSpec, Tag("shape")],
    by_type("pictures"),
]
"""All kinds of single signal: a union distinguished by `type`, pictures by default."""


class LatentsSpec(Spec):
    """Where stage 2 gets its latents from."""

    folder: Annotated[Annotated[str, Field(min_length=1)] | None, MAY_CHANGE] = None
    """Folder of the latent cache; null encodes on the fly instead."""
    flips: bool = False
    """Also encode the mirror image of every image, because a token set cannot be flipped. For images only."""
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
