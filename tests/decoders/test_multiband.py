"""The multi-band decoder against its equations, point by point, in values and gradients; and its ablations."""

import itertools
import math

import pytest
import torch

from genrep.coords import GridChunk, axis_centres, grid
from genrep.decoders import IPCSpec, MultiBandSpec
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.nn.linear import linear_after
from tests.nn.test_frequency_features import GRIDS, plain_features

HIDDEN, TOKENS, WIDTH, CHANNELS = 8, 5, 6, 3
BANDWIDTHS = [5.0, 3.0, 7.0, 2.0]
"""Unordered: the paper's bandwidths fall, but nothing depends on that."""


def make_spec(levels=2, **options) -> MultiBandSpec:
    tiny = {"hidden_dim": HIDDEN, "num_features": 26, "query_bandwidth": 4.0, "bandwidths": BANDWIDTHS[:levels]}
    return MultiBandSpec.model_validate({"type": "multiband", **tiny, **options})


def make_decoder(spec: MultiBandSpec):
    """A decoder in double precision with random parameters, none of them zero."""
    width = spec.hidden_dim if spec.aggregation == "composed" else WIDTH
    decoder = spec.build((8, 8), CHANNELS, TOKENS, width).double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return decoder


def make_latents(spec: MultiBandSpec, batch=2):
    width = spec.hidden_dim if spec.aggregation == "composed" else WIDTH
    return torch.randn(batch, TOKENS, width, dtype=torch.float64, requires_grad=True)


def make_coords(spec: MultiBandSpec, count, batch=2):
    axes = spec.num_axes or 2  # as the grid of `make_decoder` has
    return torch.rand(batch, count, axes, dtype=torch.float64) * 2 - 1


# the equations, one point at a time


def linear(layer, x):
    return layer.weight @ x + layer.bias


def relu(x):
    return x.clamp_min(0)


def plain_heads(attention, query, tokens, num_heads):
    """The heads of eq. 5 side by side; keys and values are the tokens."""
    query = attention.to_query.weight @ query
    keys, values = (tokens @ attention.to_key_value.weight.T).chunk(2, dim=-1)
    heads = []
    for q, k, v in zip(
        query.chunk(num_heads), keys.chunk(num_heads, dim=-1), values.chunk(num_heads, dim=-1), strict=True
    ):
        powers = torch.exp(k @ q / len(q) ** 0.5)
        heads.append(powers / powers.sum() @ v)
    return torch.cat(heads)


def plain_value(decoder, spec: MultiBandSpec, point, tokens):
    """Eqs. 3 to 9, or an ablation's replacement for eq. 5 or for eqs. 6 to 9."""
    query = relu(linear(decoder.query.linear, plain_features(point, spec.num_features, spec.query_bandwidth)))  # eq. 4
    if spec.aggregation == "attention":
        vector = linear(
            decoder.aggregate.to_out, plain_heads(decoder.aggregate, query, tokens, spec.num_heads)
        )  # eq. 5
    else:
        weight = decoder.aggregate.composer.weight @ tokens
        vector = relu(torch.stack([row / row.norm() for row in weight]) @ query + decoder.aggregate.bias)
    if spec.modulation == "mlp":
        *hidden_layers, last = [layer for layer in decoder.mlp if isinstance(layer, torch.nn.Linear)]
        assert len(hidden_layers) == spec.mlp_depth - 1
        for layer in hidden_layers:
            vector = relu(linear(layer, vector))
        return linear(last, vector)
    value = 0
    for level, bandwidth in enumerate(spec.bandwidths):
        band = relu(linear(decoder.bands[level].linear, plain_features(point, spec.num_features, bandwidth)))  # eq. 6
        modulation = relu(band + linear(decoder.modulate[level], vector))  # eq. 7
        hidden = modulation if level == 0 else relu(linear(decoder.layers[level - 1], modulation + hidden))  # eq. 8
        value = value + linear(decoder.to_values[level], hidden)  # eq. 9
    return value


def assert_equals_the_equations(spec: MultiBandSpec, count: int, shared: bool) -> None:
    decoder, latents = make_decoder(spec), make_latents(spec)
    coords = make_coords(spec, count, batch=1 if shared else 2)
    ours = decoder(coords[0] if shared else coords, latents)
    plain = torch.stack(
        [
            torch.stack([plain_value(decoder, spec, point, tokens) for point in points])
            for points, tokens in zip(coords.expand(2, -1, -1), latents, strict=True)
        ]
    )
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)  # angles are float32
    inputs = {"latents": latents, **dict(decoder.named_parameters())}
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(values, list(inputs.values()), upstream) for values in (ours, plain)]
    for name, mine, reference in zip(inputs, *gradients, strict=True):
        assert (reference != 0).any(), name
        torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("count", [3, 5], ids=["few points", "more rows than hidden units"])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("axes", [2, 3, 6])
