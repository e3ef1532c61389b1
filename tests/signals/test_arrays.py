"""Arrays: their range, their metrics in closed form, their pictures."""

import math

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from genrep.errors import InputError
from genrep.pictures import LINES
from genrep.signals import ArraySignalSpec
from genrep.signals.arrays import FRAMES, ArraySignal
from genrep.specs import validate

SHAPES = [(12,), (5, 7), (3, 4, 5)]
LOW, HIGH = -20.0, 60.0
DARK, BRIGHT, WHITE = [68, 1, 84], [253, 231, 37], [255, 255, 255]
"""The ends of viridis."""


def signal(low=LOW, high=HIGH, **keys):
    return ArraySignal(ArraySignalSpec(type="array", low=low, high=high, **keys))


# values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_range_is_minus_1_to_1_and_back(shape):
    kept = LOW + (HIGH - LOW) * torch.rand(2, 3, *shape)
    values = signal().values(kept)
    torch.testing.assert_close(values, (kept - 20) / 40)
    torch.testing.assert_close(signal().keep(values), kept)
    assert signal().values(torch.tensor([LOW, 20, HIGH])).tolist() == [-1, 0, 1]
    assert signal().keep(torch.tensor([-1.0, 0.0, 1.0, 1.5])).tolist() == [LOW, 20, HIGH, 80]  # not clamped


def test_missing_values_stay_missing():
    kept = torch.tensor([1.0, math.nan])
    assert signal().values(kept).isnan().tolist() == signal().keep(kept).isnan().tolist() == [False, True]


def test_a_range_must_rise():
    with pytest.raises(InputError, match="low must be below high; got 3 and 3"):
        validate(ArraySignalSpec, {"type": "array", "low": 3.0, "high": 3.0})


# metrics


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_metrics_of_a_constant_error_are_known(shape):
    """An error e in the array's own unit on a range r: RMSE e, PSNR 20 log10(r / e)."""
    reference = LOW + (HIGH - LOW) * torch.rand(3, 2, *shape)
    error = torch.tensor([0.5, -8.0, 80.0])
    of = signal()
    metrics = of.measure(of.values(reference + error.view(3, *[1] * (reference.ndim - 1))), of.values(reference))
    torch.testing.assert_close(metrics["rmse"], error.abs(), rtol=1e-4, atol=0)
    expected = [20 * math.log10((HIGH - LOW) / abs(e)) for e in error.tolist()]
    torch.testing.assert_close(metrics["psnr"], torch.tensor(expected), rtol=0, atol=1e-3)
    assert expected[-1] == 0  # an error as large as the range
    assert torch.equal(
        metrics["psnr"],
        of.psnr(of.values(reference + error.view(3, *[1] * (reference.ndim - 1))), of.values(reference)),
    )


def test_rmse_is_computed_per_array_and_not_per_batch():
    of, reference = signal(0.0, 1.0), torch.zeros(2, 1, 4)
    kept = torch.tensor([[[3.0, 0, 0, 0]], [[0.0, 0, 4, 0]]])
    assert of.measure(of.values(kept), of.values(reference))["rmse"].tolist() == pytest.approx([1.5, 2.0])


def test_equal_arrays_have_100_decibels():
    values = torch.rand(2, 1, 5)
    assert signal().measure(values, values)["psnr"].tolist() == [100, 100]


def test_missing_values_are_left_out_of_the_metrics():
    """Only the present values count, whatever the model predicts for the missing ones; without any, the error is 0."""
    of, reference = signal(), torch.rand(2, 2, 6)
    values = reference + 0.1
    values[0, 0, :3] = 7.0
    reference[0, 0, :3] = math.nan
    reference[1] = math.nan
    metrics = of.measure(values, reference)
    assert metrics["rmse"].tolist() == pytest.approx([0.1 * 40, 0], abs=1e-4)
    assert metrics["psnr"].tolist() == pytest.approx([20 * math.log10(2 / 0.1), 100], abs=1e-3)


