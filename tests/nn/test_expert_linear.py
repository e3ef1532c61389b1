"""The expert layer on grids and on points against its plain definition, in values and gradients."""

import pytest
import torch

from genrep.coords import grid
from genrep.nn.expert_linear import ExpertLinear, plain_expert_linear
from genrep.nn.point_order import MIN_ROWS, BlendedSegments, EqualSegments, PointOrder, Segments
from genrep.nn.tiling import Tiling, layout

LAYOUTS = ["quad_tree", "fine_to_coarse", "gray_code", "random_permutation", "random_affine", "interleaved", "chunked"]


def plain(layer: ExpertLinear, values, coords):
    return plain_expert_linear(values, coords, layer.weight, layer.bias, layer.tiling)


def through(layers, order, values):
    """Values in the order of `order.coords`, through all layers with a tanh after each, back in the points' order."""
    for layer, layer_order in zip(layers, order.layers, strict=True):
        values = layer(layer_order.to_input_order(values), layer_order).tanh()
    return order.restore(values)


def stack(tilings, dims=(5, 6, 4, 3)):
    torch.manual_seed(0)
    layers = [ExpertLinear(a, b, tiling) for a, b, tiling in zip(dims, dims[1:], tilings, strict=False)]
    for layer in layers:
        torch.nn.init.normal_(layer.bias)
    return [layer.double() for layer in layers]


def moves(order):
    return [layer_order.permutation is not None for layer_order in order.layers]


def assert_equals_the_definition(coords, tilings, batch=2, dims=(5, 6, 4, 3)):
    layers, order = stack(tilings, dims), PointOrder(coords, tilings, batch)
    values = torch.randn(len(coords), batch, 5, dtype=torch.float64, requires_grad=True)
    nearest = torch.cdist(order.coords.double(), coords.double()).argmin(1)
    actual, expected = through(layers, order, values[nearest]), values
    for layer in layers:
        expected = plain(layer, expected, coords).tanh()
    torch.testing.assert_close(actual, expected)
    towards = torch.randn_like(actual)
    parameters = [values, *(parameter for layer in layers for parameter in layer.parameters())]
    for mine, reference in zip(
        torch.autograd.grad(actual, parameters, towards),
        torch.autograd.grad(expected, parameters, towards),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)
    return order


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


def test_a_blended_layer_after_a_transposing_one(monkeypatch):
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 8)
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


def test_the_worked_example_of_the_docstring(monkeypatch):
    """4×4 points, two layers of 2×2 tiles: one order for both or, if segments must have 4 rows, two."""
    numbers, tilings = torch.arange(16.0)[:, None, None], layout("quad_tree", [(2, 2)] * 2)

    def numbers_in(coords):
        return torch.cdist(coords, grid(4)).argmin(1)

    def blocks(layer, values):
        return [block.flatten().int().tolist() for _, block in layer.output_blocks(values)]

    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 1)
    order = PointOrder(grid(4), tilings)
    values = numbers[numbers_in(order.coords)]
    assert values.flatten().tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert blocks(order.layers[0], values) == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert blocks(order.layers[1], values) == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 4)
    second = PointOrder(grid(4), tilings).layers[1]
    assert (second.transposed, second.permutation) == (4, None)
    written = second.to_output_order(values)
    assert written.flatten().tolist() == [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    assert blocks(second, written) == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


def test_a_grid_needs_no_move_between_layers_that_subdivide_each_other():
    order = PointOrder(grid(128), layout("quad_tree", [(2, 2)] * 3))
    assert all(isinstance(layer_order, EqualSegments) for layer_order in order.layers) and not any(moves(order))
    assert [(layer_order.before, len(layer_order.tiles), layer_order.after) for layer_order in order.layers] == [
        (1, 4, 4096), (4, 4, 1024), (16, 4, 256),
    ]  # fmt: skip


def test_no_points_and_no_signals_have_no_values():
    tilings = layout("quad_tree", [(2, 2)] * 3)
    for coords, batch in ((torch.zeros(0, 2), 2), (grid(8), 0), (torch.rand(9, 2), 0)):
        layers, order = stack(tilings), PointOrder(coords, tilings, batch)
        assert through(layers, order, torch.zeros(len(coords), batch, 5).double()).shape == (
            len(coords),
            batch,
            3,
        )


def test_on_a_grid_the_next_order_is_the_old_one_with_its_axes_swapped():
    """512×512 in nine levels: five in one order, four in the next, which its first layer writes; nothing is gathered."""
    tilings = layout("quad_tree", [(2, 2)] * 9)
    order = PointOrder(grid(512), tilings)
    assert not any(moves(order)) and order.back is not None
    splits = [(layer_order.before, layer_order.after, layer_order.transposed) for layer_order in order.layers]
    first = [(4**level, 4 ** (8 - level), 1) for level in range(5)]
    assert splits == [*first, (1, 4**8, 4**5), *((4**level, 4 ** (8 - level), 1) for level in range(1, 4))]
    assert all(layer_order.after >= MIN_ROWS for layer_order in order.layers)
    batched = PointOrder(grid(512), tilings, batch=MIN_ROWS)
    assert not any(moves(batched)) and batched.layers[-1].after == 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["quad_tree", "fine_to_coarse", "random_permutation", "gray_code", "interleaved"])
