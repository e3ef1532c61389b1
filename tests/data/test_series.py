"""Single signals along one axis: WAV files, sums of sines, coordinates off the grid, and the messages about invalid ones."""

import math
import wave

import numpy as np
import pytest
import torch

from genrep.coords import grid
from genrep.data.single import ArraySourceSpec, PointsSpec, SinesSourceSpec
from genrep.data.single.arrays import open_array
from genrep.data.single.base import Share
from genrep.data.single.grids import GridSignal
from genrep.data.single.series import open_sines
from genrep.errors import InputError
from genrep.signals import ArraySignalSpec
from genrep.specs import validate


def write_wav(path, integers, width):
    """Write integers `[samples, channels]` of `width` bytes; those of one byte are stored unsigned."""
    stored = integers.astype("<i4")
    octets = stored.view(np.uint8).reshape(*integers.shape, 4)[..., :width].copy()
    if width == 1:
        octets ^= 0x80
    with wave.open(str(path), "wb") as file:
        file.setnchannels(integers.shape[1])
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(octets.tobytes())
    return path


def opened(path, **options):
    return open_array(validate(ArraySourceSpec, {"type": "array", "source": str(path), **options}))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_wav_read_back_equals_its_samples(tmp_path, width):
    limit = 2 ** (8 * width - 1)
    integers = np.array([[-limit, limit - 1], [0, -1], [1, limit // 2], [7, -7]])
    single = opened(write_wav(tmp_path / "a.wav", integers, width))
    assert torch.equal(single.kept, torch.from_numpy((integers.T / limit).astype(np.float32)))
    assert single.shape == (4,) and single.channels == 2
    assert opened(tmp_path / "a.wav", value_range=[-1.0, 1.0]).signal.spec.scale() == (-1, 1)


def test_files_that_are_not_wav_are_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.arange(100)[:, None], 2)
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"has no samples"):
        opened(write_wav(tmp_path / "none.wav", np.zeros((0, 1), dtype=int), 2))
    floats = bytearray(whole)
    floats[20] = 3  # the format's number: IEEE floats
    extensible = bytearray(whole)
    extensible[20:22] = b"\xff\xff"  # a format that no version of Python reads
    wide = bytearray(whole)
    wide[34] = 64  # bits per sample
    with pytest.raises(InputError, match="none.wav' does not exist: give a WAV file"):
        opened(tmp_path / "nowhere" / "none.wav")
    for content in (b"", b"no sound", whole[:30], bytes(floats), bytes(extensible), bytes(wide)):
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(
            InputError,
            match=r"cannot be read as a WAV file of 8, 16, 24 or 32-bit integers: \S.*\. Save it as plain PCM",
        ):
            opened(tmp_path / "bad.wav")
    np.save(tmp_path / "a.npy", np.arange(4.0))
    with pytest.raises(InputError, match=r"value_range must be \[low, high\] with low < high; got \[1.0, -1.0\]"):
        opened(tmp_path / "a.npy", value_range=[1.0, -1.0])
    (tmp_path / "cut.wav").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"is cut off: it has 180 of 200 bytes"):
        opened(tmp_path / "cut.wav")
    np.save(tmp_path / "empty.npy", np.zeros((0,)))
    with pytest.raises(InputError, match=r"must have at least one value; its shape is \[0\]"):
        opened(tmp_path / "empty.npy")


class Function:
    """A function of coordinates that renders like a field."""

    def __init__(self, function):
        self.function = function

    def render(self, size=None):
        return self.function(grid(size or self.size).squeeze(-1))[None]


SINES = {"type": "sines", "frequencies": [1, 3], "amplitudes": [1, 0.5], "length": 20}


def test_a_sum_of_sines_equals_its_formula():
    single = open_sines(validate(SinesSourceSpec, SINES))
    first, second = 2 * math.pi * np.random.default_rng(0).random(2)
    x = (np.arange(20) + 0.5) / 20
    expected = np.sin(2 * np.pi * x + first) + 0.5 * np.sin(6 * np.pi * x + second)
    assert single.kept[0].numpy() == pytest.approx(expected, abs=1e-6)
    assert single.signal.spec.scale() == (-1.5, 1.5) and single.shape == (20,)
    noisy = open_sines(validate(SinesSourceSpec, {**SINES, "noise": 0.1}))
    assert 0.05 < float((noisy.kept - single.kept).std()) < 0.2


