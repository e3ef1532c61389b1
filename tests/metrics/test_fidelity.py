"""Distances: torch-fidelity's numbers against plain formulas on the same features, and clear messages for its errors."""

import urllib.error
from unittest.mock import patch

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inception_module

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.metrics.fidelity import (
    Chosen,
    Pixels,
    classifier_accuracy,
    classifier_distance,
    classifier_precision_recall,
    inception_distances,
    predicted_labels,
)
from genrep.metrics.generated import CHUNK_IMAGES, GeneratedImages
from genrep.models.classifier import ImageClassifier
from genrep.render import from_uint8
from genrep.signals import ImageSignalSpec


def plain_frechet(first: np.ndarray, second: np.ndarray) -> float:
    """|μ1 - μ2|² + tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½), with SciPy's matrix square root."""
    root = scipy.linalg.sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False))
    difference = first.mean(0) - second.mean(0)
    return float(
        difference @ difference + np.trace(np.cov(first, rowvar=False) + np.cov(second, rowvar=False) - 2 * root.real)
    )


IMAGE = ImageSignalSpec().build()


@pytest.fixture
def classifier():
    return ImageClassifier(8, 1, 10, width=16).eval()


@pytest.fixture
def images():
    return torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8), torch.randint(
        0, 200, (200, 1, 8, 8), dtype=torch.uint8
    )


def test_frechet_distance_equals_the_plain_formula(classifier, images):
    with torch.no_grad():
        features = [classifier.features(from_uint8(part)).double().numpy() for part in images]
    ours = classifier_distance(classifier, IMAGE, images[0], images[1], batch=64)
    assert ours == pytest.approx(plain_frechet(*features), rel=1e-6)
    assert classifier_distance(classifier, IMAGE, images[0], images[0]) == pytest.approx(0, abs=1e-6)
    chosen = [Chosen(part, range(0, len(part), 2)) for part in images]
    half = plain_frechet(*(part[::2] for part in features))
    assert classifier_distance(classifier, IMAGE, *chosen) == pytest.approx(half, rel=1e-6)


def test_precision_and_recall_equal_the_plain_definition(classifier, images):
    with torch.no_grad():
        fake, real = (classifier.features(from_uint8(part)).double() for part in images)
    covered = []
    for ours, theirs in (
        (fake, real),
        (real, fake),
    ):  # is each of ours within the third neighbour's distance of one of theirs?
        reach = torch.cdist(theirs, theirs).sort(dim=1).values[:, 3]
        covered.append(float((torch.cdist(ours, theirs) <= reach).any(dim=1).double().mean()))
    metrics = classifier_precision_recall(classifier, IMAGE, *images)
    assert list(metrics.values()) == pytest.approx(covered, abs=0.01) and 0 < min(covered) < 1
    same = classifier_precision_recall(classifier, IMAGE, images[0], images[0])
    assert same == {"classifier_precision": 1, "classifier_recall": 1}
    with pytest.raises(InputError, match="at least 4 signals on both sides; got 2 generated and 200"):
        classifier_precision_recall(classifier, IMAGE, images[0][:2], images[1])


def test_distance_does_not_depend_on_the_batch(classifier, images):
    small_batches, one_batch = (classifier_distance(classifier, IMAGE, *images, batch=batch) for batch in (7, 200))
    assert small_batches == pytest.approx(one_batch, rel=1e-4)


def test_another_classifier_is_not_taken_for_the_first(classifier, images):
    first = classifier_distance(classifier, IMAGE, *images)
    other = classifier_distance(ImageClassifier(8, 1, 10, width=24).eval(), IMAGE, *images)
    assert other != pytest.approx(first, rel=1e-3)
    assert classifier_distance(classifier, IMAGE, *images) == pytest.approx(first, rel=1e-6)


def test_grey_images_get_three_equal_channels(images):
    subset = Pixels(images[0], indices=[4, 2])
    assert len(subset) == 2 and subset[1].shape == (3, 8, 8)
    assert torch.equal(subset[0][2], images[0][4, 0])


