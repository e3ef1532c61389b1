"""Distances between generated images and a data set with torch-fidelity: FID, KID, IS, precision and recall, fd_classifier.

torch-fidelity gets uint8 images [3, H, W]; grey images get three equal channels. A Fréchet distance is called `fid` only
with Inception's features; with those of a classifier trained on the data set itself it is `fd_classifier`.
"""

import contextlib
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from genrep.data.signals import SignalData
from genrep.errors import InputError
from genrep.models.classifier import ImageClassifier
from genrep.signals.base import Signal

# With TensorFlow's weights and resizing, as published FIDs are computed; torchvision's Inception gives other numbers.
INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file that torch-fidelity downloads; its name ends with the beginning of its SHA-256."""
FEW_IMAGES = 10_000
"""Below this number the upward bias of a Fréchet distance is so large that only distances of equal N can be compared."""


class Chosen(Dataset):
    """A subset of a sequence of signals, as they are kept.

    Args:
        signals: a tensor, or any data set indexed by integers.
        indices: the subset; None is all.
    """

    def __init__(self, signals: Any, indices: Sequence[int] | None = None):
        self.signals = signals
        self.indices = range(len(signals)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Shaped[Tensor, "channels *shape"]:
        return self.signals[self.indices[index]]


class Pixels(Chosen):
    """uint8 images `[C, H, W]` as torch-fidelity expects them: `[3, H, W]`."""

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 height width"]:
        image = super().__getitem__(index)
        return image.expand(3, -1, -1) if image.shape[0] == 1 else image


def inception_distances(
    generated: Dataset,
    reference: Dataset,
    metrics: Sequence[str],
    weights: str | None = None,
    device: str = "cpu",
    batch: int = 64,
    layer: str | None = None,
) -> dict[str, float]:
    """FID, KID, Inception score, precision and recall with torch-fidelity's Inception-v3.

    Args:
        generated, reference: datasets of uint8 `[3, H, W]`.
        metrics: any of fid, kid, is, prc.
        weights: file of Inception weights; None lets torch-fidelity find or download them.
        device: "cpu" or "cuda".
        batch: images at a time.
        layer: features of FID, KID, precision and recall: "64", "192", "768" or "2048". Only the default, "2048", compares
            with published numbers.

    Raises:
        InputError: weights that are missing, damaged or cannot be downloaded, or too few images.
    """
    if weights is not None:
        check_weights(weights)
    with _explaining_weights(weights):
        return _measure(generated, reference, metrics, weights, device, batch, layer)


def prepare_inception(weights: str | None = None) -> None:
    """Build Inception-v3 once, downloading its weights if necessary, so that problems with them show before the work.

    Raises:
        InputError: weights that are missing, damaged or cannot be downloaded.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Otherwise a missing download only shows after the images have been drawn: 69 s for 10,000 digits.

    if weights is not None:
        check_weights(weights)
    with _explaining_weights(weights):
        FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=weights)


@contextlib.contextmanager
def _explaining_weights(weights: str | None) -> Iterator[None]:
    """Turn errors about Inception's weights into an InputError that says what to do."""
    try:
        yield
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise InputError(
            f"Inception weights could not be downloaded ({error}). Download {INCEPTION_FILE} from torch-fidelity's releases on "
            f"another machine, then pass it with --inception-weights PATH or copy it to {torch.hub.get_dir()}/checkpoints"
        ) from error
    except RuntimeError as error:
        if "state_dict" not in str(error):  # torch's error for keys that do not match is about the weights
            raise
        raise InputError(f"{weights}: not the weights of torch-fidelity's Inception-v3 ({str(error)[:200]})") from error


def classifier_distance(
    classifier: ImageClassifier, signal: Signal, generated: Any, reference: Any, batch: int = 256
) -> float:
    """Fréchet distance of a classifier's features, by torch-fidelity's formula, for signals of any kind.

    Args:
        classifier: a classifier of these signals.
        signal: the kind of signal.
        generated, reference: sequences of signals, as they are kept.
        batch: signals at a time.

    Raises:
        InputError: fewer than two signals on either side.
    """
    # torch-fidelity's own formula, so that only the features differ from an FID.
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    check_enough(len(generated), len(reference))
    statistics = [
        fid_features_to_statistics(classifier_features(classifier, signal, signals, batch))
        for signals in (generated, reference)
    ]
    return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def classifier_precision_recall(
    classifier: ImageClassifier, signal: Signal, generated: Any, reference: Any, batch: int = 256
) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al., 2019) of a classifier's features, by torch-fidelity's code.

    `classifier_precision` is the share of generated signals that lie among the reference, closer to one of them than its
    third neighbour there; `classifier_recall` the share of the reference that lies among the generated ones. Both fall with
    fewer signals.

    Args:
        classifier: of such signals.
        signal: their kind.
        generated, reference: sequences of them, as they are kept, four or more.
        batch: signals at a time.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    if min(len(generated), len(reference)) < 4:
        raise InputError(
            f"precision and recall need at least 4 signals on both sides; got {len(generated)} generated and {len(reference)}"
        )
    features = [classifier_features(classifier, signal, signals, batch) for signals in (generated, reference)]
    metrics = prc_features_to_metric(*features, save_cpu_ram=True, verbose=False)
    return {f"classifier_{name}": float(metrics[name]) for name in ("precision", "recall")}


