"""The expert layer on grids and on points against its plain definition, in values and gradients."""

import pytest
import torch

from genrep.coords import grid
from genrep.nn.expert_linear import ROWS, Arrangement, Axis, Blend, ExpertLinear, Runs
from genrep.nn.tiling import Tiling, layout

LAYOUTS = ["quad_tree", "fine_to_coarse", "gray_code", "random_permutation", "random_affine", "interleaved", "chunked"]


def plain(layer: ExpertLinear, values, coords):
    """y = (Σ_j B_j W_j) x + bias, the weight of every point written out (eqs. 3 to 5)."""
    if layer.tiling.blending == "nearest":
        weights = layer.weight[layer.tiling.index(coords)]
    else:
        weights = sum(layer.weight[index] * share[:, None, None] for index, share in layer.tiling.corners(coords))
    return torch.einsum("noi,nbi->nbo", weights, values) + layer.bias


def through(layers, arrangement, values):
    """Values in the order of `arrangement.coords`, through all layers with a tanh after each; in the points' own order."""
    for layer, place in zip(layers, arrangement.places, strict=True):
        values = layer(place.enter(values), place).tanh()
    return arrangement.leave(values)


def stack(tilings, dims=(5, 6, 4, 3)):
    torch.manual_seed(0)
    layers = [ExpertLinear(a, b, tiling) for a, b, tiling in zip(dims, dims[1:], tilings, strict=False)]
    for layer in layers:
        torch.nn.init.normal_(layer.bias)
    return [layer.double() for layer in layers]


def moves(arrangement):
    return [place.move is not None for place in arrangement.places]


def assert_equals_the_definition(coords, tilings, batch=2, dims=(5, 6, 4, 3)):
    layers, arrangement = stack(tilings, dims), Arrangement(coords, tilings, batch)
    values = torch.randn(len(coords), batch, 5, dtype=torch.float64, requires_grad=True)
    order = torch.cdist(arrangement.coords.double(), coords.double()).argmin(1)
    found, expected = through(layers, arrangement, values[order]), values
    for layer in layers:
        expected = plain(layer, expected, coords).tanh()
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(found)
    parameters = [values, *(parameter for layer in layers for parameter in layer.parameters())]
    for one, other in zip(
        torch.autograd.grad(found, parameters, towards), torch.autograd.grad(expected, parameters, towards), strict=True
    ):
        torch.testing.assert_close(one, other)
    return arrangement


@pytest.mark.parametrize("blending", ["nearest", "linear"])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("points", ["grid", "odd grid", "random", "region"])
def test_every_layout_equals_the_definition_on_grids_and_on_points(points, name, blending):
    coords = {
        "grid": grid(16),
        "odd grid": grid((9, 10)),
        "random": torch.rand(70, 2) * 2.4 - 1.2,
        "region": grid(8, (-0.3, 0.1, 0.9, 0.6)),
    }[points]
    assert_equals_the_definition(coords, layout(name, [(2, 2)] * 3, blending=blending))


@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("tiles", [(2, 2, 2), (4, 2, 3), (1, 3, 1)])
def test_any_tiles_and_axes_equal_the_definition(tiles, num_axes):
    for blending in ("nearest", "linear"):
        tilings = layout("quad_tree", [(n,) * num_axes for n in tiles], blending=blending)
        assert_equals_the_definition(torch.rand(60, num_axes) * 2 - 1, tilings)
        assert_equals_the_definition(grid((8,) * num_axes), tilings)


def test_a_blended_layer_finds_the_order_that_was_turned_before_it(monkeypatch):
    monkeypatch.setattr("genrep.nn.expert_linear.ROWS", 8)
    a, b, c, d = layout("quad_tree", [(2, 2)] * 4)
    blended = layout("quad_tree", [(2, 2)] * 4, blending="linear")
    for coords in (grid(16), torch.rand(100, 2) * 2 - 1):
        assert_equals_the_definition(coords, [a, b, d, c, blended[1], a], 1, (5, 4, 3, 4, 5, 2, 3))


def test_layers_of_different_kinds_in_one_stack():
    nearest, blended = (layout("quad_tree", [(2, 2)] * 3, blending=kind) for kind in ("nearest", "linear"))
    affine = layout("random_affine", [(2, 2)] * 3)
    for mixed in (
        [nearest[0], affine[0], nearest[1]],
        [blended[0], nearest[1], affine[2]],
        [affine[0], blended[1], nearest[0]],
    ):
        assert_equals_the_definition(grid(16), mixed)


def test_a_grid_needs_no_move_between_layers_that_subdivide_each_other():
    arrangement = Arrangement(grid(128), layout("quad_tree", [(2, 2)] * 3))
    assert all(isinstance(place, Axis) for place in arrangement.places) and not any(moves(arrangement))
    assert [(place.before, len(place.tiles), place.after) for place in arrangement.places] == [
        (1, 4, 4096), (4, 4, 1024), (16, 4, 256),
    ]  # fmt: skip


