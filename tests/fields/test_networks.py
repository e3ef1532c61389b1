"""SIREN, Fourier, Gabor, WIRE and SCONE: parameters, initial statistics, and each network against its equations."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from genrep.coords import grid
from genrep.errors import InputError
from genrep.fields.scone import MASKS, MASKS_AND_SLOPES, random_mask
from genrep.fields.wire import Wavelets
from genrep.models.field import NeuralField
from genrep.nn.sines import GridPlaces, places_of
from genrep.training.config import read_config
from genrep.training.describe import num_parameters, num_real_numbers, parameters_text
from genrep.training.specs import FieldRun
from tests.scripts import PROJECT

SMALL = {
    "siren": {"type": "siren", "widths": [20, 21, 22]},
    "fourier": {"type": "fourier", "hidden_dim": 20, "num_features": 12, "scale": 1.0},
    "gabor": {"type": "gabor", "widths": [20, 21, 22], "input_scale": 8.0},
    "wire": {"type": "wire", "widths": [20, 21, 22], "omega": 5.0, "scale": 2.0},
    "scone": {"type": "scone", "widths": [20, 21, 22], "omegas": [9.0, 5.0, 3.0]},
}
OTHERS = {
    "levels_of_experts": {"type": "levels_of_experts", "widths": [6, 5, 4], "num_frequencies": 3},
    "positional_mlp": {"type": "positional_mlp", "widths": [6, 5, 4], "num_frequencies": 3},
}
SOFT = sorted(MASKS)


def make(spec, shape=(16, 16), channels=3, dtype=torch.float32):
    torch.manual_seed(0)
    return NeuralField(spec, shape, channels).field.to(dtype)


def configured(path: str, num_axes: int) -> NeuralField:
    run = FieldRun.model_validate(read_config(PROJECT / "configs" / path))
    with torch.device("meta"):
        return NeuralField(run.field.model_dump(), (16,) * num_axes, run.signal.channels or 1)


# parameters


@pytest.mark.parametrize(
    ("name", "image", "video"),
    [
        ("scone", 192_753, 194_003),
        ("fourier", 198_147, 198_147),
        ("siren", 198_915, 199_171),
        ("gabor", 204_291, 206_339),
        ("wire", 195_837, 196_091),
    ],
)
def test_the_networks_have_scones_parameter_counts(name, image, video):
    """Table 1, on three axes, and the same networks on the two of an image."""
    assert num_parameters(configured(f"kodak/{name}.yaml", 2)) == image
    assert num_parameters(configured(f"video/{name}.yaml", 3)) == video


def test_the_counts_are_closed_forms():
    n, hidden = 256, 256 * 256 + 256
    assert num_parameters(configured("video/siren.yaml", 3)) == (3 * n + n) + 3 * hidden + (3 * n + 3)
    assert num_parameters(configured("video/fourier.yaml", 3)) == 3 * hidden + (3 * n + 3)
    assert num_parameters(configured("video/gabor.yaml", 3)) == 4 * (3 * n + n + 3 * n + n) + 3 * hidden + (3 * n + 3)
    scone = 4 * (3 * 250 + 250) + (3 * 250 + 250) + 3 * (250 * 250 + 250) + (3 * 250 + 3)
    assert num_parameters(configured("video/scone.yaml", 3)) == scone
    first, others = 3 * 254 + 254, 3 * (254 * 254 + 254) + (3 * 254 + 3)
    assert num_parameters(configured("video/wire.yaml", 3)) == first + others
    assert num_real_numbers(configured("video/wire.yaml", 3)) == first + 2 * others == 391_166


def test_both_parameter_counts_are_reported_where_they_differ():
    assert parameters_text(configured("video/wire.yaml", 3)) == "196,091 parameters (391,166 real numbers)"
    assert parameters_text(configured("video/siren.yaml", 3)) == "199,171 parameters"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("siren_loe", 264_963),
        ("siren_large", 4_205_571),
        ("levels_of_experts", 16_896_003),
        ("pe_mlp", 278_787),
        ("pe_ce", 17_072_387),
    ],
)
def test_the_networks_of_levels_of_experts_have_table_2s_counts(name, count):
    """Table 2, which rounds to 265K, 4.21M, 16.9M, 279K and 17.1M."""
    assert num_parameters(configured(f"video/{name}.yaml", 3)) == count


def test_siemens_networks_have_four_hidden_layers_of_64():
    for name in ("scone", "siren", "gabor"):
        assert list(configured(f"siemens/{name}.yaml", 2).config["field"]["widths"]) == [64] * 4
    # WIRE's code divides widths by √2, which makes 254 complex units of table 1's 360
    assert list(configured("siemens/wire.yaml", 2).config["field"]["widths"]) == [int(64 / 2**0.5)] * 4
    assert (
        num_real_numbers(configured("siemens/wire.yaml", 2)) == 3 * 45 + 3 * 2 * 46 * 45 + 2 * 46
    )  # of SCONE's 13,505


# initial statistics


def test_sirens_activations_keep_their_distribution_through_depth():
    """The sine of a wide normal distribution is arcsine-distributed, with standard deviation √½; ωW z is about N(0, 1)."""
    field = make({"type": "siren", "widths": [256] * 10}, (64, 64))
    coords = grid(64)
    for parameter in field.parameters():
        parameter.requires_grad_(False)
    stds = [float(hidden.std()) for hidden in field.activations(coords).values()]
    assert stds == pytest.approx([0.5**0.5] * 10, rel=0.06)
    hidden = field.activations(coords)["layer 9"]
    products = field.hidden[9](hidden) - 30 * field.hidden[9].bias
    assert float(products.std()) == pytest.approx(1, rel=0.1) and float(products.mean()) == pytest.approx(0, abs=0.1)
    first = field.hidden[0]
    assert float(first.weight.abs().max()) <= 1 / 2 and float(first.weight.std()) == pytest.approx(
        0.5 / 3**0.5, rel=0.1
    )
    assert float(first.bias.abs().max()) <= 1 / 2**0.5
    bound = (6 / 256) ** 0.5 / 30
    for layer in (*field.hidden[1:], field.to_values):
        assert 0.9 * bound < float(layer.weight.abs().max()) <= bound


def test_the_omega_of_hidden_layers_does_not_change_the_initial_products():
    slow, fast = (
        make({"type": "siren", "widths": [64] * 3, "hidden_omega": omega}, channels=1) for omega in (10.0, 60.0)
    )
    with torch.no_grad():
        for a, b in zip(slow.hidden[1:], fast.hidden[1:], strict=True):
            torch.testing.assert_close(10 * a.weight, 60 * b.weight)


def test_gabor_filters_start_as_published():
    """4 layers: μ in [-1, 1], γ ~ Gamma(6/4, 1), frequencies uniform with a deviation of 256/√4 √γ / √(3 axes)."""
    field = make({"type": "gabor", "widths": [4000] * 4}, (64, 64))
    for part in field.filters:
        centres, gamma, weight = part.centres.detach(), part.gamma.detach(), part.linear.weight.detach()
        assert float(centres.abs().max()) <= 1 and float(centres.std()) == pytest.approx(1 / 3**0.5, rel=0.05)
        assert float(gamma.mean()) == pytest.approx(1.5, rel=0.1) and float(gamma.var()) == pytest.approx(1.5, rel=0.25)
        scaled = weight / gamma[:, None].sqrt()
        assert float(scaled.std()) == pytest.approx(128 / 2**0.5 / 3**0.5, rel=0.05)
        assert float(part.linear.bias.abs().max()) <= math.pi


def test_wavelets_reach_what_their_omega_and_scale_say():
    """|ψ(a + ib)| = exp(-ω₀b - s₀²(a² + b²)) is largest at a = 0, b = -ω₀ / 2s₀²."""
    for omega, scale in ((10.0, 10.0), (2.0, 4.0), (10.0, 4.0)):
        a, b = torch.meshgrid(torch.linspace(-1, 1, 201), torch.linspace(-1, 1, 2001), indexing="ij")
        real, imaginary = Wavelets.apply(torch.stack([a, b], dim=-1).view(-1, 2), omega, scale).unbind(dim=1)
        assert float(torch.hypot(real, imaginary).max()) == pytest.approx(math.exp(omega**2 / (4 * scale**2)), rel=1e-3)


def test_seven_layers_of_wire_start_smooth_enough_to_learn_a_shape():
    """How far apart activations of points at a distance of 0.02 are: √2 standard deviations if they are uncorrelated."""
    ours = read_config(PROJECT / "configs/shapes/wire.yaml")["field"]
    generator = torch.Generator().manual_seed(0)
    points, steps = torch.rand(256, 3, generator=generator) * 2 - 1, torch.randn(256, 3, generator=generator)
    neighbours = points + 0.02 * F.normalize(steps, dim=1)
    distances = {}
    for name, spec in (("ours", ours), ("published", {**ours, "omega": 10, "scale": 10})):
        network = make(spec, (64, 64, 64))
        last, of_neighbours = (network.activations(places)["layer 7"] for places in (points, neighbours))
        distances[name] = float((last - of_neighbours).std() / last.std(0).mean())
    assert distances["ours"] < 0.7 and distances["published"] == pytest.approx(2**0.5, rel=0.1), distances


def test_wire_and_scone_have_the_stated_initial_scale():
    wire = make({"type": "wire"}, (64, 64))
    bound = 1 / 254**0.5
    for layer in (*wire.hidden, wire.to_values):
        assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert all(0.05 < float(hidden.std()) < 3 for hidden in wire.activations(grid(64)).values())
    scone = make({"type": "scone"}, (64, 64))
    for number, layer in enumerate(scone.masks):
        bound = (6 / 250) ** 0.5 / 30 if number else 1 / 2
        for part in (layer.weight, layer.bias):
            assert 0.95 * bound < float(part.abs().max()) <= bound
    for layer in scone.bases:
        assert 0.95 / 2**0.5 < float(layer.weight.abs().max()) <= 1 / 2**0.5
    activations = scone.activations(grid(64))
    for number in range(1, 5):
        assert float(activations[f"basis {number}"].std()) == pytest.approx(0.5**0.5, rel=0.02)
        mask = activations[f"mask {number}"]
        assert float(mask.min()) >= 0 and float(mask.max()) <= 1
    assert float(activations["mask 1"].mean()) == pytest.approx(0.5, abs=0.02)


# each network against its equations, in float64


def coords_of(kind: str) -> torch.Tensor:
    """Consecutive points of a grid that begin and end within a row, or random points."""
    return grid((16, 16))[5:205].double() if kind == "grid" else torch.rand(70, 2, dtype=torch.float64) * 2 - 1


def compare(field, plain, coords) -> None:
    """Compare the values and the gradients of all parameters."""
    results = []
    for values in (field(coords), plain(coords)):
        weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)
        gradients = torch.autograd.grad((weights * values).sum(), list(field.parameters()), allow_unused=True)
        results.append((values.detach(), gradients))
    (values, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(values, expected, rtol=1e-11, atol=1e-12)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("points", ["grid", "random"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("mask", SOFT)
def test_scone_equals_equations_3_and_4(mask, learned, points):
    sigma = {
        "sin_squared": lambda a: torch.sin(a) ** 2,
        "sigmoid": lambda a: 1 / (1 + torch.exp(-a)),
        "gaussian": lambda a: torch.exp(-(a**2)),
        "sin": lambda a: (torch.sin(a) + 1) / 2,
        "cos": lambda a: (torch.cos(a) + 1) / 2,
        "tanh": lambda a: (torch.tanh(a) + 1) / 2,
    }[mask]
    field = make({**SMALL["scone"], "mask": mask, "learn_input_scale": learned}, dtype=torch.float64)
    if learned:
        with torch.no_grad():
            field.input_scales.copy_(torch.tensor([0.7, 1.2, -0.4]))

    def plain(coords):
        z = coords
        for number, (layer, basis) in enumerate(zip(field.masks, field.bases, strict=True)):
            scale = field.input_scales[number] if learned else 1
            omega = [9, 5, 3][number]
            m = sigma(scale * 30 * (z @ layer.weight.T + layer.bias))
            z = m * torch.sin(omega * (coords @ basis.weight.T + basis.bias))
        return z @ field.to_values.weight.T + field.to_values.bias

    coords = coords_of(points)
    assert isinstance(places_of(coords), GridPlaces) == (points == "grid")
    compare(field, plain, coords)


def test_scone_with_random_binary_masks_equals_its_equation():
    """The ablation's z = M ∘ W z ∘ g."""
    field = make({**SMALL["scone"], "mask": "random_binary", "mask_cells": 16}, dtype=torch.float64)

    def plain(coords):
        z = coords
        for number, (layer, basis) in enumerate(zip(field.masks, field.bases, strict=True)):
            m = random_mask(coords, layer.out_features, 16, [0, number + 1])
            waves = torch.sin([9, 5, 3][number] * (coords @ basis.weight.T + basis.bias))
            z = m * 30 * (z @ layer.weight.T + layer.bias) * waves
        return z @ field.to_values.weight.T + field.to_values.bias

    compare(field, plain, coords_of("grid"))