def test_a_fit_of_sines_is_measured_between_the_samples():
    """An error of sin(20πx), shifted, is 0 at all 20 samples, and has a mean square of 0.5 between them."""
    single = open_sines(validate(SinesSourceSpec, {**SINES, "finer": 50}))
    exact = Function(lambda x: single.signal.values(single.sines.at(x))[0])
    exact.size = (20,)
    assert single.measure(exact)["psnr_between"] == single.measure(exact)["psnr"] == 100
    aliased = Function(lambda x: exact.function(x) + 0.3 * torch.sin(math.pi * 20 * (x + 1 - 1 / 20)))
    aliased.size = (20,)
    metrics = single.measure(aliased)
    assert metrics["rmse"] == pytest.approx(0, abs=1e-4)
    assert metrics["rmse_between"] == pytest.approx(1.5 * 0.3 / math.sqrt(2), rel=1e-2)
    assert single.picture(aliased).shape[0] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amplitudes": [1]}, "amplitudes must have one number per sine: 2, as in frequencies; got 1"),
        ({"frequencies": [10, 1]}, "length must be more than twice the highest frequency, 10, or its samples"),
        ({"frequencies": []}, "at least 1 item"),
        ({"finer": 5}, "multiple of 2"),
        ({"frequencies": [0.4, 0.3], "length": 1}, "length: must be .*2; got 1"),
    ],
)
def test_invalid_sines_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        validate(SinesSourceSpec, {**SINES, **change})


def ramp(shape):
    """Values that rise along the last axis: index / (length - 1) in [-1, 1]."""
    signal = ArraySignalSpec(type="array", low=0.0, high=float(shape[-1] - 1)).build()
    return GridSignal(torch.arange(shape[-1]).float().expand(1, *shape).contiguous(), signal)


@pytest.mark.parametrize("coords", ["gaussian", "uniform"])
@pytest.mark.parametrize("num_coords", [None, 50])
def test_interpolated_targets_on_a_ramp_are_the_ramp(coords, num_coords):
    """Cubic interpolation with a = -0.75 turns a ramp's n + t into n + 1.5 t - 1.5 t² + t³, two samples from the border."""
    single, length = ramp((3, 40)), 40
    how = PointsSpec(num_coords=num_coords, coords=coords, targets="bicubic")
    points = single.points(how, torch.Generator().manual_seed(0))
    x = points.coords[:, 1]
    position = ((x + 1) * length - 1) / 2
    inside = (position > 2) & (position < length - 3)
    part = position - position.floor()
    expected = 2 / (length - 1) * (position.floor() + 1.5 * part - 1.5 * part**2 + part**3) - 1
    assert points.values[inside, 0].numpy() == pytest.approx(expected[inside].numpy(), abs=1e-5)
    shift = position - position.round()
    assert 0.02 < float(shift.abs().max()) <= (0.25 if coords == "gaussian" else 0.5) + 1e-5
    assert len(points.coords) == (num_coords or 120)


def test_pixel_targets_are_the_values_of_the_nearest_pixels():
    points = ramp((40,)).points(PointsSpec(coords="gaussian"), torch.Generator().manual_seed(0))
    nearest = (((points.coords[:, 0] + 1) * 40 - 1) / 2).round()
    assert torch.equal(points.values[:, 0], nearest * (2 / 39) - 1) and not torch.equal(points.coords, grid((40,)))


@pytest.mark.parametrize("how", [{}, {"num_coords": 13}, {"coords": "uniform", "targets": "bicubic"}])
def test_the_shares_of_all_processes_are_the_points_of_one(how):
    single, spec = ramp((5, 7)), PointsSpec(**how)
    whole = single.points(spec, torch.Generator().manual_seed(3))
    parts = [single.points(spec, torch.Generator().manual_seed(3), Share(rank, 3)) for rank in range(3)]
    for name in ("coords", "values"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert single.is_fixed(spec) == (how == {})
