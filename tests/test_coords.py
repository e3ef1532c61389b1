"""The coordinate convention, against closed forms and against torch's own grid_sample."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genrep.coords import (
    GridChunk,
    as_points,
    axis_centres,
    grid,
    grid_at,
    image_region,
    image_shape,
    jitter_gaussian,
    jitter_uniform,
    pitch,
    random_subset,
)
from genrep.errors import InputError
from genrep.interpolation import values_at


def test_pixel_centres_in_closed_form():
    expected = torch.tensor([-1 + (2 * i + 1) / 5 for i in range(5)])
    torch.testing.assert_close(grid((5, 1))[:, 0], expected)
    torch.testing.assert_close(grid((1, 5))[:, 1], expected)


def test_rows_come_first():
    coords = grid((2, 3)).reshape(2, 3, 2)
    assert (coords[0, :, 0] == coords[0, 0, 0]).all(), "a row shares y"
    assert (coords[1, :, 0] > coords[0, :, 0]).all(), "y grows downwards"
    assert (coords[:, 1, 1] > coords[:, 0, 1]).all(), "x grows to the right"


@pytest.mark.parametrize("size", [(7,), (3, 4), (2, 3, 4)])
def test_a_chunk_of_a_grid_is_its_points_wherever_it_begins_and_ends(size):
    """For all chunks in a region: points and axes agree, and axes contain only centres that occur."""
    region = [*(-0.3 for _ in size), *(0.9 for _ in size)]
    whole, centres = grid(size, region), tuple(axis_centres(size, region))
    for start in range(len(whole)):
        for stop in range(start + 1, len(whole) + 1):
            chunk = GridChunk(centres, start, stop)
            assert chunk.shape == chunk.points.shape and torch.equal(as_points(chunk), whole[start:stop])
            assert torch.equal(torch.stack([values[index] for values, index in chunk.axes], dim=-1), chunk.points)
            occurring = [len(chunk.points[:, axis].unique()) for axis in range(len(size))]
            assert [len(values) for values, _ in chunk.axes] == occurring


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_values_on_the_grid_are_the_pixels(mode):
    images = torch.randn(3, 2, 5, 7)
    values = values_at(images, grid((5, 7)), mode)
    torch.testing.assert_close(values, images.flatten(2).transpose(1, 2), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_values_anywhere_equal_grid_sample(mode):
    images, coords = torch.randn(2, 3, 6, 5), torch.rand(40, 2) * 2 - 1
    reference = F.grid_sample(
        images, coords.flip(-1).expand(2, -1, -1)[:, :, None], mode=mode, padding_mode="border", align_corners=False
    )[..., 0].transpose(1, 2)  # fmt: skip
    torch.testing.assert_close(values_at(images, coords, mode), reference)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_values_at_each_images_own_coordinates_equal_a_loop(mode):
    images, coords = torch.randn(3, 2, 6, 5), torch.rand(3, 40, 2) * 2 - 1
    expected = [values_at(images[[n]], coords[n], mode)[0] for n in range(3)]
    torch.testing.assert_close(values_at(images, coords, mode), torch.stack(expected))


def test_bicubic_values_on_a_finer_grid_equal_interpolate():
    images = torch.randn(2, 1, 8, 8)
    enlarged = F.interpolate(images, size=(32, 32), mode="bicubic", align_corners=False)
    torch.testing.assert_close(values_at(images, grid(32)), enlarged.flatten(2).transpose(1, 2), atol=1e-4, rtol=0)


def test_region_covers_its_part_of_the_whole():
    whole = grid((8, 8)).reshape(8, 8, 2)
    part = grid((4, 2), region=(-1, 0.5, 0, 1)).reshape(4, 2, 2)
    torch.testing.assert_close(part, whole[:4, 6:])


def test_a_run_of_a_grid_is_cut_from_the_whole():
    whole = grid((7, 5), region=(-0.3, -1, 1, 0.2))
    torch.testing.assert_close(
        torch.cat([grid((7, 5), (-0.3, -1, 1, 0.2), start=s, stop=s + 8) for s in range(0, 35, 8)]), whole
    )


def test_neighbours_stay_distinct_on_a_large_grid():
    run = grid((8192, 8192), start=8192 * 8192 - 3, stop=8192 * 8192)
    assert (run[1:, 1] > run[:-1, 1]).all()
    assert run[-1].tolist() == pytest.approx([1 - 1 / 8192] * 2, abs=1e-7)


@pytest.mark.parametrize(("size", "region"), [((7, 5), (-0.3, -1, 1, 0.2)), ((6, 300), (0.1, 0.1, 0.1 + 1e-6, 0.2))])
def test_coordinates_are_float64_rounded_once(size, region):
    (height, width), (y0, x0, y1, x1) = size, region
    expected = [
        [(i + 0.5) * ((y1 - y0) / height) + y0, (j + 0.5) * ((x1 - x0) / width) + x0]
        for i in range(height)
        for j in range(width)
    ]
    assert torch.equal(grid(size, region), torch.tensor(expected, dtype=torch.float64).float())
    chosen = torch.tensor([3, 0, height * width - 1, 3])
    assert torch.equal(grid_at(chosen, size, region), grid(size, region)[chosen])


def test_three_axes():
    assert grid((2, 3, 4)).shape == (24, 3)


def test_gaussian_jitter_is_clipped_and_has_the_papers_spread():
    coords = grid(128)
    shift = (jitter_gaussian(coords, 128, torch.Generator().manual_seed(0)) - coords) / pitch(128)[0]
    assert shift.abs().max() <= 0.25 + 1e-4
    inside = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(0.25 / 0.15))
    assert (shift.abs() < 0.2499).float().mean() == pytest.approx(float(2 * inside - 1), abs=0.01)


def test_gaussian_jitter_in_coordinates_is_the_published_one():
    """Standard deviation 0.3 / N and clip 0.5 / N, where the pitch is 2 / N."""
    coords = torch.zeros(100_000, 2)
    shift = jitter_gaussian(coords, 64, torch.Generator().manual_seed(0), std=0.15, clip=10.0)
    assert shift.std() == pytest.approx(0.3 / 64, rel=0.02)
    assert jitter_gaussian(coords, 64, torch.Generator().manual_seed(0)).abs().max() == pytest.approx(0.5 / 64)


def test_uniform_jitter_covers_the_pixel_and_no_more():
    coords = grid((8, 16))
    shift = (jitter_uniform(coords, (8, 16), torch.Generator().manual_seed(0)) - coords) / torch.tensor(pitch((8, 16)))
    assert shift.abs().max() <= 0.5 + 1e-5
    assert shift.std() == pytest.approx(12**-0.5, rel=0.1)


def test_subset_has_no_repeats():
    chosen = random_subset(50, 50, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(50))
    with pytest.raises(InputError, match="the number of points to draw must be 1 to 50; got 51"):
        random_subset(50, 51, torch.Generator())


@pytest.mark.parametrize(
    "size",
    [
        0,
        -1,
        (8, 0),
        (),
        True,
        8.0,
        (8, 8.5),
        "8",
        "88",
        (8, "8"),
        None,
        torch.tensor(8.0),
        torch.ones(2),
        np.array([8.0, 8.0]),
    ],
)
def test_invalid_sizes(size):
    with pytest.raises(InputError, match=r"^size must be a positive integer, or one per axis \(height, width\); got "):
        image_shape(size)


@pytest.mark.parametrize(
    "size",
    [
        8,
        np.int64(8),
        torch.tensor(8),
        np.array(8),
        [8, 8],
        (np.int32(8), 8),
        torch.tensor([8, 8]),
        np.array([8, 8]),
        torch.Size([8, 8]),
    ],
)
def test_sizes_of_any_kind_of_integer(size):
    assert image_shape(size) == (8, 8)
    assert all(type(length) is int for length in image_shape(size))
    assert torch.equal(grid(size), grid(8))


@pytest.mark.parametrize(
    "region", [(0, 0, 1), (0, 0, 1, float("nan")), (0, 0, 1, float("inf")), (0, 0, 1, "1"), "0011", 3, (0, 0, True, 1)]
)
def test_invalid_regions(region):
    with pytest.raises(
        InputError, match=r"^region must be 4 finite numbers, starts then ends \(y0, x0, y1, x1\); got "
    ):
        image_region(region)


def test_regions_of_any_kind_of_number():
    with pytest.raises(InputError, match="region must have every start below its end"):
        image_region((0, 0, 0, 1))
    for region in (
        (-1, 0, 1, 0.5),
        np.array([-1, 0, 1, 0.5]),
        torch.tensor([-1, 0, 1, 0.5]),
        (np.float32(-1), np.int8(0), 1, 0.5),
    ):
        assert image_region(region) == (-1.0, 0.0, 1.0, 0.5)