def test_wire_equals_its_complex_equation():
    field = make(SMALL["wire"], dtype=torch.float64)

    def wavelet(u):
        return torch.exp(1j * 5.0 * u) * torch.exp(-((2.0 * u).abs() ** 2))

    def plain(coords):
        z = wavelet((coords @ field.first.weight.T + field.first.bias).to(torch.complex128))
        for layer in field.hidden:
            weight, bias = torch.complex(*layer.weight), torch.complex(*layer.bias)
            z = wavelet(z @ weight.T + bias)
        weight, bias = torch.complex(*field.to_values.weight), torch.complex(*field.to_values.bias)
        return (z @ weight.T + bias).real

    compare(field, plain, coords_of("random"))


def test_wavelets_have_first_and_second_derivatives():
    inputs = (torch.randn(5, 6, dtype=torch.float64) / 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: Wavelets.apply(values, 5.0, 2.0), inputs)
    assert torch.autograd.gradgradcheck(lambda values: Wavelets.apply(values, 5.0, 2.0), inputs)


def test_gabor_equals_the_multiplicative_filter_network():
    field = make(SMALL["gabor"], dtype=torch.float64)

    def filtered(part, coords):
        distance = ((coords[:, None] - part.centres) ** 2).sum(-1)
        return torch.exp(-part.gamma / 2 * distance) * torch.sin(coords @ part.linear.weight.T + part.linear.bias)

    def plain(coords):
        z = filtered(field.filters[0], coords)
        for layer, part in zip(field.hidden, field.filters[1:], strict=True):
            z = (z @ layer.weight.T + layer.bias) * filtered(part, coords)
        return z @ field.to_values.weight.T + field.to_values.bias

    compare(field, plain, coords_of("random"))


