"""Images from every kind of source: the right pixels, the right split, and a message for everything that is wrong."""

import io
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from genrep.data import DataSpec
from genrep.data.images import ImageData, evenly, open_images, resize_and_crop
from genrep.errors import InputError
from genrep.randomness import uniform_at
from genrep.specs import validate
from genrep.training.order import DataOrder, ImageStream, PositionBatches, training_loader

SIZES = [(8, 8), (16, 24), (24, 16), (20, 8), (9, 13)]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """What `datasets` writes goes to a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


def random_image(height: int, width: int, mode: str, seed: int) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture(scope="module")
def pictures():
    """Ten images of five sizes, grey and RGB, and their labels: five cats, five dogs."""
    return [random_image(*SIZES[n % 5], mode="L" if n % 3 == 0 else "RGB", seed=n) for n in range(10)], [
        n // 5 for n in range(10)
    ]


@pytest.fixture
def folder(pictures, tmp_path):
    """The pictures as a folder of images, one folder a class."""
    for number, (image, label) in enumerate(zip(*pictures, strict=True)):
        place = tmp_path / "pictures" / ("cat", "dog")[label]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def table(pictures):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict({"image": pictures[0], "label": pictures[1]}, features=features)


def opened(source, split="train", shape=(8, 8), channels=1, **options) -> ImageData:
    if split == "train":
        options.setdefault("held_out_fraction", 0.0)
    return ImageData(DataSpec(source=str(source), **options), split, shape, channels)


def everything(data: ImageData) -> torch.Tensor:
    return data.pixels(range(len(data)))


def plain(image: Image.Image, mode: str) -> torch.Tensor:
    """Resize until the 8×8 square is just covered, then crop the middle: PIL's two steps, where both are whole pixels."""
    scale = 8 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - 8) // 2, (height - 8) // 2
    image = image.convert(mode).resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 8, top + 8))
    array = np.array(image)
    return torch.from_numpy(array[None] if mode == "L" else array.transpose(2, 0, 1).copy())


# digits


@pytest.fixture(scope="module")
def digits():
    return open_images(DataSpec(), (8, 8), 1)


def test_digits_are_scikit_learns(digits):
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


def test_the_split_is_a_function_of_its_seed(digits):
    again, other = (opened("digits", "held_out", split_seed=seed) for seed in (0, 1))
    assert torch.equal(everything(again), everything(digits[1]))
    assert not torch.equal(everything(other), everything(digits[1]))


def test_one_image_and_labels_by_index(digits):
    data = digits[0]
    assert data[7].shape == (1, 8, 8) and data[7].dtype == torch.uint8
    assert torch.equal(data.pixels([3, 7, 3]), torch.stack([data[3], data[7], data[3]]))
    assert data.labels_of([3, 7, 3]).tolist() == [data.labels[3], data.labels[7], data.labels[3]]


def test_in_memory_is_the_same(digits):
    for part, kept in zip(digits, open_images(DataSpec(in_memory=True), (8, 8), 1), strict=True):
        assert torch.equal(everything(kept), everything(part))
        assert torch.equal(kept.pixels([5, 2]), part.pixels([5, 2]))
        assert kept.fingerprint() == part.fingerprint()


# resizing


def test_an_image_of_the_right_size_is_never_changed():
    for shape in ((8, 8), (5, 9)):
        image = random_image(*shape, mode="RGB", seed=0)
        assert np.array_equal(resize_and_crop(image, shape).numpy().transpose(1, 2, 0), np.array(image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(16, 24), (24, 16), (20, 8), (8, 12), (4, 8), (80, 40)])
def test_resize_and_crop_is_pils_resize_then_a_crop_of_the_middle(size, mode):
    image = random_image(*size, mode=mode, seed=1)
    difference = resize_and_crop(image, (8, 8)).int() - plain(image, mode).int()
    assert difference.abs().max() <= 1  # PIL rounds between rows and columns, and takes the cheaper of the two first


def test_a_target_that_is_no_square():
    image = random_image(12, 36, mode="L", seed=2)
    reference = image.resize((18, 6), Image.Resampling.BICUBIC).crop((3, 0, 15, 6))
    assert np.abs(resize_and_crop(image, (6, 12))[0].numpy().astype(int) - np.array(reference).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(9, 13), (13, 9), (11, 40)])
