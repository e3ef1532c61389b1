"""Data sets of signals and of latents. The table of what there is: a new kind of signals is a spec here and a file.

What the values of a signal mean, how they are shown and measured, is in `genrep/signals`. Does not import torch.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

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
    validate,
)

if TYPE_CHECKING:
    from genrep.data.signals import SignalData
    from genrep.data.single import SingleSignal

Grey = Annotated[int, Field(ge=0, le=255)]
"""A grey level, 0 black to 255 white."""


class BaseDataSpec(Spec):
    """What every data set's spec has."""

    source: Annotated[str, MAY_CHANGE]
    """Where the signals are."""
    held_out_fraction: Fraction = 0.2
    """Share that is held out, drawn by split_seed."""
    split_seed: NonNegativeInt = 0
    """Seed of that draw."""
    in_memory: Annotated[bool, MAY_CHANGE] = False
    """Read everything once and keep it in memory."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Processes that read signals and cached latents and draw noise ahead of training, on each GPU; 0 is none."""

    def light(self) -> "BaseDataSpec":
        """The same without reading everything ahead: for a look at some of it. The signals and their order stay."""
        return self.model_copy(update={"in_memory": False})

    def unchecked(self) -> "BaseDataSpec":
        """The same without checking every signal at the start, as a dry run wants it."""
        return self

    @property
    def resizes(self) -> bool:
        """Whether signals are brought to any size that is asked for."""
        return False

    @property
    def holds_out(self) -> bool:
        """Whether there is a held-out split."""
        return self.held_out_fraction > 0

    def check_encoded_once(self) -> None:
        """ValueError for keys that have no effect where every signal is encoded once, as stage 2 does."""

    def selection(self) -> dict[str, Any]:
        """The keys that choose and read the signals of a source: a cache is held against them where the source is not there."""
        raise NotImplementedError

    def largest_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The largest grid that targets are taken from, for signals that the encoder sees on `shape`."""
        return shape

    def without_source(self) -> "BaseDataSpec":
        """The same without the signals at a larger size, which only training wants."""
        return self

    def with_source(self, size: tuple[int, ...], shape: tuple[int, ...]) -> "BaseDataSpec":
        """The same with the signals at a larger size too, for kinds that have them (`SignalData.at_source_size`)."""
        return self

    def open(self, split: str, shape: tuple[int, ...], channels: int) -> "SignalData":
        """The signals of a split, `train` or `held_out`, on a grid of `shape`. InputError if they do not fit it."""
        raise NotImplementedError


class ImageDataSpec(BaseDataSpec):
    """Images: where they come from and how they are split and read."""

    type: Literal["images"] = "images"
    """A kind of signals."""
    source: Annotated[str, MAY_CHANGE] = "digits"
    """`digits` or `photographs` (scikit-learn's and scikit-image's), an image folder, a folder or glob of parquet or Arrow files, or a Hub id."""
    train_split: str = "train"
    """Split to train on; slices as in `datasets`: train[:-5000]."""
    held_out_split: str | None = None
    """Split to measure on: test, train[-5000:]. Null: a part of the training split, see held_out_fraction."""
    held_out_fraction: Fraction = 0.2
    """Share of the training split that is held out, drawn by split_seed, where held_out_split is null."""
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
    in_memory: Annotated[bool, MAY_CHANGE] = False
    """Decode everything once and keep the pixels in memory."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Processes that read and decode images, read cached latents and draw noise ahead of training, on each GPU; 0 is none."""

    @model_validator(mode="after")
    def _one_crop(self) -> "ImageDataSpec":
        if self.crop == "random" and self.source_size is not None:
            raise ValueError(
                "crop random takes pieces of the unresized image, and source_size a resized one: give one of them"
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
            raise ValueError("data.flip has no effect on latents, which cannot be flipped: set latents.flips")
        if self.crop == "random":
            raise ValueError("data.crop random has no effect on latents, each image is encoded once: leave it out")

    def selection(self) -> dict[str, Any]:
        chosen = {"train_split", "held_out_split", "held_out_fraction", "split_seed", "image_column", "label_column"}
        return self.model_dump(mode="json", include={*chosen, "on_bad_image", "background"})

    def largest_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.source_size is None else (self.source_size,) * len(shape)

    def without_source(self) -> "ImageDataSpec":
        return self.model_copy(update={"source_size": None})

    def with_source(self, size: tuple[int, ...], shape: tuple[int, ...]) -> "ImageDataSpec":
        # other proportions are other crops
        larger = max(size) > max(shape) and size[0] * shape[1] == size[1] * shape[0]
        return self.model_copy(update={"source_size": max(size) if larger else None})

    def open(self, split: str, shape: tuple[int, ...], channels: int) -> "SignalData":
        from genrep.data.images import ImageData

        return ImageData(self, split, shape, channels)


class ArrayDataSpec(BaseDataSpec):
    """Arrays on a grid of any number of axes, from NumPy files: curves, fields, clips."""

    type: Literal["arrays"]
    source: Annotated[str, MAY_CHANGE]
    """A .npy file `[N, ...]`, a .npz file, a folder of .npy files (or of one for each class), or made up: `sines`, `blobs`."""
    values_key: str = "values"
    """Name of the arrays in a .npz file."""
    labels_key: str | None = "labels"
    """Name of the class labels in a .npz file; null is unlabelled."""
    channel_axis: Literal["none", "first", "last"] = "none"
    """Where an array's channels are among its axes; none is one channel."""
    value_range: list[FiniteFloat] | None = Field(default=None, min_length=2, max_length=2)
    """Lowest and highest value, which networks see as -1 and 1 and PSNR takes as its peak; null is the training split's own."""
    missing: Literal["refuse", "keep"] = "refuse"
    """NaN: stop and say where, or a missing value, which weighs nothing (set autoencoder.missing: true)."""
    unit: str = ""
    """Unit of the values, for pictures and reports."""
    axes: list[str] = Field(default_factory=list)
    """Names of the axes, for pictures."""

    @model_validator(mode="after")
    def _rising(self) -> "ArrayDataSpec":
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must rise; got {self.value_range}")
        return self

    def selection(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"source", "unit", "axes", "in_memory", "num_workers"})

    def open(self, split: str, shape: tuple[int, ...], channels: int) -> "SignalData":
        from genrep.data.arrays import ArrayData

        return ArrayData(self, split, shape, channels)


