"""The typed YAML of every training script. Does not import torch, so --help stays fast.

The architectures of models are in `genrep/models/specs.py`.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from genrep.data import DataSpec, ImageDataSpec, LatentsSpec
from genrep.data.single import PointsSpec, SourceSpec
from genrep.diffusion import DiffusionSpec
from genrep.fields import FieldSpec
from genrep.gan import GANSpec
from genrep.models.specs import (
    AutoencoderSpec,
    ClassifierArchitecture,
    CloudClassifierArchitecture,
    DenoiserArchitecture,
    DiscriminatorArchitecture,
    GeneratorArchitecture,
    SizeClassifierArchitecture,
)
from genrep.pipelines import DiffusionSamplingSpec, GANSamplingSpec
from genrep.specs import (
    MAY_CHANGE,
    Fraction,
    GridSize,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Spec,
    by_type,
    grid_of,
)


class OptimizerSpec(Spec):
    """The optimizer, and its learning rate as a function of the step."""

    type: Literal["adamw", "muon"] = "adamw"
    """AdamW (Adam if weight_decay is 0), or Muon for the weights of linear layers and convolutions and AdamW for the rest."""
    lr: PositiveFloat = 1e-4
    """Learning rate; Muon's updates are scaled to the size of AdamW's, so a value suits both."""
    betas: list[Fraction] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """Decay rates of AdamW's averages of the gradient and of its square."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine", "linear", "drop"] = "constant"
    """After the warm-up: constant; half a cosine or a line down to min_lr at the end; or drop, lr for half of the steps, then min_lr."""
    min_lr: NonNegativeFloat = 0.0
    """Final learning rate of all schedules but constant."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from 0."""
    clip_norm: PositiveFloat | None = 1.0
    """Clip the norm of the gradient to this; null disables clipping."""


class EMASpec(Spec):
    """Exponential moving average of the weights, which is what gets evaluated, previewed and saved."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay per update; it warms up to this as (1 + n) / (10 + n) after n updates."""
    every: PositiveInt = 1
    """Steps between updates."""


class RunSpec(Spec):
    """Where the run goes, how long, and how often it reports."""

    folder: Annotated[str, Field(min_length=1), MAY_CHANGE]
    """Folder for config, metrics, pictures, checkpoints and the trained model; a run that is already there is resumed."""
    seed: Seed = 0
    """Seed of everything random."""
    steps: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Optimizer steps; give either this or images, or seconds alone."""
    images: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Images to train on, counting repeats; give either this or steps, or seconds alone."""
    seconds: Annotated[PositiveFloat | None, MAY_CHANGE] = None
    """Seconds of training, not counting evaluations and checkpoints. Alone: train for as many steps as fit, estimated from the
    pace of the first ones and kept on resuming. With steps or images: stop at this time, even in mid-schedule."""
    batch: PositiveInt
    """Images per step, over all processes and accumulation."""
    accumulation: PositiveInt = 1
    """Number of parts to compute a batch in; more parts need less memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 for GPUs: bfloat16 where it is safe, TF32 elsewhere. On most CPUs bf16 is slower."""
    compile: Annotated[bool, MAY_CHANGE] = False
    """Compile the model with torch.compile."""
    threads: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """CPU threads. Null tries several numbers for about a second and keeps the fastest, unless OMP_NUM_THREADS is set."""
    report_every: Annotated[PositiveInt, MAY_CHANGE] = 100
    """Steps between lines of metrics."""
    evaluate_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Steps between evaluations on held-out images; null evaluates only at the end."""
    evaluate_images: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Number of held-out images to evaluate on; null takes all."""
    preview_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Steps between pictures in samples/; null makes them only at the end."""
    save_every: Annotated[PositiveInt, MAY_CHANGE] = 1000
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[PositiveInt, MAY_CHANGE] = 2
    """Number of checkpoints to keep; older ones are deleted."""
    tracker: Annotated[Literal["tensorboard", "wandb", "trackio", "mlflow"] | None, MAY_CHANGE] = None
    """Also log to this tracker; its package must be installed."""

    @model_validator(mode="after")
    def _consistent(self) -> "RunSpec":
        if self.steps is not None and self.images is not None:
            raise ValueError("give either steps or images, not both")
        if self.steps is None and self.images is None and self.seconds is None:
            raise ValueError("give steps or images, or seconds to train for")
        if self.batch % self.accumulation:
            raise ValueError(f"batch must be a multiple of accumulation, {self.accumulation}; got {self.batch}")
        return self

    @property
    def num_steps(self) -> int | None:
        """Number of steps, computed from `images` if that is set; None with `seconds` alone."""
        if self.images is not None:
            return -(-self.images // self.batch)
        return self.steps

    @property
    def length(self) -> str:
        """The length of the run as text."""
        return f"{self.seconds:g} s of steps" if self.num_steps is None else f"{self.num_steps:,} steps"


class ReconstructionSpec(Spec):
    """Objective of stage 1: mean squared error of values at coordinates."""

    coords: Literal["grid", "gaussian", "uniform"] = "uniform"
    """grid: pixel centres; gaussian: centres with Gaussian shifts (ANR eq. 9); uniform: anywhere within the pixel."""
    jitter_std: PositiveFloat = 0.15
    """Standard deviation of the Gaussian shifts, in pixels."""
    jitter_clip: PositiveFloat = 0.25
    """Largest Gaussian shift, in pixels; below 0.5 a point stays within its pixel."""
    targets: Literal["pixel", "bicubic"] = "bicubic"
    """Target value at a shifted coordinate: that of its pixel (as in ANR), or the image interpolated there."""
    target_size: GridSize | None = None
    """Grid that target coordinates are taken from, one number or one per axis; null is image_size. With data.source_size it is random, from this size up to that."""
    num_coords: PositiveInt | None = None
    """Coordinates per step, a random subset; null uses all."""
    per_image: bool = False
    """Draw coordinates for every signal, as the papers' code does; false shares them within a step, which is faster."""
    latent_noise: NonNegativeFloat = 0.0
    """Noise added to the latents before decoding, relative to a channel's standard deviation between images; each image's level is drawn as |N(0, this²)|."""