def test_orders_that_change_equal_the_definition(name, batch, monkeypatch):
    """With products of only four rows there are several orders, on a grid and on points."""
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 4 * batch)
    tilings = layout(name, [(2, 2)] * 4)
    dims = (5, 4, 3, 4, 5)
    order = assert_equals_the_definition(grid(16), tilings, batch, dims)
    if name in ("quad_tree", "fine_to_coarse", "random_permutation"):
        assert not any(moves(order)) and [layer_order.transposed for layer_order in order.layers] == [1, 1, 1, 64]
    order = assert_equals_the_definition(torch.rand(100, 2) * 2 - 1, tilings, batch, dims)
    assert name == "interleaved" or any(moves(order))


@pytest.mark.parametrize(("batch", "products"), [(1, 4), (2, 8), (64, 16)])
def test_a_transposing_layer_takes_few_products(batch, products, monkeypatch):
    """16×16 points in three levels: the last reads 16 rows at a time, in four products per tile or one per signal."""
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 16 * batch)
    layer_order = PointOrder(grid(16), layout("quad_tree", [(2, 2)] * 3), batch).layers[2]
    values = torch.randn(256, batch, 5)
    assert (
        layer_order.transposed == 16
        and len(layer_order.input_blocks(values)) == len(layer_order.output_blocks(values)) == products
    )


def test_a_repeated_layer_finds_its_tiles(monkeypatch):
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 8)
    a, b, c = layout("quad_tree", [(2, 2)] * 3)
    for tilings in ([a, b, a, b], [a, c, c, a], [c, b, a, a]):
        assert_equals_the_definition(grid(8), tilings, 1, (5, 4, 3, 4, 5))
        assert_equals_the_definition(torch.rand(90, 2) * 2 - 1, tilings, 1, (5, 4, 3, 4, 5))


def test_a_shortcut_around_a_layer_is_in_the_order_that_the_layer_writes(monkeypatch):
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 8)
    coords, tilings = grid(16), layout("quad_tree", [(2, 2)] * 4)
    order, layers = PointOrder(coords, tilings, 2), stack(tilings, (3, 3, 3, 3, 3))
    values = torch.randn(256, 2, 3, dtype=torch.float64)
    hidden = values[torch.cdist(order.coords.double(), coords.double()).argmin(1)]
    for layer, layer_order in zip(layers, order.layers, strict=True):
        hidden = layer_order.to_input_order(hidden)
        hidden = layer(hidden, layer_order).tanh() + layer_order.to_output_order(hidden)
        values = plain(layer, values, coords).tanh() + values
    assert any(layer_order.transposed > 1 for layer_order in order.layers)
    torch.testing.assert_close(order.restore(hidden), values)


def test_points_are_sorted_once_for_all_layers_of_one_layout():
    order = PointOrder(torch.rand(1000, 2) * 2 - 1, layout("chunked", [(2, 2)] * 4))
    assert all(isinstance(layer_order, Segments) for layer_order in order.layers) and not any(moves(order))
    assert sum(order.layers[0].counts) == 1000


def test_blended_layers_keep_the_current_order():
    order = PointOrder(grid(8), layout("quad_tree", [(2, 2)] * 2, blending="linear"))
    assert all(
        isinstance(layer_order, BlendedSegments) and len(layer_order.corners) == 4 for layer_order in order.layers
    )
    assert not any(moves(order)) and order.back is None