def test_decoder_equals_the_papers_equations(axes, levels, num_heads, count):
    spec = make_spec(levels, num_axes=axes, num_heads=num_heads)
    assert_equals_the_equations(spec, count, shared=count == 5)


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "composed"},
        {"aggregation": "composed", "levels": 3},
        {"modulation": "mlp"},
        {"modulation": "mlp", "mlp_depth": 1},
        {"aggregation": "composed", "modulation": "mlp", "mlp_depth": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("axes", [2, 6])
def test_ablations_equal_their_plain_reference(axes, shared, options):
    assert_equals_the_equations(make_spec(num_axes=axes, **options), count=5, shared=shared)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_is_the_projection_of_its_heads(num_heads, batch):
    """Queries shared by the batch may have a batch size of 1."""
    attention = make_decoder(make_spec(num_heads=num_heads)).aggregate
    query, latents = torch.randn(batch, 4, HIDDEN, dtype=torch.float64), torch.randn(2, TOKENS, WIDTH).double()
    heads = attention.heads(query, *attention.keys_values(latents))
    expected = [
        torch.stack([plain_heads(attention, q, tokens, num_heads) for q in queries])
        for queries, tokens in zip(query.expand(2, -1, -1), latents, strict=True)
    ]
    torch.testing.assert_close(heads, torch.stack(expected))
    torch.testing.assert_close(attention(query, latents), attention.to_out(heads))


@pytest.mark.parametrize("rows", [3, 7, 8, 20])
def test_two_linears_in_a_row_are_one(rows):
    first, second = torch.nn.Linear(5, 8).double(), torch.nn.Linear(8, 6).double()
    values = torch.randn(rows, 5, dtype=torch.float64, requires_grad=True)
    inputs = [values, *first.parameters(), *second.parameters()]
    upstream = torch.randn(rows, 6, dtype=torch.float64)
    mine, plain = linear_after(first, second)(values), second(first(values))
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(
        torch.autograd.grad(mine, inputs, upstream), torch.autograd.grad(plain, inputs, upstream)
    )


# ways to the same values

every_kind = pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": 1},
        {"levels": 3},
        {"aggregation": "composed"},
        {"modulation": "mlp"},
        {"aggregation": "composed", "modulation": "mlp"},
    ],
    ids=str,
)


@every_kind
def test_shared_coordinates_equal_coordinates_for_each_image(options):
    spec = make_spec(**options)
    decoder, latents, coords = make_decoder(spec), make_latents(spec, batch=3), make_coords(spec, 7, batch=1)[0]
    torch.testing.assert_close(decoder(coords, latents), decoder(coords.expand(3, -1, -1), latents))


@every_kind
def test_a_point_has_the_same_value_alone_and_among_many(options):
    spec = make_spec(**options)
    decoder, latents, coords = make_decoder(spec), make_latents(spec), make_coords(spec, 20)
    alone = torch.cat([decoder(coords[:, [point]], latents) for point in range(20)], dim=1)
    torch.testing.assert_close(decoder(coords, latents), alone)


