"""Video files as single signals: reading them back, choosing frames, and the messages about invalid files."""

import av
import numpy as np
import pytest
import torch

from genrep.data.single import PictureSourceSpec
from genrep.data.single.pictures import open_pictures
from genrep.errors import InputError


def write_video(path, frames):
    """Write RGB frames `[T, H, W, 3]` losslessly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (7, 10, 14, 3), dtype=np.uint8)


def opened(path, **options):
    return open_pictures(PictureSourceSpec(source=str(path), **options)).kept


def test_a_video_read_back_equals_its_frames(tmp_path, frames):
    kept = opened(write_video(tmp_path / "a.mkv", frames))
    assert torch.equal(kept, torch.from_numpy(frames).permute(3, 0, 1, 2))


def test_frames_of_a_video_are_chosen(tmp_path, frames):
    path = write_video(tmp_path / "a.mkv", frames)
    kept = opened(path, start=1, stride=2, num_frames=3)
    assert torch.equal(kept, torch.from_numpy(frames[[1, 3, 5]]).permute(3, 0, 1, 2))
    assert opened(path, size=[5, 7], channels=1).shape == (1, 7, 5, 7)
    assert opened(path, num_frames=1).shape == (3, 10, 14)
    with pytest.raises(InputError, match="must have 3 or more frames from frame 5 on, at a stride of 1; got 2"):
        opened(path, start=5, num_frames=3)


def test_files_that_are_not_videos_are_refused(tmp_path, frames):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    whole = write_video(tmp_path / "a.mkv", frames).read_bytes()
    (tmp_path / "head.mkv").write_bytes(whole[:200])
    for name in ("empty.mp4", "text.mp4", "head.mkv"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read as a video: it is empty or damaged \("):
            opened(tmp_path / name)
    with pytest.raises(InputError, match=r"sound.mkv: must contain video; this file contains only sound"):
        opened(write_sound(tmp_path / "sound.mkv"))