def test_predicted_labels_and_accuracy(classifier):
    data = ImageData(ImageDataSpec(), "held_out", (8, 8), 1)
    predicted = predicted_labels(classifier, IMAGE, data.read(range(len(data))), batch=100)
    with torch.no_grad():
        assert torch.equal(predicted, classifier(from_uint8(data.read(range(len(data))))).argmax(-1))
    assert classifier_accuracy(classifier, data, batch=50) == pytest.approx(
        float((predicted == data.labels).float().mean())
    )


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory):
    """A file in the format of torch-fidelity's weights; the numbers are random."""
    with (
        patch.object(inception_module, "load_state_dict_from_url", lambda *a, **k: None),
        patch.object(inception_module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None),
    ):
        network = inception_module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    state = network.state_dict()
    torch.manual_seed(0)
    for name, value in state.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(value)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path, network


def test_inception_metrics_through_the_real_network(random_inception, images):
    path, _ = random_inception
    generated, reference = Pixels(images[0], range(6)), Pixels(images[1], range(5))
    metrics = inception_distances(generated, reference, ["fid", "kid", "is", "prc"], weights=str(path), layer="64")
    assert metrics.keys() == {
        "fid",
        "kid",
        "kid_std",
        "inception_score",
        "inception_score_std",
        "precision",
        "recall",
        "f_score",
    }
    extractor = inception_module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["64"], feature_extractor_weights_path=str(path)
    )
    with torch.no_grad():
        features = [
            extractor(torch.stack([part[i] for i in range(len(part))]))[0].numpy() for part in (generated, reference)
        ]
    assert metrics["fid"] == pytest.approx(plain_frechet(*features), rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_fid_of_the_2048_features(random_inception, images):
    path, _ = random_inception
    metrics = inception_distances(
        Pixels(images[0], range(20)), Pixels(images[0], range(20)), ["fid"], weights=str(path)
    )
    assert metrics["fid"] == pytest.approx(0, abs=1e-3)


def test_offline_without_weights_says_what_to_do(images):
    def offline(*arguments, **options):
        raise urllib.error.URLError("name not known")

    with (
        patch.object(inception_module, "load_state_dict_from_url", offline),
        pytest.raises(InputError, match=r"could not be downloaded .*pass it with --inception-weights PATH"),
    ):
        inception_distances(Pixels(images[0]), Pixels(images[1]), ["fid"])


def test_files_that_are_not_weights_are_refused(images, tmp_path):
    arguments = (Pixels(images[0]), Pixels(images[1]), ["fid"])
    with pytest.raises(InputError, match="none.pth: no such file"):
        inception_distances(*arguments, weights=str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="not a weights file, or damaged"):
        inception_distances(*arguments, weights=str(tmp_path / "text.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the weights of torch-fidelity's Inception-v3"):
        inception_distances(*arguments, weights=str(tmp_path / "other.pth"))


def test_a_single_image_has_no_distance(classifier, images):
    with pytest.raises(InputError, match="at least 2 images on both sides; got 1 generated and 200 reference"):
        classifier_distance(classifier, IMAGE, Chosen(images[0], [0]), images[1])


def test_generation_resumes_where_it_stopped(tmp_path):
    calls = []

    def draw(indices, labels):
        calls.append((indices[0], len(indices)))
        assert labels == [index % 3 for index in indices]
        return (
            torch.tensor(indices, dtype=torch.float32)
            .remainder(256)
            .to(torch.uint8)[:, None, None, None]
            .expand(-1, 1, 2, 2)
            .clone()
        )

    generated = GeneratedImages(tmp_path, {"seed": 0}, CHUNK_IMAGES + 10, num_classes=3)
    generated.make(draw)
    assert calls == [(0, CHUNK_IMAGES), (CHUNK_IMAGES, 10)]
    assert [int(generated[i][0, 0, 0]) for i in (0, 5, CHUNK_IMAGES + 9)] == [0, 5, (CHUNK_IMAGES + 9) % 256]
    assert generated.labels.bincount().tolist() == [87, 87, 86]
    generated.make(draw)
    assert len(calls) == 2, "nothing was missing"
    GeneratedImages(tmp_path, {"seed": 0}, CHUNK_IMAGES + 20, 3).make(draw)
    assert calls[2:] == [(CHUNK_IMAGES, 20)], "only the last chunk grew"
    GeneratedImages(tmp_path, {"seed": 1}, 5, 3).make(draw)
    assert calls[3:] == [(0, 5)], "other settings are other images"
    (chunk,) = GeneratedImages(tmp_path, {"seed": 1}, 5, 3).folder.glob("*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(InputError, match=r"images-00000.safetensors: damaged .*delete it to generate it again"):
        GeneratedImages(tmp_path, {"seed": 1}, 5, 3).make(draw)
