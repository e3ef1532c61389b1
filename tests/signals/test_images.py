"""Images and videos: their values, outputs and metrics."""

import numpy as np
import pytest
import torch

from genrep.signals import ImageSignalSpec
from genrep.signals.quality import psnr


@pytest.fixture
def signal():
    return ImageSignalSpec().build()


@pytest.fixture
def videos():
    return torch.randint(0, 256, (2, 3, 5, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_to_values_and_back_is_exact(signal, videos):
    assert torch.equal(signal.keep(signal.values(videos)), videos)
    assert signal.values(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_videos_are_returned_with_their_frames(signal, videos):
    arrays = signal.output(videos, "np")
    assert arrays.shape == (2, 5, 12, 16, 3) and np.array_equal(arrays[1, 2, 3, 4] * 255, videos[1, :, 2, 3, 4])
    assert torch.equal(signal.output(videos, "pt") * 255, videos.float())
    assert torch.equal(signal.pictures(videos), videos[:, :, 2]) and signal.output(videos, "pil")[0].size == (16, 12)
    assert torch.equal(signal.frames(videos[0]), videos[0].transpose(0, 1))


def test_a_video_is_measured_frame_by_frame(signal, videos):
    values, reference = signal.values(videos), signal.values(videos.flip(0))
    metrics = signal.measure(values, reference)
    for clip in (0, 1):
        of_frames = psnr(values[clip].transpose(0, 1), reference[clip].transpose(0, 1))
        assert float(metrics["psnr"][clip]) == pytest.approx(float(of_frames.mean()))
        assert float(metrics["psnr_std"][clip]) == pytest.approx(float(of_frames.std(correction=0)))
    assert metrics.keys() == {"psnr", "psnr_std", "ssim", "ssim_std"}


def test_errors_are_ten_times_the_difference(signal):
    images = torch.tensor([100, 7, 0], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    reference = torch.tensor([103, 7, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    assert signal.errors(images, reference)[:, 0, 0, 0].tolist() == [30, 0, 255]