def test_no_points_and_no_signals_have_no_values():
    tilings = layout("quad_tree", [(2, 2)] * 3)
    for coords, batch in ((torch.zeros(0, 2), 2), (grid(8), 0), (torch.rand(9, 2), 0)):
        layers, arrangement = stack(tilings), Arrangement(coords, tilings, batch)
        assert through(layers, arrangement, torch.zeros(len(coords), batch, 5).double()).shape == (
            len(coords),
            batch,
            3,
        )


def test_on_a_grid_the_next_order_is_the_old_one_with_its_axes_swapped():
    """512×512 in nine levels: five in one order, four in the next, which its first layer writes; nothing is moved."""
    tilings = layout("quad_tree", [(2, 2)] * 9)
    arrangement = Arrangement(grid(512), tilings)
    assert not any(moves(arrangement)) and arrangement.back is not None
    found = [(place.before, place.after, place.turn) for place in arrangement.places]
    first = [(4**level, 4 ** (8 - level), 1) for level in range(5)]
    assert found == [*first, (1, 4**8, 4**5), *((4**level, 4 ** (8 - level), 1) for level in range(1, 4))]
    assert all(place.after >= ROWS for place in arrangement.places)
    batched = Arrangement(grid(512), tilings, batch=ROWS)
    assert not any(moves(batched)) and batched.places[-1].after == 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["quad_tree", "fine_to_coarse", "random_permutation", "gray_code", "interleaved"])
def test_orders_that_change_equal_the_definition(name, batch, monkeypatch):
    """With products of four rows already, several orders follow one another, on a grid and on points."""
    monkeypatch.setattr("genrep.nn.expert_linear.ROWS", 4 * batch)
    tilings = layout(name, [(2, 2)] * 4)
    dims = (5, 4, 3, 4, 5)
    arrangement = assert_equals_the_definition(grid(16), tilings, batch, dims)
    if name in ("quad_tree", "fine_to_coarse", "random_permutation"):
        assert not any(moves(arrangement)) and [place.turn for place in arrangement.places] == [1, 1, 1, 64]
    arrangement = assert_equals_the_definition(torch.rand(100, 2) * 2 - 1, tilings, batch, dims)
    assert name == "interleaved" or any(moves(arrangement))


@pytest.mark.parametrize(("batch", "products"), [(1, 4), (2, 8), (64, 16)])
def test_a_layer_that_turns_takes_few_products(batch, products, monkeypatch):
    """16×16 points in three levels: the last reads 16 rows at a time, four times or once a signal, whichever is less."""
    monkeypatch.setattr("genrep.nn.expert_linear.ROWS", 16 * batch)
    place = Arrangement(grid(16), layout("quad_tree", [(2, 2)] * 3), batch).places[2]
    values = torch.randn(256, batch, 5)
    assert place.turn == 16 and len(place.read(values)) == len(place.written(values)) == products


def test_a_layer_that_comes_again_finds_its_tiles_again(monkeypatch):
    monkeypatch.setattr("genrep.nn.expert_linear.ROWS", 8)
    a, b, c = layout("quad_tree", [(2, 2)] * 3)
    for tilings in ([a, b, a, b], [a, c, c, a], [c, b, a, a]):
        assert_equals_the_definition(grid(8), tilings, 1, (5, 4, 3, 4, 5))
        assert_equals_the_definition(torch.rand(90, 2) * 2 - 1, tilings, 1, (5, 4, 3, 4, 5))


def test_a_shortcut_around_a_layer_is_in_the_order_that_the_layer_writes(monkeypatch):
    monkeypatch.setattr("genrep.nn.expert_linear.ROWS", 8)
    coords, tilings = grid(16), layout("quad_tree", [(2, 2)] * 4)
    arrangement, layers = Arrangement(coords, tilings, 2), stack(tilings, (3, 3, 3, 3, 3))
    values = torch.randn(256, 2, 3, dtype=torch.float64)
    found = values[torch.cdist(arrangement.coords.double(), coords.double()).argmin(1)]
    for layer, place in zip(layers, arrangement.places, strict=True):
        found = place.enter(found)
        found = layer(found, place).tanh() + place.beside(found)
        values = plain(layer, values, coords).tanh() + values
    assert any(place.turn > 1 for place in arrangement.places)
    torch.testing.assert_close(arrangement.leave(found), values)


def test_points_are_sorted_once_for_all_layers_of_one_layout():
    arrangement = Arrangement(torch.rand(1000, 2) * 2 - 1, layout("chunked", [(2, 2)] * 4))
    assert all(isinstance(place, Runs) for place in arrangement.places) and not any(moves(arrangement))
    assert sum(arrangement.places[0].counts) == 1000


