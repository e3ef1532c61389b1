"""Tile indices and blending weights on worked examples, the layouts of the paper's table 5, periods and combinations."""

import itertools
import math

import pytest
import torch

from genrep.coords import grid
from genrep.errors import InputError
from genrep.nn.tiling import TABLE_5, Tiling, layout


def line(tile: int, cells: float, offset: float = 0.0) -> Tiling:
    return Tiling((tile,), ((cells,),), (offset,))


def at(*places: float) -> torch.Tensor:
    """Coordinates in [-1, 1] for places in the paper's [0, 1]."""
    return torch.tensor([[2 * place - 1] for place in places], dtype=torch.float64)


def test_the_nearest_tile_in_one_dimension():
    """Eq. 5: tile j if A p + b mod N is in [j, j + 1); a border belongs to the cell above it, and 1 wraps around to 0."""
    places = at(0.0, 0.1, 0.25, 0.4999, 0.5, 0.75, 0.99, 1.0)
    assert line(2, 4).index(places).tolist() == [0, 0, 1, 1, 0, 1, 1, 0]
    assert line(3, 4).index(places).tolist() == [0, 0, 1, 1, 2, 0, 0, 1]
    assert line(2, 2, 0.5).index(places).tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_negative_cells_have_a_positive_remainder():
    assert line(3, 2).index(at(-0.1, -0.5, -0.6, -1.6)).tolist() == [2, 2, 1, 2]  # cells -1, -1, -2, -4
    assert line(4, -4.0).index(at(0.0, 0.1, 0.3)).tolist() == [0, 3, 2]


def test_two_axes_are_row_major_and_mixed_by_a():
    tiling = Tiling((2, 3), ((2.0, 0.0), (0.0, 3.0)), (0.0, 0.0))
    coords = torch.tensor([[-0.5, -0.9], [-0.5, 0.0], [0.5, 0.9], [0.5, -0.9]])
    assert tiling.index(coords).tolist() == [0, 1, 5, 3]
    beyond = torch.tensor(
        [[-1.5, -1.0], [-1.0, -1.8], [0.0, 1 / 3], [-2.0, 2.0]]
    )  # cells (-1, 0), (0, -2), (1, 2), (-1, 4)
    assert tiling.index(beyond).tolist() == [3, 1, 5, 4]
    turned = Tiling((2, 3), ((0.0, 2.0), (3.0, 0.0)), (0.0, 1.0))  # A swaps the axes, b shifts the second
    assert turned.index(coords).tolist() == [1, 4, 3 + 0, 0]


def test_blending_weights_in_one_dimension():
    """Eq. 4: tents around the cells' centres j + 1/2, cyclic."""
    for place, expected in (
        (0.25, {0: 1.0}),
        (0.5, {0: 0.5, 1: 0.5}),
        (0.375, {0: 0.75, 1: 0.25}),
        (0.0, {0: 0.5, 1: 0.5}),
    ):
        weights = dict.fromkeys(range(2), 0.0)
        for index, share in line(2, 2).corners(at(place)):
            weights[int(index)] += float(share)
        assert weights == pytest.approx({0: 0.0, 1: 0.0} | expected)
    for place, expected in ((0.0, {0: 0.5, 3: 0.5}), (0.9, {3: 0.9, 0: 0.1}), (-0.05, {3: 0.7, 0: 0.3})):
        weights = dict.fromkeys(range(4), 0.0)
        for index, share in line(4, 4).corners(at(place)):
            weights[int(index)] += float(share)
        assert weights == pytest.approx(dict.fromkeys(range(4), 0.0) | expected), place


def test_blending_weights_in_two_dimensions():
    """A p = (0.75, 1) lies a quarter of the way to the second row's centres and midway between the columns'."""
    tiling = Tiling((2, 2), ((2.0, 0.0), (0.0, 2.0)), (0.0, 0.0), "linear")
    for place, expected in (
        ((0.375, 0.5), [0.375, 0.375, 0.125, 0.125]),
        ((-0.125, 0.25), [0.25, 0.0, 0.75, 0.0]),  # below 0 the last row is repeated
        ((1.0, 1.0), [0.25, 0.25, 0.25, 0.25]),  # the exact border
    ):
        weights = [0.0] * 4
        for index, share in tiling.corners(torch.tensor([place]) * 2 - 1):
            weights[int(index)] += float(share)
        assert weights == pytest.approx(expected), place


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_blending_weights_are_the_papers_products_and_sum_to_1(num_axes):
    tiling = Tiling((3,) * num_axes, tuple(map(tuple, (torch.eye(num_axes) * 5).tolist())), (0.3,) * num_axes)
    coords = torch.rand(40, num_axes, dtype=torch.float64) * 4 - 2
    dense = torch.zeros(40, 3**num_axes, dtype=torch.float64)
    corners = tiling.corners(coords)
    assert len(corners) == 2**num_axes
    for index, share in corners:
        dense[torch.arange(40), index] += share
    torch.testing.assert_close(dense.sum(1), torch.ones(40, dtype=torch.float64))
    for row, cells in zip(dense, tiling.cells(coords).tolist(), strict=True):
        for number, tile in enumerate(itertools.product(range(3), repeat=num_axes)):
            tents = []
            for cell, j in zip(cells, tile, strict=True):
                away = abs((cell - j - 0.5 + 1.5) % 3 - 1.5)  # to the centre, around the circle
                tents.append(max(0.0, 1 - away))
            assert row[number] == pytest.approx(math.prod(tents), abs=1e-12)


