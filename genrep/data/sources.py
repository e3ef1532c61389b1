"""Sources of images, everything that `datasets` reads: opened and split, not yet decoded."""

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
"""Labels without names may be as large as this even with fewer images, so that a small part of a data set can be used."""


class MissingSource(InputError):
    """`data.source` does not exist."""


def open_source(spec: ImageDataSpec) -> Any:
    """The source as a `datasets.DatasetDict`. MissingSource if it does not exist, InputError if it cannot be read."""
    import datasets

    source = spec.source
    if source in BUILT_IN:
        return datasets.DatasetDict(train=BUILT_IN[source]())
    place = Path(source).expanduser()
    if any(mark in source for mark in "*?["):
        import glob

        files = sorted(glob.glob(str(place)))
        if not files:
            raise MissingSource(f"data.source {source!r} matches no files")
        return _load(_builder_of(files[0], source), data_files=files)
    if place.is_file():
        return _load(_builder_of(str(place), source), data_files=str(place))
    # a folder may hold a data set saved by `datasets`, tables, or images: the more specific is looked for first
    if place.is_dir():
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            try:
                saved = datasets.load_from_disk(str(place))
            except Exception as error:  # pyarrow and fsspec raise many types
                raise InputError(f"data.source {source}: a file is damaged or missing ({error})") from error
            return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
        for suffix in ("parquet", "arrow"):
            if any(place.glob(f"**/*.{suffix}")):
                return _load(suffix, data_dir=str(place))
        return _load("imagefolder", data_dir=str(place))
    # checked first, because `datasets` takes a mistyped folder for a Hub id, and without a network retries for 23 s
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        parent = place.parent
        siblings = [str(path) for path in parent.iterdir()] if parent.is_dir() else []
        # a path in a folder is meant as one; a bare word may be a built-in name
        near = did_you_mean(str(place), siblings) if "/" in source else did_you_mean(source, BUILT_IN)
        raise MissingSource(
            f"data.source {source!r} does not exist: give {' or '.join(BUILT_IN)}, a folder, a parquet or Arrow file, or a Hub id owner/name{near}"
        )
    return _load(source)


def _builder_of(file: str, source: str) -> str:
    suffix = Path(file).suffix.lstrip(".")
    if suffix not in ("parquet", "arrow"):
        raise InputError(
            f"data.source {source!r}: .{suffix} files are not supported: give parquet or Arrow files, or a folder of images"
        )
    return suffix


