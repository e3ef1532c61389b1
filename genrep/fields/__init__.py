"""Networks that map a signal's coordinates to its values. To add one, write a spec here and a file in this folder."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from genrep.nn import LayoutName
from genrep.specs import Frequencies, NonNegativeInt, PositiveFloat, PositiveInt, Spec

if TYPE_CHECKING:
    from genrep.fields.base import Field as FieldNetwork


class LevelsOfExpertsSpec(Spec):
    """LoE: an MLP whose hidden layers pick their weights by position, from tiles repeated over space on a grid per layer."""

    type: Literal["levels_of_experts"]
    widths: list[PositiveInt] = Field(default=[64] * 9, min_length=1)
    """Widths of the hidden layers, all of which have weight tiles; a plain linear layer to the values follows."""
    tile: PositiveInt | list[PositiveInt] = 2
    """Weight matrices along each axis of a tile: one number, or one per hidden layer."""
    layout: LayoutName = "quad_tree"
    """Arrangement of the layers' grids: those of table 5, plus `interleaved` and `chunked` from table 1."""
    blending: Literal["nearest", "linear"] = "nearest"
    """nearest: one matrix per point (eq. 5); linear: the 2^axes nearest ones blended (eq. 4), for 2^axes times the cost."""
    finest: PositiveFloat | None = None
    """Upper limit on a grid's cells along an axis, such as the signal's size in pixels; null means no limit."""
    cells: list[PositiveFloat] | None = None
    """Number of cells along every axis of each layer's grid, in place of a layout; null follows the layout."""
    affine_std: PositiveFloat = 16.0
    """Standard deviation of the entries of A in layout random_affine, in cells."""
    layout_seed: NonNegativeInt = 0
    """Seed of the random layouts."""
    num_frequencies: Frequencies = 8
    """Frequencies of the positional encoding on each axis: 1, 2, 4, ... periods over [-1, 1]; 0 means a constant input."""

    @model_validator(mode="after")
    def _one_per_layer(self) -> "LevelsOfExpertsSpec":
        if isinstance(self.tile, list) and len(self.tile) != len(self.widths):
            raise ValueError(
                f"tile must be one number, or one per layer: {len(self.widths)}, as in widths; got {len(self.tile)}"
            )
        if self.cells is not None and len(self.cells) != len(self.widths):
            raise ValueError(
                f"cells must have one number per layer: {len(self.widths)}, as in widths; got {len(self.cells)}"
            )
        return self

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.levels_of_experts import LevelsOfExpertsField

        return LevelsOfExpertsField(num_axes, channels, **self.model_dump(exclude={"type"}))