@every_kind
@pytest.mark.parametrize("size", GRIDS.values(), ids=GRIDS)
def test_chunks_of_a_grid_equal_its_points(size, options):
    """Values, and gradients to latents and weights; a chunk may begin and end within a row."""
    spec = make_spec(num_axes=len(size), **options)
    decoder, latents = make_decoder(spec), make_latents(spec)
    decode, centres, total = decoder.decoding(latents), tuple(axis_centres(size)), math.prod(size)
    for start, stop in ((0, total), (1, total - 1), (total // 3, total // 2 + 1)):
        from_chunk, plain = decode(GridChunk(centres, start, stop)), decoder(grid(size)[start:stop], latents)
        torch.testing.assert_close(from_chunk, plain, atol=1e-5, rtol=1e-5)
        learning, upstream = [latents, *decoder.parameters()], torch.randn_like(plain)
        gradients = torch.autograd.grad(from_chunk, learning, upstream, retain_graph=True)
        for mine, reference in zip(gradients, torch.autograd.grad(plain, learning, upstream), strict=True):
            torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)


@every_kind
def test_a_frozen_decoder_gives_latents_the_same_gradients_on_a_grid(options):
    spec = make_spec(**options)
    decoder, latents, coords = make_decoder(spec), make_latents(spec), grid(6)
    upstream = torch.randn(2, 36, CHANNELS, dtype=torch.float64)
    learning = torch.autograd.grad(decoder(coords, latents), latents, upstream)
    decoder.requires_grad_(False)
    torch.testing.assert_close(
        torch.autograd.grad(decoder(coords, latents), latents, upstream), learning, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("options", [{}, {"modulation": "mlp"}], ids=str)
def test_permuting_the_tokens_changes_nothing_where_they_are_attended_to(options):
    spec = make_spec(**options)
    decoder, latents, coords = make_decoder(spec), make_latents(spec), grid(4)
    torch.testing.assert_close(decoder(coords, latents[:, [4, 2, 0, 3, 1]]), decoder(coords, latents))


# levels


def hidden_features(decoder, coords, latents):
    """h of every level, eq. 8: what its output layer reads."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone())) for layer in decoder.to_values
    ]
    with torch.no_grad():
        decoder(coords, latents)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("part", "level"),
    [
        *itertools.product(["bands", "modulate", "to_values"], [1, 2, 3, 4]),
        *itertools.product(["layers"], [2, 3, 4]),
    ],
)
def test_a_levels_weights_change_that_level_and_those_after_it(part, level):
    """Eq. 8: level 1 has no layer; its features go through the layers of levels 2, 3 and 4, those of level 4 through one."""
    spec = make_spec(levels=4)
    decoder, latents, coords = make_decoder(spec), make_latents(spec), make_coords(spec, 30)
    before, value = hidden_features(decoder, coords, latents), decoder(coords, latents)
    changed = getattr(decoder, part)[level - 2 if part == "layers" else level - 1]
    changed = changed.linear if part == "bands" else changed
    torch.nn.init.normal_(changed.weight)
    after = hidden_features(decoder, coords, latents)
    differs = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert differs == [part != "to_values" and number >= level for number in (1, 2, 3, 4)]
    assert not torch.equal(decoder(coords, latents), value)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_have_one_layer_less_than_there_are_levels(levels):
    decoder = make_decoder(make_spec(levels))
    assert [len(part) for part in (decoder.bands, decoder.modulate, decoder.to_values)] == [levels] * 3
    assert len(decoder.layers) == levels - 1
    assert [float(band.encoding.frequencies[-1]) for band in decoder.bands] == BANDWIDTHS[:levels]
    assert float(decoder.query.encoding.frequencies[-1]) == 4.0


def test_bandwidths_may_stand_in_any_order_and_the_order_matters():
    rising, falling = (make_spec(bandwidths=order) for order in ([2.0, 7.0], [7.0, 2.0]))
    rising_decoder, falling_decoder = make_decoder(rising), make_decoder(falling)
    falling_decoder.load_state_dict(rising_decoder.state_dict())
    latents, coords = make_latents(rising), make_coords(rising, 9)
    assert not torch.allclose(rising_decoder(coords, latents), falling_decoder(coords, latents))


# sizes


def shapes(decoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}


def papers(levels=2, **options):
    """d = d_f = 256, R = 256, 2 heads, RGB."""
    bandwidths = [128.0, 90.0, 64.0, 32.0][-levels:]
    spec = MultiBandSpec.model_validate({"type": "multiband", "bandwidths": bandwidths, **options})
    with torch.device("meta"):
        return spec.build((178, 178), 3, 256, 256)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize(("axes", "features"), [(2, 256), (3, 252), (6, 252)])
def test_the_papers_parameter_count(axes, features, levels):
    frequency_features, square, output = features * 256 + 256, 256 * 256 + 256, 256 * 3 + 3
    attention = 3 * 256 * 256 + square  # query, key and value without bias, the projection of the heads with
    expected = frequency_features + attention + levels * (frequency_features + square + output) + (levels - 1) * square
    decoder = papers(levels, num_axes=axes)
    assert sum(p.numel() for p in decoder.parameters()) == expected
    if (axes, levels) == (2, 2):
        assert expected == 658_694


def test_the_defaults_are_the_papers():
    spec = MultiBandSpec(type="multiband")
    assert (spec.hidden_dim, spec.num_features, spec.bandwidths, spec.query_bandwidth) == (256, 256, [128, 32], 16)
    assert (spec.num_heads, spec.num_axes, spec.aggregation, spec.modulation) == (2, None, "attention", "multiband")
    assert spec.build((8, 8), 3, 4, 8).num_axes == 2


def test_an_ablation_changes_the_parameters_of_its_half_only():
    full, composed, mlp, both = (
        shapes(papers(**options))
        for options in (
            {},
            {"aggregation": "composed"},
            {"modulation": "mlp"},
            {"aggregation": "composed", "modulation": "mlp"},
        )
    )
    halves = {
        "query": {"query.linear.weight": (256, 256), "query.linear.bias": (256,)},
        "attention": {name: shape for name, shape in full.items() if name.startswith("aggregate.")},
        "bands": {n: s for n, s in full.items() if n.startswith(("bands.", "modulate.", "layers.", "to_values."))},
        "composed": {"aggregate.composer.weight": (256, 256), "aggregate.bias": (256,)},
        "mlp": {
            f"mlp.{number}.{name}": (outputs, 256)[: 2 if name == "weight" else 1]
            for number, outputs in ((0, 256), (2, 256), (4, 3))
            for name in ("weight", "bias")
        },
    }
    assert full == halves["query"] | halves["attention"] | halves["bands"]
    assert composed == halves["query"] | halves["composed"] | halves["bands"]
    assert mlp == halves["query"] | halves["attention"] | halves["mlp"]
    assert both == halves["query"] | halves["composed"] | halves["mlp"]


@pytest.mark.parametrize("mlp_depth", [1, 3])
def test_with_both_halves_replaced_the_parameters_are_those_of_ipc(mlp_depth):
    with torch.device("meta"):
        ipc = IPCSpec(type="ipc", depth=mlp_depth + 2).build((178, 178), 3, 256, 256)
    both = papers(aggregation="composed", modulation="mlp", mlp_depth=mlp_depth)
    assert list(shapes(both).values()) == list(shapes(ipc).values())


def test_the_full_decoder_keeps_its_values_when_the_mlps_depth_is_named():
    """An option of the other variant has no effect."""
    latents, coords, values = torch.randn(2, TOKENS, WIDTH), torch.rand(9, 2), []
    for mlp_depth in (1, 4):
        torch.manual_seed(1)
        values.append(make_spec(mlp_depth=mlp_depth).build((8, 8), 3, TOKENS, WIDTH)(coords, latents))
    assert torch.equal(*values)


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, r"decoder: hidden_dim must be a multiple of num_heads; got 8 and 3"),
        (
            {"num_features": 3},
            r"decoder.num_features must be at least 8, cosine and sine of two frequencies on 2 axes; got 3",
        ),
        (
            {"num_features": 11, "num_axes": 6},
            r"num_features must be at least 24, cosine and sine of two frequencies on 6 axes; got 11",
        ),
        ({"bandwidths": [4.0, 0.5]}, r"decoder.bandwidths: .*greater than or equal to 1; got 0.5"),
        ({"bandwidths": []}, r"decoder.bandwidths: .*at least 1 item.*; got \[\]"),
        ({"bandwidths": [float("inf")]}, r"decoder.bandwidths: .*finite.*; got inf"),
        ({"query_bandwidth": 0.99}, r"decoder.query_bandwidth: .*greater than or equal to 1; got 0.99"),
        ({"aggregation": "compose"}, r"decoder.aggregation: must be .*; got 'compose'; did you mean 'composed'\?"),
        ({"type": "multibnd"}, r"decoder.type: must be .*; got 'multibnd'; did you mean 'multiband'\?"),
        ({"bandwidth": 4.0}, r"decoder.bandwidth: unknown key; did you mean 'bandwidths'\?"),
        ({"aggregation": "composed"}, r"aggregation composed does not fit latents of width 6: .*set latent_dim to 8"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_invalid_options_are_refused(options, message):
    decoder = {"type": "multiband", "hidden_dim": HIDDEN, "num_features": 16, **options}
    encoder = {"type": "joint_attention", "patch_size": 4, "dim": 8, "num_heads": 1, "depth": 1}
    with pytest.raises(InputError, match=message):
        INRAutoencoder(encoder, decoder, image_size=8, num_tokens=TOKENS, latent_dim=WIDTH)


def test_bandwidths_of_one_and_as_many_features_as_axes_need_are_accepted():
    spec = make_spec(bandwidths=[1.0], query_bandwidth=1.0, num_features=8)
    decoder, latents = make_decoder(spec), make_latents(spec)
    assert decoder.query.encoding.frequencies.tolist() == [1.0, 1.0]
    assert decoder(grid(3), latents).isfinite().all()