@torch.no_grad()
def classifier_features(
    classifier: ImageClassifier, signal: Signal, signals: Any, batch: int = 256
) -> Float[Tensor, "signals features"]:
    """Features of a sequence of signals, as they are kept; float64."""
    features = []
    for start in range(0, len(signals), batch):
        kept = torch.stack([signals[index] for index in range(start, min(start + batch, len(signals)))])
        # To the CPU first, because MPS has no float64; the covariance of a Fréchet distance needs it.
        features.append(classifier.features(signal.values(kept.to(classifier.device))).cpu().double())
    return torch.cat(features)


@torch.no_grad()
def predicted_labels(
    classifier: ImageClassifier, signal: Signal, kept: Shaped[Tensor, "signals channels *shape"], batch: int = 512
) -> Int[Tensor, " signals"]:
    """The class that a classifier predicts for each signal, as they are kept."""
    labels = [classifier(signal.values(part.to(classifier.device))).argmax(-1).cpu() for part in kept.split(batch)]
    return torch.cat(labels)


def classifier_accuracy(classifier: ImageClassifier, data: SignalData, batch: int = 512) -> float:
    """Share of a labelled data set that a classifier gets right. InputError for data without labels."""
    num_right = 0
    for start in range(0, len(data), batch):
        indices = range(start, min(start + batch, len(data)))
        labels = data.labels_of(indices)
        if labels is None:
            raise InputError(f"{data.name} has no labels, which the accuracy of a classifier needs")
        num_right += int(torch.eq(predicted_labels(classifier, data.signal, data.read(indices)), labels).sum())
    return num_right / len(data)


def _measure(
    generated: Any,
    reference: Any,
    metrics: Sequence[str],
    weights: str | None,
    device: str,
    batch: int,
    layer: str | None = None,
) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    check_enough(len(generated), len(reference))
    fewest = min(len(generated), len(reference))
    measured = calculate_metrics(
        input1=generated,
        input2=reference,
        fid="fid" in metrics,
        kid="kid" in metrics,
        isc="is" in metrics,
        prc="prc" in metrics,
        kid_subset_size=min(1000, fewest),  # its default of 1000 is an error with fewer images
        feature_extractor=INCEPTION,  # named, because precision and recall would otherwise take VGG16
        feature_extractor_weights_path=weights,
        feature_layer_fid=layer,
        feature_layer_kid=layer,
        feature_layer_prc=layer or "2048",  # FID's default layer, named for the same reason
        cuda=device.startswith("cuda"),  # its default is True; MPS is not supported
        batch_size=batch,
        save_cpu_ram=True,  # no worker processes: the images are in memory
        cache=False,  # its cache is keyed by a name alone, and would return another data set's features
        samples_find_deep=False,
        verbose=False,
    )
    # Its names => ours, which are the metrics' usual ones.
    names = {
        "frechet_inception_distance": "fid",
        "kernel_inception_distance_mean": "kid",
        "kernel_inception_distance_std": "kid_std",
        "inception_score_mean": "inception_score",
        "inception_score_std": "inception_score_std",
        "precision": "precision",
        "recall": "recall",
        "f_score": "f_score",
    }
    return {names[key]: float(value) for key, value in measured.items()}


def check_enough(num_generated: int, num_reference: int) -> None:
    """InputError if there are too few images for a distance."""
    if min(num_generated, num_reference) < 2:  # a covariance needs two
        raise InputError(
            f"distances need at least 2 images on both sides; got {num_generated} generated and {num_reference} reference images"
        )


def check_weights(file: str | Path) -> None:
    """InputError if a file cannot hold Inception weights."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"--inception-weights {path}: no such file")
    try:
        torch.load(path, map_location="meta", weights_only=True)  # torch-fidelity would unpickle, and run, anything
    except Exception as error:
        raise InputError(f"--inception-weights {path}: not a weights file, or damaged ({error})") from error
