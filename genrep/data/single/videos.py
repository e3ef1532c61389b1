"""Frames of a video file, read by PyAV (the extra `video`)."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrep.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".y4m")
"""Files that are read as videos; animated pictures such as .gif are read in `genrep/data/single/pictures.py`."""


def video_frames(path: Path, start: int, stop: int | None, stride: int) -> Iterator[Any]:
    """The frames `start:stop:stride` of a video's first stream, as PIL images in RGB.

    Raises:
        InputError: the file is damaged or empty, or contains only sound.
    """
    import av  # optional: the message about the extra is in `genrep/training/config.py`

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"signal.source {path}: must contain video; this file contains only sound")
            for frame in itertools.islice(container.decode(video=0), start, stop, stride):
                yield frame.to_image()
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"signal.source {path}: cannot be read as a video: it is empty or damaged ({error})"
        ) from error
