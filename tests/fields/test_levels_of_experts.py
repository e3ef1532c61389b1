"""Levels-of-Experts' field and its baselines, against a network written out point by point and the paper's figures."""

import pytest
import torch
import torch.nn.functional as F

from genrep.coords import grid
from genrep.errors import InputError
from genrep.models.field import NeuralField
from genrep.nn.fourier import CoordinateEmbedding, PositionalEncoding
from genrep.training.config import read_config
from genrep.training.cost import multiply_adds
from genrep.training.describe import num_parameters
from genrep.training.specs import FieldRun
from tests.scripts import PROJECT

SMALL = {"type": "levels_of_experts", "widths": [6, 5, 4], "num_frequencies": 3}


def make(shape=(16, 16), channels=3, **options) -> NeuralField:
    torch.manual_seed(0)
    field = NeuralField({**SMALL, **options}, shape, channels)
    for layer in field.field.layers:
        torch.nn.init.normal_(layer.bias)
    return field


def configured(path: str) -> NeuralField:
    run = FieldRun.model_validate(read_config(PROJECT / "configs" / path))
    shape = (512, 512) if run.signal.source == "camera" else (8192, 8192)
    return NeuralField(run.field.model_dump(), shape, run.signal.channels or 1)


def plain_encoding(point, num_frequencies):
    angles = [torch.pi * 2**k * x for x in point for k in range(num_frequencies)]
    return torch.stack([*point, *(angle.cos() for angle in angles), *(angle.sin() for angle in angles)])


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"layout": "random_affine"}, {"tile": [2, 3, 1]}, {"num_frequencies": 0}])
def test_a_field_equals_the_network_written_out_point_by_point(num_axes, options):
    field = make((8,) * num_axes, **options)
    coords = torch.cat([grid((4,) * num_axes), torch.rand(20, num_axes) * 2 - 1])
    for point, value in zip(coords, field(coords), strict=True):
        hidden = plain_encoding(point, 3) if field.field.encoding else torch.ones(1)
        for layer in field.field.layers:
            hidden = F.leaky_relu(layer.weight[layer.tiling.index(point[None])[0]] @ hidden + layer.bias, 0.2)
        torch.testing.assert_close(value, field.field.to_values(hidden), atol=1e-5, rtol=1e-4)


def test_cells_replace_a_layout():
    field = make(cells=[3.0, 64.0, 64.0])
    assert [tiling.matrix[1][1] for tiling in field.field.tilings] == [3.0, 64.0, 64.0]


@pytest.mark.parametrize(
    "options", [{}, {"blending": "linear"}, {"type": "positional_mlp", "embedding_dim": 2, "embedding_size": 4}]
)
def test_fields_run_in_half_precision(options):
    field = NeuralField({**SMALL, **options}, (8, 8), 1)
    expected = field(grid(8))
    values = field.to(torch.bfloat16)(grid(8))
    assert values.dtype == torch.bfloat16
    torch.testing.assert_close(values.float(), expected, atol=0.05, rtol=0.1)


def test_a_render_with_the_wrong_number_of_axes_is_refused():
    field = make((4, 4, 4))
    with pytest.raises(InputError, match=r"size must be one number, or 3, one per axis; got \(8, 8\)"):
        field.render((8, 8))
    assert torch.equal(field.render(8), field.render((8, 8, 8)))


def test_prepared_coordinates_give_the_same_values_and_follow_weights():
    field, coords = make(), grid(16)
    prepared = field.prepare(coords)
    torch.testing.assert_close(field(prepared), field(coords))
    with torch.no_grad():
        field.field.layers[0].weight.mul_(2)
    torch.testing.assert_close(field(prepared), field(coords))


