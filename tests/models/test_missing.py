"""Missing values: what the encoder sees in their place, and that they have no gradient."""

import math

import pytest
import torch

from genrep.coords import grid
from genrep.data.signals import Points
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from tests.tiny import tiny_autoencoder

SIGNAL = {"type": "array", "low": 0.0, "high": 10.0}


def curves_model(missing=True, channels=1, **options):
    return tiny_autoencoder(image_size=[12], channels=channels, missing=missing, signal=SIGNAL, **options)


def with_holes(channels=1):
    """Three curves: one complete, one with two missing values, one without any value."""
    values = torch.rand(3, channels, 12) * 2 - 1
    values[1, 0, [2, 7]] = math.nan
    values[2] = math.nan
    return values


@pytest.mark.parametrize("channels", [1, 2])
def test_the_encoder_sees_zeros_and_which_points_are_there(channels):
    """A point counts as missing if one of its channels is."""
    model, values = curves_model(channels=channels), with_holes(channels)
    there = torch.ones(3, 1, 12)
    there[1, 0, [2, 7]] = 0
    there[2] = 0
    zeros = values.nan_to_num() * there
    expected = model.encoder(torch.cat([zeros, there], dim=1))
    assert torch.equal(model.encode(values), expected) and expected.isfinite().all()
    at_zero = model.encode(zeros)
    assert torch.equal(at_zero[0], expected[0]) and not torch.equal(at_zero[1:], expected[1:])
    set_of, mask = model.encode_set(values)
    assert torch.equal(set_of, expected) and mask is None


def test_training_sees_missing_values_as_encode_does():
    model, values = curves_model(), with_holes()
    coords = grid((12,))
    assert torch.equal(model(values, coords), model.decode(model.encode(values), coords))


@pytest.mark.parametrize("per_signal", [False, True])
def test_missing_points_have_no_gradient(per_signal):
    model, values = curves_model().train().requires_grad_(True), with_holes()
    coords = grid((12,))
    targets = values.transpose(1, 2)
    there = targets.isfinite()
    points = Points(coords.expand(3, -1, -1) if per_signal else coords, targets.nan_to_num(), there.float())
    predicted = model(values, points.coords)
    predicted.retain_grad()
    loss = points.loss(predicted)
    loss.backward()
    gradient = 2 * (predicted.detach() - points.values) / predicted.numel()
    assert (predicted.grad[~there] == 0).all() and int((~there).sum()) == 2 + 12
    torch.testing.assert_close(predicted.grad[there], gradient[there])
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    others = points._replace(values=torch.where(there, points.values, 1e6))
    assert torch.equal(others.loss(predicted.detach()), loss.detach())


def test_a_model_that_knows_of_no_missing_values_refuses_them():
    with pytest.raises(InputError, match="images must be finite; 14 of 36 numbers are NaN or infinite"):
        curves_model(missing=False).encode(with_holes())


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_infinite_values_are_not_missing_ones(infinite):
    values = with_holes()
    values[0, 0, 0] = infinite
    with pytest.raises(InputError, match="images must be finite; 1 of 36 numbers are NaN or infinite"):
        curves_model().encode(values)


def test_a_model_of_missing_values_is_saved_as_one(tmp_path):
    model, values = curves_model(), with_holes()
    model.save_pretrained(tmp_path)
    loaded = INRAutoencoder.from_pretrained(tmp_path)
    assert loaded.missing and loaded.signal.spec == model.signal.spec
    assert torch.equal(loaded.encode(values), model.encode(values))
    one_more = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in curves_model(False).parameters())
    assert one_more == 4 * 16  # a channel of each of the patch's 4 points, to 16 numbers
