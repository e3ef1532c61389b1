"""Frequency features (locality-aware eqs. 2 and 3) in closed form; working axis by axis equals working point by point."""

import math

import pytest
import torch
from torch import nn

from genrep.coords import GridChunk, axis_centres, grid
from genrep.nn.fourier import FourierFeatures, FrequencyFeatures

GRIDS = {"1 axis": (9,), "2 axes": (6, 5), "3 axes": (4, 3, 5), "6 axes": (2, 3, 2, 2, 3, 2)}
on_grids = pytest.mark.parametrize("size", GRIDS.values(), ids=GRIDS)


def whole(size):
    return GridChunk(tuple(axis_centres(size)), 0, math.prod(size))


def plain_features(point, num_features, sigma):
    """γ_σ(v) of one point, eq. 2: the cosines of all axes, then the sines."""
    n = num_features // (2 * len(point))
    angles = torch.stack([math.pi * sigma ** (j / (n - 1)) * c for c in point for j in range(n)])
    return torch.cat([angles.cos(), angles.sin()])


@pytest.mark.parametrize(
    ("axes", "num_features", "n"), [(2, 256, 64), (3, 256, 42), (6, 256, 21), (2, 255, 63), (1, 7, 3)]
)
@pytest.mark.parametrize("sigma", [2.0, 16.0, 128.0])
def test_frequencies_run_from_one_to_the_bandwidth(axes, num_features, n, sigma):
    """Eq. 2 with j = 0 to n - 1; for Plücker rays 256 / 12 is rounded down: 21 frequencies, 252 features."""
    layer = FrequencyFeatures(axes, num_features, sigma, dim=4)
    frequencies = layer.encoding.frequencies
    assert frequencies[0] == 1 and frequencies[-1] == sigma
    expected = torch.tensor([sigma ** (j / (n - 1)) for j in range(n)])
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert layer.encoding.num_features == layer.linear.in_features == 2 * axes * n


def test_equal_bandwidths_of_one_give_one_frequency():
    assert FourierFeatures(2, 5, 1.0).frequencies.tolist() == [1.0] * 5


@pytest.mark.parametrize("axes", [2, 3, 6])
def test_frequency_features_in_closed_form(axes):
    layer, coords = FrequencyFeatures(axes, 26, 5.0, dim=7), torch.rand(2, 4, axes) * 2 - 1
    assert (layer.linear.bias != 0).any()
    expected = [
        (layer.linear.weight @ plain_features(point, 26, 5.0) + layer.linear.bias).clamp_min(0)
        for point in coords.flatten(0, 1)
    ]
    assert 0.1 < float((torch.stack(expected) == 0).float().mean()) < 0.9, "both sides of the ReLU"
    torch.testing.assert_close(layer(coords), torch.stack(expected).reshape(2, 4, 7), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@on_grids
def test_a_projected_grid_equals_the_linear_of_its_features(size, bias):
    """The whole grid, and pieces that begin and end within a row; too few repeated coordinates are done point by point."""
    encoding, linear = FourierFeatures(len(size), 5, 6.0), nn.Linear(10 * len(size), 7, bias=bias)
    centres, total = tuple(axis_centres(size)), math.prod(size)
    for start, stop in ((0, total), (1, total - 1), (total // 3, total // 2 + 1), (total - 1, total)):
        plain = linear(encoding(grid(size)[start:stop]))
        projected = encoding.projected(linear, GridChunk(centres, start, stop))
        torch.testing.assert_close(projected, plain, atol=1e-5, rtol=1e-4)
    coords = torch.rand(2, 3, len(size))
    torch.testing.assert_close(encoding.projected(linear, coords), linear(encoding(coords)))


def test_a_grid_costs_a_product_per_row_and_column():
    """A 64×48 grid, and nine whole rows and two parts: 64 + 48 and 11 + 48 rows of the product, not one per point."""
    encoding, linear, rows = FourierFeatures(2, 5, 6.0), nn.Linear(20, 7), []

    class CountRows(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is nn.functional.linear:
                rows.append(len(args[0]))
            return function(*args, **(kwargs or {}))

    centres = tuple(axis_centres((64, 48)))
    with CountRows():
        for chunk in (GridChunk(centres, 0, 64 * 48), GridChunk(centres, 100, 620)):
            encoding.projected(linear, chunk)
    assert rows == [64, 48, 11, 48]


@on_grids
def test_weights_that_learn_get_their_gradients_on_a_grid(size):
    encoding, linear, coords = FourierFeatures(len(size), 4, 3.0), nn.Linear(8 * len(size), 5), grid(size)
    upstream = torch.randn(len(coords), 5)
    ours = torch.autograd.grad(encoding.projected(linear, whole(size)), list(linear.parameters()), upstream)
    torch.testing.assert_close(ours[0], upstream.T @ encoding(coords), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[1], upstream.sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_grid_has_derivatives_with_respect_to_its_coordinates(frozen):
    """d/dx of w cos(πωx) is -πω w sin(πωx): the slope of a field, frozen or not."""
    layer = FrequencyFeatures(2, 4, 2.0, dim=1).requires_grad_(not frozen)  # one frequency: 1
    layer.linear.bias.data.fill_(10.0)  # above the ReLU
    coords = grid(6).requires_grad_()
    (slope,) = torch.autograd.grad(layer(coords).sum(), coords)
    cosine, sine = layer.linear.weight[0].unflatten(0, (2, 2))
    expected = math.pi * (sine * torch.cos(math.pi * coords) - cosine * torch.sin(math.pi * coords))
    torch.testing.assert_close(slope, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frequencies_stay_exact_in_half_precision(dtype):
    features = FrequencyFeatures(2, 64, 128.0, 8).to(dtype)
    exact = FrequencyFeatures(2, 64, 128.0, 8).encoding.frequencies
    assert torch.equal(features.encoding.frequencies, exact) and features.linear.weight.dtype == dtype
    coords = torch.rand(50, 2) * 2 - 1
    torch.testing.assert_close(features.encoding(coords), FourierFeatures(2, 16, 128.0)(coords))


@pytest.mark.parametrize("frozen", [True, False])
def test_autocast_rounds_features_and_not_their_angles(frozen):
    """At 1024 periods a rounded angle is any angle; features and product in bfloat16 leave half a percent."""
    torch.manual_seed(0)
    encoding, points = FourierFeatures(2, 32, 1024.0), whole((16, 16))
    linear = torch.nn.Linear(encoding.num_features, 16).requires_grad_(not frozen)
    features, expected = encoding(points.points), encoding.projected(linear, points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoding(points.points), features, rtol=0, atol=0)
        projected = encoding.projected(linear, points)
    assert (projected - expected).norm() < 0.005 * expected.norm()
