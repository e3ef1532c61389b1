"""Sources of images, whatever `datasets` reads: opened, split, undecoded."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrep.data import DataSpec
from genrep.errors import InputError, did_you_mean


def open_source(spec: DataSpec) -> Any:
    """The source as a `datasets.DatasetDict`."""
    import datasets

    source = spec.source
    if source in BUILT_IN:
        return datasets.DatasetDict(train=BUILT_IN[source]())
    place = Path(source).expanduser()
    if any(mark in source for mark in "*?["):
        import glob

        files = sorted(glob.glob(str(place)))
        if not files:
            raise InputError(f"data.source {source!r} matches no file")
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
        raise InputError(
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
        raise InputError(
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


BUILT_IN = {"digits": _digits, "photographs": _photographs}
"""Sources that come with the packages this project needs."""


def _png(image: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def split_rows(tables: Any, spec: DataSpec, split: str) -> Any:
    """The rows of `train` or `held_out`, as the spec says."""
    if split not in ("train", "held_out"):
        raise InputError(f"split {split!r} is not one of train, held_out")
    if split == "held_out" and spec.held_out_split is not None:
        return _select(tables, spec.held_out_split, spec)
    rows = _select(tables, spec.train_split, spec)
    if spec.held_out_split is not None:
        return rows
    held_out = round(len(rows) * spec.held_out_fraction)
    if held_out == 0 and split == "held_out":
        raise InputError(
            f"data.held_out_fraction {spec.held_out_fraction} of {len(rows)} images holds none out: raise it, or name data.held_out_split"
        )
    order = np.random.default_rng(spec.split_seed).permutation(len(rows))
    return rows.select(np.sort(order[:held_out] if split == "held_out" else order[held_out:]))


def _select(tables: Any, name: str, spec: DataSpec) -> Any:
    """A split, or a slice of one, by `datasets`' own rules: train, test[:10%], train[-5000:]."""
    import datasets

    lengths = {key: len(rows) for key, rows in tables.items()}
    known = ", ".join(f"{key} ({count:,})" for key, count in lengths.items())
    base = name.split("[")[0].strip()
    if base not in lengths:
        raise InputError(
            f"data.source {spec.source!r} has no split {base!r}; it has {known}{did_you_mean(base, lengths)}"
        )
    try:
        (part,) = datasets.ReadInstruction.from_spec(name).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"split {name!r} cannot be ({error}); write it like train, train[:-5000] or test[:10%]; there is {known}"
        ) from error
    return tables[part.splitname].select(range(part.from_ or 0, lengths[base] if part.to is None else part.to))


def undecoded(rows: Any, spec: DataSpec) -> Any:
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


def labels(rows: Any, tables: Any, spec: DataSpec) -> tuple[Tensor | None, list[str]]:
    """Labels `[N]` of the rows and the names of the classes; None and none without labels."""
    import datasets

    if spec.label_column is None or spec.label_column not in rows.column_names:
        if spec.label_column not in (None, "label"):  # asked for by name, not by default
            raise InputError(
                f"data.label_column {spec.label_column!r} is not in {spec.source!r}, which has {', '.join(rows.column_names)}"
            )
        return None, []
    values = np.asarray(rows.with_format("numpy")[spec.label_column][:])
    if values.dtype.kind not in "iu" or values.min() < 0:
        raise InputError(
            f"data.label_column {spec.label_column!r} must hold whole numbers from 0 (a ClassLabel), got {values[:3].tolist()}"
        )
    feature = rows.features[spec.label_column]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
    else:  # every split counts: one that lacks the last class must not have fewer
        labelled = [table for table in tables.values() if spec.label_column in table.column_names]
        names = [str(n) for n in range(1 + max(max(table[spec.label_column]) for table in labelled))]
    return torch.from_numpy(values.astype(np.int64)), names
