"""How a run goes: the YAML of every script, typed. Does not import torch, so --help stays fast.

Not what a model is: that is in `genrep/models/specs.py`.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrep.data import DataSpec, ImageDataSpec, LatentsSpec, SourceSpec
from genrep.diffusion import DiffusionSpec
from genrep.fields import FieldSpec
from genrep.gan import GANSpec
from genrep.models.specs import (
    AutoencoderSpec,
    ClassifierArchitecture,
    DenoiserArchitecture,
    DiscriminatorArchitecture,
    GeneratorArchitecture,
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
    grid_of,
)


class OptimizerSpec(Spec):
    """The optimizer and its learning rate, a function of the step."""

    type: Literal["adamw", "muon"] = "adamw"
    """AdamW (Adam where weight_decay is 0), or Muon for the weights of linear layers and AdamW for the rest."""
    lr: PositiveFloat = 1e-4
    """Learning rate; Muon's updates are scaled to AdamW's, so it means the same for both."""
    betas: list[Fraction] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """AdamW's running averages."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine", "drop"] = "constant"
    """After the warm-up: constant; half a cosine that comes to min_lr after the last step; or lr and, from half of the steps on, min_lr."""
    min_lr: NonNegativeFloat = 0.0
    """Where the cosine and the drop end."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises from 0."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient; null is unlimited."""


class EMASpec(Spec):
    """Exponential moving average of the weights: what is evaluated, previewed and saved."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay an update; it rises to this as (1 + n) / (10 + n)."""
    every: PositiveInt = 1
    """Steps between updates."""


class RunSpec(Spec):
    """Where the run goes, how long, and how often it reports."""

    folder: Annotated[str, Field(min_length=1), MAY_CHANGE]
    """Run folder."""
    seed: Seed = 0
    """Seed of everything random."""
    steps: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Optimizer steps; give this or images."""
    images: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Images to train on, with repeats; give this or steps."""
    seconds: Annotated[PositiveFloat | None, MAY_CHANGE] = None
    """Stop after this many seconds of training, even if steps are left; the learning rate still follows the steps."""
    batch: PositiveInt
    """Images a step, over all processes and accumulation."""
    accumulation: PositiveInt = 1
    """Parts that the batch is computed in, for less memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 for GPUs: bfloat16 where it is safe, TF32 for the rest. On most CPUs bf16 is slower."""
    compile: Annotated[bool, MAY_CHANGE] = False
    """torch.compile the model."""
    threads: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """CPU threads. Null tries them out for a second at the start and keeps the fastest, unless OMP_NUM_THREADS is set."""
    report_every: Annotated[PositiveInt, MAY_CHANGE] = 100
    """Steps between lines of metrics."""
    evaluate_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Steps between evaluations on held-out images; null is at the end only."""
    evaluate_images: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Held-out images to evaluate on; null is all."""
    preview_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Steps between pictures in samples/; null is at the end only."""
    save_every: Annotated[PositiveInt, MAY_CHANGE] = 1000
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[PositiveInt, MAY_CHANGE] = 2
    """Checkpoints kept; older ones are deleted."""
    tracker: Annotated[Literal["tensorboard", "wandb", "trackio", "mlflow"] | None, MAY_CHANGE] = None
    """Also log to this tracker, where its package is installed."""

    @model_validator(mode="after")
    def _consistent(self) -> "RunSpec":
        if (self.steps is None) == (self.images is None):
            raise ValueError("give either steps or images, and not both")
        if self.batch % self.accumulation:
            raise ValueError(f"batch {self.batch} cannot be cut into {self.accumulation} equal parts (accumulation)")
        return self

    @property
    def num_steps(self) -> int:
        """Steps, from images where those are given."""
        return self.steps if self.steps is not None else -(-(self.images or 0) // self.batch)


class ReconstructionSpec(Spec):
    """Objective of stage 1: mean squared error of values at coordinates."""

    coords: Literal["grid", "gaussian", "uniform"] = "uniform"
    """Pixel centres; centres with Gaussian shifts (ANR eq. 9); or spread evenly over the whole pixel."""
    jitter_std: PositiveFloat = 0.15
    """Deviation of Gaussian shifts, in pixels."""
    jitter_clip: PositiveFloat = 0.25
    """Largest Gaussian shift, in pixels; below 0.5 keeps a point next to its own pixel."""
    targets: Literal["pixel", "bicubic"] = "bicubic"
    """Value to match at a shifted coordinate: its pixel's own (ANR), or the image interpolated there."""
    target_size: GridSize | None = None
    """Grid of target coordinates, one number or one per axis; null is the image size. Up to data.source_size it is random."""
    num_coords: PositiveInt | None = None
    """Coordinates a step, a random subset; null is all."""
    per_image: bool = False
    """Every signal has coordinates of its own, as in the papers' code; false shares a step's among its signals, which is faster."""
    latent_noise: NonNegativeFloat = 0.0
    """Noise on the latents that the decoder gets, in a channel's deviations between images; an image's level: |N(0, this²)|."""


