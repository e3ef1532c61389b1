"""Values of signals between the points of a grid of any number of axes."""

import math

import pytest
import torch
import torch.nn.functional as F

from genrep.coords import axis_centres, draw_targets, grid
from genrep.errors import InputError
from genrep.interpolation import INTERPOLATIONS, _interpolate, values_at

SHAPES = [(9,), (6, 7), (4, 5, 6)]


def signals_and_coords(shape, shared, reach=1.5):
    """Random signals, and coordinates that go beyond the border, float64."""
    signals = torch.randn(2, 3, *shape, dtype=torch.float64)
    coords = (2 * torch.rand(*([] if shared else [2]), 200, len(shape), dtype=torch.float64) - 1) * reach
    return signals, coords


def by_grid_sample(signals, coords, interpolation):
    """torch's own, for 2 and 3 axes."""
    coords = coords.expand(len(signals), -1, -1) if coords.ndim == 2 else coords
    places = coords.flip(-1).view(len(signals), -1, *[1] * (coords.shape[-1] - 1), coords.shape[-1])
    sampled = F.grid_sample(signals, places, mode=interpolation, padding_mode="border", align_corners=False)
    return sampled.flatten(2).transpose(1, 2)


def values_and_gradients(function, signals, coords, interpolation):
    """What a function gives, and the gradients of a random weighting of it by signals and by coordinates."""
    signals, coords = signals.clone().requires_grad_(), coords.clone().requires_grad_()
    values = function(signals, coords, interpolation)
    weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)
    by_signals, by_coords = torch.autograd.grad((values * weights).sum(), (signals, coords), allow_unused=True)
    return values.detach(), by_signals, torch.zeros_like(coords) if by_coords is None else by_coords


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_at_grid_points_are_the_signals_own(shape, interpolation):
    signals = torch.randn(2, 3, *shape)
    values = values_at(signals, grid(shape), interpolation)
    torch.testing.assert_close(values, signals.flatten(2).transpose(1, 2), atol=5e-6, rtol=0)


@pytest.mark.parametrize("shape", [(8,), (8, 9), (8, 9, 10)], ids=str)
def test_linear_interpolation_keeps_ramps(shape):
    slopes = torch.tensor([2.0, -3.0, 5.0])[: len(shape)]
    signals = (grid(shape) @ slopes + 1).view(1, 1, *shape)
    coords = (2 * torch.rand(40, len(shape)) - 1) * (1 - 1 / torch.tensor(shape))  # between the outermost centres
    torch.testing.assert_close(values_at(signals, coords, "bilinear")[0, :, 0], coords @ slopes + 1)


@pytest.mark.parametrize("shape", [(8,), (8, 9), (8, 9, 10)], ids=str)
def test_cubic_interpolation_of_quadratics_has_a_closed_form(shape):
    """A product of quadratics q, one an axis. The kernel w of a = -0.75 is not Keys' own of -0.5, which would give q itself:
    between points k, at part t, Σ w = 1, Σ w k = t + t(1 - t)(1 - 2t) / 2, and Σ w k² = t² - t²(1 - t)."""
    quadratics = torch.tensor([[0.5, 1.0, 0.3], [1.0, -0.4, 0.2], [-0.7, 0.6, -0.1]], dtype=torch.float64)
    signals = torch.ones(shape, dtype=torch.float64)
    places = torch.rand(60, len(shape), dtype=torch.float64) * (torch.tensor(shape) - 3) + 1  # in pixels: 1 to N - 2
    expected = torch.ones(60, dtype=torch.float64)
    for axis, (length, (a, b, c)) in enumerate(zip(shape, quadratics.tolist(), strict=False)):
        pixel = torch.arange(length, dtype=torch.float64)
        along = [1] * len(shape)
        along[axis] = length
        signals = signals * (a + b * pixel + c * pixel**2).view(along)
        first, t = places[:, axis].floor(), places[:, axis] % 1
        k, k_squared = t + t * (1 - t) * (1 - 2 * t) / 2, t**2 - t**2 * (1 - t)
        expected *= (a + b * first + c * first**2) + (b + 2 * c * first) * k + c * k_squared
    coords = (2 * places + 1) / torch.tensor(shape) - 1
    torch.testing.assert_close(values_at(signals[None, None], coords)[0, :, 0], expected)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_general_sum_is_grid_sample_for_images(interpolation, shared):
    signals, coords = signals_and_coords((6, 7), shared)
    general = values_and_gradients(_interpolate, signals, coords, interpolation)
    torch.testing.assert_close(general, values_and_gradients(by_grid_sample, signals, coords, interpolation))
    torch.testing.assert_close(general, values_and_gradients(values_at, signals, coords, interpolation))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])  # torch has no cubic one of three axes