class PositionalMLPSpec(Spec):
    """PE-MLP: a plain MLP on the positional encoding and, if embedding_dim is set, on a learned coordinate embedding (CE)."""

    type: Literal["positional_mlp"]
    widths: list[PositiveInt] = Field(default=[64] * 9, min_length=1)
    """Widths of the hidden layers; a linear layer to the values follows."""
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
    """Widths of the hidden layers; a linear layer to the values follows."""
    first_omega: PositiveFloat = 30.0
    """ω of the first layer, sin(ω(Wx + b)); it sets how high the initial frequencies are."""
    hidden_omega: PositiveFloat = 30.0
    """ω of the other hidden layers; it sets how fast their weights train, and leaves their initial activations unchanged."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.siren import SirenField

        return SirenField(num_axes, channels, **self.model_dump(exclude={"type"}))


class FourierSpec(Spec):
    """A ReLU MLP on random Fourier features."""

    type: Literal["fourier"]
    hidden_dim: PositiveInt = 256
    """Width of the hidden layers."""
    depth: PositiveInt = 4
    """Number of linear layers, including the output layer."""
    num_features: PositiveInt = 256
    """Number of Fourier features, half of them cosines and half sines; must be even."""
    scale: PositiveFloat = 10.0
    """Standard deviation of the frequencies, in periods across the signal."""

    @model_validator(mode="after")
    def _pairs(self) -> "FourierSpec":
        if self.num_features % 2:
            raise ValueError(
                f"num_features must be even, with a cosine and a sine per frequency; got {self.num_features}"
            )
        return self

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.fourier import FourierField

        return FourierField(num_axes, channels, **self.model_dump(exclude={"type"}))


class GaborSpec(Spec):
    """GaborNet: a multiplicative filter network with Gabor filters."""

    type: Literal["gabor"]
    widths: list[PositiveInt] = Field(default=[256] * 4, min_length=1)
    """Number of filters in each layer; a linear layer to the values follows."""
    input_scale: PositiveFloat = 256.0
    """Scale of the initial frequencies; it is divided by √(number of layers)."""
    alpha: PositiveFloat = 6.0
    """Shape of the gamma distribution of the filters' inverse variances; it is divided by the number of layers."""
    beta: PositiveFloat = 1.0
    """Rate of that distribution."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.gabor import GaborField

        return GaborField(num_axes, channels, **self.model_dump(exclude={"type"}))


class WireSpec(Spec):
    """WIRE: an MLP of complex Gabor wavelets."""

    type: Literal["wire"]
    widths: list[PositiveInt] = Field(default=[254] * 4, min_length=1)
    """Widths of the hidden layers, in complex numbers; a complex linear layer follows, whose real part is the output."""
    omega: PositiveFloat = 10.0
    """ω₀ of the wavelets exp(iω₀u) exp(-|s₀u|²) in all layers, their frequency."""
    scale: PositiveFloat = 10.0
    """s₀ of the wavelets; a larger value makes them narrower. They reach exp(ω₀² / 4s₀²), so with s₀ below about ω₀ / 2 activations explode."""

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.wire import WireField

        return WireField(num_axes, channels, **self.model_dump(exclude={"type"}))


class SconeSpec(Spec):
    """SCONE: Fourier bases collaged by learned spatial masks."""

    type: Literal["scone"]
    widths: list[PositiveInt] = Field(default=[250] * 4, min_length=1)
    """Number of masks and bases in each layer; a linear layer to the values follows."""
    omegas: list[PositiveFloat] = Field(default=[90.0, 60.0, 30.0, 10.0])
    """ω of the bases sin(ω(Bx + c)), one number per layer."""
    mask_omega: PositiveFloat = 30.0
    """ω₀ of the masks σ(ω₀(Wz + b)) in all layers."""
    mask: Literal["sin_squared", "sigmoid", "gaussian", "sin", "cos", "tanh", "random_binary"] = "sin_squared"
    """σ(a): sin² a, 1/(1 + exp(-a)), exp(-a²), or 0.5 + 0.5 f(a) with f = sin, cos or tanh; random_binary is an ablation."""
    learn_input_scale: bool = False
    """Multiply a by a trained factor in each layer, initially 1."""
    mask_cells: PositiveInt = 1024
    """Cells of random_binary along each axis; to give every point its own, at least the signal's longest axis in points."""
    mask_seed: NonNegativeInt = 0
    """Seed of random_binary."""

    @model_validator(mode="after")
    def _one_omega_per_layer(self) -> "SconeSpec":
        if len(self.omegas) != len(self.widths):
            raise ValueError(
                f"omegas must have one number per layer: {len(self.widths)}, as in widths; got {len(self.omegas)}"
            )
        return self

    def build(self, num_axes: int, channels: int) -> "FieldNetwork":
        from genrep.fields.scone import SconeField

        return SconeField(num_axes, channels, **self.model_dump(exclude={"type"}))


FieldSpec = Annotated[
    LevelsOfExpertsSpec | PositionalMLPSpec | SirenSpec | FourierSpec | GaborSpec | WireSpec | SconeSpec,
    Field(discriminator="type"),
]
"""All kinds of field: a union distinguished by `type`."""
