"""Random numbers: a row depends only on (seed, stream, index)."""

import math

import pytest
import torch

from genrep.randomness import BLOCK_NUMBERS, image_generators, normal_at, stream_generator, stream_seed, uniform_at

SHAPE = (4, 8)
LENGTH = BLOCK_NUMBERS // math.prod(SHAPE)
INDICES = [0, 1, 5, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 7, 10**7]


@pytest.mark.parametrize("draw", [normal_at, uniform_at])
def test_a_row_does_not_depend_on_the_other_rows(draw):
    whole = draw(INDICES, SHAPE, 7, "noise")
    assert whole.shape == (len(INDICES), *SHAPE)
    for row, index in enumerate(INDICES):
        assert torch.equal(draw([index], SHAPE, 7, "noise")[0], whole[row])
    order = [6, 2, 2, 0, 7, 3]
    assert torch.equal(draw([INDICES[row] for row in order], SHAPE, 7, "noise"), whole[order])


@pytest.mark.parametrize("draw", [normal_at, uniform_at])
def test_a_row_does_not_depend_on_earlier_draws(draw):
    first = draw([3], SHAPE, 7, "noise")
    torch.manual_seed(123)
    for other in range(20):  # more blocks than are kept
        draw([other * LENGTH], SHAPE, 7, "noise")
    assert torch.equal(draw([3], SHAPE, 7, "noise"), first)


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    normal_at([1, 2], SHAPE, 0, "noise")
    stream_generator(0, "a", 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draw", [normal_at, uniform_at])
def test_rows_seeds_and_streams_all_differ(draw):
    rows = [*draw(INDICES, SHAPE, 7, "noise"), *draw(INDICES, SHAPE, 8, "noise"), *draw(INDICES, SHAPE, 7, "levels")]
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 3 * len(INDICES)


def test_rows_of_several_blocks_differ():
    rows = uniform_at(range(2 * LENGTH + 3), SHAPE, 0, "noise")[:, 0, 0]
    assert len(set(rows.tolist())) > 0.999 * len(rows)  # float32 has 2^24 numbers in [0, 1), so a few meet by chance


def test_normal_and_uniform_numbers_have_their_moments():
    normal, uniform = (draw(range(20_000), (5,), 0, "x").double() for draw in (normal_at, uniform_at))
    assert abs(normal.mean()) < 0.02 and abs(normal.var() - 1) < 0.03 and abs((normal**4).mean() - 3) < 0.15
    assert abs(uniform.mean() - 1 / 2) < 0.01 and abs(uniform.var() - 1 / 12) < 0.005
    assert uniform.min() >= 0 and uniform.max() < 1
    neighbours = (normal[1:] * normal[:-1]).mean(0)
    assert neighbours.abs().max() < 0.04


def test_a_row_may_be_a_number_or_larger_than_a_block():
    assert uniform_at([4, 9], (), 0, "flip").shape == (2,)
    large = (2, BLOCK_NUMBERS)
    assert torch.equal(normal_at([1, 2], large, 0, "x")[1], normal_at([2], large, 0, "x")[0])
    assert not torch.equal(normal_at([1], large, 0, "x"), normal_at([2], large, 0, "x"))


def draw(generator: torch.Generator) -> tuple[float, ...]:
    return tuple(torch.rand(3, generator=generator).tolist())


def test_a_stream_is_its_seed_and_its_names():
    names = [(), ("a",), ("b",), ("a", 1), ("a", 2), ("a", "b"), ("b", "a"), (1,), (2,), ("noise", 2**40)]
    streams = {(seed, *name): draw(stream_generator(seed, *name)) for seed in (0, 1, 2**31, 2**40) for name in names}
    assert len(set(streams.values())) == len(streams)
    assert all(draw(stream_generator(*stream)) == numbers for stream, numbers in streams.items())


def test_streams_are_the_ones_of_every_run_before():
    """Frozen: a change here changes every sample and every resumed run."""
    assert int(stream_generator(0, "order", 0).initial_seed()) == 6230928577095065118
    assert int(stream_generator(7, "image", 3).initial_seed()) == 6721247812392648618


def test_image_generators_are_a_function_of_seed_and_index():
    whole = [draw(generator) for generator in image_generators(5, range(6))]
    assert len(set(whole)) == 6
    assert [draw(generator) for generator in image_generators(5, [4, 1])] == [whole[4], whole[1]]
    assert not {draw(generator) for generator in image_generators(6, range(6))} & set(whole)


def test_streams_of_neighbouring_seeds_share_nothing():
    """As `seed + position` did: the dropout of seed 1 at position 0 was that of seed 0 at position 1."""
    seeds = {stream_seed(seed, "dropout", position) for seed in range(40) for position in range(40)}
    assert len(seeds) == 40 * 40 and all(0 <= seed < 2**63 for seed in seeds)
    assert stream_generator(3, "dropout", 5).initial_seed() == stream_seed(3, "dropout", 5)