def test_siren_equals_its_equation():
    field = make({**SMALL["siren"], "first_omega": 12.0}, dtype=torch.float64)

    def plain(coords):
        z = coords
        for layer, omega in zip(field.hidden, (12, 30, 30), strict=True):
            z = torch.sin(omega * (z @ layer.weight.T + layer.bias))
        return z @ field.to_values.weight.T + field.to_values.bias

    compare(field, plain, coords_of("random"))


# SCONE's masks and its fast step


@pytest.mark.parametrize("mask", SOFT)
def test_masks_lie_in_0_to_1_and_slopes_are_their_derivatives(mask):
    angles = torch.linspace(-12, 12, 2001, dtype=torch.float64, requires_grad=True)
    values = MASKS[mask](angles)
    (derivative,) = torch.autograd.grad(values.sum(), angles)
    assert 0 <= float(values.min()) < 0.01 and 0.99 < float(values.max()) <= 1
    mask_and_slope, factor = MASKS_AND_SLOPES[mask]
    fast, slope = mask_and_slope(angles.detach().clone())
    torch.testing.assert_close(fast, values.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(factor * slope, derivative, rtol=1e-9, atol=1e-12)


def test_gradients_of_scone_pass_gradcheck():
    field = make({"type": "scone", "widths": [3, 4], "omegas": [3.0, 2.0], "mask_omega": 3.0}, dtype=torch.float64)
    names, coords = [name for name, _ in field.named_parameters()], grid((9, 9))[3:75].double()
    assert isinstance(places_of(coords), GridPlaces)

    def values(*parameters):
        return torch.func.functional_call(field, dict(zip(names, parameters, strict=True)), (coords,))

    assert torch.autograd.gradcheck(values, [p.detach().clone().requires_grad_() for p in field.parameters()])


def test_second_derivatives_of_the_fast_step_are_refused():
    field, coords = make(SMALL["scone"]), grid(16)
    weight = field.masks[0].weight
    (gradient,) = torch.autograd.grad(field(coords).square().sum(), [weight], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_scone_has_derivatives_by_its_coordinates_of_any_order():
    """The gradient of the values, and the gradient of its square by the weights, as in an eikonal loss."""
    field, coords = make(SMALL["scone"], channels=1, dtype=torch.float64), coords_of("random").requires_grad_()
    (normals,) = torch.autograd.grad(field(coords).sum(), coords, create_graph=True)
    shift = torch.tensor([1e-6, 0.0], dtype=torch.float64)
    with torch.no_grad():
        slope = (field(coords + shift) - field(coords - shift))[:, 0] / 2e-6
    torch.testing.assert_close(normals[:, 0].detach(), slope, rtol=1e-5, atol=1e-6)
    normals.square().sum().backward()
    assert field.masks[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [*SMALL, "positional_mlp"])
def test_fields_have_gradients_by_their_coordinates(name):
    field = make({**SMALL, **OTHERS}[name], channels=1, dtype=torch.float64)
    # the encoding of positional_mlp is float32
    step, tolerance = (1e-3, 0.03) if name == "positional_mlp" else (1e-6, 1e-5)
    coords = coords_of("random").requires_grad_()
    (slopes,) = torch.autograd.grad(field(coords).sum(), coords)
    for axis in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[axis] = step
        with torch.no_grad():
            slope = (field(coords + shift) - field(coords - shift))[:, 0] / (2 * step)
        assert float((slopes[:, axis] - slope).abs().median()) < tolerance * float(slope.abs().max())


@pytest.mark.parametrize("name", ["siren", "fourier", "gabor", "wire"])
def test_derivatives_of_torch_func_equal_autograds(name):
    field, coords = make(SMALL[name], channels=1, dtype=torch.float64), coords_of("random")[:5]
    weights = dict(field.named_parameters())

    def loss(weights):
        return torch.func.functional_call(field, weights, (coords,)).square().sum()

    by_weights = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    for gradient, reference in zip(by_weights.values(), expected, strict=True):
        torch.testing.assert_close(gradient, reference)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda point: field(point[None])[0, 0]))(coords)
    points = coords.clone().requires_grad_()
    torch.testing.assert_close(jacobians, torch.autograd.grad(field(points).sum(), points)[0])


