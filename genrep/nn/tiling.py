"""Grids of weight tiles of Levels-of-Experts: which weights a coordinate uses in which layer (section 3, supplement A)."""

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
"""The levels of the nine layers of `permuted`, from table 5."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """One layer's grid: a coordinate p in [0, 1] lies in cell ⌊A p + b⌋ and uses the weight tile of that cell modulo `tile`.

    Args:
        tile: weight matrices along each axis; they repeat over the space.
        matrix: A, rows of a square matrix; `A = a I` is a grid of a cells per axis.
        offset: b, in cells.
        blending: `nearest`, one matrix per point (eq. 5), or `linear`, the 2^axes nearest ones blended (eq. 4).
    """

    tile: tuple[int, ...]
    matrix: tuple[tuple[float | int, ...], ...]
    offset: tuple[float | int, ...]
    blending: str = "nearest"

    @property
    def num_tiles(self) -> int:
        return math.prod(self.tile)

    def cells(self, coords: Float[Tensor, "points axes"]) -> Float[Tensor, "points axes"]:
        """A p + b in float64 on `float64_device`, for coordinates in [-1, 1]."""
        # The paper's p in [0, 1] is (coords + 1) / 2, so A p + b = (A / 2) coords + (b + A 1 / 2). In float64, because in
        # float32 only 11 bits would be left for the place within cell 8191 of 8192.
        coords = coords.to(float64_device(coords.device)).double()
        matrix = torch.tensor(self.matrix, dtype=torch.float64, device=coords.device)
        offset = torch.tensor(self.offset, dtype=torch.float64, device=coords.device)
        return torch.addmm(offset + matrix.sum(1) / 2, coords, matrix.T / 2)

    def index(self, coords: Float[Tensor, "points axes"]) -> Int[Tensor, " points"]:
        """The tile of each coordinate (eq. 5 on every axis), row-major."""
        cells = self.cells(coords)
        # A float32 coordinate on a cell's border may have been rounded to just below it, by at most 2^-25 = 3e-8. A margin of
        # 1e-7 puts it into the cell above, where it belongs.
        rounding = 1e-7 * (1 + torch.tensor(self.matrix, dtype=torch.float64, device=cells.device).abs().sum(1))
        return self._flat(cells.add_(rounding).floor_()).to(coords.device)

    def corners(
        self, coords: Float[Tensor, "points axes"]
    ) -> list[tuple[Int[Tensor, " points"], Float[Tensor, " points"]]]:
        """The 2^axes tiles whose centres surround each coordinate, and their weights (eq. 4 on every axis).

        Weights are products over the axes and sum to 1; they have no gradient with respect to `coords`.
        """
        shifted = self.cells(coords.detach()) - 0.5  # the centre of cell j is at j + 1/2
        low = shifted.floor()
        share = (shifted - low).to(coords.dtype).to(coords.device)
        corners = []
        for step in itertools.product((0, 1), repeat=len(self.tile)):
            up = torch.tensor(step, device=coords.device)
            tiles = self._flat(low + up.to(low.device)).to(coords.device)
            corners.append((tiles, torch.where(up.bool(), share, 1 - share).prod(dim=-1)))
        return corners

    def _flat(self, cells: Float[Tensor, "points axes"]) -> Int[Tensor, " points"]:
        """The row-major index of the tile of each cell, which wraps around: cell -1 uses the last tile."""
        counts = torch.tensor(self.tile, dtype=cells.dtype, device=cells.device)
        strides = [math.prod(self.tile[axis + 1 :]) for axis in range(len(self.tile))]
        within = (cells / counts).floor_().mul_(counts).neg_().add_(cells)  # cells mod counts, faster than `remainder`
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

    The layouts are orders of levels. The first level covers the space once and every level subdivides the one before, so
    that the grid of level k has, along each axis, the product of the first k tile sizes as its number of cells:

        quad_tree           coarse to fine
        fine_to_coarse      the last level first
        gray_code           quad_tree with tiles of 2, shifted by half a cell, so that neighbours differ in one layer only
        permuted            the order that table 5 calls Random Permute, for nine layers
        random_permutation  another random order, by `seed`

    The other three have no levels:

        random_affine       A ~ N(0, affine_std²), b ~ U(0, 1)
        interleaved         all layers use the cells of the last level
        chunked             every layer covers the space once, like the first level

    Args:
        name: one of these layouts.
        tiles: matrices along each axis, for every layer.
        blending: `nearest` or `linear`, see `Tiling`.
        finest: upper limit on the cells along an axis, such as the image's pixels; None is no limit.
        seed: seed of the random layouts.
        affine_std: standard deviation of A's entries in `random_affine`.

    Raises:
        InputError: an unknown name, tiles below 1 or with different numbers of axes, or tiles that do not fit the layout.
    """
    if (
        not tiles
        or len({len(tile) for tile in tiles}) != 1
        or any(n < 1 for tile in tiles for n in tile)
        or not tiles[0]
    ):
        raise InputError(f"tiles must be positive, one per layer and axis; got {[list(tile) for tile in tiles]}")
    # Python's generator does not depend on torch's version or device: a loaded model draws its layout again from the seed.
    num_axes, limit, draw = len(tiles[0]), math.inf if finest is None else float(finest), random.Random(seed)
    # level k has the product of the first k tiles as its cells: 4, 16, 64 for tiles of 4
    # Level k has the product of the first k tiles as its number of cells, such as 4, 16, 64.
    levels = list(itertools.accumulate(tiles, lambda cells, tile: [a * b for a, b in zip(cells, tile, strict=True)]))
    grids = [[min(float(n), limit) for n in level] for level in levels]
    offsets = [[0.0] * num_axes for _ in tiles]
    if name == "quad_tree":
        pass
    elif name == "fine_to_coarse":
        grids = grids[::-1]
    elif name == "gray_code":
        if any(n != 2 for tile in tiles for n in tile):
            raise InputError("layout gray_code needs tiles of 2 along every axis: change tile, or use quad_tree")
        # The borders of level k then lie at odd multiples of 2^-k, so that no two levels share one.
        grids[1:] = [[n / 2 for n in grid] for grid in grids[1:]]
        offsets[1:] = [[0.5] * num_axes for _ in tiles[1:]]
    elif name == "permuted":
        if len(tiles) != len(TABLE_5):
            raise InputError(
                f"layout permuted needs the {len(TABLE_5)} tiled layers of table 5; got {len(tiles)}: use random_permutation"
            )
        grids = [grids[level - 1] for level in TABLE_5]
    elif name == "random_permutation":
        grids = [grids[level] for level in draw.sample(range(len(tiles)), len(tiles))]
    elif name == "interleaved":
        grids = [grids[-1]] * len(tiles)
    elif name == "chunked":
        grids = [[float(n) for n in tile] for tile in tiles]  # as many cells as tiles: no tile repeats
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
        raise InputError(f"layout must be one of {', '.join(get_args(LayoutName))}; got {name!r}")
    return [grid_tiling(tile, grid, offset, blending) for tile, grid, offset in zip(tiles, grids, offsets, strict=True)]


def grid_tiling(
    tile: Sequence[int],
    cells: Sequence[float | int],
    offset: Sequence[float | int] | None = None,
    blending: str = "nearest",
) -> Tiling:
    """An axis-aligned grid (A is diagonal) with `cells` along each axis, shifted by `offset` cells."""
    matrix = tuple(
        tuple(float(n) if row == column else 0.0 for column in range(len(cells))) for row, n in enumerate(cells)
    )
    return Tiling(tuple(tile), matrix, tuple(offset or [0.0] * len(cells)), blending)