# other grids


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_resizing_to_the_same_grid_changes_nothing(shape):
    values = torch.rand(2, 3, *shape)
    torch.testing.assert_close(signal().resize(values, shape), values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_resizing_a_ramp_gives_a_ramp_up_to_the_kernels_bend(axis):
    """Three times as fine, every third point is a sample. Those between, at t = 1/3 and 2/3 of the spacing, deviate from the
    line by t(1 - t)(1 - 2t)/2 spacings, the bend of the kernel with a = -0.75 (images have it, too)."""
    shape = [8, 4, 5]
    ramp = torch.arange(8.0).view([8 if along == axis else 1 for along in range(3)])
    shape[0], shape[axis] = shape[axis], 8
    values = ramp.expand(shape)[None, None]
    size = [3 * length if along == axis else length for along, length in enumerate(shape)]
    resized = signal().resize(values, size)
    assert resized.shape == (1, 1, *size)
    line = resized.movedim(2 + axis, -1)[0, 0, 0, 0]
    expected = (torch.arange(24.0) - 1) / 3 + torch.tensor([-1, 0, 1]).repeat(8) / 27
    torch.testing.assert_close(line[6:-6], expected[6:-6], atol=1e-5, rtol=0)


def test_resized_pictures_equal_torchs():
    values = torch.rand(2, 3, 5, 7)
    expected = torch.nn.functional.interpolate(values, size=(11, 20), mode="bicubic")
    torch.testing.assert_close(signal().resize(values, (11, 20)), expected, atol=1e-5, rtol=1e-5)


# pictures


def ink(picture, colour):
    """Mask of the pixels of a picture `[3, H, W]` that have a colour."""
    return (picture == torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)).all(dim=0)


def rows_of(level, height=96):
    """The row of a value in [-1, 1] in a plot whose border is at ±1.05."""
    return (1 - level / 1.05) * (height - 1) / 2


@pytest.mark.parametrize("level", [-1.0, -0.3, 0.0, 0.7, 1.0])
def test_a_flat_line_is_drawn_at_its_value(level):
    kept = signal().keep(torch.full((1, 1, 50), level))
    picture = signal().pictures(kept)[0]
    inked = ink(picture, LINES[0])
    assert torch.equal(inked, ~ink(picture, WHITE))
    rows = inked.nonzero()[:, 0].float()
    assert inked.any(0).all() and (rows - rows_of(level)).abs().max() <= 1


def test_ink_lies_where_the_curve_is():
    """In every column it is within a pixel of the value there, or between it and its neighbours."""
    values = torch.sin(torch.linspace(0, 7, 40))
    inked = ink(signal().pictures(signal().keep(values.view(1, 1, -1)))[0], LINES[0])
    height, width = inked.shape
    columns = torch.from_numpy(np.interp(np.linspace(0, 39, width), np.arange(40), values.numpy())).float()
    rows = rows_of(columns, height)
    slope = 1 + rows.diff().abs().max() / 2
    for column in range(width):
        ink_rows = inked[:, column].nonzero()[:, 0].float()
        assert len(ink_rows) and (ink_rows - rows[column]).abs().max() <= slope


def test_values_beyond_the_range_are_drawn_at_the_border():
    inked = ink(signal().pictures(signal().keep(torch.full((1, 1, 9), 50.0)))[0], LINES[0])
    assert inked[0].all() and not inked[2:].any()


def test_missing_values_are_gaps_in_a_line():
    values = torch.zeros(1, 1, 10)
    values[..., 4:6] = math.nan
    columns = ink(signal().pictures(signal().keep(values))[0], LINES[0]).any(0)
    at = torch.linspace(0, 9, 192)
    assert columns[at <= 2.9].all() and columns[at >= 6.1].all()
    assert not columns[(at > 3.1) & (at < 5.9)].any()


def test_channels_are_lines_of_different_colours():
    kept = signal().keep(torch.tensor([[[0.5] * 9, [-0.5] * 9]]))
    picture = signal().pictures(kept)[0]
    for colour, level in zip(LINES, (0.5, -0.5), strict=False):
        assert (ink(picture, colour).nonzero()[:, 0] - rows_of(level)).abs().max() <= 1