def _load(builder: str, **where: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(builder, **where)
    except ConnectionError as error:
        raise MissingSource(
            f"data.source {builder!r} is not a folder, and the Hub could not be reached ({error}): check the name, or download "
            "the data set and give its folder"
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


@functools.cache  # building it takes a third of a second, and one process may run many scripts
def _digits() -> Any:
    """scikit-learn's 1,797 handwritten digits, 8×8, with values 0..16 scaled to 0..255."""
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
    """Seven colour photographs that come with scikit-image and scikit-learn, of about 0.3 megapixels each."""
    import datasets
    import skimage
    import sklearn

    of_skimage, of_sklearn = (
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    )
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    files = [of_skimage / name for name in names]
    files += [of_sklearn / name for name in ("china.jpg", "flower.jpg")]
    return datasets.Dataset.from_dict(
        {"image": [str(file) for file in files]}, features=datasets.Features({"image": datasets.Image()})
    )


BUILT_IN: dict[str, Callable[[], Any]] = {"digits": _digits, "photographs": _photographs}
"""Sources that come with packages this project depends on."""


def _png(image: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def split_rows(tables: Any, spec: ImageDataSpec, split: str) -> tuple[Any, np.ndarray, str]:
    """(rows, their row numbers in the source, the source's split they are from) of the spec's `train` or `held_out` split.

    Raises:
        InputError: no such split, an invalid slice, or one without images.
    """
    if split not in ("train", "held_out"):
        raise InputError(f"split must be train or held_out; got {split!r}")
    if split == "held_out" and spec.held_out_split is not None:
        return _select(tables, spec.held_out_split, spec, "data.held_out_split")
    rows, source_rows, source_split = _select(tables, spec.train_split, spec, "data.train_split")
    if spec.held_out_split is not None:
        return rows, source_rows, source_split
    held_out = round(len(rows) * spec.held_out_fraction)
    if held_out == 0 and split == "held_out":
        raise InputError(
            f"data.held_out_fraction {spec.held_out_fraction} of {len(rows)} images holds out none: raise it, or set data.held_out_split"
        )
    if held_out == len(rows) and split == "train":
        raise InputError(
            f"data.held_out_fraction {spec.held_out_fraction} of {len(rows)} images leaves none to train on: lower it"
        )
    order = np.random.default_rng(spec.split_seed).permutation(len(rows))
    # sorted, so that neighbouring images are read from neighbouring places of the files
    members = np.sort(order[:held_out] if split == "held_out" else order[held_out:])
    return rows.select(members), source_rows[members], source_split


def _select(tables: Any, name: str, spec: ImageDataSpec, key: str) -> tuple[Any, np.ndarray, str]:
    """A split or a slice of one, in the syntax of `datasets`: train, test[:10%], train[-5000:]."""
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
            f"{key} {name!r} is not a valid split ({error}); write it like train, train[:-5000] or test[:10%]; the source has {known}"
        ) from error
    source_rows = np.arange(part.from_ or 0, lengths[base] if part.to is None else part.to)
    if len(source_rows) == 0:
        raise InputError(
            f"{key} {name!r} holds no images: split {base} of {spec.source} has {lengths[base]:,}; choose another slice"
        )
    return tables[part.splitname].select(source_rows), source_rows, base


def undecoded(rows: Any, spec: ImageDataSpec) -> Any:
    """The rows with their images as encoded bytes. InputError if the column does not exist or does not hold images."""
    import datasets

    if spec.image_column not in rows.column_names:
        names = rows.column_names
        raise InputError(
            f"data.image_column {spec.image_column!r} is not in {spec.source!r}, which has {', '.join(names)}{did_you_mean(spec.image_column, names)}"
        )
    try:
        return rows.cast_column(spec.image_column, datasets.Image(decode=False))
    except Exception as error:  # pyarrow raises many types
        feature = rows.features[spec.image_column]
        raise InputError(
            f"data.image_column {spec.image_column!r} of {spec.source!r} must hold images; it holds {feature}. The columns are "
            f"{', '.join(rows.column_names)}"
        ) from error


def labels(
    rows: Any, tables: Any, spec: ImageDataSpec, row_name: Callable[[int], str] = "row {}".format
) -> tuple[Tensor | None, list[str]]:
    """Labels `[N]` of the rows and the names of the classes; (None, []) without labels.

    Args:
        rows: the split.
        tables: all splits of the source.
        spec: names the column, and the splits whose classes must agree.
        row_name: index of a row => its name in messages.

    Raises:
        InputError: no such column, labels that are not integers from 0 to the number of classes minus one, or splits whose
            classes differ.
    """
    column = spec.label_column
    if column is None or column not in rows.column_names:
        if column not in (None, "label"):  # only the default column is optional
            raise InputError(
                f"data.label_column {column!r} is not in {spec.source!r}, which has {', '.join(rows.column_names)}"
            )
        return None, []
    values = np.asarray(rows.with_format("numpy")[column][:])
    if values.dtype.kind not in "iu":
        raise InputError(
            f"data.label_column {column!r} must hold integers from 0 (a ClassLabel); got {values[:3].tolist()}"
        )
    names = _class_names(rows.features[column], tables, column)
    for split in (spec.train_split, spec.held_out_split):
        table = tables.get((split or "").split("[")[0].strip())
        if table is None or column not in table.column_names:
            continue
        names_there = _class_names(table.features[column], tables, column)
        if names_there != names:  # the same number would be another class there
            raise InputError(
                f"data.label_column {column!r}: split {split} of {spec.source!r} has other classes ({_listed(names_there)}) than "
                f"this one ({_listed(names)}); give all splits the same ClassLabel"
            )
    bad = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(bad):
        first = int(values[bad[0]])
        hint = " (-1 often marks an unlabelled image)" if first == -1 else ""
        raise InputError(
            f"data.label_column {column!r} must hold integers from 0 to {max(0, len(names) - 1)}, one per class; "
            f"{row_name(int(bad[0]))} has {first}{hint}. {len(bad):,} of {len(values):,} rows are out of range: "
            "correct their labels, leave them out, or set data.label_column: null"
        )
    return torch.from_numpy(values.astype(np.int64)), names


def _class_names(feature: Any, tables: Any, column: str) -> list[str]:
    """Names of the classes: those of a ClassLabel, or for plain numbers "0", "1", ... up to the largest in any split."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    # over all splits: one that happens to lack the last class must not have fewer classes
    labelled = [table for table in tables.values() if column in table.column_names and len(table)]
    columns = [np.asarray(table.with_format("numpy")[column][:], dtype=np.float64) for table in labelled]
    present = [numbers[~np.isnan(numbers)] for numbers in columns]  # a split that is not used may be unlabelled
    largest = max((numbers.max() for numbers in present if len(numbers)), default=-1)
    num_images = sum(len(table) for table in labelled)
    # an index or identifier mistaken for a label would make as many classes as its value, most of them without an image
    if largest >= max(num_images, MOST_CLASSES):
        raise InputError(
            f"data.label_column {column!r} has a label of {int(largest):,}, which would make {int(largest) + 1:,} classes for "
            f"{num_images:,} images: number the classes consecutively from 0, or set data.label_column: null"
        )
    return [str(number) for number in range(1 + max(-1, int(largest)))]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", ... {len(names)} in all" if len(names) > 5 else "")
