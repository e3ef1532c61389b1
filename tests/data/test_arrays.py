"""Data sets of arrays, and single arrays for fields, from NumPy files and folders; and messages for bad ones."""

import math
import pickle
import shutil

import numpy as np
import pytest
import torch

from genrep.data import ArrayDataSpec, all_of
from genrep.data.arrays import ArrayData
from genrep.data.made_up import blobs, sines
from genrep.data.signals import check_signal
from genrep.data.single import ArraySourceSpec
from genrep.data.single.arrays import open_array
from genrep.data.sources import MissingSource
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.specs import validate
from tests.tiny import AUTOENCODER

SHAPE = (5, 6)


def numbers(count=10, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def spec(source, **keys):
    return validate(ArrayDataSpec, {"type": "arrays", "source": str(source), **keys})


def opened(source, split="train", shape=SHAPE, channels=1, **keys):
    return ArrayData(spec(source, **keys), split, shape, channels)


def everything(data):
    return data.read(range(len(data)))


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "all.npy", numbers())
    return tmp_path / "all.npy"


def save_folder(folder, arrays, classes=None):
    """Save one file per array, in name order, in a folder per class if there are labels."""
    for number, array in enumerate(arrays):
        place = folder / classes[number] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number:03d}.npy", array)
    return folder


# reading


def test_a_file_is_split_in_two_without_overlap(file):
    train, held_out = (everything(opened(file, split)) for split in ("train", "held_out"))
    assert train.shape == (8, 1, *SHAPE) and held_out.shape == (2, 1, *SHAPE) and train.dtype == torch.float32
    array_bytes = {array.numpy().tobytes() for array in torch.cat([train, held_out])}
    assert array_bytes == {array.tobytes() for array in numbers()}
    again = opened(file, split_seed=1)
    assert not torch.equal(everything(again), train)
    assert len(opened(file, held_out_fraction=0.5)) == 5 and len(opened(file, held_out_fraction=0.0)) == 10


@pytest.mark.parametrize("kind", ["npy", "npz", "folder", "classes"])
def test_every_kind_of_source_gives_the_same_arrays(file, tmp_path, kind):
    arrays, labels = numbers(), np.arange(10) % 2
    source = {"npy": file, "npz": tmp_path / "all.npz", "folder": tmp_path / "plain", "classes": tmp_path / "classes"}
    np.savez(source["npz"], values=arrays, labels=labels)
    save_folder(source["folder"], arrays)
    save_folder(source["classes"], arrays[np.argsort(labels, kind="stable")], ["even"] * 5 + ["odd"] * 5)
    data = opened(source[kind], held_out_fraction=0.0)
    order = np.argsort(labels, kind="stable") if kind == "classes" else np.arange(10)
    assert np.array_equal(everything(data)[:, 0].numpy(), arrays[order])
    if kind in ("npy", "folder"):
        assert data.labels is None and data.labels_of([0]) is None and data.class_names == []
    else:
        assert data.class_names == (["even", "odd"] if kind == "classes" else ["0", "1"])
        assert data.labels_of(range(10)).tolist() == labels[order].tolist()


def test_labels_follow_their_arrays_into_the_split(tmp_path):
    """Every array holds its label as a value."""
    labels = np.arange(30) % 4
    np.savez(tmp_path / "a.npz", values=np.full((30, 7), 1.0) * labels[:, None], labels=labels)
    for split in ("train", "held_out"):
        data = opened(tmp_path / "a.npz", split, shape=(7,))
        assert data.read([0, 3, 4])[:, 0, 0].tolist() == data.labels_of([0, 3, 4]).tolist()


def test_keys_select_arrays_and_labels_in_a_file(tmp_path):
    np.savez(tmp_path / "a.npz", t2m=numbers(), month=np.arange(10) % 3, labels=np.zeros(10, dtype=int))
    assert len(opened(tmp_path / "a.npz", values_key="t2m", labels_key="month").class_names) == 3
    assert opened(tmp_path / "a.npz", values_key="t2m").class_names == ["0"]
    assert opened(tmp_path / "a.npz", values_key="t2m", labels_key=None).labels is None


@pytest.mark.parametrize("channel_axis", ["first", "last"])
def test_channels_are_the_first_or_the_last_axis(tmp_path, channel_axis):
    arrays = numbers(shape=(3, *SHAPE))
    np.save(tmp_path / "a.npy", arrays if channel_axis == "first" else np.moveaxis(arrays, 1, -1))
    data = opened(tmp_path / "a.npy", channels=3, channel_axis=channel_axis, held_out_fraction=0.0)
    assert np.array_equal(everything(data).numpy(), arrays)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float64"])