class PerceptualSpec(Spec):
    """A term of stage 1's loss: distance between a classifier's maps of reconstructed and of original windows."""

    classifier: Annotated[str, MAY_CHANGE]
    """Run or model folder of a convolutional classifier (train/classifier.py). Measure with another one than this."""
    weight: PositiveFloat = 0.1
    """Weight of the term, beside 1 for the squared error."""
    window: PositiveInt = 16
    """Side of the window in pixels, up to the image's; its place is drawn once per step."""


class AutoencoderRun(Spec):
    """Stage 1."""

    data: DataSpec = ImageDataSpec()
    """Signals to train on."""
    autoencoder: AutoencoderSpec
    """The model."""
    reconstruction: ReconstructionSpec = ReconstructionSpec()
    """The objective."""
    perceptual: PerceptualSpec | None = None
    """A perceptual term of the loss; null is none."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = EMASpec()
    """Average of the weights; null disables it."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _has_network(self) -> "AutoencoderRun":
        self.data.check_one_size("train/autoencoder.py")
        if self.autoencoder.encoder.type == "fit":
            raise ValueError(
                "train/autoencoder.py cannot train autoencoder.encoder fit, which has no network: train its decoder with train/clouds.py"
            )
        return self

    @model_validator(mode="after")
    def _target_axes(self) -> "AutoencoderRun":
        size, axes = self.reconstruction.target_size, len(self.autoencoder.image_shape)
        if isinstance(size, list) and len(size) != axes:
            raise ValueError(
                f"reconstruction.target_size must be one number, or one per axis ({axes}); got {len(size)}"
            )
        return self

    @model_validator(mode="after")
    def _enough_coords(self) -> "AutoencoderRun":
        num_coords = self.reconstruction.num_coords
        if num_coords is not None and num_coords > self._target_pixels:
            raise ValueError(
                f"reconstruction.num_coords must be at most {self._target_pixels}, the points of a target; got {num_coords}"
            )
        return self

    @model_validator(mode="after")
    def _window_fits(self) -> "AutoencoderRun":
        side = min(self.autoencoder.image_shape)
        if self.perceptual is not None and self.perceptual.window > side:
            raise ValueError(
                f"perceptual.window must be at most {side}, the image's side; got {self.perceptual.window}"
            )
        return self

    @model_validator(mode="after")
    def _noise_needs_two(self) -> "AutoencoderRun":
        if self.reconstruction.latent_noise and self.run.batch // self.run.accumulation < 2:
            raise ValueError(
                "reconstruction.latent_noise is relative to the standard deviation between images: run.batch / run.accumulation "
                "must be 2 or more, or latent_noise 0"
            )
        return self

    @model_validator(mode="after")
    def _axes_fit(self) -> "AutoencoderRun":
        axes = getattr(self.autoencoder.decoder, "num_axes", None)
        if axes not in (None, len(self.autoencoder.image_shape)):
            raise ValueError(
                f"autoencoder.decoder.num_axes {axes} does not fit signals of {len(self.autoencoder.image_shape)} axes "
                "(autoencoder.image_size): leave it out"
            )
        return self

    @property
    def num_coords(self) -> int:
        """The largest number of coordinates per signal that a step decodes."""
        largest = math.prod(self.data.largest_size(self.autoencoder.image_shape))
        in_window = 0 if self.perceptual is None else self.perceptual.window ** len(self.autoencoder.image_shape)
        return (self.reconstruction.num_coords or max(self._target_pixels, largest)) + in_window

    @property
    def _target_pixels(self) -> int:
        size, shape = self.reconstruction.target_size, self.autoencoder.image_shape
        return math.prod(shape if size is None else (size,) * len(shape) if isinstance(size, int) else size)


