"""The pattern common to all samples, in closed form."""

import pytest
import torch

from genrep.errors import InputError
from genrep.metrics.pattern import detail, statistics


def test_statistics_are_those_of_all_batches_together():
    images = torch.randint(0, 256, (10, 3, 5, 4), dtype=torch.uint8)
    measured = statistics(images.split(3))
    torch.testing.assert_close(measured.mean, images.float().mean(0))
    torch.testing.assert_close(measured.deviation, images.float().std(0, correction=0), atol=1e-3, rtol=1e-4)
    assert measured.chance == pytest.approx(statistics([images]).chance)
    with pytest.raises(InputError, match="there are no images"):
        statistics([])


def test_a_flat_image_has_no_detail_and_a_checkerboard_has_it_all():
    assert detail(torch.full((3, 8, 8), 7.0)) == 0
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert detail(board[None]) == pytest.approx(8 / 9, rel=0.1)  # a 3×3 mean leaves ±1/9 of ±1


def test_a_pattern_survives_the_mean_and_noise_leaves_its_chance_level():
    torch.manual_seed(0)
    pattern = torch.randn(1, 16, 16) * 20
    noise = torch.randn(2000, 1, 16, 16) * 20 + 128
    with_pattern, without = (statistics([part.clamp(0, 255).to(torch.uint8)]) for part in (noise + pattern, noise))
    assert detail(with_pattern.mean) > 10
    assert detail(without.mean) == pytest.approx(without.chance, rel=0.15)
    assert without.chance == pytest.approx(20 * (8 / 9 / 2000) ** 0.5, rel=0.05)  # (8/9)² + 8/81 of a pixel's variance
    assert with_pattern.chance == pytest.approx(without.chance, rel=0.05)
