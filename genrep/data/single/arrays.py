"""A single array to fit a field to, from a NumPy or a WAV file."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from genrep.data.arrays import UNREADABLE, channels_first, is_on_a_grid
from genrep.data.single import ArraySourceSpec
from genrep.data.single.grids import GridSignal
from genrep.data.single.series import SeriesSignal
from genrep.data.single.wav import read_wav
from genrep.errors import InputError
from genrep.signals import ArraySignalSpec


def open_array(spec: ArraySourceSpec) -> GridSignal:
    """The array that a spec names, float32. InputError if it is missing, not an array, not finite, or constant."""
    path = Path(spec.source).expanduser()
    array = read_wav(path) if path.suffix.lower() == ".wav" else _read_numpy(spec, path)
    kept = torch.from_numpy(np.array(array, dtype=np.float32))
    if not bool(kept.isfinite().all()):
        raise InputError(f"signal.source {path}: values must be finite; got NaN or infinite ones")
    low, high = spec.value_range or (float(kept.min()), float(kept.max()))
    if not low < high:
        raise InputError(f"signal.source {path}: values must differ; all are {low:g}. Set signal.value_range")
    signal = ArraySignalSpec(type="array", low=low, high=high, unit=spec.unit, axes=spec.axes).build()
    return (SeriesSignal if kept.ndim == 2 else GridSignal)(kept, signal, spec.source)


def _read_numpy(spec: ArraySourceSpec, path: Path) -> Shaped[np.ndarray, "channels *shape"]:
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise InputError(f"signal.source {spec.source!r}: cannot be read as a .npy file ({error})") from error
    if not is_on_a_grid(array, spec.channel_axis):
        raise InputError(
            f"signal.source {path}: must be one array of numbers; got {getattr(array, 'shape', 'a .npz file')}"
        )
    if array.size == 0:
        raise InputError(f"signal.source {path}: must have at least one value; its shape is {list(array.shape)}")
    return channels_first(array, spec.channel_axis)
