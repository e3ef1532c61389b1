"""Augmentation of a classifier's training signals: shifts and cutout."""

import pytest
import torch
import torch.nn.functional as F

from genrep.training.augment import cut_out, shifted


@pytest.mark.parametrize("shape", [(9,), (6, 7), (3, 4, 5)])
def test_shifts_equal_slices_of_a_padded_signal(shape):
    signals, draws, reach = torch.randn(8, 2, *shape), torch.rand(8, len(shape)), 2
    moved = shifted(signals, reach, draws)
    padded = F.pad(signals, [reach] * (2 * len(shape)), mode="replicate")
    for signal, padded_signal, draw in zip(moved, padded, draws, strict=True):
        starts = (draw * (2 * reach + 1)).long().tolist()
        slices = [slice(start, start + length) for start, length in zip(starts, shape, strict=True)]
        assert torch.equal(signal, padded_signal[:, *slices])


def test_a_reach_of_0_returns_the_signals_unchanged():
    signals = torch.randn(3, 1, 4, 4)
    assert shifted(signals, 0, torch.rand(3, 2)) is signals


@pytest.mark.parametrize("side", [3, 4])
def test_a_square_of_the_side_is_cut_out(side):
    signals = torch.ones(2, 3, 10, 12)
    cut = cut_out(signals, side, torch.tensor([[0.5, 0.5], [0.0, 0.999]]))
    assert (cut[0] == 0).sum() == 3 * side**2 and torch.equal(cut[0, 0], cut[0, 2])
    first = 5 - side // 2
    assert (cut[0, 0, first : first + side, 6 - side // 2 : 6 - side // 2 + side] == 0).all()
    assert (cut[1, 0] == 0).sum() == (side - side // 2) * (side // 2 + 1)  # the rest extends over the corner
    assert signals.min() == 1