class AutoencoderRun(Spec):
    """Stage 1."""

    data: DataSpec = ImageDataSpec()
    """Signals to train on."""
    autoencoder: AutoencoderSpec
    """The model."""
    reconstruction: ReconstructionSpec = ReconstructionSpec()
    """The objective."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = EMASpec()
    """Average of the weights; null is off."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _has_network(self) -> "AutoencoderRun":
        if self.autoencoder.encoder.type == "fit":
            raise ValueError("autoencoder.encoder fit has no network to train: train its decoder with train/clouds.py")
        return self

    @model_validator(mode="after")
    def _target_axes(self) -> "AutoencoderRun":
        size, axes = self.reconstruction.target_size, len(self.autoencoder.image_shape)
        if isinstance(size, list) and len(size) != axes:
            raise ValueError(
                f"reconstruction.target_size has {len(size)} numbers for {axes} axes: give one, or one per axis"
            )
        return self

    @model_validator(mode="after")
    def _enough_coords(self) -> "AutoencoderRun":
        wanted = self.reconstruction.num_coords
        if wanted is not None and wanted > self._target_pixels:
            raise ValueError(f"reconstruction.num_coords {wanted} is more than the {self._target_pixels} of a target")
        return self

    @model_validator(mode="after")
    def _noise_needs_two(self) -> "AutoencoderRun":
        if self.reconstruction.latent_noise and self.run.batch // self.run.accumulation < 2:
            raise ValueError(
                "reconstruction.latent_noise is in units of the deviation from image to image: give run.batch / run.accumulation "
                "two images or more, or set it to 0"
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
        """Most coordinates of a signal that a step decodes."""
        largest = math.prod(self.data.largest_size(self.autoencoder.image_shape))
        return self.reconstruction.num_coords or max(self._target_pixels, largest)

    @property
    def _target_pixels(self) -> int:
        size, shape = self.reconstruction.target_size, self.autoencoder.image_shape
        return math.prod(shape if size is None else (size,) * len(shape) if isinstance(size, int) else size)


class FittingSpec(Spec):
    """Objective of a field: mean squared error of values at the signal's points."""

    num_coords: PositiveInt | None = None
    """Points a step, each drawn at random, over all processes; null is all there are, each once."""
    chunk: PositiveInt = 16_384
    """Points computed at a time; so few that what lies between two layers stays in a CPU's cache. It changes no result."""


class FieldRun(Spec):
    """A field that stands for one signal."""

    signal: SourceSpec
    """The signal."""
    field: FieldSpec
    """The model."""
    fitting: FittingSpec = FittingSpec()
    """The objective."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = None
    """Average of the weights; null is off."""
    run: RunSpec
    """The run; its batch is 1, one signal."""

    @model_validator(mode="after")
    def _one_signal(self) -> "FieldRun":
        if self.run.batch != 1:
            raise ValueError(
                f"run.batch must be 1, a field has one signal; got {self.run.batch}. fitting.num_coords is its points a step"
            )
        return self


class DiffusionRun(Spec):
    """Stage 2, diffusion."""

    data: DataSpec = ImageDataSpec()
    """Signals, as in stage 1."""
    autoencoder: Annotated[str, MAY_CHANGE]
    """Run or model folder of stage 1."""
    latents: LatentsSpec = LatentsSpec()
    """The cache of latents."""
    denoiser: DenoiserArchitecture = DenoiserArchitecture()
    """The model."""
    diffusion: DiffusionSpec = DiffusionSpec()
    """The objective."""
    sampling: Annotated[DiffusionSamplingSpec, MAY_CHANGE] = DiffusionSamplingSpec()
    """How samples are drawn, in previews and by the pipeline unless it is told otherwise."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = EMASpec()
    """Average of the weights; null is off."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _flips_are_latents(self) -> "DiffusionRun":
        self.data.check_encoded_once()
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
    """The grid of the signals, of target images: a number for a square image, or one length per axis."""
    channels: PositiveInt | None = None
    """Channels of the values, of target images: 1 for grey, 3 for RGB."""
    autoencoder: Annotated[str | None, MAY_CHANGE] = None
    """Run or model folder of stage 1, of target latents."""
    latents: LatentsSpec = LatentsSpec()
    """The cache of latents, of target latents."""
    generator: GeneratorArchitecture = GeneratorArchitecture()
    """The generator."""
    discriminator: DiscriminatorArchitecture = DiscriminatorArchitecture()
    """The discriminators."""
    gan: GANSpec = GANSpec()
    """The objective."""
    sampling: Annotated[GANSamplingSpec, MAY_CHANGE] = GANSamplingSpec()
    """How samples are drawn, in previews and by the pipeline unless it is told otherwise."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer, of generator and discriminators."""
    ema: EMASpec | None = None
    """Average of the generator's weights; null is off."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _of_one_target(self) -> "GANRun":
        of_images = {"image_size": self.image_size, "channels": self.channels}
        if self.gan.target == "images":
            if None in of_images.values() or self.autoencoder is not None:
                raise ValueError("gan.target images takes image_size and channels, and no autoencoder")
            if self.gan.sees != "images":
                raise ValueError(f"gan.sees {self.gan.sees} needs gan.target latents: there are no latents otherwise")
        elif self.autoencoder is None or set(of_images.values()) != {None}:
            raise ValueError(
                "gan.target latents takes autoencoder, which says image_size and channels: leave those out"
            )
        if self.gan.target == "latents":
            self.data.check_encoded_once()
        if self.gan.augment and self.gan.sees == "latents":
            raise ValueError("gan.augment is of images, and gan.sees latents has none: leave it out")
        if self.run.accumulation != 1:
            raise ValueError("run.accumulation is not for a GAN, whose two networks move in turn: set 1")
        return self

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The grid of target images."""
        assert self.image_size is not None
        return grid_of(self.image_size)


class ClassifierRun(Spec):
    """A classifier trained on the data set itself, the feature extractor of fd_classifier."""

    data: DataSpec = ImageDataSpec()
    """Signals, as in stage 1."""
    image_size: GridSize
    """The grid of the signals it takes: a number for a square image, or one length per axis."""
    channels: PositiveInt = 3
    """Channels of the values: 1 for grey, 3 for RGB."""
    classifier: ClassifierArchitecture = ClassifierArchitecture()
    """The model."""
    shift: NonNegativeInt = 1
    """Largest random shift of training images, in pixels."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    ema: EMASpec | None = EMASpec()
    """Average of the weights; null is off."""
    run: RunSpec
    """The run."""

    @model_validator(mode="after")
    def _large_enough(self) -> "ClassifierRun":
        shortest = min(self.image_shape)
        if shortest < 2 ** (self.classifier.stages - 1):
            raise ValueError(f"classifier.stages {self.classifier.stages} halve {shortest} pixels to nothing")
        return self

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One length per axis."""
        return grid_of(self.image_size)


class CloudRun(Spec):
    """Stage 1 of anchored clouds: the shared decoder, trained together with the clouds of some images."""

    data: DataSpec = ImageDataSpec()
    """Signals to train on."""
    autoencoder: AutoencoderSpec
    """The model; its encoder is a fit."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer, of the decoder and of the clouds."""
    ema: EMASpec | None = None
    """Average of the weights; null is off."""
    run: RunSpec
    """The run; its batch is the images that the decoder is trained on, all of them at every step."""

    @model_validator(mode="after")
    def _of_fits(self) -> "CloudRun":
        if self.autoencoder.encoder.type != "fit":
            raise ValueError(
                f"autoencoder.encoder must be of type fit, which has no network to train; got {self.autoencoder.encoder.type}: "
                "train that with train/autoencoder.py"
            )
        if self.run.accumulation != 1 or self.run.compile:
            raise ValueError("run.accumulation and run.compile are not for clouds: leave them out")
        return self