def _kind(default: str) -> Any:
    """Tells the specs of a union apart by `type`, which configs older than it lack: they are of the `default` kind."""

    def tag(given: Any) -> Any:
        return given.get("type", default) if isinstance(given, dict) else getattr(given, "type", None)

    return Discriminator(tag)


DataSpec = Annotated[Annotated[ImageDataSpec, Tag("images")] | Annotated[ArrayDataSpec, Tag("arrays")], _kind("images")]
"""Every kind of data set there is: a union, told apart by `type`, images where that is not given."""


def all_of(signal_type: str, **keys: Any) -> "ImageDataSpec | ArrayDataSpec":
    """A data set of a kind of signals, all of it in the training split, without labels; keys that the kind lacks are left out."""
    kind: Any = {"image": ImageDataSpec, "array": ArrayDataSpec}[signal_type]
    given = {
        **keys,
        "type": kind.model_fields["type"].annotation.__args__[0],
        "held_out_fraction": 0.0,
        "label_column": None,
    }
    return validate(kind, {key: value for key, value in given.items() if key in kind.model_fields})


class PointsSpec(Spec):
    """The points of one signal that a step of a fit asks for."""

    num_coords: PositiveInt | None = None
    """Points per step, each drawn at random, over all processes; null is all there are, each once."""
    coords: Literal["grid", "gaussian", "uniform"] = "grid"
    """Pixel centres; centres with Gaussian shifts (ANR eq. 9); or spread evenly over the whole pixel."""
    jitter_std: PositiveFloat = 0.15
    """Standard deviation of Gaussian shifts, in pixels."""
    jitter_clip: PositiveFloat = 0.25
    """Largest Gaussian shift, in pixels; below 0.5 keeps a point next to its own pixel."""
    targets: Literal["pixel", "bicubic"] = "pixel"
    """Value to match at a shifted coordinate: its pixel's own (ANR), or the signal interpolated there."""


class BaseSourceSpec(Spec):
    """What the spec of every single signal has."""

    def check_points(self, how: PointsSpec) -> None:
        """ValueError for keys that have no effect on this kind of signal."""

    def open(self) -> "SingleSignal":
        """The signal. InputError for what cannot be one."""
        raise NotImplementedError


class PictureSourceSpec(BaseSourceSpec):
    """One image or video, for a field."""

    type: Literal["pictures"] = "pictures"
    source: str
    """An image, a video, an animated file, a folder of frames, `camera` (scikit-image's photograph) or `siemens` (a drawn star)."""
    size: Size | None = None
    """Resize and crop the pictures to this; null is their own size, of `siemens` 256×256."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; null is the pictures' own."""
    background: Grey = 255
    """Grey level behind pictures that are transparent: 0 black, 255 white."""
    num_frames: PositiveInt | None = None
    """Frames to take from a video, an animated file or a folder; null is all."""
    start: NonNegativeInt = 0
    """The first of them."""
    stride: PositiveInt = 1
    """Distance from one of them to the next, in frames."""
    num_spokes: PositiveInt = 36
    """Dark spokes of `siemens`, with as many bright ones between them."""

    def open(self) -> "SingleSignal":
        from genrep.data.single.pictures import open_pictures

        return open_pictures(self)