@pytest.mark.parametrize("blending", ["nearest", "linear"])
def test_gradients_on_a_grid_are_the_sum_over_its_points(blending):
    field, coords = make(blending=blending), grid(8)
    whole = torch.autograd.grad(field(coords).square().sum(), list(field.parameters()))
    single = torch.autograd.grad(sum(field(point[None]).square().sum() for point in coords), list(field.parameters()))
    for gradient, expected in zip(whole, single, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_linear_blending_is_continuous_and_nearest_is_not():
    places = torch.linspace(-0.9, 0.9, 4001)[:, None].expand(-1, 2)
    jumps = [make(blending=kind, num_frequencies=0)(places).diff(dim=0).abs().max() for kind in ("linear", "nearest")]
    assert jumps[0] < 0.05 < jumps[1]


@pytest.mark.parametrize("options", [{}, {"layout": "random_affine"}, {"blending": "linear"}])
def test_a_render_in_chunks_equals_the_whole(options):
    field = make(**options)
    whole = field.render(32)
    assert whole.shape == (3, 32, 32)
    torch.testing.assert_close(field.render(32, chunk=100), whole)
    torch.testing.assert_close(field.render(16, (-1.0, 0.0, 0.0, 1.0)), whole[:, :16, 16:])


def test_a_video_renders_at_any_size_and_region():
    field = make((4, 8, 8), channels=1)
    assert field.render().shape == (1, 4, 8, 8)
    torch.testing.assert_close(field.render((4, 4, 4), (-1, -1, -1, 1, 0, 0)), field.render()[:, :, :4, :4])


def test_a_saved_field_renders_the_same(tmp_path):
    for number, options in enumerate(
        [
            {},
            {"layout": "random_affine", "layout_seed": 4},
            {"type": "positional_mlp", "embedding_dim": 2, "embedding_size": [3, 5]},
        ]
    ):
        field = NeuralField(
            {"widths": [6, 5], "num_frequencies": 2, "type": "levels_of_experts", **options}, [8, 10], 1
        )
        field.save_pretrained(tmp_path / str(number))
        loaded = NeuralField.from_pretrained(tmp_path / str(number))
        torch.testing.assert_close(loaded.state_dict(), field.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(loaded.render(), field.render())
        assert loaded.shape == (8, 10)


@pytest.mark.parametrize("options", [{}, {"type": "positional_mlp", "embedding_dim": 40, "embedding_size": 4}])
def test_all_layers_start_from_kaimings_uniform_and_zero_biases(options):
    """Supplement A, for leaky ReLU of slope 0.2; each matrix of a tile counts as one linear layer, as does the output."""
    torch.manual_seed(0)
    field = NeuralField({**SMALL, "widths": [200, 300, 400], **options}, (8, 8), 50).field
    assert len([*field.layers, field.to_values]) == 4
    for layer in (*field.layers, field.to_values):
        bound = (6 / (1.04 * layer.weight.shape[-1])) ** 0.5
        for matrix in layer.weight.detach().view(-1, *layer.weight.shape[-2:]):
            assert 0.98 * bound < matrix.abs().max() <= bound
            assert float(matrix.std()) == pytest.approx(bound / 3**0.5, rel=0.03)  # uniform distribution
            assert float(matrix.mean()) == pytest.approx(0, abs=0.03 * bound)
        assert (layer.bias == 0).all()


# the paper's settings


def test_the_toy_has_140_417_parameters_and_the_cost_of_a_dense_mlp():
    """Table 5: 10 layers of 64, 8 frequencies, so 34 inputs; 2×2 matrices in nine layers, one bias per layer."""
    field = configured("camera/quad_tree.yaml")
    assert num_parameters(field) == 4 * (34 * 64 + 8 * 64 * 64) + 9 * 64 + 64 + 1 == 140_417
    assert multiply_adds(field) == 34 * 64 + 8 * 64 * 64 + 64 == 35_008
    twin = configured("camera/pe_mlp.yaml")
    assert num_parameters(twin) == 34 * 64 + 8 * 64 * 64 + 9 * 64 + 64 + 1 and multiply_adds(twin) == 35_008
    assert multiply_adds(make(blending="linear")) == 4 * (14 * 6 + 6 * 5 + 5 * 4) + 4 * 3


def test_the_image_of_table_1_has_the_papers_parameters_and_cost():
    """9.37M parameters and 0.57M multiply-adds; 0.59M and 0.57M for the PE-MLP. 2 coordinates, 13 frequencies: 54 inputs."""
    with torch.device("meta"):
        field, twin = configured("pluto/levels_of_experts.yaml"), configured("pluto/pe_mlp.yaml")
    assert num_parameters(field) == 9_358_211 == pytest.approx(9.37e6, rel=0.002)
    assert num_parameters(twin) == 587_651 == pytest.approx(0.59e6, rel=0.005)
    costs = 54 * 512 + 512 * 384 + 384 * 256 + 4 * 256 * 256 + 256 * 3
    assert costs == 585_472 == pytest.approx(0.57e6, rel=0.03)
    assert multiply_adds(NeuralField(field.config["field"], (8, 8), 3)) == costs
    with torch.device("meta"):
        constant = NeuralField({**field.config["field"], "num_frequencies": 0}, (8192, 8192), 3)
    assert num_parameters(constant) == pytest.approx(8.92e6, rel=0.001)


def test_the_images_grids_are_those_of_table_6():
    """A = 4 for i < 1, else 4^(i+1) / 2, for i = 0 to 6, up to the pitch of 8192 pixels; b = 0."""
    with torch.device("meta"):
        tilings = configured("pluto/levels_of_experts.yaml").field.tilings
    expected = [4 if i < 1 else 4 ** (i + 1) / 2 for i in range(7)]
    assert expected == [4, 8, 32, 128, 512, 2048, 8192]
    assert [tiling.matrix for tiling in tilings] == [((n, 0.0), (0.0, n)) for n in expected]
    assert {(tiling.tile, tiling.offset) for tiling in tilings} == {((4, 4), (0.0, 0.0))}


def test_the_images_embedding_has_table_1s_parameters_and_cost():
    """9.37M and 0.65M: 128 channels on 261×261 cells. On 256×256, as the text says, there would be 9.04M."""
    with torch.device("meta"):
        field = configured("pluto/coordinate_embedding.yaml")
        text = NeuralField({**field.config["field"], "embedding_size": 256}, (8192, 8192), 3)
    network = 587_651 + 128 * 512
    assert num_parameters(field) == network + 128 * 261**2 == 9_372_675 == pytest.approx(9.37e6, rel=5e-4)
    assert num_parameters(text) == network + 128 * 256**2 == 9_041_795
    costs = 585_472 + 128 * 512
    assert multiply_adds(NeuralField({**field.config["field"], "embedding_size": 8}, (8, 8), 3)) == costs
    assert costs == pytest.approx(0.65e6, rel=0.002)


def test_the_video_of_table_2_has_the_papers_parameters():
    """16.9M, with 2³ matrices in the first layer and 4³ in the other four."""
    options = {"widths": [256] * 5, "tile": [2, 4, 4, 4, 4], "num_frequencies": 9}
    with torch.device("meta"):
        field = NeuralField({**SMALL, **options}, (300, 512, 512), 3)
    assert num_parameters(field) == pytest.approx(16.9e6, rel=0.005)
    assert field.field.encoding.num_features == 57
    assert [t.matrix[0][0] for t in field.field.tilings] == [2, 8, 32, 128, 512]


# encodings


def test_the_positional_encoding_is_coordinates_and_octaves_up_to_nyquist():
    encoding, coords = PositionalEncoding(2, 4), torch.rand(10, 2) * 2 - 1
    torch.testing.assert_close(encoding(coords), torch.stack([plain_encoding(point, 4) for point in coords]))
    assert encoding.num_features == 2 + 2 * 2 * 4 and PositionalEncoding(3, 9).frequencies[-1] == 512 / 2


def test_a_coordinate_embedding_is_its_grid_linearly_interpolated():
    embedding = CoordinateEmbedding(2, [4, 6], 3)
    centres = grid((4, 6))
    torch.testing.assert_close(embedding(centres), embedding.grid.detach().flatten(1).T, atol=1e-5, rtol=1e-4)
    middle = (centres[0] + centres[1])[None] / 2
    torch.testing.assert_close(embedding(middle)[0], embedding(centres[:2]).mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        embedding(torch.tensor([[-1.0, -1.0]]))[0], embedding(centres[:1])[0], atol=1e-5, rtol=1e-4
    )
    volume = CoordinateEmbedding(3, 5, 2)
    torch.testing.assert_close(volume(grid((5, 5, 5))), volume.grid.detach().flatten(1).T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_embedding_in_half_precision_finds_the_cells_of_a_point(dtype):
    """With the 267 cells of FFHQ's baseline, to within the rounding of its values."""
    torch.manual_seed(0)
    embedding, coords = CoordinateEmbedding(2, 267, 2), torch.rand(1000, 2) * 2 - 1
    embedding.grid.data = embedding.grid.data.to(dtype).float()
    expected, features = embedding(coords), embedding.to(dtype)(coords)
    assert features.dtype == dtype
    torch.testing.assert_close(features.float(), expected, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    ("field", "shape", "message"),
    [
        ({**SMALL, "tile": [2, 2]}, (8, 8), "tile must be one number, or one per layer: 3, as in widths; got 2"),
        ({**SMALL, "layout": "quadtree"}, (8, 8), "field.layout: .*; got 'quadtree'"),
        ({**SMALL, "layout": "gray_code", "tile": 4}, (8, 8), "gray_code needs tiles of 2"),
        ({**SMALL, "cells": [2.0]}, (8, 8), "cells must have one number per layer: 3, as in widths; got 1"),
        ({**SMALL, "widths": []}, (8, 8), "field.widths"),
        (
            {"type": "experts"},
            (8, 8),
            "field.type: must be one of fourier, gabor, levels_of_experts, positional_mlp, .*; got 'experts'",
        ),
        (SMALL, (), "shape"),
        (SMALL, (8, 0), "shape"),
        ({"type": "positional_mlp", "embedding_dim": 2}, (8,), "one size per axis; got sizes \\[64\\] on 1 axes"),
        (
            {"type": "positional_mlp", "embedding_dim": 2, "embedding_size": [3]},
            (8, 8),
            r"one size per axis; got sizes \[3\] on 2 axes",
        ),
    ],
)
def test_invalid_fields_are_refused(field, shape, message):
    with pytest.raises(InputError, match=message):
        NeuralField(field, shape, 1)