def test_the_crop_is_centred_where_pixels_do_not_divide(size):
    image = random_image(*size, mode="L", seed=3)
    whole = resize_and_crop(image, (8, 8)).int()
    for flip, axis in ((ImageOps.mirror, -1), (ImageOps.flip, -2)):
        assert (resize_and_crop(flip(image), (8, 8)).int() - whole.flip(axis)).abs().max() <= 1


# sources


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_folder_of_images_in_class_folders(folder, pictures, channels, mode):
    data = opened(folder, channels=channels)
    assert len(data) == 10 and data.class_names == ["cat", "dog"] and data.labels.tolist() == pictures[1]
    whole = [n for n in range(10) if SIZES[n % 5] != (9, 13)]
    assert (data.pixels(whole).int() - torch.stack([plain(pictures[0][n], mode) for n in whole]).int()).abs().max() <= 1
    assert data.pixels(range(10)).shape == (10, channels, 8, 8)


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
    """Write the table in one of the ways that are read; return the source."""
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
def test_parquet_that_other_tools_wrote(pictures, folder, tmp_path, kind):
    content = [(folder / ("cat", "dog")[label] / f"{n}.png").read_bytes() for n, label in enumerate(pictures[1])]
    images = content if kind == "bytes" else [{"bytes": image, "path": None} for image in content]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": pictures[1]}), tmp_path / "a.parquet")
    data = opened(tmp_path / "a.parquet")
    assert torch.equal(everything(data), everything(opened(folder))) and data.class_names == ["0", "1"]


def test_named_splits_and_slices_of_them(table, tmp_path):
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
    )  # `label` is not there, and nobody asked for it


def test_the_larger_source_images(folder):
    data = opened(folder, source_size=12)
    assert data.pixels([1], source=True).shape == (1, 1, 12, 12)
    assert torch.equal(data.pixels([1], source=True), opened(folder, shape=(12, 12)).pixels([1]))
    assert opened(folder, shape=(4, 8), source_size=16).pixels([1], source=True).shape == (1, 1, 8, 16)
    kept = opened(folder, source_size=12, in_memory=True)
    assert torch.equal(kept.pixels([1], source=True), data.pixels([1], source=True))


# fingerprint


def test_the_fingerprint_is_of_the_content_wherever_it_lies(folder, table, tmp_path):
    first = opened(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "moved")
    assert opened(tmp_path / "moved").fingerprint() == first
    assert opened(folder, in_memory=True).fingerprint() == first


def test_the_fingerprint_changes_with_whatever_changes_the_images(folder):
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


# images that cannot be decoded


@pytest.fixture
def damaged(folder):
    """Image 3 is no image, image 6 is cut off."""
    (folder / "cat" / "3.png").write_bytes(b"no image at all")
    cut = folder / "dog" / "6.png"
    cut.write_bytes(cut.read_bytes()[:60])
    return folder


@pytest.mark.parametrize(("index", "file"), [(3, "cat/3.png"), (6, "dog/6.png")])
def test_a_bad_image_stops_with_its_name(damaged, index, file):
    data = opened(damaged)
    assert len(data) == 10 and data.pixels([0, 1, 2]).shape == (3, 1, 8, 8)
    with pytest.raises(
        InputError,
        match=rf"{damaged}/{file} \(row {index}\) of .* cannot be decoded .*mend or remove it, or set data.on_bad_image: skip",
    ):
        data.pixels([0, index])


def test_a_bad_image_stops_when_everything_is_decoded_at_the_start(damaged):
    with pytest.raises(InputError, match=r"cat/3.png \(row 3\) .* cannot be decoded"):
        opened(damaged, in_memory=True)


def test_bad_images_are_skipped_named_and_counted(damaged, pictures, capsys):
    whole, labels = [n for n in range(10) if n not in (3, 6)], [0] * 4 + [1] * 4
    data = opened(damaged, on_bad_image="skip")
    said = capsys.readouterr().out
    assert "2 of 10 images cannot be decoded and are left out" in said
    assert f"{damaged}/cat/3.png" in said and f"{damaged}/dog/6.png" in said
    assert len(data) == 8 and data.labels.tolist() == labels
    assert [name.split(" ")[0] for name in data.skipped] == [f"{damaged}/cat/3.png", f"{damaged}/dog/6.png"]
    reference = [resize_and_crop(pictures[0][n].convert("L"), (8, 8)) for n in whole]
    assert torch.equal(everything(data), torch.stack(reference))
    assert torch.equal(everything(opened(damaged, on_bad_image="skip", in_memory=True)), torch.stack(reference))