def test_numbers_of_any_type_become_float32(tmp_path, dtype):
    array = np.arange(40).reshape(10, 4).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    values = everything(opened(tmp_path / "a.npy", shape=(4,), held_out_fraction=0.0))
    assert values.dtype == torch.float32 and np.array_equal(values[:, 0].numpy(), array)


def test_in_memory_reads_the_same_arrays(file):
    for split in ("train", "held_out"):
        kept, read = opened(file, split, in_memory=True), opened(file, split)
        assert torch.equal(everything(kept), everything(read)) and kept.fingerprint() == read.fingerprint()
        assert torch.equal(kept[1], read[1]) and torch.equal(kept.read([1, 0]), read.read([1, 0]))
    file.unlink()
    assert len(everything(kept)) == 2


@pytest.mark.parametrize(("synthetic", "shape", "classes"), [(sines, (256,), 4), (blobs, (8, 16, 16), 4)])
def test_synthetic_sets_have_the_documented_shapes_and_classes(synthetic, shape, classes):
    data = opened(synthetic.__name__, shape=shape)
    held_out = opened(synthetic.__name__, "held_out", shape=shape)
    assert (len(data), len(held_out)) == (1600, 400) and len(data.class_names) == classes
    assert data.describe() == f"{synthetic.__name__} (train): 1,600 of {' × '.join(map(str, (1, *shape)))}, 4 classes"
    assert float(data.signal.values(everything(data)).abs().max()) == pytest.approx(1, abs=1e-6)


def test_the_class_of_a_sine_is_its_band():
    """Most of the power of a curve's spectrum lies at the frequencies that its class names."""
    values, labels, names = sines()
    power = np.abs(np.fft.rfft(values, axis=1)) ** 2
    bands = [(0, 3), (2, 5), (4, 8), (7, 12)]  # a frequency between two integers leaks into both
    for label, (low, high) in enumerate(bands):
        of_class = power[labels == label]
        assert (of_class[:, low : high + 1].sum(1) / of_class.sum(1)).mean() > 0.9, names[label]


def test_the_class_of_a_blob_is_its_direction():
    values, labels, names = blobs()
    weights = values + 1
    at = (2 * np.arange(16) + 1) / 16 - 1
    y, x = ((weights.sum(axis) * at).sum(-1) / weights.sum((2, 3)) for axis in (3, 2))
    moves = np.stack([y[:, -1] - y[:, 0], x[:, -1] - x[:, 0]], axis=1)
    for label, way in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
        assert (moves[labels == label] @ way > 0.2).all(), names[label]


# range


def test_the_value_range_is_that_of_the_training_split(tmp_path):
    arrays = numbers()
    held_out = opened(save(tmp_path / "a.npy", arrays), "held_out").rows
    arrays[held_out[0]] = 100.0
    for split in ("train", "held_out"):
        data = opened(save(tmp_path / "b.npy", arrays), split)
        kept = np.delete(arrays, held_out, axis=0)
        assert data.signal.spec.scale() == (float(kept.min()), float(kept.max()))
    assert float(data.signal.values(everything(data)).max()) > 10


def test_a_configured_range_maps_to_minus_1_and_1(file):
    data = opened(file, value_range=[-10.0, 30.0], unit="K", axes=["lat", "lon"])
    torch.testing.assert_close(data.signal.values(everything(data)), (everything(data) - 10) / 20)
    assert (data.signal.spec.unit, data.signal.spec.axes) == ("K", ["lat", "lon"])
    assert data.transform() == {"shape": [5, 6], "channels": 1, "value_range": [-10.0, 30.0]}


def save(path, array):
    np.save(path, array)
    return path


# fingerprint


