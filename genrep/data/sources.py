"""Sources of images, whatever `datasets` reads: opened, split, undecoded."""

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrep.data import ImageDataSpec
from genrep.errors import InputError, did_you_mean

MOST_CLASSES = 100_000
"""Labels without names may go up to this even where there are fewer images: a small part of a set keeps its labels."""


class MissingSource(InputError):
    """The data set is not where `data.source` says."""


def open_source(spec: ImageDataSpec) -> Any:
    """The source as a `datasets.DatasetDict`. MissingSource if it is not there, InputError if it cannot be read."""
    import datasets

    source = spec.source
    if source in BUILT_IN:
        return datasets.DatasetDict(train=BUILT_IN[source]())
    place = Path(source).expanduser()
    if any(mark in source for mark in "*?["):
        import glob

        files = sorted(glob.glob(str(place)))
        if not files:
            raise MissingSource(f"data.source {source!r} matches no file")
        return _load(_builder_of(files[0], source), data_files=files)
    if place.is_file():
        return _load(_builder_of(str(place), source), data_files=str(place))
    if place.is_dir():
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            try:
                saved = datasets.load_from_disk(str(place))
            except Exception as error:  # pyarrow's and fsspec's are many
                raise InputError(
                    f"data.source {source}: cannot be read, a file is damaged or missing ({error})"
                ) from error
            return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
        for suffix in ("parquet", "arrow"):
            if any(place.glob(f"**/*.{suffix}")):
                return _load(suffix, data_dir=str(place))
        return _load("imagefolder", data_dir=str(place))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        near = did_you_mean(source, BUILT_IN)
        raise MissingSource(
            f"data.source {source!r} does not exist: give {' or '.join(BUILT_IN)}, a folder, a parquet or Arrow file, or a Hub id owner/name{near}"
        )
    return _load(source)


def _builder_of(file: str, source: str) -> str:
    suffix = Path(file).suffix.lstrip(".")
    if suffix not in ("parquet", "arrow"):
        raise InputError(
            f"data.source {source!r}: files of type .{suffix} are not read: give parquet or Arrow files, or a folder of images"
        )
    return suffix


