"""Networks of one signal: coordinates to values. To add one, write a spec here and a file beside this one."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from genrep.nn import LayoutName
from genrep.specs import Frequencies, NonNegativeInt, PositiveFloat, PositiveInt, Spec

if TYPE_CHECKING:
    from genrep.fields.base import Field as FieldNetwork


class LevelsOfExpertsSpec(Spec):
    """LoE: an MLP whose hidden layers choose their weights from tiles, which a grid of each layer's own repeats over space."""

    type: Literal["levels_of_experts"]
    widths: list[PositiveInt] = Field(default=[64] * 9, min_length=1)
    """Outputs of the hidden layers, which all have weight tiles; a plain Linear to the values follows."""
    tile: PositiveInt | list[PositiveInt] = 2
    """Weight matrices along each axis: one number, or one per hidden layer."""
    layout: LayoutName = "quad_tree"
    """Arrangement of the layers' grids: those of table 5, and `interleaved` and `chunked` of table 1."""
    blending: Literal["nearest", "linear"] = "nearest"
    """One matrix per point (eq. 5), or the 2^axes nearest ones blended (eq. 4) at 2^axes times the cost."""
    finest: PositiveFloat | None = None
    """Most cells of a grid along an axis, such as the signal's pixels; null is no limit."""
    cells: list[PositiveFloat] | None = None
    """Cells of each layer's grid along every axis, instead of a layout; null follows the layout."""
    affine_std: PositiveFloat = 16.0
    """Standard deviation of A in layout random_affine, in cells."""
    layout_seed: NonNegativeInt = 0
    """Seed of the random layouts."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis: 1, 2, 4, ... periods over [-1, 1]; 0 is a constant input."""

    @model_validator(mode="after")
    def _one_per_layer(self) -> "LevelsOfExpertsSpec":
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
    """PE-MLP: a plain MLP on the positional encoding and, if embedding_dim is set, on a learned coordinate embedding (CE)."""

    type: Literal["positional_mlp"]
    widths: list[PositiveInt] = Field(default=[64] * 9, min_length=1)
    """Outputs of the hidden layers; a Linear to the values follows."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis: 1, 2, 4, ... periods over [-1, 1]."""
    embedding_dim: NonNegativeInt = 0
    """Channels of the learned grid, which is interpolated linearly and fed to the first layer; 0 disables it."""
    embedding_size: PositiveInt | list[PositiveInt] = 64
    """Cells of that grid along each axis: one number, or one per axis."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.positional_mlp import PositionalMLPField

        return PositionalMLPField(num_axes, channels, **self.model_dump(exclude={"type"}))


class SirenSpec(Spec):
    """SIREN: an MLP with sine activations."""

    type: Literal["siren"]
    widths: list[PositiveInt] = Field(default=[256] * 4, min_length=1)
    """Outputs of the hidden layers; a Linear to the values follows."""
    first_omega: PositiveFloat = 30.0
    """ω of the first layer, sin(ω(Wx + b)): how high the frequencies are that training starts from."""
    hidden_omega: PositiveFloat = 30.0
    """ω of the other layers: how fast their weights train. Their activations do not depend on it at the start."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.siren import SirenField

        return SirenField(num_axes, channels, **self.model_dump(exclude={"type"}))


class FourierSpec(Spec):
    """An MLP with ReLU on random Fourier features."""

    type: Literal["fourier"]
    hidden_dim: PositiveInt = 256
    """Width of the hidden layers."""
    depth: PositiveInt = 4
    """Linear layers, the output layer included."""
    num_features: PositiveInt = 256
    """Fourier features, half of them cosines: an even number."""
    scale: PositiveFloat = 10.0
    """Standard deviation of the frequencies, in periods over the signal."""

    @model_validator(mode="after")
    def _pairs(self) -> "FourierSpec":
        if self.num_features % 2:
            raise ValueError(f"num_features must be even, a cosine and a sine per frequency; got {self.num_features}")
        return self

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.fourier import FourierField

        return FourierField(num_axes, channels, **self.model_dump(exclude={"type"}))


class GaborSpec(Spec):
    """GaborNet: a multiplicative filter network with Gabor filters."""

    type: Literal["gabor"]
    widths: list[PositiveInt] = Field(default=[256] * 4, min_length=1)
    """Filters of each layer; a Linear to the values follows."""
    input_scale: PositiveFloat = 256.0
    """Scale of the frequencies that training starts from, shared among the layers as 1/√(number of layers)."""
    alpha: PositiveFloat = 6.0
    """Shape of the gamma distribution of the filters' inverse variances, shared among the layers as 1/(number of layers)."""
    beta: PositiveFloat = 1.0
    """Rate of that distribution."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.gabor import GaborField

        return GaborField(num_axes, channels, **self.model_dump(exclude={"type"}))


class WireSpec(Spec):
    """WIRE: an MLP of complex Gabor wavelets."""

    type: Literal["wire"]
    widths: list[PositiveInt] = Field(default=[254] * 4, min_length=1)
    """Outputs of the hidden layers, complex numbers; a complex Linear follows, whose real part is the values."""
    omega: PositiveFloat = 10.0
    """ω₀ of the wavelets exp(iω₀u) exp(-|s₀u|²), of all layers: how high their frequency is."""
    scale: PositiveFloat = 10.0
    """s₀ of the wavelets: how narrow they are."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.wire import WireField

        return WireField(num_axes, channels, **self.model_dump(exclude={"type"}))


class SconeSpec(Spec):
    """SCONE: Fourier bases, collaged by learned spatial masks."""

    type: Literal["scone"]
    widths: list[PositiveInt] = Field(default=[250] * 4, min_length=1)
    """Masks and bases of each layer; a Linear to the values follows."""
    omegas: list[PositiveFloat] = Field(default=[90.0, 60.0, 30.0, 10.0])
    """ω of each layer's bases sin(ω(Bx + c)), one per layer."""
    mask_omega: PositiveFloat = 30.0
    """ω₀ of the masks, σ(ω₀(Wz + b)), of all layers."""
    mask: Literal["sin_squared", "sigmoid", "gaussian", "sin", "cos", "tanh", "random_binary"] = "sin_squared"
    """σ: sin² a, 1/(1 + exp(-a)), exp(-a²), or 0.5 + 0.5 sin a, cos a or tanh a; random_binary is the ablation."""
    learn_input_scale: bool = False
    """Train a factor of a in each layer, which starts at 1."""
    mask_cells: PositiveInt = 1024
    """Cells of random_binary along each axis; as many as the signal's longest axis has points make every point its own."""
    mask_seed: NonNegativeInt = 0
    """Seed of random_binary."""

    @model_validator(mode="after")
    def _an_omega_each(self) -> "SconeSpec":
        if len(self.omegas) != len(self.widths):
            raise ValueError(
                f"omegas must have one number per layer, as widths has; got {len(self.omegas)} omegas and {len(self.widths)} widths"
            )
        return self

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.scone import SconeField

        return SconeField(num_axes, channels, **self.model_dump(exclude={"type"}))


FieldSpec = Annotated[
    LevelsOfExpertsSpec | PositionalMLPSpec | SirenSpec | FourierSpec | GaborSpec | WireSpec | SconeSpec,
    Field(discriminator="type"),
]
"""All fields: a union with `type` as its tag."""