class FittingSpec(PointsSpec):
    """Objective of a field: mean squared error of values at the signal's points."""

    chunk: PositiveInt = 16_384
    """Points computed at a time, so few that activations fit a CPU's cache; does not change the result."""


class FieldRun(Spec):
    """A field fitted to one signal."""

    signal: SourceSpec
    """The signal."""
    field: FieldSpec
    """The model."""
    fitting: FittingSpec = FittingSpec()
    """The objective."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = None
    """Average of the weights; null disables it."""
    run: RunSpec
    """The run; its batch must be 1, for the one signal."""

    @model_validator(mode="after")
    def _one_signal(self) -> "FieldRun":
        if self.run.batch != 1:
            raise ValueError(
                f"run.batch must be 1, because a field has one signal; got {self.run.batch}. fitting.num_coords sets the number "
                "of points per step"
            )
        self.signal.check_points(self.fitting)
        return self


class DiffusionRun(Spec):
    """Stage 2, diffusion."""

    data: DataSpec = ImageDataSpec()
    """Signals, as in stage 1."""
    autoencoder: Annotated[str, MAY_CHANGE]
    """Run or model folder of stage 1."""
    latents: LatentsSpec = LatentsSpec()
    """The latent cache."""
    denoiser: DenoiserArchitecture = DenoiserArchitecture()
    """The model."""
    diffusion: DiffusionSpec = DiffusionSpec()
    """The objective."""
    sampling: Annotated[DiffusionSamplingSpec, MAY_CHANGE] = DiffusionSamplingSpec()
    """Sampling settings of previews, saved with the pipeline as its defaults."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = EMASpec()
    """Average of the weights; null disables it."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _flips_are_latents(self) -> "DiffusionRun":
        self.data.check_encoded_once()
        if self.latents.folder is None or not self.latents.held_out:
            self.data.check_one_size("encoding during training (latents.folder null or latents.held_out false)")
        if self.diffusion.loss == "two_term":
            self.data.check_one_size("diffusion.loss two_term")
        if self.diffusion.alignment is not None:
            self.data.check_one_size("diffusion.alignment")
        alignment, depth = self.diffusion.alignment, self.denoiser.depth
        if alignment is not None and alignment.block > depth:
            raise ValueError(
                f"diffusion.alignment.block must be at most {depth}, the denoiser's depth; got {alignment.block}"
            )
        num_steps, num_levels = self.sampling.num_inference_steps, self.diffusion.noise.num_timesteps
        if num_steps > num_levels:
            raise ValueError(
                f"sampling.num_inference_steps must be at most diffusion.noise.num_timesteps, {num_levels}; got {num_steps}"
            )
        return self


class GANRun(Spec):
    """A GAN of images, or of the latents of stage 1."""

    data: DataSpec = ImageDataSpec()
    """Signals to train on."""
    image_size: GridSize | None = None
    """For target images: the grid of the signals, one number for a square image or one length per axis."""
    channels: PositiveInt | None = None
    """For target images: channels of the values, 1 for grey, 3 for RGB."""
    autoencoder: Annotated[str | None, MAY_CHANGE] = None
    """For target latents: run or model folder of stage 1."""
    latents: LatentsSpec = LatentsSpec()
    """For target latents: the latent cache."""
    generator: GeneratorArchitecture = GeneratorArchitecture()
    """The generator."""
    discriminator: DiscriminatorArchitecture = DiscriminatorArchitecture()
    """The discriminators."""
    gan: GANSpec = GANSpec()
    """The objective."""
    sampling: Annotated[GANSamplingSpec, MAY_CHANGE] = GANSamplingSpec()
    """Sampling settings of previews, saved with the pipeline as its defaults."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer, for generator and discriminators."""
    ema: EMASpec | None = None
    """Average of the generator's weights; null disables it."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _of_one_target(self) -> "GANRun":
        self.data.check_one_size("train/gan.py")
        of_images = {"image_size": self.image_size, "channels": self.channels}
        if self.gan.target == "images":
            if None in of_images.values() or self.autoencoder is not None:
                raise ValueError("gan.target images needs image_size and channels, and takes no autoencoder")
            if self.gan.sees != "images":
                raise ValueError(
                    f"gan.sees {self.gan.sees} needs gan.target latents, without which there are no latents"
                )
        elif self.autoencoder is None or set(of_images.values()) != {None}:
            raise ValueError(
                "gan.target latents needs autoencoder, which determines image_size and channels: leave those two out"
            )
        if self.gan.target == "latents":
            self.data.check_encoded_once()
        if self.gan.augment and self.gan.sees == "latents":
            raise ValueError("gan.augment applies to images, and with gan.sees latents there are none: leave it out")
        if self.run.accumulation != 1:
            raise ValueError(
                f"run.accumulation must be 1 for a GAN, whose two networks are updated in turn; got {self.run.accumulation}"
            )
        return self

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The grid of target images."""
        assert self.image_size is not None
        return grid_of(self.image_size)