def test_a_period_repeats():
    """A grid of 8 cells with tiles of 2 has a period of a quarter."""
    tiling, coords = layout("quad_tree", [(2, 2)] * 3)[2], torch.rand(100, 2, dtype=torch.float64) * 2 - 1
    assert torch.equal(tiling.index(coords), tiling.index(coords + torch.tensor([0.5, -0.5])))
    assert not torch.equal(tiling.index(coords), tiling.index(coords + torch.tensor([0.25, 0.0])))


def matrices(name: str, **options) -> list[float]:
    return [tiling.matrix[0][0] for tiling in layout(name, [(2, 2)] * 9, **options)]


def test_the_layouts_of_table_5():
    assert matrices("quad_tree") == [2.0**i for i in range(1, 10)]
    assert matrices("fine_to_coarse") == [2.0 ** (10 - i) for i in range(1, 10)]
    assert matrices("permuted") == [2.0**i for i in (3, 8, 1, 9, 6, 2, 5, 4, 7)]
    assert matrices("gray_code") == [2.0, *(2.0 ** (i - 1) for i in range(2, 10))]
    offsets = [tiling.offset for tiling in layout("gray_code", [(2, 2)] * 9)]
    assert offsets == [(0.0, 0.0), *[(0.5, 0.5)] * 8]
    assert (
        sorted(matrices("random_permutation", seed=3))
        == matrices("quad_tree")
        != matrices("random_permutation", seed=3)
    )
    assert matrices("interleaved") == [512.0] * 9 and matrices("chunked") == [2.0] * 9
    assert sorted(TABLE_5) == list(range(1, 10))
    for tiling in layout("quad_tree", [(2, 2)] * 9):
        assert tiling.matrix[0][1] == tiling.matrix[1][0] == 0 and tiling.offset == (0.0, 0.0)


def test_gray_code_neighbours_differ_in_one_layer():
    tilings = layout("gray_code", [(2,)] * 5)
    codes = torch.stack([tiling.index(grid((32,))) for tiling in tilings], dim=1)
    assert ((codes[1:] != codes[:-1]).sum(1) == 1).all() and len(torch.unique(codes, dim=0)) == 32


def test_random_affine_has_the_papers_spread_and_its_seed():
    tilings = layout("random_affine", [(2, 2)] * 400, seed=1)
    entries = torch.tensor([tiling.matrix for tiling in tilings])
    assert entries.std() == pytest.approx(16, rel=0.05) and entries.mean().abs() < 1.5
    offsets = torch.tensor([tiling.offset for tiling in tilings])
    assert offsets.min() >= 0 and offsets.max() < 1 and offsets.mean() == pytest.approx(0.5, abs=0.05)
    assert layout("random_affine", [(2, 2)] * 400, seed=1) == tilings != layout("random_affine", [(2, 2)] * 400, seed=2)
    wide = torch.tensor([tiling.matrix for tiling in layout("random_affine", [(2, 2)] * 400, affine_std=256.0)])
    assert wide.std() == pytest.approx(256, rel=0.05)


def test_grids_follow_the_tiles_up_to_the_finest():
    """Supplement C: 2, 8, 32, 128, 512 cells for tiles of 2, 4, 4, 4, 4. With a limit, never finer than it."""
    video = layout("quad_tree", [(n,) * 3 for n in (2, 4, 4, 4, 4)])
    assert [tiling.matrix[2][2] for tiling in video] == [2, 8, 32, 128, 512]
    limited = layout("quad_tree", [(4, 4)] * 7, finest=8192)
    assert [tiling.matrix[0][0] for tiling in limited] == [4, 16, 64, 256, 1024, 4096, 8192]


def test_every_cell_of_a_quad_tree_has_a_unique_combination():
    """Section 3: as many combinations of weights as cells in the finest grid, but few for layers with equal grids."""
    for name, expected in (
        ("quad_tree", 64 * 64),
        ("fine_to_coarse", 64 * 64),
        ("gray_code", 64 * 64),
        ("chunked", 4),
        ("interleaved", 4),
    ):
        combinations = torch.stack([t.index(grid(64)) for t in layout(name, [(2, 2)] * 6)], dim=1)
        assert len(torch.unique(combinations, dim=0)) == expected, name


@pytest.mark.parametrize(
    ("name", "tiles", "message"),
    [
        ("quadtree", [(2, 2)], "layout must be one of quad_tree, fine_to_coarse, .*; got 'quadtree'"),
        ("gray_code", [(4, 4)], "gray_code needs tiles of 2 along every axis"),
        ("permuted", [(2, 2)] * 8, "needs the 9 tiled layers of table 5; got 8"),
        ("quad_tree", [], "tiles must be positive, one per layer and axis; got"),
        ("quad_tree", [(2, 2), (2,)], "tiles must be positive"),
        ("quad_tree", [(2, 0)], "tiles must be positive"),
    ],
)
def test_invalid_layouts_are_refused(name, tiles, message):
    with pytest.raises(InputError, match=message):
        layout(name, tiles)


def test_a_rounded_border_belongs_to_the_cell_above():
    for side in (47, 49, 103, 107, 161):  # the middle pixel lies on the border of two halves
        assert line(2, 2).index(grid((side,)))[side // 2] == 1
    sixths = torch.tensor([[2 * k / 6 - 1] for k in range(6)], dtype=torch.float32)
    assert line(6, 6).index(sixths).tolist() == [0, 1, 2, 3, 4, 5]