def test_a_mended_image_is_back(damaged):
    assert len(opened(damaged, on_bad_image="skip")) == 8
    random_image(8, 8, "L", seed=3).save(damaged / "cat" / "3.png")
    data = opened(damaged, on_bad_image="skip")
    assert len(data) == 9 and len(data.skipped) == 1


def test_without_bad_images_nothing_is_skipped_and_nothing_said(folder, capsys):
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


def test_the_fingerprint_of_what_cannot_be_read_is_refused(folder, tmp_path):
    data = opened(folder)
    (folder / "cat" / "0.png").unlink()
    with pytest.raises(InputError, match=r"cat/0.png"):
        data.fingerprint()


# everything else that is wrong


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
            r"split 'train\[:4\]\+train\[6:\]' cannot be .*; there is train \(10\)",
        ),
        (
            {"train_split": "train[:"},
            r"split 'train\[:' cannot be .*; write it like train, train\[:-5000\] or test\[:10%\]; there is train \(10\)",
        ),
        ({"train_split": "train[5:5]"}, r"\(train\): no images; check data.source and the split"),
        (
            {"image_column": "imgae"},
            r"data.image_column 'imgae' is not in .*, which has image, label; did you mean 'image'\?",
        ),
        ({"label_column": "class"}, r"data.label_column 'class' is not in .*, which has image, label"),
        ({"source_size": 7}, r"data.source_size 7 is smaller than the image size \(8, 8\): leave it out"),
    ],
)
def test_what_cannot_be_is_refused(folder, options, message):
    with pytest.raises(InputError, match=message):
        opened(**{"source": folder, **options})


def test_a_split_has_one_of_two_names(folder):
    with pytest.raises(InputError, match="split 'test' is not one of train, held_out"):
        opened(folder, split="test")


@pytest.mark.parametrize("fraction", [0.0, 0.04])
def test_an_empty_held_out_split_is_refused(folder, fraction):
    with pytest.raises(
        InputError,
        match=f"data.held_out_fraction {fraction} of 10 images holds none out: raise it, or name data.held_out_split",
    ):
        opened(folder, "held_out", held_out_fraction=fraction)


@pytest.mark.parametrize("kind", [[0.5, 1.0, 2.0], ["cat", "dog", "cat"], [0, None, 1], [0, -1, 1]])
def test_labels_that_are_no_whole_numbers_from_0_are_refused(pictures, tmp_path, kind):
    table = datasets.Dataset.from_dict({"image": pictures[0][:3], "label": kind}).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"data.label_column 'label' must hold whole numbers from 0 \(a ClassLabel\), got \["
    ):
        opened(tmp_path / "a.parquet")


def test_files_of_other_types_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,label\n")
    for source in (tmp_path / "a.csv", tmp_path / "*.csv"):
        with pytest.raises(
            InputError, match="files of type .csv are not read: give parquet or Arrow files, or a folder of images"
        ):
            opened(source)
    with pytest.raises(InputError, match=r"data.source .*\*.parquet' matches no file"):
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
    with pytest.raises(InputError, match=f"data.source {source}: cannot be read"):
        opened(source)


def test_a_column_that_holds_no_images_is_refused(folder):
    with pytest.raises(InputError, match="data.image_column 'label'"):
        everything(opened(folder, image_column="label"))


def test_a_hub_id_without_a_network_says_so(monkeypatch):
    """The one stand-in of this file: tests do not use the network."""

    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        InputError,
        match="data.source 'owner/name' is neither a folder here nor a data set that the Hub let us reach .*download it first",
    ):
        opened("owner/name")


def test_rows_keep_the_bytes_of_the_file(folder):
    """What the fingerprint hashes and the decoder reads is the file itself, never a copy that was encoded again."""
    data = opened(folder)
    row = data.rows[0]["image"]
    content = row["bytes"] or Path(row["path"]).read_bytes()
    assert content == (folder / "cat" / "0.png").read_bytes()
    assert np.array_equal(np.array(Image.open(io.BytesIO(content))), data[0][0].numpy())


