"""Patches of signals of one, two and three axes, against a loop."""

import itertools

import pytest
import torch

from genrep.errors import InputError
from genrep.nn.patches import PatchTokenizer

CASES = [
    # shape, patch, patches along each axis, zeros before and after each axis
    ((12,), 4, (3,), ((0, 0),)),
    ((10,), 4, (3,), ((1, 1),)),
    ((6, 9), (2, 3), (3, 3), ((0, 0), (0, 0))),
    ((5, 8), (4, 3), (2, 3), ((1, 2), (0, 1))),
    ((3, 4, 7), (2, 2, 3), (2, 2, 3), ((0, 1), (0, 0), (1, 1))),
    ((4, 4, 4), 2, (2, 2, 2), ((0, 0), (0, 0), (0, 0))),
]


def by_a_loop(tokenizer, signals, edges, counts, padding):
    """Tokens [B, P, dim]: each patch is read number by number, channel first, with zeros outside the signal."""
    shape, tokens = signals.shape[2:], []
    for place in itertools.product(*map(range, counts)):
        numbers = []
        for channel in range(signals.shape[1]):
            for inside in itertools.product(*map(range, edges)):
                at = [p * e + i - before for p, e, i, (before, _) in zip(place, edges, inside, padding, strict=True)]
                is_there = all(0 <= index < length for index, length in zip(at, shape, strict=True))
                numbers.append(signals[(slice(None), channel, *at)] if is_there else torch.zeros(len(signals)))
        tokens.append(tokenizer.project(torch.stack(numbers, dim=1)) + tokenizer.position[len(tokens)])
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize(("shape", "patch", "counts", "padding"), CASES)
def test_patches_are_those_of_a_loop(shape, patch, counts, padding):
    tokenizer, signals = PatchTokenizer(shape, 2, patch, dim=5), torch.randn(3, 2, *shape)
    edges = (patch,) * len(shape) if isinstance(patch, int) else patch
    expected = by_a_loop(tokenizer, signals, edges, counts, padding)
    assert tokenizer.num_patches == expected.shape[1]
    torch.testing.assert_close(tokenizer(signals), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_long_clip_of_one_axis_is_a_curve(axis):
    """If the other axes have one point, the patches of a clip equal those of the curve along that axis."""
    shape, patch = [1, 1, 1], [1, 1, 1]
    shape[axis], patch[axis] = 10, 4
    clip, curve = PatchTokenizer(shape, 2, patch, dim=5), PatchTokenizer([10], 2, 4, dim=5)
    clip.load_state_dict(curve.state_dict())
    signals = torch.randn(3, 2, 10)
    assert torch.equal(clip(signals.reshape(3, 2, *shape)), curve(signals))


@pytest.mark.parametrize("shape", [(3, 2, 11), (3, 1, 12), (3, 2, 12, 1)])
def test_signals_of_another_grid_are_refused(shape):
    with pytest.raises(InputError, match=r"do not fit the encoder, which was built for a batch of 2 × 12"):
        PatchTokenizer((12,), 2, 4, dim=5)(torch.zeros(shape))
