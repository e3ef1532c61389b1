"""All kinds of source and split, and a message for everything that can be wrong with them."""

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from tests.data.pictures import SIZES, everything, opened, plain, random_image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_folder_of_images_in_class_folders(folder, pictures, channels, mode):
    data = opened(folder, channels=channels)
    assert len(data) == 10 and data.class_names == ["cat", "dog"] and data.labels.tolist() == pictures[1]
    whole = [n for n in range(10) if SIZES[n % 5] != (9, 13)]
    assert (data.read(whole).int() - torch.stack([plain(pictures[0][n], mode) for n in whole]).int()).abs().max() <= 1
    assert data.read(range(10)).shape == (10, channels, 8, 8)


def test_a_folder_without_classes_has_no_labels(pictures, tmp_path):
    for number, image in enumerate(pictures[0][:3]):
        image.save(tmp_path / f"{number}.png")
    data = opened(tmp_path)
    assert len(data) == 3 and data.labels is None and data.class_names == [] and data.labels_of([0]) is None


def test_the_cameras_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image = random_image(8, 16, mode="L", seed=4)
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(
        opened(tmp_path, shape=(16, 8))[0][0].numpy(), np.array(image.transpose(Image.Transpose.ROTATE_270))
    )


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "a.png")
    assert (opened(tmp_path)[0].int().flatten() - torch.arange(64) * 4).abs().max() <= 1


def saved(table, kind: str, folder):
    """Write the table as a source of this kind; returns `data.source`."""
    folder.mkdir()
    if kind == "parquet file":
        table.to_parquet(folder / "data.parquet")
        return folder / "data.parquet"
    if kind == "parquet folder":
        table.to_parquet(folder / "train-00000.parquet")
        return folder
    if kind == "parquet glob":
        for number in range(2):
            table.shard(2, number, contiguous=True).to_parquet(folder / f"part-{number}.parquet")
        return folder / "part-*.parquet"
    if kind == "dataset dict":
        datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(folder)
        return folder
    table.save_to_disk(folder)
    if kind == "arrow file":
        return next(folder.glob("*.arrow"))
    if kind == "arrow folder":
        for extra in folder.glob("*.json"):
            extra.unlink()
    return folder


@pytest.mark.parametrize(
    "kind",
    ["parquet file", "parquet folder", "parquet glob", "arrow file", "arrow folder", "saved data set", "dataset dict"],
)
def test_every_kind_of_source_gives_the_same_images(kind, table, folder, tmp_path):
    data, reference = opened(saved(table, kind, tmp_path / "source"), channels=3), opened(folder, channels=3)
    assert torch.equal(everything(data), everything(reference))
    assert torch.equal(data.labels, reference.labels) and data.class_names == ["cat", "dog"]


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_parquet_files_of_other_tools(pictures, folder, tmp_path, kind):
    content = [(folder / ("cat", "dog")[label] / f"{n}.png").read_bytes() for n, label in enumerate(pictures[1])]
    images = content if kind == "bytes" else [{"bytes": image, "path": None} for image in content]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": pictures[1]}), tmp_path / "a.parquet")
    data = opened(tmp_path / "a.parquet")
    assert torch.equal(everything(data), everything(opened(folder))) and data.class_names == ["0", "1"]


def test_named_splits_and_slices(table, tmp_path):
    datasets.DatasetDict(train=table, test=table.select([4, 2])).save_to_disk(tmp_path / "both")
    every = everything(opened(tmp_path / "both"))

    def part(split, **options):
        return everything(opened(tmp_path / "both", split, **options))

    assert torch.equal(part("held_out", held_out_split="test"), every[[4, 2]])
    assert torch.equal(part("train", train_split="train[:-3]", held_out_split="train[-3:]"), every[:-3])
    assert torch.equal(part("held_out", train_split="train[:-3]", held_out_split="train[-3:]"), every[-3:])
    assert torch.equal(part("train", train_split="train[20%:50%]"), every[2:5])
    sliced = [part(split, train_split="train[:5]", held_out_fraction=0.4) for split in ("train", "held_out")]
    assert [len(images) for images in sliced] == [3, 2]
    assert sorted(image.numpy().tobytes() for image in torch.cat(sliced)) == sorted(
        image.numpy().tobytes() for image in every[:5]
    )


