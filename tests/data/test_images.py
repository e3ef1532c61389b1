"""Data sets of images: pixels, splits, fingerprints, damaged files."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from genrep.data import ImageDataSpec
from genrep.data.images import resize_and_crop
from genrep.data.signals import evenly
from genrep.errors import InputError
from genrep.specs import validate
from tests.data.pictures import everything, opened, plain, random_image


def test_digits_equal_those_of_scikit_learn(digits):
    data, truth = opened("digits"), load_digits()
    assert len(data) == 1797 and data.class_names == [str(n) for n in range(10)]
    assert torch.equal(everything(data)[:, 0], torch.from_numpy(np.round(truth.images * 255 / 16).astype(np.uint8)))
    assert data.labels.tolist() == truth.target.tolist()


def test_the_split_of_digits_is_a_partition(digits):
    train, held_out = digits
    assert (len(train), len(held_out)) == (1438, 359)
    assert sorted(set(train.labels.tolist())) == sorted(set(held_out.labels.tolist())) == list(range(10))

    def rows(data):
        return [
            (label, image.tobytes())
            for label, image in zip(data.labels.tolist(), everything(data).numpy(), strict=True)
        ]

    assert sorted(rows(train) + rows(held_out)) == sorted(rows(opened("digits")))


def test_the_split_depends_only_on_its_seed(digits):
    again, other = (opened("digits", "held_out", split_seed=seed) for seed in (0, 1))
    assert torch.equal(everything(again), everything(digits[1]))
    assert not torch.equal(everything(other), everything(digits[1]))


def test_one_image_and_labels_by_index(digits):
    data = digits[0]
    assert data[7].shape == (1, 8, 8) and data[7].dtype == torch.uint8
    assert torch.equal(data.read([3, 7, 3]), torch.stack([data[3], data[7], data[3]]))
    assert data.labels_of([3, 7, 3]).tolist() == [data.labels[3], data.labels[7], data.labels[3]]


def test_in_memory_reads_the_same_images(digits):
    spec = ImageDataSpec(in_memory=True)
    for part, split in zip(digits, ("train", "held_out"), strict=True):
        kept = spec.open(split, (8, 8), 1)
        assert torch.equal(everything(kept), everything(part))
        assert torch.equal(kept.read([5, 2]), part.read([5, 2]))
        assert kept.fingerprint() == part.fingerprint()


def test_an_image_of_the_right_size_is_left_unchanged():
    for shape in ((8, 8), (5, 9)):
        image = random_image(*shape, mode="RGB", seed=0)
        assert np.array_equal(resize_and_crop(image, shape).numpy().transpose(1, 2, 0), np.array(image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(16, 24), (24, 16), (20, 8), (8, 12), (4, 8), (80, 40)])
def test_resize_and_crop_equals_pil_resize_then_centre_crop(size, mode):
    image = random_image(*size, mode=mode, seed=1)
    difference = resize_and_crop(image, (8, 8)).int() - plain(image, mode).int()
    assert difference.abs().max() <= 1  # PIL rounds between its two passes, and runs the cheaper one first


def test_a_target_that_is_not_square():
    image = random_image(12, 36, mode="L", seed=2)
    reference = image.resize((18, 6), Image.Resampling.BICUBIC).crop((3, 0, 15, 6))
    assert np.abs(resize_and_crop(image, (6, 12))[0].numpy().astype(int) - np.array(reference).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(9, 13), (13, 9), (11, 40)])
def test_the_crop_is_centred_between_pixels(size):
    image = random_image(*size, mode="L", seed=3)
    whole = resize_and_crop(image, (8, 8)).int()
    for flip, axis in ((ImageOps.mirror, -1), (ImageOps.flip, -2)):
        assert (resize_and_crop(flip(image), (8, 8)).int() - whole.flip(axis)).abs().max() <= 1


def test_images_are_also_read_at_the_source_size(folder):
    data = opened(folder, source_size=12)
    assert data.read([1], source=True).shape == (1, 1, 12, 12)
    assert torch.equal(data.read([1], source=True), opened(folder, shape=(12, 12)).read([1]))
    assert opened(folder, shape=(4, 8), source_size=16).read([1], source=True).shape == (1, 1, 8, 16)
    kept = opened(folder, source_size=12, in_memory=True)
    assert torch.equal(kept.read([1], source=True), data.read([1], source=True))


def test_the_fingerprint_of_images_ignores_their_location(folder, table, tmp_path):
    first = opened(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "moved")
    assert opened(tmp_path / "moved").fingerprint() == first
    assert opened(folder, in_memory=True).fingerprint() == first


def test_the_fingerprint_changes_with_the_images(folder):
    variants = {
        "as it is": opened(folder),
        "another size": opened(folder, shape=(8, 9)),
        "colour": opened(folder, channels=3),
        "no labels": opened(folder, label_column=None),
        "one less": opened(folder, train_split="train[:-1]"),
    }
    prints = {name: data.fingerprint() for name, data in variants.items()}
    random_image(8, 8, "L", seed=99).save(folder / "dog" / "7.png")
    prints["other content"] = opened(folder).fingerprint()
    (folder / "dog" / "7.png").rename(folder / "cat" / "99.png")
    prints["another class"] = opened(folder).fingerprint()
    assert len(set(prints.values())) == len(prints), prints


@pytest.fixture
def damaged(folder):
    """A folder in which image 3 is text and image 6 is truncated."""
    (folder / "cat" / "3.png").write_bytes(b"no image at all")
    cut = folder / "dog" / "6.png"
    cut.write_bytes(cut.read_bytes()[:60])
    return folder


@pytest.mark.parametrize(("index", "file"), [(3, "cat/3.png"), (6, "dog/6.png")])
def test_a_bad_image_stops_and_is_named(damaged, index, file):
    data = opened(damaged)
    assert len(data) == 10 and data.read([0, 1, 2]).shape == (3, 1, 8, 8)
    with pytest.raises(
        InputError,
        match=rf"{damaged}/{file} \(row {index} of split train\) of {damaged} cannot be decoded .*fix or remove it, or set data.on_bad_image: skip",
    ):
        data.read([0, index])


def test_a_bad_image_stops_decoding_into_memory(damaged):
    with pytest.raises(InputError, match=r"cat/3.png \(row 3 of split train\) .* cannot be decoded"):
        opened(damaged, in_memory=True)


def test_bad_images_are_skipped_named_and_counted(damaged, pictures, capsys):
    whole, labels = [n for n in range(10) if n not in (3, 6)], [0] * 4 + [1] * 4
    data = opened(damaged, on_bad_image="skip")
    output = capsys.readouterr().out
    assert "2 of 10 images cannot be decoded and are left out" in output
    assert f"{damaged}/cat/3.png" in output and f"{damaged}/dog/6.png" in output
    assert len(data) == 8 and data.labels.tolist() == labels
    assert [name.split(" ")[0] for name in data.skipped] == [f"{damaged}/cat/3.png", f"{damaged}/dog/6.png"]
    reference = [resize_and_crop(pictures[0][n].convert("L"), (8, 8)) for n in whole]
    assert torch.equal(everything(data), torch.stack(reference))
    assert torch.equal(everything(opened(damaged, on_bad_image="skip", in_memory=True)), torch.stack(reference))


def test_a_bad_image_is_numbered_as_in_the_source(damaged, table, tmp_path):
    """Rather than within a slice or the held-out draw, or after others were left out."""
    for split, options in {
        "train": {"train_split": "train[4:]"},
        "held_out": {"held_out_split": "train[5:8]"},
    }.items():
        with pytest.raises(InputError, match=r"dog/6.png \(row 6 of split train\) of .* cannot be decoded"):
            everything(opened(damaged, split, **options))
    drawn = {split: opened(damaged, split, held_out_fraction=0.5) for split in ("train", "held_out")}
    for index in (3, 6):
        data = next(data for data in drawn.values() if index in data.source_rows)
        with pytest.raises(InputError, match=rf"\(row {index} of split train\)"):
            data.read([data.source_rows.tolist().index(index)])
    skipping = opened(damaged, train_split="train[2:]", on_bad_image="skip")
    assert skipping.source_rows.tolist() == [2, 4, 5, 7, 8, 9]
    assert [name.split(" (")[1].split(")")[0] for name in skipping.skipped] == [
        "row 3 of split train",
        "row 6 of split train",
    ]
    (damaged / "dog" / "8.png").write_bytes(b"broken since")
    with pytest.raises(InputError, match=r"dog/8.png \(row 8 of split train\)"):
        skipping.read([4])


def test_a_repaired_image_is_read_again(damaged):
    assert len(opened(damaged, on_bad_image="skip")) == 8
    random_image(8, 8, "L", seed=3).save(damaged / "cat" / "3.png")
    data = opened(damaged, on_bad_image="skip")
    assert len(data) == 9 and len(data.skipped) == 1


def test_without_bad_images_nothing_is_skipped_or_printed(folder, capsys):
    assert opened(folder, on_bad_image="skip").skipped == []
    assert "left out" not in capsys.readouterr().out


def test_a_row_without_an_image_is_bad(pictures, tmp_path):
    table = datasets.Dataset.from_dict(
        {"image": [pictures[0][0], None]}, features=datasets.Features({"image": datasets.Image()})
    )
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"^row 1 of .* cannot be decoded"):
        everything(opened(tmp_path / "a.parquet"))
    assert len(opened(tmp_path / "a.parquet", on_bad_image="skip")) == 1


def test_rows_keep_the_bytes_of_the_file(folder):
    """The fingerprint and the decoder use the file itself, never a re-encoded copy."""
    data = opened(folder)
    row = data.rows[0]["image"]
    content = row["bytes"] or Path(row["path"]).read_bytes()
    assert content == (folder / "cat" / "0.png").read_bytes()
    assert np.array_equal(np.array(Image.open(io.BytesIO(content))), data[0][0].numpy())


@pytest.mark.parametrize(("shape", "channels"), [((8, 8, 8), 1), ((64,), 3), ((8, 8), 2)])
def test_grids_that_no_image_has_are_refused(shape, channels):
    message = (
        f"2 axes and 1 or 3 channels; got {len(shape)} axes .image_size. and {channels} channels: .*data.type: arrays"
    )
    with pytest.raises(InputError, match=message):
        ImageDataSpec().open("train", shape, channels)


def test_evenly_spaced_indices_reach_every_class_of_sorted_data():
    assert evenly(10, None) == evenly(10, 99) == list(range(10))
    labels = [index // 100 for index in range(1000)]
    assert {labels[index] for index in evenly(1000, 10)} == set(range(10))


# transparency, floats, 32-bit integers


def test_transparent_images_are_blended_with_the_background(tmp_path):
    """Half-transparent black, fully transparent red, opaque blue and green, in every mode that PIL reads."""
    pixels = np.array([[[0, 0, 0, 128], [255, 0, 0, 0]], [[0, 0, 255, 255], [0, 255, 0, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert opened(tmp_path, shape=(2, 2), channels=3)[0].permute(1, 2, 0).tolist() == [
        [[127, 127, 127], [255, 255, 255]],
        [[0, 0, 255], [0, 255, 0]],
    ]
    assert opened(tmp_path, shape=(2, 2), channels=3, background=0)[0][:, 0].tolist() == [[0, 0]] * 3
    for image, name in (
        (Image.fromarray(np.array([[[9, 255], [77, 0]]], dtype=np.uint8)), "grey"),  # LA
        (Image.fromarray(np.array([[9, 77]], dtype=np.uint8)), "level"),  # one grey level is marked as transparent
        (Image.fromarray(np.array([[9, 77]], dtype=np.uint8)).convert("P"), "palette"),
    ):
        (tmp_path / name).mkdir()
        transparency = {} if name == "grey" else {"transparency": 77}
        image.save(tmp_path / name / "a.png", **transparency)
        assert opened(tmp_path / name, shape=(1, 2), background=200)[0].tolist() == [[[9, 200]]], name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_opaque_alpha_channel_changes_nothing(tmp_path, mode):
    """Alpha of 255 everywhere gives the same pixels and fingerprint as no alpha."""
    image = random_image(8, 8, "RGB" if mode == "RGBA" else "L", seed=5)
    folders = [tmp_path / name for name in ("plain", "alpha")]
    for folder, saved in zip(folders, (image, image.convert(mode)), strict=True):
        folder.mkdir()
        saved.save(folder / "a.png")
    plain_data, data = (opened(folder, channels=3) for folder in folders)
    assert torch.equal(data[0], plain_data[0])
    assert "background" not in data.transform()
    encoded, transform = (folders[1] / "a.png").read_bytes(), json.dumps([1, data.transform()]).encode()
    assert data.fingerprint() == hashlib.sha256(transform + encoded).hexdigest()[:16]


def test_a_margin_is_black_and_is_in_the_fingerprint():
    plain = opened("digits", "held_out", shape=(8, 8))
    for in_memory in (False, True):
        framed = opened("digits", "held_out", shape=(14, 14), margin=3, in_memory=in_memory)
        assert torch.equal(framed.read([0, 5])[:, :, 3:-3, 3:-3], plain.read([0, 5]))
        assert int(framed.read([0, 5]).sum()) == int(plain.read([0, 5]).sum())
    assert framed.transform()["margin"] == 3 and "margin" not in plain.transform()
    assert framed.spec.selection()["margin"] == 3 and "margin" not in plain.spec.selection()
    assert framed.spec.with_source((28, 28), (14, 14)).source_size is None  # the margin would be half as wide there
    assert framed.fingerprint() != opened("digits", "held_out", shape=(14, 14)).fingerprint()
    with pytest.raises(
        InputError, match="data.margin must leave something of the 8 pixels of the image size; got 4 on e"
    ):
        opened("digits", shape=(8, 8), margin=4)
    for key, value in (("crop", "random"), ("source_size", 32), ("native_size", True)):
        with pytest.raises(
            InputError, match=f"margin is for images that are resized to image_size alone, not with {key}"
        ):
            validate(ImageDataSpec, {"margin": 1, key: value}, where="test")


def test_transparency_and_its_background_are_in_the_fingerprint(tmp_path):
    image = random_image(8, 8, "RGB", seed=5).convert("RGBA")
    image.putpixel((0, 0), (1, 2, 3, 4))
    image.save(tmp_path / "a.png")
    data, dark = opened(tmp_path), opened(tmp_path, background=0)
    old = hashlib.sha256(json.dumps([1, data.transform()]).encode() + (tmp_path / "a.png").read_bytes())
    assert len({data.fingerprint(), dark.fingerprint(), old.hexdigest()[:16]}) == 3
    assert dark.transform()["background"] == 0


def test_floats_in_0_to_1_are_scaled_and_others_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 0.5], [0.25, 1]], dtype=np.float32)).save(path)
    assert opened(tmp_path, shape=(2, 2))[0].tolist() == [[[0, 128], [64, 255]]]
    for values, span in (([[0, 37.5]], "0 to 37.5"), ([[-0.5, 1]], "-0.5 to 1"), ([[np.nan, 1]], "nan to nan")):
        Image.fromarray(np.array(values, dtype=np.float32)).save(path)
        with pytest.raises(
            InputError, match=rf"a.tif \(row 0 .*float pixels must lie in \[0, 1\]; they range from {span}: rescale"
        ):
            opened(tmp_path, shape=(1, 2))[0]


def test_32_bit_integers_are_read_as_16_bits_or_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 256], [25600, 65535]], dtype=np.int32)).save(path)
    assert opened(tmp_path, shape=(2, 2))[0].tolist() == [[[0, 1], [100, 255]]]
    for values, span in (([[0, 70000]], "0 to 70000"), ([[-3, 5]], "-3 to 5")):
        Image.fromarray(np.array(values, dtype=np.int32)).save(path)
        with pytest.raises(InputError, match=rf"integer pixels must lie in 0 to 65535; they range from {span}"):
            opened(tmp_path, shape=(1, 2))[0]


def test_light_specs_read_the_same_images(tmp_path):
    """Bad images are still skipped, so indices stay; only a dry run skips the check. Evaluation opens no larger source."""
    spec = ImageDataSpec(on_bad_image="skip", in_memory=True, source_size=12)
    assert spec.light() == spec.model_copy(update={"in_memory": False})
    assert spec.light().unchecked().on_bad_image == "stop"
    with pytest.raises(InputError, match="data.source_size must be at least 16, the image size; got 12"):
        spec.open("train", (16, 16), 1)
    assert spec.without_source().open("train", (16, 16), 1).shape == (16, 16)
    assert (
        spec.with_source((32, 32), (8, 8)).source_size == 32 and spec.with_source((32, 16), (8, 8)).source_size is None
    )


def test_a_split_opened_again_is_not_decoded_again(folder):
    """The stages of a recipe open the same images one after another; another size is another thing."""
    first, again = (opened(folder, in_memory=True) for _ in range(2))
    assert first._pixels is again._pixels
    smaller = opened(folder, shape=(5, 5), in_memory=True)
    assert smaller.read([0]).shape == (1, 1, 5, 5) and torch.equal(everything(again), everything(opened(folder)))