def test_the_fingerprint_depends_on_content_not_on_location(tmp_path):
    arrays, labels = numbers(), np.arange(10) % 2
    np.savez(tmp_path / "a.npz", values=arrays, labels=labels)
    shutil.copy(tmp_path / "a.npz", tmp_path / "elsewhere.npz")
    original = opened(tmp_path / "a.npz").fingerprint()
    assert opened(tmp_path / "elsewhere.npz", unit="K").fingerprint() == original
    others = {
        "another number": arrays + np.eye(1, arrays.size, 7).reshape(arrays.shape),
        "another order": arrays[::-1],
        "one fewer": arrays[:9],
    }
    fingerprints = {original, opened(tmp_path / "a.npz", value_range=[-9.0, 9.0]).fingerprint()}
    for name, values in others.items():
        np.savez(tmp_path / "b.npz", values=values, labels=labels[: len(values)])
        fingerprints.add(opened(tmp_path / "b.npz", split_seed=0).fingerprint())
        assert len(fingerprints) == 3 + list(others).index(name), name
    np.savez(tmp_path / "b.npz", values=arrays, labels=1 - labels)
    assert opened(tmp_path / "b.npz").fingerprint() not in fingerprints
    assert opened(tmp_path / "a.npz", "held_out").fingerprint() != original


# missing values


@pytest.fixture
def with_hole(tmp_path):
    """A file with a missing value, and the value's row and position."""
    arrays = numbers()
    row = int(opened(save(tmp_path / "a.npy", arrays)).rows[3])
    arrays[row, 2, 4] = math.nan
    return save(tmp_path / "b.npy", arrays), row


def test_missing_values_are_refused_by_name(with_hole):
    path, row = with_hole
    how = "; if NaN marks missing values, set data.missing: keep and autoencoder.missing: true"
    with pytest.raises(InputError, match=rf"array {row} of .*b\.npy: values must be finite; got nan{how}"):
        opened(path)
    lazily = opened(path, value_range=[-9.0, 9.0])  # nothing is read when it is opened
    lazily.read([2])
    with pytest.raises(InputError, match=rf"array {row} of .*b\.npy: values must be finite; got nan"):
        lazily.read([2, 3])


def test_missing_values_are_kept_with_weight_0(with_hole):
    path, _ = with_hole
    data = opened(path, missing="keep")
    assert data.may_miss and int(everything(data).isnan().sum()) == 1
    whole = opened(path.with_name("a.npy"))
    assert np.isfinite(data.signal.spec.scale()).all()
    points = data.points(data.read([2, 3]), torch.Generator(), coords="grid", targets="pixel")
    expected = torch.ones(2, 30, 1)
    expected[1, 2 * 6 + 4] = 0
    assert torch.equal(points.weights, expected) and points.values.isfinite().all()
    predicted = torch.zeros(2, 30, 1)
    assert float(points.loss(predicted)) == pytest.approx(float((points.values**2).sum() / 60))
    shifted = data.points(data.read([2, 3]), torch.Generator(), coords="uniform", targets="bicubic")
    # interpolated between the known values, except at the missing pixel itself
    assert (shifted.weights[0] == 1).all() and int((shifted.weights[1] == 0).sum()) <= 1
    assert whole.points(whole.read([2]), torch.Generator()).weights is None


def test_infinite_values_are_always_refused(with_hole):
    path, row = with_hole
    arrays = np.load(path)
    arrays[row, 0, 0] = -math.inf
    with pytest.raises(InputError, match=rf"array {row} of .*values must be finite; got -inf$"):
        opened(save(path, arrays), missing="keep")


# bad data sets


def test_missing_sources_are_refused(tmp_path):
    with pytest.raises(MissingSource, match=r"data.source 'sine' does not exist: give .* sines or blobs; did you mean"):
        opened("sine")
    with pytest.raises(InputError, match="no .npy files in this folder"):
        opened(tmp_path)
    with pytest.raises(InputError, match="split must be train or held_out; got 'test'"):
        opened("sines", "test", shape=(256,))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04 no zip"])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"data.source .*{name}: cannot be read as a NumPy file \("):
        opened(tmp_path / name)


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as a NumPy file"):
        opened(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "array",
    [np.zeros(4), np.zeros((0, 4)), np.zeros((3, 4), dtype=complex), np.full((3, 4), "a"), np.zeros((3, 4)) > 1],
)
def test_files_without_signals_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"a.npy must hold numbers of shape \[signals, ...\]; got "):
        opened(tmp_path / "a.npy", shape=(4,))


