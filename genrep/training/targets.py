"""What a GAN's generator makes, signals or the latents of a frozen autoencoder, behind one interface for `train/gan.py`.

A generator gives values at coordinates of a grid: a signal's own grid, or the row of its tokens. A target turns the values
into views, the tensors that the discriminators see: the signal, the standardised latents, or both.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genrep.coords import grid
from genrep.data.encoding import autoencoder_hash
from genrep.data.latents import LatentCache
from genrep.data.signals import SignalData, check_whole
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.models.specs import AutoencoderSpec
from genrep.training.folders import load_autoencoder
from genrep.training.latents import open_latents, open_split
from genrep.training.order import SignalStream, TrainingBatch
from genrep.training.run import Run
from genrep.training.specs import GANRun

Views = list[Tensor]
"""What the discriminators see of a batch, one tensor per view."""


class TargetSizes(NamedTuple):
    """The sizes of a target that the networks are built for.

    Attributes:
        grid: the generator's grid, one length per axis.
        channels: channels of the generator's values.
        signal_shape, signal_channels: sizes of the signals that the discriminators see; None if they see none.
        latent_shape: shape of the latents that they see; None if they see none.
    """

    grid: tuple[int, ...]
    channels: int
    signal_shape: tuple[int, ...] | None
    signal_channels: int | None
    latent_shape: tuple[int, int] | None


def target_sizes(config: GANRun, autoencoder: AutoencoderSpec | None) -> TargetSizes:
    """The sizes that follow from a config and, for target latents, from stage 1. InputError if they do not fit the objective."""
    if autoencoder is None:
        assert config.channels is not None
        sizes = TargetSizes(config.image_shape, config.channels, config.image_shape, config.channels, None)
    elif autoencoder.decoder.position_dim:
        raise InputError(
            "gan.target latents maps a token's slot in the set to its values, but the tokens of this autoencoder have positions "
            "instead of slots: train a diffusion model on them"
        )
    else:
        config.latents.check_encoder(autoencoder.encoder.type)
        sees_signals, sees_latents = config.gan.sees != "latents", config.gan.sees != "images"
        sizes = TargetSizes(
            (autoencoder.num_tokens,),
            autoencoder.latent_dim,
            autoencoder.image_shape if sees_signals else None,
            autoencoder.channels if sees_signals else None,
            (autoencoder.num_tokens, autoencoder.latent_dim) if sees_latents else None,
        )
    # colour, translation and cutout are defined for pictures
    if config.gan.augment and len(sizes.signal_shape or ()) != 2:
        raise InputError(
            f"gan.augment applies to images, which have 2 axes; these signals have {len(sizes.signal_shape or ())}: leave it out"
        )
    return sizes


class Target(ABC):
    """What a generator makes, and what the discriminators see of it and of the data.

    Attributes:
        sizes: the sizes to build the networks for.
        data: the training split, or its cache.
        identity: hashes of what the run builds on.
    """

    # What differs between the two targets is here, so that the loop in train/gan.py needs no case distinctions.

    sizes: TargetSizes
    data: SignalData | LatentCache
    identity: Mapping[str, str]

    @abstractmethod
    def open(self, run: Run) -> SignalStream:
        """The training stream. Moves everything to the run's device, and encodes the data first if needed."""

    @abstractmethod
    def real(self, batch: TrainingBatch) -> Views:
        """Views of a batch of the data."""

    @abstractmethod
    def fake(self, values: Float[Tensor, "batch points channels"]) -> Views:
        """Views of the generator's values."""

    @abstractmethod
    def pipeline_parts(self) -> dict[str, Any]:
        """What `GANPipeline` takes in addition to the generator."""

    def places(self, device: torch.device) -> Float[Tensor, "points axes"]:
        """The coordinates to evaluate the generator at."""
        # A token's coordinate is its slot's place in the row: the grid of one axis treats both targets alike.
        return grid(self.sizes.grid, device=device)