COMPILED = """
import torch
from genrep.coords import grid
from genrep.models.field import NeuralField
for spec in ({"type": "wire", "widths": [8, 9]}, {"type": "scone", "widths": [8, 9], "omegas": [9.0, 5.0]}):
    torch.manual_seed(0)
    field, results = NeuralField(spec, (16, 16), 3).field, []
    for values in (field.values, torch.compile(field.values, backend="aot_eager", fullgraph=True)):
        predicted = values(field.prepare(grid(16)))
        results.append([predicted, *torch.autograd.grad(predicted.square().mean(), list(field.parameters()))])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)
print("equal")
"""


def test_compiled_fields_equal_plain_ones():
    """WIRE and SCONE have backward passes of their own. In a process without type checks, which no compiler can trace."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=PROJECT)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_no_points_have_no_values_and_zero_gradients(name):
    field = make({**SMALL, **OTHERS}[name])
    values = field(torch.zeros(0, 2))
    assert values.shape == (0, 3)
    values.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in field.parameters())


def test_consecutive_points_of_a_grid_are_recognised():
    assert isinstance(places_of(grid((16, 16))[5:205]), GridPlaces)
    assert isinstance(places_of(grid((4, 8, 16))), GridPlaces)
    backwards = grid((16, 16)).flip(0)
    for coords in (torch.rand(100, 2), backwards, grid((16, 16))[torch.randperm(256)], grid(3), grid((300,))):
        assert not isinstance(places_of(coords), GridPlaces)


@pytest.mark.parametrize("points", ["grid", "part of a grid", "uneven rows", "video", "line", "scattered"])
def test_gradients_of_weighted_sines_equal_autograds(points):
    coords = {
        "grid": grid((8, 16)),
        "part of a grid": grid((8, 16))[5:120],
        "uneven rows": torch.cat([torch.rand(8, 1).repeat_interleave(16, 0), grid((8, 16))[:, 1:]], dim=1),
        "video": grid((4, 6, 16))[20:300],
        "line": grid((200,)),
        "scattered": torch.rand(100, 2),
    }[points].double()
    places = places_of(coords)
    assert isinstance(places, GridPlaces) == (points not in ("line", "scattered"))
    weight, bias = (
        (torch.randn(5, coords.shape[1]).double() * 20).requires_grad_(),
        torch.rand(5).double().requires_grad_(),
    )
    factor, gradient = torch.randn(2, 5, len(coords)).double()
    expected = factor * torch.sin((coords @ weight.T + bias).T)
    expected_gradients = torch.autograd.grad(expected, [weight, bias], gradient)
    sine, slopes = places.sine(weight.detach(), bias.detach())
    torch.testing.assert_close(factor * sine, expected.detach())
    for fast, written_out in zip(
        places.sine_gradients(gradient, places.weighted(slopes, factor)), expected_gradients, strict=True
    ):
        torch.testing.assert_close(fast, written_out)


def test_random_masks_are_fair_independent_and_fixed():
    coords = grid(64)
    mask = random_mask(coords, 50, 64, [0, 1])
    assert torch.equal(mask, random_mask(coords, 50, 64, [0, 1]))
    assert float(mask.float().mean()) == pytest.approx(0.5, abs=0.01)
    signs = mask.float() * 2 - 1
    assert float(signs.mean(dim=0).abs().max()) < 0.1, "each channel, over 4,096 cells"
    assert float(signs.mean(dim=1).abs().max()) < 0.7, "each cell, over 50 channels"
    correlations = signs.T @ signs / len(signs) - torch.eye(50)
    assert float(correlations.abs().max()) < 0.1
    assert abs(float((signs[1:] * signs[:-1]).mean())) < 0.02, "neighbouring pixels"
    for seed in ([1, 1], [0, 2]):
        assert abs(float(((random_mask(coords, 50, 64, seed).float() * 2 - 1) * signs).mean())) < 0.02
    within_a_cell = random_mask(grid(256), 50, 64, [0, 1]).view(64, 4, 64, 4, 50)
    assert torch.equal(within_a_cell, within_a_cell[:, :1, :, :1].expand_as(within_a_cell))


# every field


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_every_kind_of_field_fits_a_ramp(name):
    spec = {**SMALL, **OTHERS}[name]
    if name == "siren":
        spec = {**spec, "first_omega": 3.0}
    if name == "scone":
        spec = {**spec, "mask_omega": 3.0}
    field, coords = make(spec, (12, 12), 1), grid(12)
    targets, prepared = coords @ torch.tensor([[0.5], [-0.3]]), field.prepare(coords)
    optimizer = torch.optim.Adam(field.parameters(), lr=5e-3)
    for _ in range(200):
        loss = F.mse_loss(field(prepared), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(F.mse_loss(field(prepared), targets).detach()) < 0.05 * float(targets.square().mean())


@pytest.mark.parametrize("shape", [(40,), (8, 10), (3, 4, 5)])
@pytest.mark.parametrize("name", SMALL)
def test_a_saved_network_renders_the_same(name, shape, tmp_path):
    field = NeuralField(SMALL[name], shape, 2)
    field.save_pretrained(tmp_path)
    loaded = NeuralField.from_pretrained(tmp_path)
    assert torch.equal(loaded.render(), field.render()) and loaded.shape == shape


@pytest.mark.parametrize("name", SMALL)
def test_prepared_coordinates_follow_weights(name):
    field, coords = make(SMALL[name]), grid(16)
    prepared = field.prepare(coords)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(0.9)
        torch.testing.assert_close(field(prepared), field(coords), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SMALL)
def test_networks_run_in_half_precision(name, dtype):
    """They are compared with float32 at the same rounded weights."""
    field, coords = make(SMALL[name]), grid(16)
    for tensor in (*field.parameters(), *field.buffers()):
        tensor.data = tensor.data.to(dtype).float()
    expected = field(coords).detach()
    half = field.to(dtype)
    values = half(coords)
    values.float().square().sum().backward()
    assert values.dtype == dtype and all(p.grad is None or p.grad.isfinite().all() for p in half.parameters())
    torch.testing.assert_close(values.detach().float(), expected, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("name", ["siren", "wire", "scone", "gabor"])
def test_arguments_of_sines_are_not_rounded_under_autocast(name):
    field, coords = make(SMALL[name]), grid(16)
    expected = field.activations(coords)["layer 1"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, values = field.activations(coords), field(coords)
    torch.testing.assert_close(rounded["layer 1"], expected, rtol=0, atol=0)
    torch.testing.assert_close(values.float(), field(coords), rtol=0.05, atol=0.03)


@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_the_last_activations_give_the_values(name):
    field, coords = make({**SMALL, **OTHERS}[name]), grid(16)
    activations = field.activations(coords)
    assert all(hidden.shape[0] == 256 for hidden in activations.values())
    *_, last = activations.values()
    if name == "fourier":
        values = field.mlp[-1](last)
    elif name == "wire":
        values = field.to_values.real_part(last)
    else:
        values = field.to_values(last)
    torch.testing.assert_close(values, field(coords), rtol=1e-4, atol=1e-5)


def test_activations_of_experts_are_in_the_order_of_the_points():
    field, coords = make(OTHERS["levels_of_experts"]), grid(16)
    order = torch.randperm(256)
    for name, hidden in field.activations(coords).items():
        torch.testing.assert_close(field.activations(coords[order])[name], hidden[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"type": "scone", "widths": [8, 8]},
            "omegas must have one number per layer: 2, as in widths; got 4",
        ),
        ({"type": "scone", "mask": "sine"}, "field.mask: must be 'sin_squared', .*; got 'sine'; did you mean 'sin'"),
        ({"type": "scone", "omegas": [90, 60, 30, 0]}, "field.omegas"),
        ({"type": "scone", "mask_omega": -1}, "field.mask_omega"),
        ({"type": "scone", "mask_cells": 0}, "field.mask_cells"),
        ({"type": "siren", "first_omega": 0}, "field.first_omega"),
        ({"type": "siren", "omega": 30}, "field.omega: unknown key"),
        (
            {"type": "fourier", "num_features": 7},
            "num_features must be even, with a cosine and a sine per frequency; got 7",
        ),
        ({"type": "gabor", "alpha": 0}, "field.alpha"),
        ({"type": "wire", "scale": float("inf")}, "field.scale"),
        ({"type": "wire", "widths": []}, "field.widths"),
        ({"type": "sirne"}, "field.type: must be one of fourier, gabor, .*; got 'sirne'; did you mean 'siren'"),
    ],
)
def test_invalid_networks_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        NeuralField(spec, (8, 8), 1)


@pytest.mark.parametrize(
    "spec", [{"type": "siren"}, {"type": "fourier"}, {"type": "gabor"}, {"type": "wire"}, {"type": "scone"}]
)
def test_products_with_coordinates_are_exact_where_tf32_is_allowed(spec):
    """Written out in place of a matrix product: the same values and gradients, to rounding."""
    torch.manual_seed(0)
    field = NeuralField(spec, (8, 8)).field
    coords = torch.rand(40, 2) * 2 - 1
    results = []
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        try:
            field.zero_grad()
            values = field(coords)
            values.square().sum().backward()
        finally:
            torch.set_float32_matmul_precision("highest")
        results.append([values.detach(), *(parameter.grad.clone() for parameter in field.parameters())])
    for exact, written_out in zip(*results, strict=True):
        torch.testing.assert_close(written_out, exact, rtol=2e-3, atol=2e-4 * float(exact.abs().max()))