def test_colours_go_from_low_to_high_and_white_is_missing():
    kept = torch.tensor([[[[LOW, HIGH], [math.nan, 20.0], [-500.0, 500.0]]]])
    picture = signal().pictures(kept)[0].permute(1, 2, 0).tolist()
    middle = [round(255 * part) for part in colormaps["viridis"](128)[:3]]
    assert picture == [[DARK, BRIGHT], [WHITE, middle], [DARK, BRIGHT]]


def test_channels_of_two_axes_are_drawn_in_a_row():
    kept = torch.stack([torch.full((4, 6), LOW), torch.full((4, 6), HIGH)])[None]
    picture = signal().pictures(kept)
    assert picture.shape == (1, 3, 4, 6 + 1 + 6)
    assert ink(picture[0], DARK)[:, :6].all() and ink(picture[0], WHITE)[:, 6].all()
    assert ink(picture[0], BRIGHT)[:, 7:].all()


@pytest.mark.parametrize("count", [1, 3, FRAMES, 20])
def test_a_clip_is_a_strip_of_slices_from_first_to_last(count):
    """Every slice has a single colour; at most eight are drawn, evenly spaced and including both ends."""
    levels = torch.linspace(LOW, HIGH, count) if count > 1 else torch.tensor([LOW])
    picture = signal().pictures(levels.view(1, 1, -1, 1, 1).expand(-1, -1, -1, 4, 5))
    num_slices = min(count, FRAMES)
    assert picture.shape == (1, 3, 4, 6 * num_slices - 1)
    for number in range(num_slices):
        level = levels[round(number * (count - 1) / max(1, num_slices - 1))].item()
        colour = [round(255 * part) for part in colormaps["viridis"](round((level - LOW) / (HIGH - LOW) * 255))[:3]]
        assert ink(picture[0], colour)[:, 6 * number : 6 * number + 5].all()


def test_axes_before_the_last_two_are_all_slices():
    kept = LOW + (HIGH - LOW) * torch.rand(2, 1, 2, 3, 4, 5)
    assert torch.equal(signal().pictures(kept), signal().pictures(kept.flatten(2, 3)))


def test_the_frames_of_an_array_are_its_picture():
    kept = torch.rand(2, 4, 5)
    assert torch.equal(signal().frames(kept), signal().pictures(kept[None]))


def test_arrays_are_returned_in_their_unit_and_drawn_as_pictures():
    kept = LOW + (HIGH - LOW) * torch.rand(2, 1, 4, 5)
    of = signal()
    assert np.array_equal(of.output(kept, "np"), kept.numpy()) and torch.equal(of.output(kept, "pt"), kept)
    pictures = of.output(kept, "uint8")
    assert torch.equal(pictures, of.pictures(kept))
    assert [np.array(image).tolist() for image in of.output(kept, "pil")] == pictures.permute(0, 2, 3, 1).tolist()


def test_psnr_ignores_missing_values():
    signal = ArraySignalSpec(type="array", low=-1, high=1).build()
    values = torch.full((1, 1, 8, 8), 0.5)
    values[..., ::2] = torch.nan
    assert torch.equal(signal.resize(values, (8, 8)).nan_to_num(), values.nan_to_num())
    torch.testing.assert_close(
        signal.psnr(torch.zeros(1, 1, 8, 8), signal.resize(values, (8, 8))), torch.tensor([12.0412])
    )


def test_error_pictures_depend_on_the_size_of_the_error_alone():
    """An error of a tenth of half the range, up or down from any value, has the middle colour; no error has the lowest."""
    signal = ArraySignalSpec(type="array", low=0, high=20).build()
    kept = torch.tensor([0.0, 5.0, 20.0, 7.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    reference = torch.tensor([1.0, 4.0, 19.0, 7.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    errors = signal.errors(kept, reference)
    assert torch.equal(errors[0], errors[1]) and torch.equal(errors[1], errors[2])
    assert torch.equal(errors[0], signal.pictures(torch.full((1, 1, 2, 2), 10.0))[0])
    assert torch.equal(errors[3], signal.pictures(torch.zeros(1, 1, 2, 2))[0])
