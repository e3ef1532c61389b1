"""What a classifier trains on: signals, the clouds of a latent cache, or sizes. All have the interface of `Classification`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data.encoding import autoencoder_hash
from genrep.data.latents import LatentCache
from genrep.data.signals import SignalData, check_whole
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.classifier import ImageClassifier, WhitenedPatches
from genrep.models.cloud_classifier import CloudClassifier
from genrep.models.size_classifier import SizeClassifier
from genrep.models.specs import AutoencoderSpec
from genrep.randomness import uniform_at
from genrep.training.augment import cut_out, shifted
from genrep.training.cloud_augment import augment_clouds, mix
from genrep.training.folders import load_autoencoder
from genrep.training.latents import open_for, open_latents, open_split
from genrep.training.order import SignalStream, TrainingBatch
from genrep.training.run import Run
from genrep.training.specs import ClassifierRun, CloudAugmentSpec

Inputs = tuple[Tensor, ...]
"""Arguments of a classifier: signals, clouds and their mask, or sizes."""
Targets = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Labels, or the probability of every class."""
EVALUATION_BATCH = 512
EVALUATION_TOKENS = 2**18
"""Tokens of clouds that are evaluated at a time, fewer than `EVALUATION_BATCH` clouds if they are large."""
WHITENING_SIGNALS = 5000
"""Training signals that the patches of a classifier with pooled blocks are measured on."""
WHITENING_BATCH = 64
"""How many of them are read at a time."""


class Classification(ABC):
    """Labelled inputs of a classifier, for training and for evaluation.

    Attributes:
        data: the training split, with labels.
        identity: hashes of everything the run is trained on.
    """

    data: SignalData | LatentCache
    identity: Mapping[str, str]

    @abstractmethod
    def build(self) -> ImageClassifier | CloudClassifier | SizeClassifier:
        """The classifier of the run."""

    @abstractmethod
    def open(self, run: Run) -> SignalStream:
        """The training stream. Encodes the data first if that is necessary."""

    @abstractmethod
    def examples(self, batch: TrainingBatch) -> tuple[Inputs, Targets]:
        """Augmented inputs and targets of a training batch."""

    @abstractmethod
    def held_out(self) -> Iterator[tuple[Inputs, Int[Tensor, " batch"]]]:
        """The held-out split without augmentation, in batches, with labels."""

    def measure(self, classifier: Any) -> dict[str, float]:
        """Metrics of the held-out split by name; `accuracy` is one of them."""
        labels, predicted = predictions(classifier, self.held_out())
        return {"accuracy": share_equal(labels, predicted), "held_out_images": len(labels)}


class SignalClassification(Classification):
    """Signals, augmented by random shifts and cutout."""

    data: SignalData

    def __init__(self, config: ClassifierRun):
        self.config, self.shape = config, config.image_shape
        splits = [config.data.open(split, self.shape, config.channels) for split in ("train", "held_out")]
        self.data, self.held_out_data = splits
        for split in splits:
            _check_labels(split)
        check_whole(self.data, "a classifier")
        self.identity = {"data": self.data.fingerprint()}

    def build(self) -> ImageClassifier:
        classifier = build_of_signals(self.config, len(self.data.class_names), self.data.signal.spec.model_dump())
        if isinstance(classifier.stem, WhitenedPatches):
            batches = _batches(min(len(self.data), WHITENING_SIGNALS), WHITENING_BATCH)
            classifier.measure_patches(self.data.signal.values(self.data.read(batch)) for batch in batches)
        return classifier

    def open(self, run: Run) -> SignalStream:
        self.device = run.device
        return SignalStream(self.data, self.config.run.seed, self.data.flips)

    def examples(self, batch: TrainingBatch) -> tuple[Inputs, Targets]:
        assert batch.signals is not None and batch.labels is not None
        signals = self.data.signal.values(batch.signals.to(self.device, non_blocking=True))
        draws = uniform_at(batch.positions, (len(self.shape),), self.config.run.seed, "shift")
        signals = shifted(signals, self.config.shift, draws)
        if self.config.cutout:
            draws = uniform_at(batch.positions, (len(self.shape),), self.config.run.seed, "cutout")
            signals = cut_out(signals, self.config.cutout, draws)
        if len(self.shape) == 2:
            signals = signals.to(memory_format=torch.channels_last)  # the layout of the fast convolutions
        return (signals,), batch.labels.to(self.device, non_blocking=True)

    def held_out(self) -> Iterator[tuple[Inputs, Int[Tensor, " batch"]]]:
        for indices in _batches(len(self.held_out_data)):
            labels = self.held_out_data.labels_of(indices)
            assert labels is not None
            values = self.held_out_data.signal.values(self.held_out_data.read(indices).to(self.device))
            yield (values,), labels


