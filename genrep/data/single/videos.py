"""Frames of a video file, read by PyAV (the extra `video`)."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrep.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".y4m")
"""Files that are read as videos; animated pictures such as .gif are read in `genrep/data/single/pictures.py`."""


def video_frames(path: Path, start: int, stop: int | None, stride: int) -> Iterator[Any]:
    """The frames `start:stop:stride` of a video's first stream, as PIL images in RGB.

    Raises:
        InputError: the file is empty or contains only sound, or one of these frames is damaged or missing because the file is
            cut off. Containers without a frame count, such as Matroska, do not tell that frames are missing at the end.
    """
    import av  # optional: the message about the extra is in `genrep/training/config.py`

    wanted = range(start, sys.maxsize if stop is None else stop, stride)
    num_decoded, end = 0, 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"signal.source {path}: must contain video; this file contains only sound")
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                # half a packet is not decoded: decoders make up what they cannot read. They do return earlier frames
                for frame in stream.decode(None) if packet.is_corrupt else packet.decode():
                    if num_decoded in wanted:
                        if frame.is_corrupt:
                            raise _damaged(path, num_decoded, "the next one is incomplete")
                        # phones store how the video is to be turned, counterclockwise
                        picture = frame.to_image()
                        yield picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
                    if num_decoded == wanted[-1]:
                        return
                    num_decoded += 1
                if packet.is_corrupt:
                    raise _damaged(path, num_decoded, "then the file is cut off")
                time = packet.dts if packet.pts is None else packet.pts
                end = max(end, (time or 0) + (packet.duration or 0))
            if num_decoded < stream.frames and end < _end(stream):
                raise _damaged(path, num_decoded, f"there should be {stream.frames}")
    except (av.FFmpegError, OSError) as error:
        if num_decoded:
            raise _damaged(path, num_decoded, error) from error
        raise InputError(
            f"signal.source {path}: cannot be read as a video: it is empty or damaged ({error})"
        ) from error


def _end(stream: Any) -> float:
    """When a stream's last frame ends at the earliest, in units of its time base: a frame before what the container states."""
    # The number of frames alone does not tell a damaged file: it counts those that were trimmed away in an MP4, and the
    # pauses in an AVI. In intact files, the last frame ends when the stream does.
    if stream.duration is None or not stream.average_rate:
        return 0.0
    return float((stream.start_time or 0) + stream.duration - 1 / (stream.average_rate * stream.time_base))


def _damaged(path: Path, num_intact: int, why: object) -> InputError:
    return InputError(
        f"signal.source {path}: this video is damaged after its first {num_intact} frames ({why}): get an intact file, or "
        "choose frames before the damage with signal.start, signal.stride and signal.num_frames"
    )
