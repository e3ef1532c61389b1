"""Arrays on a grid of any number of axes, from NumPy files. How their values are scaled is in `genrep/signals/arrays.py`."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from genrep.data import ArrayDataSpec
from genrep.data.made_up import MADE_UP
from genrep.data.signals import SignalData
from genrep.data.sources import MissingSource
from genrep.errors import InputError, did_you_mean
from genrep.signals import ArraySignalSpec

ROWS = 256
"""Arrays read at a time when all of them are read."""
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile)
"""What `np.load` raises for files that are damaged or not in NumPy's format."""


class ArrayData(SignalData):
    """One split of a set of arrays, float32 `[C, *shape]` in their own unit, and their labels if there are any.

    Args:
        spec: names the source, and how to read it.
        split: `train` or `held_out`.
        shape: the grid that every array must have.
        channels: the number of channels that every array must have.

    Raises:
        InputError: no arrays there, unreadable files, other shapes, labels that do not fit, or missing values that
            `spec.missing` refuses.
    """

    def __init__(self, spec: ArrayDataSpec, split: str, shape: tuple[int, ...], channels: int):
        if split not in ("train", "held_out"):
            raise InputError(f"split must be train or held_out; got {split!r}")
        self.spec, self.split, self.shape, self.channels = spec, split, tuple(shape), channels
        self.name, self.may_miss = f"{spec.source} ({split})", spec.missing == "keep"
        self._arrays, labels, self.class_names = open_arrays(spec)
        train, held_out = self._split_rows(len(self._arrays))
        self.rows = train if split == "train" else held_out
        self._check_shape()  # of the first array, for advice at once; every other one is checked when it is read
        self.labels = None if labels is None else torch.from_numpy(labels[self.rows])
        self._kept: Tensor | None = None
        if spec.in_memory:
            self._kept = torch.cat([self._read(self.rows[at : at + ROWS]) for at in range(0, len(self.rows), ROWS)])
        # of the training rows in either split: held-out arrays must be scaled as the model was trained
        low, high = spec.value_range or self._range_of(train)
        self.signal = ArraySignalSpec(type="array", low=low, high=high, unit=spec.unit, axes=spec.axes).build()

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        # pickling a memory-mapped file would send all of its numbers to every worker; they open it themselves instead
        return {**self.__dict__, "_arrays": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrays = open_arrays(self.spec)[0]

    def read(self, indices: Sequence[int], source: bool = False) -> Float[Tensor, "batch channels *shape"]:
        if self._kept is not None:
            return self._kept[torch.as_tensor(indices, dtype=torch.long)]
        return self._read(self.rows[np.asarray(indices, dtype=np.int64)])

    def transform(self) -> dict[str, Any]:
        scale = list(self.signal.spec.scale())
        return {"shape": list(self.shape), "channels": self.channels, "value_range": scale}

    def fingerprint(self) -> str:
        """Hash of the number of arrays, the labels, the value range, and the content of evenly spaced arrays."""
        # hashing all arrays would read the whole data set at every start
        digest = hashlib.sha256(json.dumps([len(self), self.transform()]).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        for index in np.unique(np.linspace(0, len(self) - 1, ROWS).astype(int)):
            digest.update(self.read([int(index)]).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _split_rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        num_held_out = round(count * self.spec.held_out_fraction)
        order = np.random.default_rng(self.spec.split_seed).permutation(count)
        # sorted, so that neighbouring rows are read from neighbouring places of the file
        train, held_out = np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
        if len(held_out if self.split == "held_out" else train) == 0:
            raise InputError(
                f"data.held_out_fraction {self.spec.held_out_fraction:g} of {count} arrays leaves the {self.split} split empty: "
                "change it, or give more arrays"
            )
        return train, held_out

    def _check_shape(self) -> None:
        channels, *shape = self._array(int(self.rows[0])).shape
        if (channels, *shape) != (self.channels, *self.shape):
            raise InputError(
                f"{self.name}: arrays of {' × '.join(map(str, shape))} with {channels} channels do not fit the model's "
                f"{' × '.join(map(str, self.shape))} with {self.channels}: set image_size: {shape} and channels: "
                f"{channels}, or data.channel_axis"
            )

    def _range_of(self, rows: np.ndarray) -> tuple[float, float]:
        lows, highs = [], []
        # in blocks: a memory-mapped file may be larger than the memory
        for at in range(0, len(rows), ROWS):
            values = self._read(rows[at : at + ROWS])
            finite = values[values.isfinite()]
            if len(finite):
                lows.append(float(finite.min()))
                highs.append(float(finite.max()))
        if not lows or min(lows) == max(highs):  # no range to scale to [-1, 1]
            content = f"only the value {lows[0]:g}" if lows else "no finite values"
            raise InputError(
                f"{self.spec.source}: the arrays hold {content}, which gives no range: set data.value_range"
            )
        return min(lows), max(highs)

    def _read(self, rows: np.ndarray) -> Float[Tensor, "batch channels *shape"]:
        arrays = []
        for row in rows.tolist():
            array = self._array(row)
            if array.shape != (self.channels, *self.shape):
                raise InputError(
                    f"{self._row_name(row)} has shape {array.shape}, but others have {(self.channels, *self.shape)}"
                )
            arrays.append(np.asarray(array, dtype=np.float32))
        kept = torch.from_numpy(np.stack(arrays))
        bad = kept.isinf() if self.may_miss else ~kept.isfinite()
        empty = kept.isnan().flatten(1).all(1)
        if bool(empty.any()):  # refused even where missing values are kept: there is nothing to encode
            raise InputError(f"{self._row_name(int(rows[int(empty.nonzero()[0])]))} has no values at all: leave it out")
        if bool(bad.any()):
            row = int(rows[int(bad.flatten(1).any(1).nonzero()[0])])
            number = float(kept[bad][0])
            advice = (
                ""
                if self.may_miss
                else "; if NaN marks missing values, set data.missing: keep and autoencoder.missing: true"
            )
            raise InputError(f"{self._row_name(row)}: values must be finite; got {number:g}{advice}")
        return kept

    def _array(self, row: int) -> np.ndarray:
        """An array of the source, `[C, *shape]`. InputError if it cannot be read or does not hold numbers on a grid."""
        try:
            array = self._arrays[row]
        except UNREADABLE as error:
            raise InputError(f"{self._row_name(row)} cannot be read ({error}): fix or remove it") from error
        if not is_on_a_grid(array, self.spec.channel_axis):
            content = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "a .npz file"
            raise InputError(f"{self._row_name(row)} must hold numbers on a grid; got {content}")
        return channels_first(np.asarray(array), self.spec.channel_axis)

    def _row_name(self, row: int) -> str:
        return str(self._arrays.paths[row]) if isinstance(self._arrays, Files) else f"array {row} of {self.spec.source}"


class Files(Sequence):
    """The arrays of a folder, read from their files on access."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return np.load(self.paths[index], allow_pickle=False)  # a pickle could run code


def open_arrays(spec: ArrayDataSpec) -> tuple[Any, np.ndarray | None, list[str]]:
    """(arrays by row, labels `[N]` or None, class names) of a source.

    Raises:
        MissingSource: the source does not exist.
        InputError: it cannot be read.
    """
    if spec.source in MADE_UP:
        values, labels, names = MADE_UP[spec.source]()
        return values, labels, names
    place = Path(spec.source).expanduser()
    if not place.exists():
        near = did_you_mean(spec.source, MADE_UP)
        raise MissingSource(
            f"data.source {spec.source!r} does not exist: give a .npy or .npz file, a folder of .npy files, or "
            f"{' or '.join(MADE_UP)}{near}"
        )
    return _open_folder(place) if place.is_dir() else _open_file(place, spec)


def _open_folder(place: Path) -> tuple[Any, np.ndarray | None, list[str]]:
    paths = sorted(place.rglob("*.npy"))
    if not paths:
        raise InputError(f"data.source {place}: no .npy files in this folder")
    in_classes = {path.parent for path in paths} != {place}
    if not in_classes:
        return Files(paths), None, []
    # a file next to class folders, or below one, belongs to no class
    stray = next((path for path in paths if path.parent.parent != place), None)
    if stray is not None:
        raise InputError(
            f"{stray}: the arrays must be in {place} itself, or all in subfolders of it named after their classes"
        )
    names = sorted({path.parent.name for path in paths})  # as `datasets` numbers the class folders of images
    return Files(paths), np.array([names.index(path.parent.name) for path in paths], dtype=np.int64), names


def _open_file(path: Path, spec: ArrayDataSpec) -> tuple[Any, np.ndarray | None, list[str]]:
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:  # NumPy cannot memory-map a .npz: its arrays are read whole
                parts = {key: content[key] for key in (spec.values_key, spec.labels_key) if key in content.files}
            keys = content.files
        else:
            parts, keys = {spec.values_key: content}, [spec.values_key]
    except UNREADABLE as error:
        raise InputError(f"data.source {path}: cannot be read as a NumPy file ({error})") from error
    required = [spec.values_key]
    if spec.labels_key not in (None, "labels") and path.suffix != ".npy":  # the default key is optional
        required.append(spec.labels_key)
    for key in required:
        if key not in parts:
            raise InputError(f"{path} has no {key!r}; it has {', '.join(keys)}{did_you_mean(key, keys)}")
    arrays = parts[spec.values_key]
    if arrays.ndim < 2 or len(arrays) == 0 or arrays.dtype.kind not in "fiu":
        raise InputError(f"{path} must hold numbers of shape [signals, ...]; got {arrays.dtype} {list(arrays.shape)}")
    if spec.labels_key not in parts:
        return arrays, None, []
    return arrays, *_checked_labels(parts[spec.labels_key], len(arrays), path, spec.labels_key)


def _checked_labels(labels: np.ndarray, count: int, path: Path, key: str) -> tuple[np.ndarray, list[str]]:
    are_numbers = labels.dtype.kind in "fiu" and labels.size > 0
    span = f", {labels.min()} to {labels.max()}" if are_numbers else ""
    # as many classes as arrays or more: an identifier was taken for a label
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= count:
        raise InputError(
            f"{path}: {key} must be {count} integers, one per array, from 0 to at most {count - 1}; got {labels.dtype} "
            f"{list(labels.shape)}{span}"
        )
    return labels.astype(np.int64), [str(number) for number in range(int(labels.max()) + 1)]


def is_on_a_grid(array: Any, channel_axis: str) -> bool:
    """Whether an array holds real numbers on a grid of at least one axis, not counting the channel axis."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.ndim >= 1 + (channel_axis != "none")


def channels_first(array: np.ndarray, channel_axis: str) -> Shaped[np.ndarray, "channels *shape"]:
    """An array with its channels as the first axis, added if there is none."""
    if channel_axis == "none":
        return array[None]
    return np.moveaxis(array, -1, 0) if channel_axis == "last" else array