class ArraySourceSpec(BaseSourceSpec):
    """One array, for a field."""

    type: Literal["array"]
    source: str
    """A .npy file, or a .wav file, whose samples are an array `[samples, channels]` in [-1, 1]."""
    channel_axis: Literal["none", "first", "last"] = "none"
    """Where the channels of a .npy file are among its axes; none is one channel."""
    value_range: list[FiniteFloat] | None = Field(default=None, min_length=2, max_length=2)
    """Lowest and highest value, which the network sees as -1 and 1 and PSNR takes as its peak; null is the array's own."""
    unit: str = ""
    """Unit of the values, for pictures and reports."""
    axes: list[str] = Field(default_factory=list)
    """Names of the axes, for pictures."""

    def open(self) -> "SingleSignal":
        from genrep.data.single.arrays import open_array

        return open_array(self)


class SinesSourceSpec(BaseSourceSpec):
    """A sum of sines, sampled, for a field; what it is between the samples is known."""

    type: Literal["sines"]
    frequencies: list[PositiveFloat] = Field(min_length=1)
    """Periods over the whole signal, one number for each sine."""
    amplitudes: list[PositiveFloat] | None = None
    """One for each sine; null is 1 for all."""
    length: PositiveInt = 100
    """Samples, evenly spaced."""
    seed: Seed = 0
    """Seed of the phases and of the noise."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the samples."""
    finer: Annotated[int, Field(ge=2, multiple_of=2)] = 10
    """Points for each sample at which the fit is measured between the samples, an even number so that none is a sample."""

    @model_validator(mode="after")
    def _an_amplitude_each(self) -> "SinesSourceSpec":
        if self.amplitudes is not None and len(self.amplitudes) != len(self.frequencies):
            raise ValueError(
                f"amplitudes has {len(self.amplitudes)} numbers, frequencies has {len(self.frequencies)}: give one for each sine"
            )
        return self

    @model_validator(mode="after")
    def _sampled_often_enough(self) -> "SinesSourceSpec":
        if 2 * max(self.frequencies) >= self.length:
            raise ValueError(
                f"length must be more than twice the highest frequency, {max(self.frequencies):g}, or its samples are those of "
                f"a lower one; got {self.length}"
            )
        return self

    def open(self) -> "SingleSignal":
        from genrep.data.single.series import open_sines

        return open_sines(self)


class ShapeSourceSpec(BaseSourceSpec):
    """The signed distance of a shape, for a field: negative inside, in units of the side of the cube [-1, 1]³."""

    type: Literal["shape"]
    source: str
    """A mesh, or a cloud of points with normals: .obj, .ply, .stl or .off."""
    extent: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The longest side of the shape's bounding box, which is moved to the middle of the cube."""
    num_surface_points: PositiveInt = 100_000
    """Points sampled on a mesh, evenly over its area, with its normals; a cloud has its own."""
    noise: list[PositiveFloat] = Field(default=[0.1, 0.001], min_length=1)
    """Scales of the Laplace noise that takes points off the surface, an equal share of a step's points for each."""
    uniform: Fraction = 0.0
    """Share of a step's points that are spread evenly over the cube instead."""
    grid_size: Annotated[int, Field(ge=8)] = 128
    """Points along each axis of the grid on which IoU is measured and the mesh is extracted."""

    def check_points(self, how: PointsSpec) -> None:
        if how.coords != "grid" or how.targets != "pixel":
            raise ValueError(
                "fitting.coords and fitting.targets are for signals on a grid, and a shape is asked for its distance anywhere: "
                "leave them out"
            )

    def open(self) -> "SingleSignal":
        from genrep.data.single.shapes import open_shape

        return open_shape(self)


SourceSpec = Annotated[
    Annotated[PictureSourceSpec, Tag("pictures")]
    | Annotated[ArraySourceSpec, Tag("array")]
    | Annotated[SinesSourceSpec, Tag("sines")]
    | Annotated[ShapeSourceSpec, Tag("shape")],
    _kind("pictures"),
]
"""Every kind of single signal there is: a union, told apart by `type`, pictures where that is not given."""


class LatentsSpec(Spec):
    """Where latents come from in stage 2."""

    folder: Annotated[Annotated[str, Field(min_length=1)] | None, MAY_CHANGE] = None
    """Folder of the cache; null encodes on the fly, without one."""
    flips: bool = False
    """Encode every image's mirror image too: a token set cannot be flipped. Of images alone."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number type in the cache."""
    shard_size: Annotated[PositiveInt, MAY_CHANGE] = 16384
    """Images a shard."""
    batch: Annotated[PositiveInt, MAY_CHANGE] = 256
    """Images encoded at a time."""
    held_out: Annotated[bool, MAY_CHANGE] = True
    """Encode the held-out split into the cache too, so that measuring on it needs no images either."""
    verify: Annotated[bool, MAY_CHANGE] = False
    """Compare every shard with its hash before the start, which reads the whole cache; file sizes are always compared."""
    statistics_images: PositiveInt = 10_000
    """Images whose latents give mean and deviation when there is no cache."""
