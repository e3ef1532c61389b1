"""Levels-of-Experts' grids of weight tiles: which weights a coordinate uses in which layer (LoE, section 3, supplement A)."""

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrep.devices import float64_device
from genrep.errors import InputError
from genrep.nn import LayoutName

TABLE_5 = (3, 8, 1, 9, 6, 2, 5, 4, 7)
"""The levels of the nine layers of `permuted`, as table 5 has them."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """One layer's grid: cell ⌊A p + b⌋ of a coordinate p in [0, 1], and its weight tile, the cell modulo `tile`.

    Args:
        tile: weight matrices along each axis; they repeat over the space.
        matrix: A, rows of a square matrix; `A = a I` is a grid of a cells an axis.
        offset: b, in cells.
        blending: `nearest`, one matrix a point (eq. 5), or `linear`, the 2^axes nearest ones blended (eq. 4).
    """

    tile: tuple[int, ...]
    matrix: tuple[tuple[float | int, ...], ...]
    offset: tuple[float | int, ...]
    blending: str = "nearest"

    @property
    def num_tiles(self) -> int:
        return math.prod(self.tile)

    def cells(self, coords: Float[Tensor, "points axes"]) -> Float[Tensor, "points axes"]:
        """A p + b in float64, of coordinates in [-1, 1] (the paper's p is (coords + 1) / 2); on `float64_device`."""
        coords = coords.to(float64_device(coords.device)).double()
        matrix = torch.tensor(self.matrix, dtype=torch.float64, device=coords.device)
        offset = torch.tensor(self.offset, dtype=torch.float64, device=coords.device)
        return torch.addmm(offset + matrix.sum(1) / 2, coords, matrix.T / 2)

    def index(self, coords: Float[Tensor, "points axes"]) -> Int[Tensor, " points"]:
        """The one tile of each coordinate, eq. 5 on every axis, row-major.

        What float32 coordinates leave a hair below a cell's border is taken for the border.
        """
        cells = self.cells(coords)
        rounding = 1e-7 * (1 + torch.tensor(self.matrix, dtype=torch.float64, device=cells.device).abs().sum(1))
        return self._flat(cells.add_(rounding).floor_()).to(coords.device)

    def corners(
        self, coords: Float[Tensor, "points axes"]
    ) -> list[tuple[Int[Tensor, " points"], Float[Tensor, " points"]]]:
        """The 2^axes tiles whose centres surround each coordinate and their weights, eq. 4 on every axis.

        Weights are products over the axes and sum to 1; they have no gradient with respect to `coords`.
        """
        shifted = self.cells(coords.detach()) - 0.5  # cell j's centre is at j + 1/2
        low = shifted.floor()
        share = (shifted - low).to(coords.dtype).to(coords.device)
        found = []
        for step in itertools.product((0, 1), repeat=len(self.tile)):
            up = torch.tensor(step, device=coords.device)
            tiles = self._flat(low + up.to(low.device)).to(coords.device)
            found.append((tiles, torch.where(up.bool(), share, 1 - share).prod(dim=-1)))
        return found

    def _flat(self, cells: Float[Tensor, "points axes"]) -> Int[Tensor, " points"]:
        counts = torch.tensor(self.tile, dtype=cells.dtype, device=cells.device)
        strides = [math.prod(self.tile[axis + 1 :]) for axis in range(len(self.tile))]
        within = (cells / counts).floor_().mul_(counts).neg_().add_(cells)  # the remainder, faster than by `remainder`
        return (within @ torch.tensor(strides, dtype=cells.dtype, device=cells.device)).long()


def layout(
    name: str,
    tiles: Sequence[Sequence[int]],
    *,
    blending: str = "nearest",
    finest: float | int | None = None,
    seed: int = 0,
    affine_std: float | int = 16.0,
) -> list[Tiling]:
    """The grids of a stack of layers, first to last.

    In all but the last three, level k's grid has as many cells along an axis as the tiles of the first k levels have
    matrices: the first level covers the space once, and every level subdivides the one before. `fine_to_coarse` is the
    last level first.

    Args:
        name: `quad_tree`, `gray_code` (tiles of 2; half a cell's shift, so that neighbours differ in one layer),
            `fine_to_coarse`, `permuted` (the order that table 5 calls Random Permute, nine layers) and
            `random_permutation` (another order of the levels, by `seed`);
            `random_affine` (A ~ N(0, affine_std²), b ~ U(0, 1)), `interleaved` (every layer's cells are those of the last level)
            and `chunked` (every layer's those of the first).
        tiles: matrices along each axis of every layer.
        blending: of the tiles' weights.
        finest: cells along an axis that no grid exceeds, such as the image's pixels; None is no limit.
        seed: of the random ones.
        affine_std: of `random_affine`.

    Raises:
        InputError: an unknown name, tiles of different numbers of axes or below 1, or a layout that they cannot have.
    """
    if (
        not tiles
        or len({len(tile) for tile in tiles}) != 1
        or any(n < 1 for tile in tiles for n in tile)
        or not tiles[0]
    ):
        raise InputError(f"tiles must have a number from 1 per layer and axis; got {[list(tile) for tile in tiles]}")
    num_axes, limit, draw = len(tiles[0]), math.inf if finest is None else float(finest), random.Random(seed)
    levels = list(itertools.accumulate(tiles, lambda cells, tile: [a * b for a, b in zip(cells, tile, strict=True)]))
    grids = [[min(float(n), limit) for n in level] for level in levels]
    offsets = [[0.0] * num_axes for _ in tiles]
    if name == "quad_tree":
        pass
    elif name == "fine_to_coarse":
        grids = grids[::-1]
    elif name == "gray_code":
        if any(n != 2 for tile in tiles for n in tile):
            raise InputError("layout gray_code needs tiles of 2 along every axis: change tile, or take quad_tree")
        grids[1:] = [[n / 2 for n in grid] for grid in grids[1:]]
        offsets[1:] = [[0.5] * num_axes for _ in tiles[1:]]
    elif name == "permuted":
        if len(tiles) != len(TABLE_5):
            raise InputError(
                f"layout permuted is table 5's order of {len(TABLE_5)} tiled layers, there are {len(tiles)}: take random_permutation"
            )
        grids = [grids[level - 1] for level in TABLE_5]
    elif name == "random_permutation":
        grids = [grids[level] for level in draw.sample(range(len(tiles)), len(tiles))]
    elif name == "interleaved":
        grids = [grids[-1]] * len(tiles)
    elif name == "chunked":
        grids = [[float(n) for n in tile] for tile in tiles]
    elif name == "random_affine":
        return [
            Tiling(
                tuple(tile),
                tuple(tuple(draw.gauss(0.0, affine_std) for _ in range(num_axes)) for _ in range(num_axes)),
                tuple(draw.random() for _ in range(num_axes)),
                blending,
            )
            for tile in tiles
        ]
    else:
        raise InputError(f"layout {name!r} is not one of {', '.join(get_args(LayoutName))}")
    return [grid_tiling(tile, grid, offset, blending) for tile, grid, offset in zip(tiles, grids, offsets, strict=True)]


def grid_tiling(
    tile: Sequence[int],
    cells: Sequence[float | int],
    offset: Sequence[float | int] | None = None,
    blending: str = "nearest",
) -> Tiling:
    """A grid along the axes: so many `cells` on each of them (A is diagonal), shifted by `offset` cells."""
    matrix = tuple(
        tuple(float(n) if row == column else 0.0 for column in range(len(cells))) for row, n in enumerate(cells)
    )
    return Tiling(tuple(tile), matrix, tuple(offset or [0.0] * len(cells)), blending)
