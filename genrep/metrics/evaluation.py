"""What sample/evaluate.py measures of generated signals: their distances to real ones, and the floors of those distances."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genrep.data.signals import SignalData
from genrep.metrics.fidelity import (
    FEW_IMAGES,
    Chosen,
    Pixels,
    classifier_accuracy,
    classifier_distance,
    classifier_precision_recall,
    inception_distances,
    predicted_labels,
)
from genrep.metrics.generated import GeneratedImages
from genrep.models.classifier import ImageClassifier
from genrep.signals.base import Signal


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Generated signals, and the real ones that they are compared with.

    Attributes:
        generated: the samples.
        reference: signals of the split that they are measured against.
        counterpart: as many signals of the other split, where it has them.
        reconstructions: of the reference signals; None for a generator without an autoencoder, or if nothing needs them.
        held_out: the held-out split, on which the classifier's accuracy is measured.
        signal: the kind of all these signals.
        classifier: the feature network of fd_classifier; None if no metric needs it.
        inception_weights: file of Inception's weights; None takes those that torch-fidelity downloads.
        device: "cpu" or "cuda".
        batch: images at a time in the feature networks.
    """

    generated: GeneratedImages
    reference: Chosen
    counterpart: Chosen
    reconstructions: Chosen | None
    held_out: SignalData
    signal: Signal
    classifier: ImageClassifier | None
    inception_weights: str | None
    device: str
    batch: int

    def measure(self, metrics: Sequence[str], floors: bool) -> dict[str, float]:
        """The metrics by name.

        Args:
            metrics: some of fid, kid, is, prc, rfid, fd_classifier, prc_classifier, agreement.
            floors: also measure the floors of the Fréchet distances. A floor is the distance of real signals to the
                reference: no generator over these latents can beat the reconstructions, and none at all the other split.
        """
        results: dict[str, float] = {}
        if of_samples := [name for name in metrics if name in ("fid", "kid", "is", "prc")]:
            results |= self._inception(Chosen(self.generated), of_samples)
        if self.reconstructions is not None and ("rfid" in metrics or ("fid" in metrics and floors)):
            results["rfid"] = self._inception(self.reconstructions, ["fid"])["fid"]
        if "fid" in metrics and floors:
            results["fid_floor"] = self._inception(self.counterpart, ["fid"])["fid"]
        if self.classifier is not None:
            results["classifier_accuracy"] = classifier_accuracy(self.classifier.to(self.device), self.held_out)
        if "fd_classifier" in metrics:
            results["fd_classifier"] = self._classifier_distance(Chosen(self.generated))
            if floors:
                if self.reconstructions is not None:
                    results["fd_reconstruction"] = self._classifier_distance(self.reconstructions)
                results["fd_floor"] = self._classifier_distance(self.counterpart)
        if "prc_classifier" in metrics:
            assert self.classifier is not None
            samples = Chosen(self.generated)
            results |= classifier_precision_recall(self.classifier, self.signal, samples, self.reference, self.batch)
        if "agreement" in metrics:
            results["class_agreement"] = self._agreement()
        return results

    def _inception(self, signals: Any, metrics: Sequence[str]) -> dict[str, float]:
        images, reference = Pixels(signals), Pixels(self.reference)
        return inception_distances(images, reference, metrics, self.inception_weights, self.device, self.batch)

    def _classifier_distance(self, signals: Any) -> float:
        assert self.classifier is not None
        return classifier_distance(self.classifier, self.signal, signals, self.reference, self.batch)

    def _agreement(self) -> float:
        """Share of conditional samples that the classifier assigns to the class they were generated for."""
        assert self.classifier is not None and self.generated.labels is not None
        kept = torch.stack([self.generated[index] for index in range(len(self.generated))])
        agrees = torch.eq(predicted_labels(self.classifier, self.signal, kept), self.generated.labels)
        return float(agrees.float().mean())


def warn_about_few(num_images: int, num_floor: int | None = None, counterpart: str = "") -> None:
    """Warn if a Fréchet distance is biased by the number of images.

    Args:
        num_images: images generated.
        num_floor: images of the floor; None without floors.
        counterpart: name of the split that they are from.
    """
    # a distance is biased upwards as 1 / N, differently for every data set and network: it compares at equal N only
    if num_images < FEW_IMAGES:
        warnings.warn(f"{num_images} images: below {FEW_IMAGES:,} a Fréchet distance is biased upwards", stacklevel=2)
    if num_floor is not None and num_floor < num_images:
        warnings.warn(
            f"the floor uses only the {num_floor:,} images of {counterpart}, fewer than the {num_images:,} generated, and is biased "
            f"upwards more than the distance of the samples: to compare them, generate {num_floor:,} images",
            stacklevel=2,
        )