def test_tiles_without_points_have_zero_gradients():
    (tiling,) = layout("chunked", [(4, 4)])
    coords = torch.full((10, 2), -0.9)
    layer, order = ExpertLinear(3, 2, tiling), PointOrder(coords, [tiling])
    layer(torch.randn(10, 1, 3), order.layers[0]).sum().backward()
    assert (layer.weight.grad.flatten(1).abs().sum(1) > 0).tolist() == [True] + [False] * 15


def test_large_weights_have_the_same_gradient():
    (tiling,) = layout("chunked", [(2, 2)])
    coords, values = grid(16), torch.randn(256, 1, 140, dtype=torch.float64)
    layer = ExpertLinear(140, 150, tiling).double()
    order = PointOrder(coords, [tiling])
    nearest = torch.cdist(order.coords.double(), coords.double()).argmin(1)
    actual = order.restore(layer(values[nearest], order.layers[0]))
    (mine,) = torch.autograd.grad(actual.square().sum(), layer.weight)
    (reference,) = torch.autograd.grad(plain(layer, values, coords).square().sum(), layer.weight)
    torch.testing.assert_close(mine, reference)


def test_weights_start_from_kaimings_distribution_and_biases_from_zero():
    layer = ExpertLinear(300, 200, layout("quad_tree", [(2, 2)])[0])
    bound = (6 / ((1 + 0.2**2) * 300)) ** 0.5
    weight = layer.weight.detach()
    assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert layer.bias.eq(0).all() and layer.weight.shape == (4, 200, 300)


@pytest.mark.parametrize("width", [4, 140])  # small and large weights
def test_autocast_runs_in_its_precision_and_sums_gradients_in_float32(width):
    tilings = layout("quad_tree", [(2, 2)] * 3)
    layer, order = ExpertLinear(width, width, tilings[2]), PointOrder(grid(64), tilings)
    values = torch.randn(4096, 1, width)
    (exact,) = torch.autograd.grad(layer(values, order.layers[2]).square().sum(), layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        actual = layer(values, order.layers[2])
    (rounded,) = torch.autograd.grad(actual.float().square().sum(), layer.weight)
    assert actual.dtype == torch.bfloat16 and rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.006 * exact.norm()


def test_a_tiling_of_one_matrix_is_a_linear_layer():
    tiling = Tiling((1, 1), ((3.0, 0.0), (0.0, 3.0)), (0.0, 0.0))
    layer, coords = ExpertLinear(4, 3, tiling), torch.rand(20, 2)
    order, values = PointOrder(coords, [tiling]), torch.randn(20, 2, 4)
    torch.testing.assert_close(
        layer(values, order.layers[0]), torch.nn.functional.linear(values, layer.weight[0], layer.bias)
    )


def test_a_block_of_a_grid_uses_only_its_own_tiles():
    """Rows 16 to 31 of a 64×64 grid: the coarse levels have one row of tiles, and nothing is gathered."""
    tilings = layout("quad_tree", [(2, 2)] * 3)
    order = PointOrder(grid(64, start=16 * 64, stop=32 * 64), tilings)
    assert not any(moves(order)) and all(isinstance(layer_order, EqualSegments) for layer_order in order.layers)
    assert [layer_order.tiles for layer_order in order.layers] == [[0, 1], [2, 3], [0, 1, 2, 3]]
    (only,) = PointOrder(grid(64, start=0, stop=20), tilings[:1]).layers
    assert (only.before, only.tiles, only.after) == (1, [0], 20)


@pytest.mark.parametrize("name", LAYOUTS)
def test_pieces_of_a_grid_equal_the_definition(name):
    tilings = layout(name, [(2, 2)] * 3)
    for start, stop in ((0, 64), (64, 128), (17, 90), (250, 256)):
        assert_equals_the_definition(grid(16, start=start, stop=stop), tilings)


def grouped_and_looped(monkeypatch, coords, tilings, width, batch, dtype):
    """Values and gradients of a stack by `grouped_mm` (on the CPU torch itself loops) and by our loop; number of calls."""
    calls, grouped_mm = [], torch.nn.functional.grouped_mm
    monkeypatch.setattr(
        torch.nn.functional, "grouped_mm", lambda *args, **options: calls.append(1) or grouped_mm(*args, **options)
    )
    layers = [layer.to(coords.device, dtype) for layer in stack(tilings, [width] * (len(tilings) + 1))]
    order = PointOrder(coords, tilings, batch)
    torch.manual_seed(1)
    values, results = torch.randn(len(coords), batch, width).to(coords.device, dtype).requires_grad_(), []
    for dtypes in ({coords.device.type: (dtype,)}, {}):
        monkeypatch.setattr("genrep.nn.expert_linear.GROUPED_MM_DTYPES", dtypes)
        out = through(layers, order, values)
        parameters = [values, *(parameter for layer in layers for parameter in layer.parameters())]
        results.append([out, *torch.autograd.grad(out.float().square().sum(), parameters)])
    return *results, len(calls)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("blending", ["nearest", "linear"])
@pytest.mark.parametrize("points", ["grid", "random"])
def test_grouped_products_equal_a_product_per_tile(points, blending, dtype, tolerance, monkeypatch):
    coords = grid(32) if points == "grid" else torch.rand(700, 2) * 2 - 1
    tilings = layout("chunked", [(2, 2)] * 3, blending=blending)
    grouped, looped, calls = grouped_and_looped(monkeypatch, coords, tilings, 8, 3, dtype)
    assert calls == 3 * (1 if blending == "nearest" else 4) * 3  # forward, to the values, to the weights
    for grouped_values, looped_values in zip(grouped, looped, strict=True):
        assert (
            grouped_values.dtype == looped_values.dtype
            and (grouped_values - looped_values).norm() <= tolerance * looped_values.norm()
        )


def test_grouped_products_add_up_the_segments_of_a_tile(monkeypatch):
    """A quad tree on 64×64 points: 4 and 16 segments of 4 tiles; the third layer's 64 would need too many copies."""
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 1)
    tilings = layout("quad_tree", [(2, 2)] * 3)
    grouped, looped, calls = grouped_and_looped(monkeypatch, grid(64), tilings, 64, 1, torch.float32)
    assert calls == 2 * 3
    for grouped_values, looped_values in zip(grouped, looped, strict=True):
        torch.testing.assert_close(grouped_values, looped_values, atol=1e-4, rtol=1e-4)