class CloudAugmentSpec(Spec):
    """Augmentation of the latent clouds that a classifier trains on; 0 and false disable each."""

    noise: NonNegativeFloat = 0.0
    """Standard deviation of the Gaussian noise on the features; 0.001 in ARC."""
    drop: Fraction = 0.0
    """Share of the points that is dropped ("masking"); 0.3 in ARC."""
    push: NonNegativeFloat = 0.0
    """Largest shift of individual points along each axis, in pixels; 2 in ARC."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation about the image's centre, in degrees; 180 in ARC."""
    flip: bool = False
    """Mirror half of the clouds along the last axis."""
    shift: NonNegativeFloat = 0.0
    """Largest shift of the whole cloud along each axis, in pixels."""
    mix: bool = False
    """ARCMix: combine random points of two clouds in the proportion λ ~ U(0, 1), and mix their labels in the same proportion."""


class ConvolutionalSpec(ClassifierArchitecture):
    """A convolutional network on the signals."""

    type: Literal["convolutional"] = "convolutional"


class PointTransformerSpec(CloudClassifierArchitecture):
    """A point transformer on latent sets whose tokens have positions (ARC)."""

    type: Literal["point_transformer"]


class ImageSizeSpec(SizeClassifierArchitecture):
    """An MLP that sees only the image's height and width: whether the sizes in a data set give the class away (ARC)."""

    type: Literal["image_size"]