class CloudClassification(Classification):
    """Clouds from a latent cache, augmented and mixed with each other (ARCMix)."""

    def __init__(self, config: ClassifierRun, config_path: str):
        assert config.autoencoder is not None
        self.config = config
        self.autoencoder = load_autoencoder(config.autoencoder, config_path)
        if not self.autoencoder.position_dim:
            raise InputError(
                f"classifier.type point_transformer needs tokens with positions, and the tokens of {config.autoencoder} have slots: "
                "use classifier.type convolutional, which classifies the signals"
            )
        if config.augment.rotation and self.autoencoder.position_dim != 2:
            raise InputError(
                f"augment.rotation is for images, whose tokens have 2 coordinates; got {self.autoencoder.position_dim}: leave it out"
            )
        self.data = open_split(config.data, config.latents, self.autoencoder, "train")
        _check_labels(self.data)
        self.identity = {"data": self.data.fingerprint(), "autoencoder": autoencoder_hash(self.autoencoder)}

    def build(self) -> CloudClassifier:
        extent = extent_of(self.cache.sizes, self.autoencoder.image_shape)
        classifier = build_of_clouds(self.config, len(self.data.class_names), self.autoencoder.spec, extent)
        self._set_statistics(classifier)
        return classifier

    def open(self, run: Run) -> SignalStream:
        self.device, config = run.device, self.config
        self.autoencoder.to(run.device)
        barrier = run.accelerator.wait_for_everyone
        self.latents = open_latents(self.autoencoder, self.data, config.latents, run.process, barrier)
        assert self.latents.cache is not None  # ClassifierRun requires latents.folder
        self.cache = self.latents.cache
        self.held_out_cache = LatentCache(self.cache.folder, split="held_out")  # now, not at the first evaluation
        _check_labels(self.held_out_cache)
        self.displaced = self._fit_displaced() if config.displaced_by else None
        self.stream = SignalStream(
            self.data, config.run.seed, self.latents.flips, wants_signals=False, cache=self.cache
        )
        return self.stream

    def _set_statistics(self, classifier: CloudClassifier) -> None:
        """Set the statistics that a new classifier standardises features with (ARC, table 10)."""
        axes = self.autoencoder.position_dim
        mean, std = self.latents.mean[0, axes:], self.latents.std[0, axes:]
        if self.config.normalize == "whole":  # total variance = mean variance of the channels + variance of their means
            variance = std.square().mean() + mean.var(correction=0)
            mean, std = mean.mean().expand_as(mean), variance.sqrt().expand_as(std)
        if self.config.normalize != "none":
            classifier.set_statistics(mean, std)

    def examples(self, batch: TrainingBatch) -> tuple[Inputs, Targets]:
        config, seed, positions = self.config, self.config.run.seed, batch.positions
        assert batch.labels is not None and batch.latents is not None
        latents, mask = self._on_device(batch.latents, batch.mask)
        targets: Targets = batch.labels.to(self.device)
        if config.augment.mix:  # the partner is the next sample of the stream, so it does not depend on the batch
            following = self.stream.__getitems__([position + 1 for position in positions])
            assert following.latents is not None and following.labels is not None
            partners, partner_mask = self._on_device(following.latents, following.mask)
            share = uniform_at(positions, (), seed, "cloud mix").to(self.device)
            draws = uniform_at(positions, (2, latents.shape[1]), seed, "cloud points").to(self.device)
            latents, mask = mix(latents, mask, partners, partner_mask, share, draws)
            targets = self._shares(targets) * share[:, None] + self._shares(following.labels) * (1 - share[:, None])
        latents, mask = augment_clouds(latents, mask, self.autoencoder.image_shape, config.augment, positions, seed)
        return self._trimmed(latents, mask), targets

    def held_out(self) -> Iterator[tuple[Inputs, Int[Tensor, " batch"]]]:
        yield from self._held_out(None)

    def measure(self, classifier: Any) -> dict[str, float]:
        metrics = super().measure(classifier)
        for name, augment in (  # how much accuracy depends on the cloud's position, and on those of its points in it
            ("shifted", CloudAugmentSpec(shift=self.config.shifted_by)),  # ARC, table 8
            ("pushed", CloudAugmentSpec(push=self.config.pushed_by)),  # ARC, table 6
        ):
            if augment != CloudAugmentSpec():
                metrics[f"accuracy_{name}"] = share_equal(*predictions(classifier, self._held_out(augment)))
        if self.displaced is not None:  # how much, if it is the image that moves (ARC, table 7)
            metrics["accuracy_displaced"] = share_equal(*predictions(classifier, iter(self.displaced)))
        return metrics

    def _fit_displaced(self) -> list[tuple[Inputs, Int[Tensor, " batch"]]]:
        """Clouds of held-out images, each displaced at random and then encoded, in batches, with labels."""
        config = self.config
        batches: list[tuple[Inputs, Tensor]] = []
        images = open_for(self.autoencoder, config.data.light(), "held_out")
        for indices in tqdm(list(_batches(len(images), config.latents.batch)), desc="fitting displaced images"):
            values = images.signal.values(images.read(indices).to(self.device))
            draws = uniform_at(indices, (values.ndim - 2,), config.run.seed, "displaced")
            latents, mask = self.autoencoder.encode_set(shifted(values, config.displaced_by, draws))
            labels = images.labels_of(indices)
            assert labels is not None
            batches.append((self._on_device(latents, mask), labels))
        return batches

    def _held_out(self, augment: CloudAugmentSpec | None) -> Iterator[tuple[Inputs, Int[Tensor, " batch"]]]:
        cache = self.held_out_cache
        batch = max(1, EVALUATION_TOKENS // self.autoencoder.latent_shape[0])
        for indices in _batches(len(cache), min(batch, EVALUATION_BATCH)):
            labels = cache.labels_of(indices)
            assert labels is not None
            latents, mask = self._on_device(cache.stored(indices), cache.masks(indices))
            if augment is not None:
                shape, seed = self.autoencoder.image_shape, self.config.run.seed
                latents, mask = augment_clouds(latents, mask, shape, augment, indices, seed)
            yield self._trimmed(latents, mask), labels

    def _trimmed(self, latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Clouds without the padding beyond the largest of them, if clouds are padded at all: a GPU is waited for."""
        return (latents, mask) if self.cache.sizes is None else trimmed(latents, mask)

    def _on_device(self, latents: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        latents = latents.to(self.device, non_blocking=True).float()
        if mask is None:
            return latents, torch.ones(latents.shape[:2], dtype=torch.bool, device=self.device)
        return latents, mask.to(self.device, non_blocking=True)

    def _shares(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels.to(self.device), len(self.data.class_names)).float()


class SizeClassification(Classification):
    """The sizes of images, without their content: those in a latent cache or, without an autoencoder, in the images' headers."""

    held_out_data: SignalData | LatentCache

    def __init__(self, config: ClassifierRun, config_path: str):
        self.config = config
        autoencoder: INRAutoencoder | None = None
        shape: tuple[int, ...] = (1, 1)  # only headers are read, so any shape will do
        if config.autoencoder is not None:
            autoencoder = load_autoencoder(config.autoencoder, config_path)
            shape = autoencoder.image_shape
        splits: list[SignalData | LatentCache] = []
        for split in ("train", "held_out"):
            if autoencoder is None:
                splits.append(config.data.open(split, shape, config.channels))
            else:
                splits.append(open_split(config.data, config.latents, autoencoder, split))
            _check_labels(splits[-1])
        self.data, self.held_out_data = splits
        self.sizes, self.held_out_sizes = (sizes_in(data, shape) for data in splits)
        self.identity = {"data": self.data.fingerprint()}

    def build(self) -> SizeClassifier:
        classifier = build_of_sizes(self.config, len(self.data.class_names), self.sizes.shape[1])
        classifier.set_statistics(self.sizes)
        return classifier

    def open(self, run: Run) -> SignalStream:
        self.device = run.device
        return SignalStream(self.data, self.config.run.seed, flips=False, wants_signals=False)

    def examples(self, batch: TrainingBatch) -> tuple[Inputs, Targets]:
        assert batch.labels is not None
        return (self.sizes[batch.indices].to(self.device),), batch.labels.to(self.device)

    def held_out(self) -> Iterator[tuple[Inputs, Int[Tensor, " batch"]]]:
        for indices in _batches(len(self.held_out_data)):
            labels = self.held_out_data.labels_of(indices)
            assert labels is not None
            yield (self.held_out_sizes[list(indices)].to(self.device),), labels


def sizes_in(data: SignalData | LatentCache, shape: tuple[int, ...]) -> Float[Tensor, "images axes"]:
    """The size of every signal; `shape`, the autoencoder's, for a cache whose signals all have that."""
    if isinstance(data, SignalData):
        return data.sizes_of(range(len(data))).float()
    return torch.tensor(shape).float().expand(len(data), -1) if data.sizes is None else data.sizes.float()


def extent_of(sizes: Int[Tensor, "images axes"] | None, image_shape: tuple[int, ...]) -> float:
    """Range of the grid that clouds are classified on: the largest image, and a margin of half the autoencoder's size."""
    largest = 1.0 if sizes is None else float((sizes / torch.tensor(image_shape)).max())
    return max(1.0, largest) + 1.0


def trimmed(latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A batch of clouds without the columns that no cloud uses, such as the padding beyond the largest of them."""
    # last, because the random numbers of augmentation are drawn for all columns, so that they do not depend on the batch
    used = mask.any(dim=0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    return latents[:, :length], mask[:, :length]


@torch.no_grad()
def predictions(
    classifier: Any, batches: Iterable[tuple[Inputs, Int[Tensor, " batch"]]]
) -> tuple[Int[Tensor, " signals"], Int[Tensor, " signals"]]:
    """Labels of batches, and the classes that a classifier predicts for them."""
    pairs = [(labels, classifier(*inputs).argmax(-1).cpu()) for inputs, labels in batches]
    labels, predicted = (torch.cat(part) for part in zip(*pairs, strict=True))
    return labels, predicted


def share_equal(labels: Int[Tensor, " signals"], predicted: Int[Tensor, " signals"]) -> float:
    """The share of signals whose class is predicted."""
    return float(torch.eq(labels, predicted).float().mean())


def build_of_signals(config: ClassifierRun, num_classes: int, signal: dict[str, Any] | None = None) -> ImageClassifier:
    """The convolutional classifier of a run. `signal` is the spec of the kind of signal, as plain data; None means images."""
    assert config.image_size is not None
    architecture = config.classifier.model_dump(exclude={"type"})
    return ImageClassifier(config.image_size, config.channels, num_classes, **architecture, signal=signal)


def build_of_clouds(
    config: ClassifierRun, num_classes: int, autoencoder: AutoencoderSpec, extent: float = 2.0
) -> CloudClassifier:
    """The point transformer of a run, for the clouds of an autoencoder, which lie in [-extent, extent]."""
    return CloudClassifier(
        autoencoder.tokens_at_image_size,
        autoencoder.latent_dim,
        autoencoder.decoder.position_dim,
        num_classes,
        extent=extent,
        **config.classifier.model_dump(exclude={"type"}),
    )


def build_of_sizes(config: ClassifierRun, num_classes: int, num_axes: int) -> SizeClassifier:
    """The classifier of sizes of a run."""
    return SizeClassifier(num_axes, num_classes, **config.classifier.model_dump(exclude={"type"}))


def open_classification(config: ClassifierRun, config_path: str) -> Classification:
    """Signals, clouds or sizes, depending on `classifier.type`. InputError if the data has no labels or cannot be opened."""
    if config.classifier.type == "point_transformer":
        return CloudClassification(config, config_path)
    if config.classifier.type == "image_size":
        return SizeClassification(config, config_path)
    return SignalClassification(config)


def _check_labels(data: SignalData | LatentCache) -> None:
    if data.labels is None:
        raise InputError(
            f"{data.name} has no labels, which a classifier needs: set data.label_column (images) or data.labels_key (arrays)"
        )


def _batches(count: int, batch: int = EVALUATION_BATCH) -> Iterator[range]:
    for start in range(0, count, batch):
        yield range(start, min(start + batch, count))