def test_labels_may_be_plain_numbers_or_ignored(pictures, tmp_path):
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.Value("int32")})
    table = datasets.Dataset.from_dict({"picture": pictures[0][:3], "kind": [2, 0, 2]}, features=features)
    table.to_parquet(tmp_path / "a.parquet")
    data = opened(tmp_path / "a.parquet", image_column="picture", label_column="kind")
    assert data.labels.tolist() == [2, 0, 2] and data.class_names == ["0", "1", "2"]
    assert opened(tmp_path / "a.parquet", image_column="picture", label_column=None).labels is None
    assert (
        opened(tmp_path / "a.parquet", image_column="picture").labels is None
    )  # there is no `label`, which is only the default


def test_fingerprints_name_unreadable_images(folder, tmp_path):
    data = opened(folder)
    (folder / "cat" / "0.png").unlink()
    with pytest.raises(InputError, match=r"cat/0.png"):
        data.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "digts"},
            r"data.source 'digts' does not exist: give digits or photographs, a folder, .*; did you mean 'digits'\?$",
        ),
        (
            {"source": "no/such/folder"},
            "data.source 'no/such/folder' does not exist: give digits or photographs, a folder, a parquet or Arrow file, or a Hub id owner/name$",
        ),
        ({"train_split": "trian"}, r"has no split 'trian'; it has train \(10\); did you mean 'train'\?$"),
        (
            {"train_split": "train[:4]+train[6:]"},
            r"data.train_split 'train\[:4\]\+train\[6:\]' is not a valid split .*; the source has train \(10\)",
        ),
        (
            {"train_split": "train[:"},
            r"data.train_split 'train\[:' is not a valid split .*; write it like train, train\[:-5000\] or test\[:10%\]; the source has train \(10\)",
        ),
        (
            {"train_split": "train[5:5]"},
            r"data.train_split 'train\[5:5\]' holds no images: split train of .*pictures has 10; choose another slice",
        ),
        (
            {"train_split": "train[:-5000]", "held_out_split": "train[-5000:]"},
            r"data.train_split 'train\[:-5000\]' holds no images: split train of .*pictures has 10; choose another slice",
        ),
        ({"held_out_fraction": 0.97}, "data.held_out_fraction 0.97 of 10 images leaves none to train on: lower it"),
        (
            {"image_column": "imgae"},
            r"data.image_column 'imgae' is not in .*, which has image, label; did you mean 'image'\?",
        ),
        ({"label_column": "class"}, r"data.label_column 'class' is not in .*, which has image, label"),
        ({"source_size": 7}, r"data.source_size must be at least 8, the image size; got 7"),
    ],
)
def test_impossible_options_are_refused(folder, options, message):
    with pytest.raises(InputError, match=message):
        opened(**{"source": folder, **options})


def test_unknown_split_names_are_refused(folder):
    with pytest.raises(InputError, match="split must be train or held_out; got 'test'"):
        opened(folder, split="test")


@pytest.mark.parametrize("fraction", [0.0, 0.04])
def test_an_empty_held_out_split_is_refused(folder, fraction):
    with pytest.raises(
        InputError,
        match=f"data.held_out_fraction {fraction} of 10 images holds out none: raise it, or set data.held_out_split",
    ):
        opened(folder, "held_out", held_out_fraction=fraction)


@pytest.mark.parametrize("kind", [[0.5, 1.0, 2.0], ["cat", "dog", "cat"], [0, None, 1]])
def test_labels_that_are_not_integers_from_0_are_refused(pictures, tmp_path, kind):
    table = datasets.Dataset.from_dict({"image": pictures[0][:3], "label": kind}).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"data.label_column 'label' must hold integers from 0 \(a ClassLabel\); got \["
    ):
        opened(tmp_path / "a.parquet")


def labelled(place, labels, feature=None):
    """Write a parquet file of small pictures with these labels."""
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.Value("int64")})
    pictures = [random_image(8, 8, mode="L", seed=n) for n in range(len(labels))]
    table = datasets.Dataset.from_dict({"image": pictures, "label": [0] * len(labels)}, features=features)
    column = pyarrow.array(labels, pyarrow.int64())  # bypasses the check that `datasets` makes
    rows = table.data.table.set_column(1, table.data.table.schema.field("label"), column)
    pyarrow.parquet.write_table(rows, place)
    return place


@pytest.mark.parametrize("label", [2, -1, 12])
def test_a_label_without_a_class_is_named_by_its_row(tmp_path, label):
    source = labelled(tmp_path / "a.parquet", [0, 1, 0, label, 1, label], datasets.ClassLabel(names=["cat", "dog"]))
    with pytest.raises(
        InputError,
        match=rf"data.label_column 'label' must hold integers from 0 to 1, .*; row 3 of split train has {label}"
        r"( \(-1 often marks an unlabelled image\))?. 2 of 5 rows are out of range: correct .* "
        "or set data.label_column: null",
    ):
        opened(source, train_split="train[1:]")
    assert opened(source, train_split="train[:3]").labels.tolist() == [0, 1, 0]
    assert opened(source, label_column=None).labels is None


