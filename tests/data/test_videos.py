"""Video files as single signals: reading them back, choosing frames, and the messages about invalid files."""

import struct
from fractions import Fraction

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


def write_lossy(path, times=range(20), **options):
    """Write random frames at these times (in 25ths of a second) as MPEG-4, in files that state the number of frames."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        pixels = np.random.default_rng(0).integers(0, 256, (len(times), 48, 64, 3), dtype=np.uint8)
        for time, array in zip(times, pixels, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def packets_of(path):
    """(position in the file, bytes) of the packets of a video, in order."""
    with av.open(str(path)) as container:
        return [(packet.pos, bytes(packet)) for packet in container.demux(video=0) if packet.size]


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_phone_videos_are_turned_upright(tmp_path):
    """The track's matrix, in the header that MP4 calls tkhd, says to show the frames a quarter turn clockwise."""
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        pixels = np.zeros((32, 64, 3), dtype=np.uint8)
        pixels[:, 32:] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    clockwise = [0, 1, 0, -1, 0, 0, 32, 0, 1]  # fixed-point numbers, the last of each row with 30 bits of fraction
    fixed = [number << (30 if place % 3 == 2 else 16) for place, number in enumerate(clockwise)]
    data[matrix : matrix + 36] = struct.pack(">9i", *fixed)
    path.write_bytes(data)
    upright = open_pictures(PictureSourceSpec(source=str(path))).values
    assert upright.shape == (3, 64, 32)
    assert float(upright[:, :24].mean()) < -0.9 and float(upright[:, 40:].mean()) > 0.9


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


@pytest.mark.parametrize("offset", [0, 300], ids=["between two frames", "within a frame"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi"])
def test_frames_missing_from_a_file_that_is_cut_off_are_noticed(tmp_path, suffix, offset):
    whole = write_lossy(tmp_path / f"whole{suffix}", **({} if suffix == ".avi" else {"movflags": "faststart"}))
    kept, position = opened(whole), packets_of(whole)[15][0]
    assert kept.shape == (3, 20, 48, 64)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: position + offset])
    message = (
        r"cut\.\w+: this video is damaged after its first 15 frames \(.*\): get an intact file, or choose frames before"
    )
    for options in ({}, {"num_frames": 16}, {"start": 10, "stride": 3, "num_frames": 3}):
        with pytest.raises(InputError, match=message):
            opened(cut, **options)
    assert torch.equal(opened(cut, num_frames=15), kept[:, :15])
    assert torch.equal(opened(cut, start=2, stride=6, num_frames=3), kept[:, [2, 8, 14]])


def test_a_damaged_frame_is_refused_if_it_was_asked_for(tmp_path):
    whole = write_lossy(tmp_path / "whole.mp4")
    position, packet = packets_of(whole)[7]
    content = bytearray(whole.read_bytes())
    content[position + 20 : position + len(packet)] = bytes(len(packet) - 20)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    with pytest.raises(InputError, match="this video is damaged after its first 7 frames"):
        opened(damaged)
    assert torch.equal(opened(damaged, num_frames=7), opened(whole, num_frames=7))


def test_intact_videos_with_fewer_frames_than_they_state_are_read(tmp_path):
    whole, trimmed = write_lossy(tmp_path / "whole.mp4"), tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as target:  # as a phone trims: by an edit list
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = (time - int(12 / 25 / packet.time_base) for time in (packet.pts, packet.dts))
                packet.stream = stream
                target.mux(packet)
    paused = write_lossy(tmp_path / "paused.avi", times=[*range(10), *range(15, 20)])
    for path, stated, expected in ((trimmed, 20, opened(whole)[:, 12:]), (paused, 20, None)):
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == stated
        kept = opened(path)
        assert kept.shape[1] == (15 if expected is None else 8)
        assert expected is None or torch.equal(kept, expected)


def test_containers_without_a_frame_count_are_read(tmp_path, frames):
    for name, codec in (("a.mkv", None), ("b.flv", "flv"), ("c.mpg", "mpeg2video"), ("d.mp4", "fragments")):
        if codec is None:
            path = write_video(tmp_path / name, frames)
        elif codec == "fragments":
            path = write_lossy(tmp_path / name, times=range(7), movflags="frag_keyframe+empty_moov")
        else:
            path = tmp_path / name
            with av.open(str(path), "w") as container:
                stream = container.add_stream(codec, rate=25)
                stream.height, stream.width, stream.pix_fmt = 10, 14, "yuv420p"
                for frame in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 0
        assert opened(path).shape[1] == 7