def test_grouped_products_only_where_torch_supports_them(monkeypatch):
    """Loops for widths that are not multiples of 16 bytes, layers that swap axes, and dtypes that a device cannot group."""
    (tiling,) = layout("chunked", [(2, 2)])
    assert grouped_and_looped(monkeypatch, grid(16), [tiling], 6, 1, torch.float32)[2] == 0
    assert grouped_and_looped(monkeypatch, grid(16), [tiling], 4, 1, torch.bfloat16)[2] == 0
    assert grouped_and_looped(monkeypatch, grid(16)[:0], [tiling], 8, 1, torch.float32)[2] == 0
    monkeypatch.setattr("genrep.nn.point_order.MIN_ROWS", 256)
    tilings = layout("quad_tree", [(2, 2)] * 2)
    assert grouped_and_looped(monkeypatch, grid(16), tilings, 8, 1, torch.float32)[2] == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_gpu_agrees_with_the_definition(name):
    tilings = layout(name, [(2, 2)] * 3)
    for coords in (grid(16), torch.rand(70, 2) * 2 - 1):
        layers = [layer.cuda() for layer in stack(tilings)]
        order = PointOrder(coords.cuda(), tilings, 2)
        values = torch.randn(len(coords), 2, 5, dtype=torch.float64, device="cuda")
        nearest = torch.cdist(order.coords.double(), coords.double().cuda()).argmin(1)
        actual, expected = through(layers, order, values[nearest]), values
        for layer in layers:
            expected = plain(layer, expected, coords.cuda()).tanh()
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            torch.autograd.grad(actual.sum(), parameters), torch.autograd.grad(expected.sum(), parameters)
        )


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] not in (9, 10),
    reason="needs a Hopper or newer",
)
def test_a_gpu_groups_products_in_bfloat16(monkeypatch):
    for coords in (grid(64), torch.rand(5000, 2) * 2 - 1):
        tilings = layout("chunked", [(4, 4)] * 3)
        grouped, looped, calls = grouped_and_looped(monkeypatch, coords.cuda(), tilings, 64, 4, torch.bfloat16)
        assert calls == 3 * 3
        for grouped_values, looped_values in zip(grouped, looped, strict=True):
            assert (grouped_values - looped_values).norm() <= 0.02 * looped_values.norm()