def test_plain_labels_below_0_are_named_by_their_row(tmp_path):
    with pytest.raises(InputError, match=r"from 0 to 1, one per class; row 1 of split train has -1 \(-1 often"):
        opened(labelled(tmp_path / "a.parquet", [0, -1, 1]))
    with pytest.raises(InputError, match="row 0 of split train has -1"):
        opened(labelled(tmp_path / "a.parquet", [-1, -1]))


def test_labels_too_large_to_be_classes_are_refused(tmp_path):
    for largest in (10**9, 100_000):
        with pytest.raises(
            InputError,
            match=f"'label' has a label of {largest:,}, which would make {largest + 1:,} classes for 3 images: number the classes",
        ):
            opened(labelled(tmp_path / "a.parquet", [0, largest, 1]))
    assert len(opened(labelled(tmp_path / "a.parquet", [0, 99_999, 1])).class_names) == 100_000


@pytest.mark.parametrize("label", [None, -1])
def test_an_unused_split_may_be_unlabelled(tmp_path, label):
    for split, labels in (("train", [0, 2, 1]), ("test", [label] * 3)):
        labelled(tmp_path / f"{split}.parquet", labels)
    assert opened(tmp_path).class_names == ["0", "1", "2"]
    with pytest.raises(InputError, match="must hold integers from 0"):
        opened(tmp_path, "held_out", held_out_split="test")


def test_splits_with_other_classes_are_refused(tmp_path):
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        labelled(tmp_path / f"{split}.parquet", [0, 1], datasets.ClassLabel(names=names))
    tables = {split: datasets.Dataset.from_parquet(str(tmp_path / f"{split}.parquet")) for split in ("train", "test")}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "both")
    assert opened(tmp_path / "both").class_names == ["cat", "dog"]  # the other split is not used
    for split in ("train", "held_out"):
        with pytest.raises(
            InputError, match=r"split (train|test) of .* has other classes \((cat, dog|dog, cat)\) than"
        ):
            opened(tmp_path / "both", split, held_out_split="test")


def test_files_of_other_types_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,label\n")
    for source in (tmp_path / "a.csv", tmp_path / "*.csv"):
        with pytest.raises(
            InputError, match=".csv files are not supported: give parquet or Arrow files, or a folder of images"
        ):
            opened(source)
    with pytest.raises(InputError, match=r"data.source .*\*.parquet' matches no files"):
        opened(tmp_path / "*.parquet")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(
        InputError,
        match=f"data.source {tmp_path}: cannot be read as imagefolder .*; give a folder of images, or whole parquet or Arrow",
    ):
        opened(tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"data.source {path}: cannot be read as {suffix}"):
        opened(path)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_saved_data_set_is_named(table, tmp_path, damage):
    source = saved(table, "saved data set", tmp_path / "source")
    for file in source.glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:50]) if damage == "cut" else file.unlink()
    with pytest.raises(InputError, match=f"data.source {source}: a file is damaged or missing"):
        opened(source)


def test_a_column_without_images_is_refused(folder):
    with pytest.raises(InputError, match="data.image_column 'label'"):
        everything(opened(folder, image_column="label"))


def test_a_hub_id_without_a_network_says_so(monkeypatch):
    """The only mock in this file: tests do not use the network."""

    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        InputError,
        match="data.source 'owner/name' is not a folder, and the Hub could not be reached .*or download the data set",
    ):
        opened("owner/name")


def test_plain_labels_are_counted_over_all_splits(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pictures = {"image": [random_image(8, 8, mode="L", seed=n) for n in range(2)]}
    for split, labels in (("train", [0, 1]), ("test", [1, 2])):
        rows = datasets.Dataset.from_dict({**pictures, "label": labels}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    spec = ImageDataSpec(source=str(tmp_path), held_out_split="test")
    assert (
        ImageData(spec, "train", (8, 8), 1).class_names
        == ImageData(spec, "held_out", (8, 8), 1).class_names
        == ["0", "1", "2"]
    )


def test_the_photographs_come_with_installed_packages():
    data = ImageData(
        ImageDataSpec(source="photographs", label_column=None, held_out_fraction=0.15), "train", (32, 48), 3
    )
    assert len(data) == 6 and data[0].shape == (3, 32, 48)
    assert data.crops([0, 5], torch.rand(2, 2)).shape == (2, 3, 32, 48)
