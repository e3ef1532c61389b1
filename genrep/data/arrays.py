"""Arrays on a grid of any number of axes, from NumPy files. What their values mean is in `genrep/signals/arrays.py`."""

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
"""Arrays read at a time where all are looked at."""
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile)
"""What `np.load` raises for files that are not NumPy's, or not whole."""


class ArrayData(SignalData):
    """One split of a set of arrays, float32 `[C, *shape]` in their own unit, and labels if there are any.

    Args:
        spec: where they are.
        split: `train` or `held_out`.
        shape: the grid that every array must have.
        channels: that every array must have.

    Raises:
        InputError: nothing there, files that are no arrays, other shapes, labels that do not fit, or missing values where
            `spec.missing` refuses them.
    """

    def __init__(self, spec: ArrayDataSpec, split: str, shape: tuple[int, ...], channels: int):
        if split not in ("train", "held_out"):
            raise InputError(f"split {split!r} is not one of train, held_out")
        self.spec, self.split, self.shape, self.channels = spec, split, tuple(shape), channels
        self.name, self.may_miss = f"{spec.source} ({split})", spec.missing == "keep"
        self._arrays, labels, self.class_names = open_arrays(spec)
        train, held_out = self._split_rows(len(self._arrays))
        self.rows = train if split == "train" else held_out
        self._check_shape()
        self.labels = None if labels is None else torch.from_numpy(labels[self.rows])
        self._kept: Tensor | None = None
        if spec.in_memory:
            self._kept = torch.cat([self._read(self.rows[at : at + ROWS]) for at in range(0, len(self.rows), ROWS)])
        low, high = spec.value_range or self._range_of(train)
        self.signal = ArraySignalSpec(type="array", low=low, high=high, unit=spec.unit, axes=spec.axes).build()

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:  # a memory-mapped file would be sent to workers as all its numbers
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
        """Hash of the number of arrays, the labels, the range, and the content of evenly spaced ones."""
        digest = hashlib.sha256(json.dumps([len(self), self.transform()]).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        for index in np.unique(np.linspace(0, len(self) - 1, ROWS).astype(int)):
            digest.update(self.read([int(index)]).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _split_rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        num_held_out = round(count * self.spec.held_out_fraction)
        order = np.random.default_rng(self.spec.split_seed).permutation(count)
        train, held_out = np.sort(order[num_held_out:]), np.sort(order[:num_held_out])
        if len(held_out if self.split == "held_out" else train) == 0:
            raise InputError(
                f"data.held_out_fraction {self.spec.held_out_fraction:g} of {count} arrays leaves none for the {self.split} "
                "split: change it, or give more arrays"
            )
        return train, held_out

    def _check_shape(self) -> None:
        found = tuple(self._array(int(self.rows[0])).shape)
        if found != (self.channels, *self.shape):
            raise InputError(
                f"{self.name}: arrays of {' × '.join(map(str, found[1:]))} with {found[0]} channels do not fit the model's "
                f"{' × '.join(map(str, self.shape))} with {self.channels}: set image_size: {list(found[1:])} and channels: "
                f"{found[0]}, or data.channel_axis"
            )

    def _range_of(self, rows: np.ndarray) -> tuple[float, float]:
        lows, highs = [], []
        for at in range(0, len(rows), ROWS):
            values = self._read(rows[at : at + ROWS])
            finite = values[values.isfinite()]
            if len(finite):
                lows.append(float(finite.min()))
                highs.append(float(finite.max()))
        if not lows or min(lows) == max(highs):
            found = "no finite values" if not lows else f"the one value {lows[0]:g}"
            raise InputError(f"{self.spec.source}: arrays need values that differ; got {found}: set data.value_range")
        return min(lows), max(highs)

    def _read(self, rows: np.ndarray) -> Float[Tensor, "batch channels *shape"]:
        arrays = []
        for row in rows.tolist():
            array = self._array(row)
            if array.shape != (self.channels, *self.shape):
                raise InputError(
                    f"{self._row_name(row)} has shape {array.shape}, others {(self.channels, *self.shape)}"
                )
            arrays.append(np.asarray(array, dtype=np.float32))
        kept = torch.from_numpy(np.stack(arrays))
        bad = kept.isinf() if self.may_miss else ~kept.isfinite()
        empty = kept.isnan().flatten(1).all(1)
        if bool(empty.any()):
            raise InputError(f"{self._row_name(int(rows[int(empty.nonzero()[0])]))} has no value at all: leave it out")
        if bool(bad.any()):
            row = int(rows[int(bad.flatten(1).any(1).nonzero()[0])])
            number = float(kept[bad][0])
            how = (
                ""
                if self.may_miss
                else "; where NaN is a missing value set data.missing: keep and autoencoder.missing: true"
            )
            raise InputError(f"{self._row_name(row)} has {number:g}, and values must be finite{how}")
        return kept

    def _array(self, row: int) -> np.ndarray:
        """An array of the source, `[C, *shape]`. InputError if it cannot be read, or is not numbers on a grid."""
        try:
            array = self._arrays[row]
        except UNREADABLE as error:
            raise InputError(f"{self._row_name(row)} cannot be read ({error}): fix or remove it") from error
        if not is_on_a_grid(array, self.spec.channel_axis):
            found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "a .npz file"
            raise InputError(f"{self._row_name(row)} must hold numbers on a grid; got {found}")
        return channels_first(np.asarray(array), self.spec.channel_axis)

    def _row_name(self, row: int) -> str:
        return str(self._arrays.paths[row]) if isinstance(self._arrays, Files) else f"array {row} of {self.spec.source}"


class Files(Sequence):
    """Arrays of a folder, each read from its file when it is asked for."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return np.load(self.paths[index], allow_pickle=False)


def open_arrays(spec: ArrayDataSpec) -> tuple[Any, np.ndarray | None, list[str]]:
    """(arrays by row, labels `[N]` or None, class names) of a source. MissingSource or InputError if they cannot be opened."""
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
    return _of_folder(place) if place.is_dir() else _of_file(place, spec)


def _of_folder(place: Path) -> tuple[Any, np.ndarray | None, list[str]]:
    paths = sorted(place.rglob("*.npy"))
    if not paths:
        raise InputError(f"data.source {place}: no .npy files there")
    in_classes = {path.parent for path in paths} != {place}
    if not in_classes:
        return Files(paths), None, []
    stray = next((path for path in paths if path.parent.parent != place), None)
    if stray is not None:
        raise InputError(f"{stray}: arrays must lie in {place}, or all in subfolders of it that name their classes")
    names = sorted({path.parent.name for path in paths})
    return Files(paths), np.array([names.index(path.parent.name) for path in paths], dtype=np.int64), names


def _of_file(path: Path, spec: ArrayDataSpec) -> tuple[Any, np.ndarray | None, list[str]]:
    try:
        opened = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(opened, np.lib.npyio.NpzFile):
            with opened:
                parts = {key: opened[key] for key in (spec.values_key, spec.labels_key) if key in opened.files}
            keys = opened.files
        else:
            parts, keys = {spec.values_key: opened}, [spec.values_key]
    except UNREADABLE as error:
        raise InputError(f"data.source {path}: cannot be read as a NumPy file ({error})") from error
    wanted = [spec.values_key]
    if spec.labels_key not in (None, "labels") and path.suffix != ".npy":  # "labels" only where there are some
        wanted.append(spec.labels_key)
    for key in wanted:
        if key not in parts:
            raise InputError(f"{path}: no {key!r} in it; it has {', '.join(keys)}{did_you_mean(key, keys)}")
    arrays = parts[spec.values_key]
    if arrays.ndim < 2 or len(arrays) == 0 or arrays.dtype.kind not in "fiu":
        raise InputError(f"{path}: must hold numbers [signals, ...]; got {arrays.dtype} {list(arrays.shape)}")
    if spec.labels_key not in parts:
        return arrays, None, []
    return arrays, *_checked_labels(parts[spec.labels_key], len(arrays), path, spec.labels_key)


def _checked_labels(labels: np.ndarray, count: int, path: Path, key: str) -> tuple[np.ndarray, list[str]]:
    are_numbers = labels.dtype.kind in "fiu" and labels.size > 0
    span = f", {labels.min()} to {labels.max()}" if are_numbers else ""
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= count:
        raise InputError(
            f"{path}: {key} must be whole numbers from 0, one for each of the {count} arrays, and fewer classes than arrays; "
            f"got {labels.dtype} {list(labels.shape)}{span}"
        )
    return labels.astype(np.int64), [str(number) for number in range(int(labels.max()) + 1)]


def is_on_a_grid(array: Any, channel_axis: str) -> bool:
    """Whether an array is real numbers on a grid of one axis or more, besides that of its channels."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.ndim >= 1 + (channel_axis != "none")


def channels_first(array: np.ndarray, channel_axis: str) -> Shaped[np.ndarray, "channels *shape"]:
    """An array with its channels as the first axis; one is added where it has none."""
    if channel_axis == "none":
        return array[None]
    return np.moveaxis(array, -1, 0) if channel_axis == "last" else array