def test_evenly_spaced_indices_reach_every_class_of_sorted_data():
    assert evenly(10, None) == evenly(10, 99) == list(range(10))
    labels = [index // 100 for index in range(1000)]
    assert {labels[index] for index in evenly(1000, 10)} == set(range(10))


def test_plain_labels_count_over_every_split(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pictures = {"image": [random_image(8, 8, mode="L", seed=n) for n in range(2)]}
    for split, labels in (("train", [0, 1]), ("test", [1, 2])):
        rows = datasets.Dataset.from_dict({**pictures, "label": labels}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    spec = DataSpec(source=str(tmp_path), held_out_split="test")
    assert (
        ImageData(spec, "train", (8, 8), 1).class_names
        == ImageData(spec, "held_out", (8, 8), 1).class_names
        == ["0", "1", "2"]
    )


# random crops


@pytest.fixture
def numbered(tmp_path):
    """Two grey images whose pixels are their row × 10 + column: one of 6×9, one of 3×4."""
    for name, (height, width) in {"a": (6, 9), "b": (3, 4)}.items():
        values = np.arange(height)[:, None] * 10 + np.arange(width)
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{name}.png")
    return DataSpec(source=str(tmp_path), label_column=None, held_out_fraction=0.0, crop="random")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_random_crop_is_a_piece_of_the_unresized_image(numbered, in_memory):
    data = ImageData(numbered.model_copy(update={"in_memory": in_memory}), "train", (4, 4), 1)
    crops = data.crops([0, 0, 0], torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.5]]))
    assert crops[:, 0, 0, 0].tolist() == [0, 25, 13]  # the first, the last, and one between
    piece = torch.arange(4)[:, None] * 10 + torch.arange(4)
    assert torch.equal(crops[1, 0] - crops[1, 0, 0, 0], piece.to(torch.uint8))


def test_every_place_is_as_likely(numbered):
    data = ImageData(numbered, "train", (4, 4), 1)
    corners = data.crops([0] * 1800, torch.rand(1800, 2, generator=torch.Generator().manual_seed(0)))[:, 0, 0, 0]
    counts = torch.bincount(corners.long())
    assert (counts > 0).sum() == 3 * 6 and counts[counts > 0].min() > 60


def test_an_image_smaller_than_the_crop_is_resized_to_cover_it(numbered):
    assert ImageData(numbered, "train", (8, 8), 1).crops([1], torch.tensor([[0.9, 0.9]])).shape == (1, 1, 8, 8)


def test_the_stream_crops_by_seed_and_position_and_held_out_images_are_centred(numbered):
    data = ImageData(numbered, "train", (4, 4), 1)
    stream = ImageStream(data, seed=3, flip=False)
    first, again = stream.__getitems__([0, 1, 2, 3]).pixels, stream.__getitems__([3, 2, 1, 0]).pixels
    assert torch.equal(first, again.flip(0))
    assert not torch.equal(first, stream.__getitems__([4, 5, 6, 7]).pixels)
    at = DataOrder(len(data), 3).indices([0, 1, 2, 3])
    assert torch.equal(first, data.crops(at, uniform_at([0, 1, 2, 3], (2,), 3, "crop")))
    centred = ImageData(numbered.model_copy(update={"crop": "centre"}), "train", (4, 4), 1)
    assert torch.equal(ImageStream(centred, seed=3, flip=False).__getitems__([0, 1]).pixels, centred.pixels(at[:2]))


@pytest.mark.parametrize("in_memory", [False, True])
def test_workers_crop_and_mirror_as_one_process_does(numbered, in_memory):
    data = ImageData(numbered.model_copy(update={"in_memory": in_memory}), "train", (3, 3), 1)
    stream, batches = ImageStream(data, seed=5, flip=True), PositionBatches(4, 1, (0, 1), 0, 3)
    alone, working = (torch.cat([part.pixels for part in training_loader(stream, batches, n)]) for n in (0, 2))
    assert torch.equal(alone, working)
    mirrored = uniform_at(range(12), (), 5, "flip") < 0.5
    places, at = uniform_at(range(12), (2,), 5, "crop"), DataOrder(len(data), 5).indices(list(range(12)))
    expected = torch.stack(
        [crop.flip(-1) if flip else crop for crop, flip in zip(data.crops(at, places), mirrored, strict=True)]
    )
    assert torch.equal(alone, expected)


def test_a_random_crop_of_a_resized_image_is_refused():
    with pytest.raises(
        InputError, match="crop random takes pieces of the unresized image, and source_size a resized one"
    ):
        validate(DataSpec, {"crop": "random", "source_size": 64})


def test_the_photographs_come_with_the_packages():
    data = ImageData(DataSpec(source="photographs", label_column=None, held_out_fraction=0.15), "train", (32, 48), 3)
    assert len(data) == 6 and data[0].shape == (3, 32, 48)
    assert data.crops([0, 5], torch.rand(2, 2)).shape == (2, 3, 32, 48)