def test_the_general_sum_is_grid_sample_for_clips(interpolation, shared):
    signals, coords = signals_and_coords((4, 5, 6), shared)
    general = values_and_gradients(values_at, signals, coords, interpolation)
    torch.testing.assert_close(general, values_and_gradients(by_grid_sample, signals, coords, interpolation))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_general_sum_is_the_short_way_for_curves(interpolation, shared):
    signals, coords = signals_and_coords((9,), shared)
    short = values_and_gradients(values_at, signals, coords, interpolation)
    torch.testing.assert_close(short, values_and_gradients(_interpolate, signals, coords, interpolation))


def test_a_clip_that_is_still_is_its_picture_at_every_time():
    pictures, coords = signals_and_coords((5, 6), shared=True)
    clips = pictures[:, :, None].expand(-1, -1, 4, -1, -1)
    at_times = torch.cat([2 * torch.rand(len(coords), 1, dtype=torch.float64) - 1, coords], dim=1)
    torch.testing.assert_close(values_at(clips, at_times), values_at(pictures, coords))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_edge_is_repeated_beyond_the_border(shape, interpolation):
    """From two pixels beyond the outermost centre on no interpolation sees anything but the edge."""
    signals = torch.randn(2, 3, *shape)
    for end, index in ((-1, 0), (1, -1)):
        corner = signals[(..., *[index] * len(shape))]
        values = values_at(signals, torch.full((1, len(shape)), end * 3.0), interpolation)
        torch.testing.assert_close(values[:, 0], corner)


@pytest.mark.parametrize(("interpolation", "reach"), [("nearest", 0.5), ("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_missing_value_spreads_to_what_touches_it(shape, interpolation, reach):
    """To points nearer than half a pixel, one or two along every axis; channel by channel."""
    signals, coords = torch.randn(1, 2, *shape), 2 * torch.rand(3000, len(shape)) - 1
    hole = tuple(length // 2 for length in shape)
    signals[(0, 1, *hole)] = math.nan
    centre = torch.stack([centres[index] for centres, index in zip(axis_centres(shape), hole, strict=True)])
    touched = ((coords - centre).abs() < reach * 2 / torch.tensor(shape)).all(dim=1)
    assert touched.any() and not touched.all()
    values = values_at(signals, coords, interpolation)[0]
    assert torch.equal(values[:, 1].isnan(), touched)
    assert not values[:, 0].isnan().any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_targets_of_any_axes_are_the_values_at_their_coordinates(shape):
    signals, size = torch.randn(2, 3, *shape), [length + 2 for length in shape]
    generator = torch.Generator().manual_seed(0)
    coords, values = draw_targets(signals, generator, size=size, num_coords=5)
    assert coords.shape == (5, len(shape)) and torch.equal(values, values_at(signals, coords))
    coords, values = draw_targets(signals, generator, size=size, coords="grid", targets="pixel")
    assert torch.equal(coords, grid(size)) and torch.equal(values, values_at(signals, coords, "nearest"))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    coords, values = draw_targets(signals, generators, num_coords=5)
    assert coords.shape == (2, 5, len(shape)) and not torch.equal(coords[0], coords[1])
    assert torch.equal(values, values_at(signals, coords))


def test_one_size_stands_for_every_axis():
    coords, _ = draw_targets(torch.randn(1, 1, 4, 5, 6), torch.Generator(), size=3, coords="grid")
    assert torch.equal(coords, grid((3, 3, 3)))
    with pytest.raises(InputError, match="size must be one number, or 3, one per axis; got"):
        draw_targets(torch.randn(1, 1, 4, 5, 6), torch.Generator(), size=[3, 3])


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(InputError, match=r"interpolation must be one of .*; got 'cubic'.*bicubic"):
        values_at(torch.randn(1, 1, 4), torch.zeros(1, 1), "cubic")


def test_missing_values_are_interpolated_around():
    """Half of a plane is missing at random: what is left gives linear values, and most points have one."""
    generator = torch.Generator().manual_seed(0)
    signals = torch.full((1, 1, 12, 12), 0.7, dtype=torch.float64)
    there = torch.rand(12, 12, generator=generator) < 0.6
    signals[0, 0, ~there] = torch.nan
    coords = torch.rand(400, 2, generator=generator, dtype=torch.float64) * 2 - 1
    values = values_at(signals, coords, "bicubic", missing=True)
    known = values.isfinite()
    assert 0.5 < float(known.double().mean()) < 0.9
    torch.testing.assert_close(values[known], torch.full_like(values[known], 0.7))
    assert float(values_at(signals, coords, "bicubic").isfinite().double().mean()) < 0.01
    whole = torch.rand(1, 1, 12, 12, generator=generator, dtype=torch.float64)
    assert torch.equal(values_at(whole, coords, "bicubic", missing=True), values_at(whole, coords, "bicubic"))
