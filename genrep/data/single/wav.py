"""The samples of a WAV file, read with the standard library alone."""

import wave
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genrep.errors import InputError


def read_wav(path: Path) -> Float[np.ndarray, "channels samples"]:
    """Samples of 8, 16, 24 or 32 bits as float32 in [-1, 1), one row per channel.

    Raises:
        InputError: the file is missing, not a WAV file, damaged, empty, or in another format, such as floats.
    """
    if not path.is_file():
        raise InputError(f"signal.source {str(path)!r} does not exist: give a WAV file")
    try:
        with wave.open(str(path)) as file:
            channels, width, expected = file.getnchannels(), file.getsampwidth(), file.getnframes()
            if width > 4:
                raise wave.Error(f"its samples have {8 * width} bits")
            data = file.readframes(expected)
    except (wave.Error, OSError, EOFError) as error:
        # 65534 is the extensible format, which Python reads from 3.12 on
        raise InputError(
            f"signal.source {path}: cannot be read as a WAV file of 8, 16, 24 or 32-bit integers: "
            f"{str(error) or 'it ends early'}. Save it as plain PCM (for unknown format 65534: ffmpeg -c:a pcm_s16le)"
        ) from error
    if len(data) < expected * channels * width:
        raise InputError(f"signal.source {path}: is cut off: it has {len(data)} of {expected * channels * width} bytes")
    if not data:
        raise InputError(f"signal.source {path}: has no samples")
    return _samples(data, width).reshape(-1, channels).T


def _samples(data: bytes, width: int) -> Float[np.ndarray, " samples"]:
    """Little-endian integers of `width` bytes as floats in [-1, 1); those of one byte are unsigned."""
    octets = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    if width == 1:
        octets = np.bitwise_xor(octets, np.uint8(0x80))  # to two's complement, like the wider ones: 128 is silence
    words = np.zeros((len(octets), 4), dtype=np.uint8)
    words[:, 4 - width :] = octets  # the high bytes of 32 bits
    return (words.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
