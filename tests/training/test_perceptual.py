"""The perceptual term of stage 1: the distance of maps, the window, and whose classifier it may be."""

import pytest
import torch

from genrep.coords import grid
from genrep.data import ImageDataSpec, all_of
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.models.classifier import ImageClassifier
from genrep.training.perceptual import PerceptualLoss, Window, feature_distance
from genrep.training.specs import PerceptualSpec


@pytest.fixture(scope="module")
def digits():
    return all_of("image", source="digits", in_memory=True).open("train", (8, 8), 1)


def saved(folder, channels=1, **options):
    torch.manual_seed(3)
    model = ImageClassifier(8, channels, 10, **{"width": 8, "norm": "batch", **options})
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def loss(digits, tmp_path):
    saved(tmp_path)
    return PerceptualLoss(PerceptualSpec(classifier=str(tmp_path), window=4), digits)


def test_the_distance_is_that_of_lpips_with_weights_of_one():
    """Zhang et al., eq. 1: maps of unit length over the channels; squared differences, averaged over places and layers."""
    shapes = [(2, 5, 4, 4), (2, 7, 2, 2)]
    one, two = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    total = 0.0
    for a, b in zip(one, two, strict=True):
        of_layer = 0.0
        for image in range(2):
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    first, second = a[image, :, y, x], b[image, :, y, x]
                    of_layer += float((first / first.norm() - second / second.norm()).square().sum())
        total += of_layer / (2 * a.shape[2] * a.shape[3])
    assert float(feature_distance(one, two)) == pytest.approx(total / 2, rel=1e-4)
    assert float(feature_distance(one, one)) == 0
    assert float(feature_distance(one, [-a for a in one])) == pytest.approx(4, rel=1e-4)
    torch.testing.assert_close(feature_distance([3 * a for a in one], two), feature_distance(one, two))


def test_the_gradient_is_finite_where_all_maps_are_zero():
    dead = torch.zeros(1, 3, 2, 2, requires_grad=True)
    feature_distance([dead], [torch.ones(1, 3, 2, 2)]).backward()
    assert dead.grad is not None and bool(dead.grad.isfinite().all()) and bool(dead.grad.abs().sum() > 0)


def test_half_precision_maps_are_compared_in_float32():
    one, two = torch.randn(1, 64, 2, 2), torch.randn(1, 64, 2, 2)
    assert feature_distance([one.bfloat16()], [two.bfloat16()]).dtype == torch.float32
    close = feature_distance([one.bfloat16()], [two.bfloat16()])
    torch.testing.assert_close(close, feature_distance([one], [two]), atol=0.02, rtol=0)


def test_the_window_holds_pixels_and_their_centres_and_moves_with_the_step(loss):
    values = torch.randn(3, 1, 8, 8)
    corners = set()
    for step in range(200):
        window = loss.window(values, 0, step)
        assert window.coords.shape == (16, 2) and window.values.shape == (3, 1, 4, 4)
        (index,) = (grid(8) == window.coords[0]).all(1).nonzero().flatten().tolist()
        y, x = divmod(index, 8)
        torch.testing.assert_close(window.coords, grid(8).view(8, 8, 2)[y : y + 4, x : x + 4].reshape(16, 2))
        assert torch.equal(window.values, values[:, :, y : y + 4, x : x + 4])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(5) for x in range(5)}, "every place that fits"
    again = loss.window(values, 0, 7)
    assert torch.equal(again.coords, loss.window(values, 0, 7).coords)
    assert any(not torch.equal(again.coords, loss.window(values, seed, 7).coords) for seed in range(1, 5))


@pytest.mark.parametrize("own", [False, True])
def test_its_coordinates_follow_those_of_the_squared_error(own):
    window = Window(torch.randn(4, 2), torch.zeros(3, 1, 2, 2))
    coords = torch.randn(3, 5, 2) if own else torch.randn(5, 2)
    both = window.after(coords)
    assert torch.equal(both[..., :5, :], coords)
    assert torch.equal(both[..., 5:, :], window.coords.expand(3, 4, 2) if own else window.coords)


def test_a_perfect_reconstruction_costs_nothing_and_gradients_reach_the_window_alone(loss):
    values = torch.randn(3, 1, 8, 8)
    window = loss.window(values, 0, 0)
    perfect = torch.cat([torch.randn(3, 5, 1), window.values.flatten(2).mT], dim=1)
    assert float(loss(perfect, window)) == pytest.approx(0, abs=1e-6)
    predicted = torch.randn(3, 21, 1, requires_grad=True)
    distance = loss(predicted, window)
    distance.backward()
    assert bool((predicted.grad[:, :5] == 0).all()) and bool((predicted.grad[:, 5:] != 0).any())
    assert all(weight.grad is None for weight in loss.classifier.parameters())
    images = predicted.detach()[:, 5:, 0].view(3, 1, 4, 4)
    expected = feature_distance(loss.classifier.feature_maps(images), loss.classifier.feature_maps(window.values))
    torch.testing.assert_close(distance.detach(), expected)
    assert not loss.classifier.training, "in training its batch norms would use the batch"


def test_channels_of_decoded_points_become_those_of_the_window(tmp_path):
    saved(tmp_path, channels=3)
    colours = ImageData(ImageDataSpec(train_split="train[:2]", held_out_fraction=0.0), "train", (8, 8), 3)
    loss, values = PerceptualLoss(PerceptualSpec(classifier=str(tmp_path), window=4), colours), torch.randn(2, 3, 8, 8)
    window = loss.window(values, 0, 0)
    assert float(loss(window.values.flatten(2).mT, window)) == pytest.approx(0, abs=1e-6)


def test_a_classifier_of_other_signals_is_refused(digits, tmp_path):
    saved(tmp_path, channels=3)
    with pytest.raises(InputError, match="is for signals of 3 channels and 2 axes, but the data have 1 and 2"):
        PerceptualLoss(PerceptualSpec(classifier=str(tmp_path), window=4), digits)
    saved(tmp_path, signal={"type": "array"})
    with pytest.raises(InputError, match="the model was trained on type='array'"):
        PerceptualLoss(PerceptualSpec(classifier=str(tmp_path), window=4), digits)


@pytest.mark.parametrize(("blocks", "smallest"), [("residual", 2), ("pooled", 5)])
def test_a_window_that_the_classifier_cannot_halve_is_refused(digits, tmp_path, blocks, smallest):
    saved(tmp_path, blocks=blocks, stages=2)
    loss = PerceptualLoss(PerceptualSpec(classifier=str(tmp_path), window=smallest), digits)
    window = loss.window(torch.randn(2, 1, 8, 8), 0, 0)
    assert bool(loss(torch.randn(2, smallest**2, 1), window).isfinite())
    with pytest.raises(InputError, match=f"perceptual.window must be at least {smallest}"):
        PerceptualLoss(PerceptualSpec(classifier=str(tmp_path), window=smallest - 1), digits)
