"""Networks of one signal: coordinates to values. The table of what there is; a new one is a spec here and a file."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from genrep.nn import LayoutName
from genrep.specs import Frequencies, NonNegativeInt, PositiveFloat, PositiveInt, Spec

if TYPE_CHECKING:
    from genrep.fields.base import Field as FieldNetwork


class LevelsOfExpertsSpec(Spec):
    """LoE: an MLP whose hidden layers have weight tiles, repeated over the space by a grid of each layer's own."""

    type: Literal["levels_of_experts"]
    widths: list[PositiveInt] = Field(default=[64] * 9, min_length=1)
    """Outputs of the hidden layers, all of them with weight tiles; a plain Linear to the values follows."""
    tile: PositiveInt | list[PositiveInt] = 2
    """Weight matrices along every axis, one number or one for each hidden layer."""
    layout: LayoutName = "quad_tree"
    """How the layers' grids lie: table 5's, and `interleaved` and `chunked` of table 1."""
    blending: Literal["nearest", "linear"] = "nearest"
    """One matrix a point (eq. 5), or the 2^axes nearest ones blended (eq. 4) at as many times the cost."""
    finest: PositiveFloat | None = None
    """Cells along an axis that no grid exceeds, such as the signal's pixels; null is no limit."""
    cells: list[PositiveFloat] | None = None
    """Cells of each layer's grid along every axis, in place of a layout; null is by layout."""
    affine_std: PositiveFloat = 16.0
    """Deviation of A in layout random_affine, in cells."""
    layout_seed: NonNegativeInt = 0
    """Seed of the random layouts."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis: 1, 2, 4, ... periods over [-1, 1]; 0 is a constant input."""

    @model_validator(mode="after")
    def _a_tile_each(self) -> "LevelsOfExpertsSpec":
        if isinstance(self.tile, list) and len(self.tile) != len(self.widths):
            raise ValueError(
                f"tile has {len(self.tile)} numbers, widths has {len(self.widths)}: give one for each layer"
            )
        if self.cells is not None and len(self.cells) != len(self.widths):
            raise ValueError(
                f"cells has {len(self.cells)} numbers, widths has {len(self.widths)}: give one for each layer"
            )
        return self

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.levels_of_experts import LevelsOfExpertsField

        return LevelsOfExpertsField(num_axes, channels, **self.model_dump(exclude={"type"}))


class PositionalMLPSpec(Spec):
    """PE-MLP: a plain MLP on the positional encoding, and perhaps on a learned coordinate embedding (CE)."""

    type: Literal["positional_mlp"]
    widths: list[PositiveInt] = Field(default=[64] * 9, min_length=1)
    """Outputs of the hidden layers; a Linear to the values follows."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis: 1, 2, 4, ... periods over [-1, 1]."""
    embedding_dim: NonNegativeInt = 0
    """Channels of the learned grid, interpolated linearly and fed to the first layer; 0 is none."""
    embedding_size: PositiveInt | list[PositiveInt] = 64
    """Cells of that grid along every axis, one number or one for each axis."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.positional_mlp import PositionalMLPField

        return PositionalMLPField(num_axes, channels, **self.model_dump(exclude={"type"}))


FieldSpec = Annotated[LevelsOfExpertsSpec | PositionalMLPSpec, Field(discriminator="type")]
"""Every field there is: a union, told apart by `type`."""