def test_a_file_without_the_key_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", value=numbers(), month=np.zeros(10, dtype=int))
    with pytest.raises(InputError, match=r"^\S*a.npz has no 'values'; it has value, month; did you mean 'value'\?"):
        opened(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"^\S*a.npz has no 'months'; it has value, month; did you mean 'month'\?"):
        opened(tmp_path / "a.npz", values_key="value", labels_key="months")
    assert opened(tmp_path / "a.npz", values_key="value").labels is None


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (np.arange(9), r"int64 \[9\], 0 to 8"),
        (np.arange(10) - 1, r"int64 \[10\], -1 to 8"),
        (np.arange(10) * 10**9, r"int64 \[10\], 0 to 9000000000"),
        (np.arange(10) / 2, r"float64 \[10\], 0.0 to 4.5"),
        (np.arange(10)[:, None], r"int64 \[10, 1\], 0 to 9"),
        (np.array(["a"] * 10), r"<U1 \[10\]"),
        (np.array([], dtype=int), r"int64 \[0\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, got):
    np.savez(tmp_path / "a.npz", values=numbers(), labels=labels)
    with pytest.raises(
        InputError, match=rf"^\S*a.npz: labels must be 10 integers, one per array, from 0 to at most 9; got {got}"
    ):
        opened(tmp_path / "a.npz")


def test_splits_without_arrays_are_refused(file):
    with pytest.raises(InputError, match=r"held_out_fraction 0 of 10 arrays leaves the held_out split empty"):
        opened(file, "held_out", held_out_fraction=0.0)
    with pytest.raises(InputError, match=r"held_out_fraction 0.99 of 10 arrays leaves the train split empty"):
        opened(file, "train", held_out_fraction=0.99)


def test_arrays_on_another_grid_are_refused_with_advice(file):
    with pytest.raises(
        InputError, match=r"5 × 6 with 1 .* do not fit .* 6 × 5 with 1: set image_size: \[5, 6\] and cha"
    ):
        opened(file, shape=(6, 5))
    with pytest.raises(InputError, match=r"set image_size: \[6\] and channels: 5, or data.channel_axis"):
        opened(file, channel_axis="first")


def test_constant_arrays_have_no_value_range(tmp_path):
    with pytest.raises(
        InputError, match=r"the arrays hold only the value 3, which gives no range: set data.value_range"
    ):
        opened(save(tmp_path / "a.npy", np.full((10, *SHAPE), 3.0)))
    with pytest.raises(InputError, match="array 0 of .* has no values at all: leave it out"):
        opened(save(tmp_path / "a.npy", np.full((10, *SHAPE), math.nan)), missing="keep")
    assert opened(save(tmp_path / "a.npy", np.full((10, *SHAPE), 3.0)), value_range=[0.0, 4.0]).signal.spec.low == 0


def test_value_ranges_must_be_increasing():
    with pytest.raises(InputError, match=r"value_range must be \[low, high\] with low < high; got \[2.0, 2.0\]"):
        spec("sines", value_range=[2.0, 2.0])


def test_arrays_at_two_folder_depths_are_refused(tmp_path):
    folder = save_folder(tmp_path / "a", numbers(2), ["cat", "dog"])
    np.save(folder / "stray.npy", numbers(1)[0])
    with pytest.raises(
        InputError, match=r"stray.npy: the arrays must be in .* itself, or all in subfolders of it named"
    ):
        opened(folder)


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 no zip"])
def test_a_damaged_file_of_a_folder_is_named(tmp_path, number, content):
    folder = save_folder(tmp_path / "a", numbers(4))
    (folder / f"00{number}.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"00{number}.npy cannot be read .*: fix or remove it"):
        everything(opened(folder, held_out_fraction=0.0, value_range=[-9.0, 9.0]))


def test_a_file_with_another_shape_is_named(tmp_path):
    folder = save_folder(tmp_path / "a", [*numbers(3), np.zeros((6, 5), dtype=np.float32)])
    with pytest.raises(InputError, match=r"003.npy has shape \(1, 6, 5\), but others have \(1, 5, 6\)"):
        opened(folder, held_out_fraction=0.0)
    np.save(folder / "003.npy", np.full(SHAPE, "a"))
    with pytest.raises(InputError, match=r"003.npy must hold numbers on a grid; got <U1 \[5, 6\]"):
        opened(folder, held_out_fraction=0.0)
    np.save(folder / "003.npy", np.float32(1))
    with pytest.raises(InputError, match=r"003.npy must hold numbers on a grid; got float32 \[\]"):
        opened(folder, held_out_fraction=0.0)
    np.savez(folder / "003.npz", values=numbers(1)[0])
    (folder / "003.npz").rename(folder / "003.npy")
    with pytest.raises(InputError, match=r"003.npy must hold numbers on a grid; got a .npz file"):
        opened(folder, held_out_fraction=0.0)


def test_a_missing_value_is_reported_with_its_file(tmp_path):
    arrays = numbers(4)
    arrays[2, 0, 0] = math.nan
    with pytest.raises(InputError, match=r"002.npy: values must be finite; got nan"):
        opened(save_folder(tmp_path / "a", arrays), held_out_fraction=0.0)


def test_arrays_have_no_mirror_images(file):
    with pytest.raises(InputError, match=r"only images can be mirrored: set latents.flips to false"):
        opened(file).mirrored(torch.zeros(1, 1, *SHAPE))


def test_a_model_of_another_range_is_refused(file):
    data, other = opened(file), opened(file, value_range=[-9.0, 9.0])
    model = INRAutoencoder(**{**AUTOENCODER, "signal": data.signal.spec.model_dump()})
    check_signal(model, opened(file, unit="K"))
    with pytest.raises(InputError, match=r"holds signals .* the model was trained on .*data.value_range"):
        check_signal(model, other)
    with pytest.raises(InputError, match=r"holds signals .* the model was trained on"):
        check_signal(INRAutoencoder(**AUTOENCODER), data)


def test_all_of_puts_everything_in_the_training_split(file):
    data = all_of("array", source=str(file), image_column="x", value_range=[-9.0, 9.0]).open("train", SHAPE, 1)
    assert len(data) == 10 and isinstance(data, ArrayData)


# single arrays


def one(path, **keys):
    return open_array(validate(ArraySourceSpec, {"type": "array", "source": str(path), **keys}))


@pytest.mark.parametrize("channel_axis", ["none", "first", "last"])
def test_a_single_array_keeps_its_values(tmp_path, channel_axis):
    array = numbers(1, (2, 3, 4))[0]
    single = one(save(tmp_path / "a.npy", array), channel_axis=channel_axis, unit="m", axes=["x"])
    expected = {"none": array[None], "first": array, "last": np.moveaxis(array, -1, 0)}[channel_axis]
    assert np.array_equal(single.kept.numpy(), expected)
    assert single.signal.spec.scale() == (float(array.min()), float(array.max()))
    assert (float(single.values.min()), float(single.values.max())) == pytest.approx((-1, 1), abs=1e-6)
    assert (single.signal.spec.unit, single.signal.spec.axes) == ("m", ["x"])
    assert one(tmp_path / "a.npy", value_range=[-5.0, 9.0]).signal.spec.scale() == (-5, 9)


def test_the_hash_of_an_array_depends_on_content_and_shape(tmp_path):
    array = numbers(1, (4, 6))[0]
    hashes = [
        one(save(tmp_path / f"{n}.npy", part)).hash() for n, part in enumerate((array, array, array.T, array + 1))
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


@pytest.mark.parametrize("content", [None, b"", b"no array", b"PK\x03\x04 no zip"])
def test_an_unreadable_single_array_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"signal.source '.*a.npy': cannot be read as a .npy file \("):
        one(tmp_path / "a.npy")


def test_a_single_array_must_hold_finite_differing_numbers(tmp_path):
    path = tmp_path / "a.npy"
    np.savez(tmp_path / "a.npz", numbers())
    with pytest.raises(InputError, match=r"must be one array of numbers; got a .npz file"):
        one(tmp_path / "a.npz")
    for array, channel_axis in ((np.float32(1), "none"), (np.zeros(3), "first"), (np.full((3, 2), "a"), "none")):
        with pytest.raises(InputError, match=r"must be one array of numbers; got "):
            one(save(path, array), channel_axis=channel_axis)
    with pytest.raises(InputError, match=r"values must be finite; got NaN or infinite ones"):
        one(save(path, np.array([1.0, math.nan])))
    with pytest.raises(InputError, match=r"values must differ; all are 2. Set signal.value_range"):
        one(save(path, np.full(5, 2.0)))
    assert one(path, value_range=[0.0, 4.0]).values.unique().tolist() == [0]


def test_workers_receive_the_path_not_the_values(tmp_path):
    np.save(tmp_path / "large.npy", np.random.default_rng(0).random((50, 40, 50)))
    data = ArrayData(ArrayDataSpec(type="arrays", source=str(tmp_path / "large.npy")), "train", (40, 50), 1)
    sent = pickle.dumps(data)
    assert len(sent) < 20_000 < (tmp_path / "large.npy").stat().st_size / 20
    assert torch.equal(pickle.loads(sent).read([0, 39]), data.read([0, 39]))
