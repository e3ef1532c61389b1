"""Specs of single signals, to which `train/field.py` fits fields. To add a kind, write a spec here and a file in this package.

Data sets are in `genrep/data/images.py` and `arrays.py`. Does not import torch.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, Tag, model_validator

from genrep.data import Grey
from genrep.specs import (
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
)

if TYPE_CHECKING:
    from genrep.data.single.base import SingleSignal


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

    @model_validator(mode="after")
    def _rising(self) -> "ArraySourceSpec":
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be [low, high] with low < high; got {self.value_range}")
        return self

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
    """Points along each axis of the grid on which IoU is measured and the mesh is extracted; it takes 12 bytes of memory per point (1.6 GB at 512), and more than the machine has is refused."""

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
