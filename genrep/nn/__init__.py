"""Blocks that encoders, decoders and generators share."""

from typing import Literal

LayoutName = Literal[
    "quad_tree", "fine_to_coarse", "gray_code", "permuted", "random_permutation", "random_affine", "interleaved", "chunked"
]  # fmt: skip
"""Layouts of the grids of weight tiles, see `genrep.nn.tiling.layout`."""