def _load(builder: str, **where: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(builder, **where)
    except ConnectionError as error:
        raise MissingSource(
            f"data.source {builder!r} is neither a folder here nor a data set that the Hub let us reach ({error}): "
            "check the name, or download it first and give its folder"
        ) from error
    except (
        datasets.exceptions.DatasetNotFoundError,
        datasets.exceptions.DatasetGenerationError,
        FileNotFoundError,
        ValueError,
    ) as error:
        place = where.get("data_dir") or where.get("data_files") or builder
        cause = error.__cause__ or error
        raise InputError(
            f"data.source {place}: cannot be read as {builder} ({cause}); give a folder of images, or whole parquet or Arrow files"
        ) from error


@functools.cache  # a third of a second each time, and one process may open them for many scripts
def _digits() -> Any:
    """scikit-learn's 1,797 handwritten digits, 8×8, values 0..16 stretched to 0..255."""
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(n) for n in range(10)])}
    )
    columns = {"image": [_png(Image.fromarray(image)) for image in pixels], "label": digits.target.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def _photographs() -> Any:
    """The seven colour photographs that come with scikit-image and scikit-learn, about 0.3 megapixels each."""
    import datasets
    import skimage
    import sklearn

    images, more = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"
    files = [
        images / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    ]
    files += [more / name for name in ("china.jpg", "flower.jpg")]
    return datasets.Dataset.from_dict(
        {"image": [str(file) for file in files]}, features=datasets.Features({"image": datasets.Image()})
    )


BUILT_IN: dict[str, Callable[[], Any]] = {"digits": _digits, "photographs": _photographs}
"""Sources that come with the packages this project needs."""


def _png(image: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def split_rows(tables: Any, spec: ImageDataSpec, split: str) -> tuple[Any, np.ndarray, str]:
    """The rows of `train` or `held_out`, as the spec says; where each lies in the source, and in which of its splits.

    Raises:
        InputError: no such split, a slice that cannot be read, or one that holds no images.
    """
    if split not in ("train", "held_out"):
        raise InputError(f"split {split!r} is not one of train, held_out")
    if split == "held_out" and spec.held_out_split is not None:
        return _select(tables, spec.held_out_split, spec, "data.held_out_split")
    rows, source_rows, source_split = _select(tables, spec.train_split, spec, "data.train_split")
    if spec.held_out_split is not None:
        return rows, source_rows, source_split
    held_out = round(len(rows) * spec.held_out_fraction)
    if held_out == 0 and split == "held_out":
        raise InputError(
            f"data.held_out_fraction {spec.held_out_fraction} of {len(rows)} images holds none out: raise it, or name data.held_out_split"
        )
    if held_out == len(rows) and split == "train":
        raise InputError(
            f"data.held_out_fraction {spec.held_out_fraction} of {len(rows)} images leaves none to train on: lower it"
        )
    order = np.random.default_rng(spec.split_seed).permutation(len(rows))
    chosen = np.sort(order[:held_out] if split == "held_out" else order[held_out:])
    return rows.select(chosen), source_rows[chosen], source_split


def _select(tables: Any, name: str, spec: ImageDataSpec, key: str) -> tuple[Any, np.ndarray, str]:
    """A split, or a slice of one, by `datasets`' own rules: train, test[:10%], train[-5000:]."""
    import datasets

    lengths = {split: len(rows) for split, rows in tables.items()}
    known = ", ".join(f"{split} ({count:,})" for split, count in lengths.items())
    base = name.split("[")[0].strip()
    if base not in lengths:
        raise InputError(
            f"data.source {spec.source!r} has no split {base!r}; it has {known}{did_you_mean(base, lengths)}"
        )
    try:
        (part,) = datasets.ReadInstruction.from_spec(name).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"split {name!r} cannot be read ({error}); write it like train, train[:-5000] or test[:10%]; there is {known}"
        ) from error
    source_rows = np.arange(part.from_ or 0, lengths[base] if part.to is None else part.to)
    if len(source_rows) == 0:
        raise InputError(
            f"{key} {name!r} holds no images: split {base} of {spec.source} has {lengths[base]:,}; choose another slice"
        )
    return tables[part.splitname].select(source_rows), source_rows, base


def undecoded(rows: Any, spec: ImageDataSpec) -> Any:
    """Rows whose images come as encoded bytes. InputError if the column is not there or holds no images."""
    import datasets

    if spec.image_column not in rows.column_names:
        names = rows.column_names
        raise InputError(
            f"data.image_column {spec.image_column!r} is not in {spec.source!r}, which has {', '.join(names)}{did_you_mean(spec.image_column, names)}"
        )
    try:
        return rows.cast_column(spec.image_column, datasets.Image(decode=False))
    except Exception as error:  # pyarrow's are many
        feature = rows.features[spec.image_column]
        raise InputError(
            f"data.image_column {spec.image_column!r} of {spec.source!r} holds no images but {feature}; "
            f"it has {', '.join(rows.column_names)}"
        ) from error


def labels(
    rows: Any, tables: Any, spec: ImageDataSpec, row_name: Callable[[int], str] = "row {}".format
) -> tuple[Tensor | None, list[str]]:
    """Labels `[N]` of the rows and the names of the classes; None and none without labels.

    Args:
        rows: the split.
        tables: all splits of the source.
        spec: names the column, and the splits whose classes must agree.
        row_name: index of a row => its name in messages.

    Raises:
        InputError: no such column, labels that are no whole numbers below the number of classes, or splits with other
            classes.
    """
    column = spec.label_column
    if column is None or column not in rows.column_names:
        if column not in (None, "label"):  # asked for by name, not by default
            raise InputError(
                f"data.label_column {column!r} is not in {spec.source!r}, which has {', '.join(rows.column_names)}"
            )
        return None, []
    values = np.asarray(rows.with_format("numpy")[column][:])
    if values.dtype.kind not in "iu":
        raise InputError(
            f"data.label_column {column!r} must hold whole numbers from 0 (a ClassLabel), got {values[:3].tolist()}"
        )
    names = _class_names(rows.features[column], tables, column)
    for split in (spec.train_split, spec.held_out_split):
        table = tables.get((split or "").split("[")[0].strip())
        if table is None or column not in table.column_names:
            continue
        others = _class_names(table.features[column], tables, column)
        if others != names:
            raise InputError(
                f"data.label_column {column!r}: split {split} of {spec.source!r} has other classes ({_shown(others)}) than "
                f"this one ({_shown(names)}); give all splits the same ClassLabel"
            )
    bad = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(bad):
        first = int(values[bad[0]])
        of_unlabelled = " (-1 often stands for an image without a label)" if first == -1 else ""
        raise InputError(
            f"data.label_column {column!r} must hold whole numbers from 0 to {max(0, len(names) - 1)}, one for each class; "
            f"{row_name(int(bad[0]))} has {first}{of_unlabelled}. {len(bad):,} of {len(values):,} rows are out of range: "
            "correct their labels, leave them out, or set data.label_column: null"
        )
    return torch.from_numpy(values.astype(np.int64)), names


def _class_names(feature: Any, tables: Any, column: str) -> list[str]:
    """Names of the classes: a ClassLabel's, or for plain numbers "0", "1", ... up to the largest in any split."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    # every split counts: one that lacks the last class must not have fewer
    labelled = [table for table in tables.values() if column in table.column_names and len(table)]
    columns = [np.asarray(table.with_format("numpy")[column][:], dtype=np.float64) for table in labelled]
    present = [numbers[~np.isnan(numbers)] for numbers in columns]  # a split that nobody asked for may be unlabelled
    largest = max((numbers.max() for numbers in present if len(numbers)), default=-1)
    num_images = sum(len(table) for table in labelled)
    # an index or an identifier taken for a label would make as many classes as it is large, without an image of most
    if largest >= max(num_images, MOST_CLASSES):
        raise InputError(
            f"data.label_column {column!r} has a label of {int(largest):,}, which makes {int(largest) + 1:,} classes of "
            f"{num_images:,} images: number the classes from 0 to one less than there are, or set data.label_column: null"
        )
    return [str(number) for number in range(1 + max(-1, int(largest)))]


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", ... {len(names)} in all" if len(names) > 5 else "")