def test_blended_layers_stay_in_the_order_that_they_find():
    arrangement = Arrangement(grid(8), layout("quad_tree", [(2, 2)] * 2, blending="linear"))
    assert all(isinstance(place, Blend) and len(place.corners) == 4 for place in arrangement.places)
    assert not any(moves(arrangement)) and arrangement.back is None


def test_tiles_without_points_have_zero_gradients():
    (tiling,) = layout("chunked", [(4, 4)])
    coords = torch.full((10, 2), -0.9)
    layer, arrangement = ExpertLinear(3, 2, tiling), Arrangement(coords, [tiling])
    layer(torch.randn(10, 1, 3), arrangement.places[0]).sum().backward()
    assert (layer.weight.grad.flatten(1).abs().sum(1) > 0).tolist() == [True] + [False] * 15


def test_large_weights_take_the_other_way_to_the_same_gradient():
    (tiling,) = layout("chunked", [(2, 2)])
    coords, values = grid(16), torch.randn(256, 1, 140, dtype=torch.float64)
    layer = ExpertLinear(140, 150, tiling).double()
    arrangement = Arrangement(coords, [tiling])
    order = torch.cdist(arrangement.coords.double(), coords.double()).argmin(1)
    found = arrangement.leave(layer(values[order], arrangement.places[0]))
    (one,) = torch.autograd.grad(found.square().sum(), layer.weight)
    (other,) = torch.autograd.grad(plain(layer, values, coords).square().sum(), layer.weight)
    torch.testing.assert_close(one, other)


def test_weights_start_from_kaimings_distribution_and_biases_from_zero():
    layer = ExpertLinear(300, 200, layout("quad_tree", [(2, 2)])[0])
    bound = (6 / ((1 + 0.2**2) * 300)) ** 0.5
    weight = layer.weight.detach()
    assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert layer.bias.eq(0).all() and layer.weight.shape == (4, 200, 300)


@pytest.mark.parametrize("width", [4, 140])  # small and large weights
def test_autocast_runs_in_its_precision_and_sums_gradients_in_float32(width):
    tilings = layout("quad_tree", [(2, 2)] * 3)
    layer, arrangement = ExpertLinear(width, width, tilings[2]), Arrangement(grid(64), tilings)
    values = torch.randn(4096, 1, width)
    (exact,) = torch.autograd.grad(layer(values, arrangement.places[2]).square().sum(), layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(values, arrangement.places[2])
    (rounded,) = torch.autograd.grad(found.float().square().sum(), layer.weight)
    assert found.dtype == torch.bfloat16 and rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.006 * exact.norm()


def test_a_tiling_of_one_matrix_is_a_linear_layer():
    tiling = Tiling((1, 1), ((3.0, 0.0), (0.0, 3.0)), (0.0, 0.0))
    layer, coords = ExpertLinear(4, 3, tiling), torch.rand(20, 2)
    arrangement, values = Arrangement(coords, [tiling]), torch.randn(20, 2, 4)
    torch.testing.assert_close(
        layer(values, arrangement.places[0]), torch.nn.functional.linear(values, layer.weight[0], layer.bias)
    )


def test_a_block_of_a_grid_has_an_order_of_the_tiles_that_it_uses():
    """Rows 16 to 31 of a 64×64 grid: the coarse levels have one row of tiles, and nothing moves."""
    tilings = layout("quad_tree", [(2, 2)] * 3)
    arrangement = Arrangement(grid(64, start=16 * 64, stop=32 * 64), tilings)
    assert not any(moves(arrangement)) and all(isinstance(place, Axis) for place in arrangement.places)
    assert [place.tiles for place in arrangement.places] == [[0, 1], [2, 3], [0, 1, 2, 3]]
    (only,) = Arrangement(grid(64, start=0, stop=20), tilings[:1]).places
    assert (only.before, only.tiles, only.after) == (1, [0], 20)


@pytest.mark.parametrize("name", LAYOUTS)
def test_pieces_of_a_grid_equal_the_definition(name):
    tilings = layout(name, [(2, 2)] * 3)
    for start, stop in ((0, 64), (64, 128), (17, 90), (250, 256)):
        assert_equals_the_definition(grid(16, start=start, stop=stop), tilings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_gpu_gives_what_the_definition_gives(name):
    tilings = layout(name, [(2, 2)] * 3)
    for coords in (grid(16), torch.rand(70, 2) * 2 - 1):
        layers = [layer.cuda() for layer in stack(tilings)]
        arrangement = Arrangement(coords.cuda(), tilings, 2)
        values = torch.randn(len(coords), 2, 5, dtype=torch.float64, device="cuda")
        order = torch.cdist(arrangement.coords.double(), coords.double().cuda()).argmin(1)
        found, expected = through(layers, arrangement, values[order]), values
        for layer in layers:
            expected = plain(layer, expected, coords.cuda()).tanh()
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(expected.sum(), parameters)
        )