class ClassifierRun(Spec):
    """A classifier of signals, which provides the features of fd_classifier, or of their latent clouds."""

    data: DataSpec = ImageDataSpec()
    """Signals, as in stage 1."""
    image_size: GridSize | None = None
    """For a convolutional classifier: the grid of the signals, one number for a square image, or one length per axis."""
    channels: PositiveInt = 3
    """Channels of the values: 1 for grey, 3 for RGB."""
    autoencoder: str | None = None
    """For a point transformer: the run or model folder of stage 1, whose tokens have positions. For type image_size optional."""
    latents: LatentsSpec = LatentsSpec()
    """For a point transformer: the cache of clouds. For type image_size: with autoencoder, the cache to read sizes from."""
    classifier: Annotated[
        Annotated[ConvolutionalSpec, Tag("convolutional")]
        | Annotated[PointTransformerSpec, Tag("point_transformer")]
        | Annotated[ImageSizeSpec, Tag("image_size")],
        by_type("convolutional"),
    ] = ConvolutionalSpec()
    """The model."""
    augment: CloudAugmentSpec = CloudAugmentSpec()
    """For a point transformer: augmentation of the clouds."""
    normalize: Literal["channel", "whole", "none"] = "channel"
    """For a point transformer: standardise features per channel, all with one mean and standard deviation, or not at all."""
    shifted_by: NonNegativeFloat = 0.0
    """For a point transformer: also measure accuracy on held-out clouds shifted by up to this many pixels; 0 disables it."""
    pushed_by: NonNegativeFloat = 0.0
    """For a point transformer: also measure accuracy on held-out clouds whose points are each shifted by up to this many pixels along each axis; 0 disables it."""
    displaced_by: NonNegativeInt = 0
    """For a point transformer: also measure accuracy on clouds of held-out images that were displaced by up to this many pixels before they were fitted, repeating their border (see data.margin); 0 disables it."""
    shift: NonNegativeInt = 1
    """For a convolutional classifier: largest random shift of training images, in pixels."""
    cutout: NonNegativeInt = 0
    """Side of a square set to grey (0) at random in every training image (DeVries and Taylor, 2017); 0 disables it."""
    label_smoothing: Fraction = 0.0
    """Share of the target probability that is spread evenly over all classes."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = EMASpec()
    """Average of the weights; null disables it."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _has_no_keys_of_others(self) -> "ClassifierRun":
        of_clouds = ("augment", "normalize", "shifted_by", "pushed_by", "displaced_by")
        for name in () if isinstance(self.classifier, PointTransformerSpec) else of_clouds:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} is for classifier.type point_transformer, and has no effect on {self.classifier.type}: leave it out"
                )
        return self

    @model_validator(mode="after")
    def _inputs(self) -> "ClassifierRun":
        if isinstance(self.classifier, PointTransformerSpec):
            if self.autoencoder is None or self.image_size is not None:
                raise ValueError(
                    "classifier.type point_transformer needs autoencoder, which determines image_size: leave image_size out"
                )
            if self.latents.folder is None:
                raise ValueError(
                    "classifier.type point_transformer reads clouds from a latent cache: set latents.folder"
                )
            if self.displaced_by:
                self.data.check_one_size("displaced_by")
            return self
        if isinstance(self.classifier, ImageSizeSpec):
            if self.image_size is not None:
                raise ValueError("classifier.type image_size takes the sizes from the data: leave image_size out")
            if self.autoencoder is None and not getattr(self.data, "native_size", False):
                raise ValueError(
                    "classifier.type image_size needs the images' own sizes: set data.native_size, or give autoencoder and "
                    "latents.folder, whose cache has them"
                )
            if self.autoencoder is not None and self.latents.folder is None:
                raise ValueError(
                    "classifier.type image_size with an autoencoder reads sizes from a latent cache: set latents.folder, or leave "
                    "autoencoder out"
                )
            return self
        self.data.check_one_size("classifier.type convolutional")
        if self.image_size is None or self.autoencoder is not None:
            raise ValueError(
                "classifier.type convolutional needs image_size and no autoencoder: set image_size, and leave autoencoder out"
            )
        shortest = min(self.image_shape)
        if shortest < 2 ** (self.classifier.stages - 1):
            raise ValueError(
                f"classifier.stages {self.classifier.stages} would halve {shortest} pixels to less than one: use fewer stages"
            )
        return self

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The grid of the signals, one length per axis; for a convolutional classifier only."""
        assert self.image_size is not None, "a classifier of clouds has no image_size"
        return grid_of(self.image_size)


class CloudRun(Spec):
    """Stage 1 for anchored clouds: the shared decoder, trained together with the clouds of some images."""

    data: DataSpec = ImageDataSpec()
    """Signals to train on."""
    autoencoder: AutoencoderSpec
    """The model; its encoder must be of type fit."""
    latent_noise: NonNegativeFloat = 0.0
    """Noise added to the features in training, relative to a channel's standard deviation over all clouds; each image's level is drawn as |N(0, this²)|. The fits under the trained decoder have none."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer, for the decoder and the clouds."""
    ema: EMASpec | None = None
    """Average of the weights; null disables it."""
    run: RunSpec
    """The run; batch is the number of training images, all of which are used at every step."""

    @model_validator(mode="after")
    def _of_fits(self) -> "CloudRun":
        self.data.check_one_size("train/clouds.py, which can crop instead (data.crop)")
        if self.autoencoder.encoder.type != "fit":
            raise ValueError(
                f"autoencoder.encoder must be of type fit for train/clouds.py; got {self.autoencoder.encoder.type}: "
                "use train/autoencoder.py"
            )
        if self.run.accumulation != 1 or self.run.compile:
            raise ValueError(
                "run.accumulation must be 1 and run.compile false for train/clouds.py, which supports neither: leave them out"
            )
        return self