class SignalTarget(Target):
    """The generator makes signals, value by value."""

    def __init__(self, config: GANRun):
        self.config, self.sizes = config, target_sizes(config, None)
        self.data: SignalData = config.data.open("train", self.sizes.grid, self.sizes.channels)
        check_whole(self.data, "a GAN of signals")
        self.identity = {"data": self.data.fingerprint()}

    def open(self, run: Run) -> SignalStream:
        self.device = run.device
        return SignalStream(self.data, self.config.run.seed, self.data.flips)

    def real(self, batch: TrainingBatch) -> Views:
        assert batch.signals is not None
        # uint8 travels to the device and becomes floats there: a quarter of the bytes
        return [self.data.signal.values(batch.signals.to(self.device, non_blocking=True))]

    def fake(self, values: Float[Tensor, "batch points channels"]) -> Views:
        return [values.transpose(1, 2).unflatten(2, self.sizes.grid)]

    def pipeline_parts(self) -> dict[str, Any]:
        return {"sample_size": self.sizes.grid, "signal": self.data.signal.spec.model_dump()}


class LatentTarget(Target):
    """The generator makes standardised latents, which a frozen autoencoder renders."""

    def __init__(self, config: GANRun, config_path: str):
        assert config.autoencoder is not None
        self.config, objective = config, config.gan
        self.autoencoder = load_autoencoder(config.autoencoder, config_path)
        self.sizes = target_sizes(config, self.autoencoder.spec)
        self.sees_signals, self.sees_latents = objective.sees != "latents", objective.sees != "images"
        # A decoder's renders miss detail of the originals. Compared with those, a generator could be told from the data by
        # what no latents can render; compared with reconstructions, only by what it can improve.
        self.sees_reconstructions = self.sees_signals and objective.real == "reconstructions"
        self.wants_signals = self.sees_signals and not self.sees_reconstructions  # then a cache alone is not enough
        self.data = open_split(config.data, config.latents, self.autoencoder, "train", signals=self.wants_signals)
        # a discriminator would tell generated signals by their having no missing values
        if self.wants_signals and isinstance(self.data, SignalData):
            check_whole(self.data, "a discriminator that sees the signals themselves (gan.real images)")
        self.identity = {"data": self.data.fingerprint(), "autoencoder": autoencoder_hash(self.autoencoder)}

    def open(self, run: Run) -> SignalStream:
        self.device = run.device
        self.autoencoder.to(run.device)
        barrier = run.accelerator.wait_for_everyone
        self.latents = open_latents(self.autoencoder, self.data, self.config.latents, run.process, barrier)
        # the generator makes standardised latents: its outputs then start at about the right scale for any autoencoder
        self.normalizer = LatentNormalizer.from_statistics(self.latents.mean, self.latents.std).to(run.device)
        # only what the views below need is read: pixels, latents or both
        reads_latents = self.sees_latents or self.sees_reconstructions
        return SignalStream(
            self.data,
            self.config.run.seed,
            self.latents.flips,
            wants_signals=self.wants_signals or self.latents.wants_signals,
            cache=self.latents.cache if reads_latents else None,
        )

    def real(self, batch: TrainingBatch) -> Views:
        views = []
        if self.wants_signals:
            assert batch.signals is not None
            views.append(self.autoencoder.signal.values(batch.signals.to(self.device, non_blocking=True)))
        if self.sees_latents or self.sees_reconstructions:
            latents = self.latents.sets(batch)[0].to(self.device, non_blocking=True).float()
            # the same decoder as for generated latents, so that both share its artefacts
            views += [self.autoencoder.render(latents)] if self.sees_reconstructions else []
            views += [self.normalizer.standardize(latents)] if self.sees_latents else []
        return views

    def fake(self, values: Float[Tensor, "batch points channels"]) -> Views:
        # the decoder is frozen, but the generator learns from what it renders: gradients pass through it
        views = [self.autoencoder.render(self.normalizer.restore(values), gradients=True)] if self.sees_signals else []
        return [*views, values] if self.sees_latents else views

    def pipeline_parts(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder, "normalizer": self.normalizer}


def open_target(config: GANRun, config_path: str) -> Target:
    """The target that `gan.target` names, with its data opened.

    Raises:
        InputError: as `open_split` and `load_autoencoder` do.
    """
    return SignalTarget(config) if config.gan.target == "images" else LatentTarget(config, config_path)
