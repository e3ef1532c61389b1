"""IPC and TransINR against plain MLPs, one point at a time; unit columns; and every decoder saved and loaded."""

import pytest
import torch
from torch import nn

from genrep.coords import grid
from genrep.decoders import IPCSpec, TransINRSpec
from genrep.decoders.modulated_mlp import ComposedLinear, UnitLinear, unit_columns
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from tests.nn.test_frequency_features import plain_features
from tests.tiny import AUTOENCODER

ENCODER = {
    "type": "joint_attention", "patch_size": 4, "dim": 16, "depth": 1, "num_heads": 2, "head_dim": 8, "mlp_dim": 32,
}  # fmt: skip
MULTIBAND = {
    "type": "multiband",
    "hidden_dim": 16,
    "num_features": 16,
    "bandwidths": [4.0, 2.0],
    "query_bandwidth": 2.0,
}
IPC = {"type": "ipc", "hidden_dim": 8, "depth": 3, "num_features": 16, "bandwidth": 4.0}
TRANSINR = {"type": "transinr", "hidden_dim": 8, "depth": 3, "num_features": 8, "bandwidth": 4.0, "num_groups": 4}
DECODERS = {
    "anr": (AUTOENCODER["decoder"], 4),
    "multiband": (MULTIBAND, 4),
    "multiband composed": ({**MULTIBAND, "hidden_dim": 8, "aggregation": "composed"}, 4),
    "multiband mlp": ({**MULTIBAND, "modulation": "mlp"}, 4),
    "ipc": (IPC, 4),
    "transinr": (TRANSINR, 4 + 4 + 1),
}
"""Decoders for latents of width 8, and their number of tokens."""
every_decoder = pytest.mark.parametrize("kind", DECODERS)


def tiny_inr(kind: str, seed: int = 0, **options) -> INRAutoencoder:
    """A frozen autoencoder of 8×8 grey images with a decoder of this kind."""
    decoder, num_tokens = DECODERS[kind]
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "channels": 1, "num_tokens": num_tokens, "latent_dim": 8}
    return INRAutoencoder(**{"encoder": ENCODER, "decoder": decoder, **sizes, **options}).freeze()


# plain references, one point at a time


def plain_linear(rows, x, bias):
    """Every output unit's weights have norm 1."""
    return torch.stack([row @ x / row.square().sum().sqrt() for row in rows]) + bias


def plain_ipc(decoder, spec: IPCSpec, point, tokens):
    first, composed, rest = decoder.first, decoder.composed, decoder.rest
    hidden = plain_linear(first.weight, plain_features(point, spec.num_features, spec.bandwidth), first.bias)
    rows = [sum(v * token for v, token in zip(mix, tokens, strict=True)) for mix in composed.composer.weight]
    values = plain_linear(rows, hidden.clamp_min(0), composed.bias)
    assert len(rest) == spec.depth - 2
    for layer in rest:
        values = plain_linear(layer.weight, values.clamp_min(0), layer.bias)
    return values


def plain_transinr(decoder, spec: TransINRSpec, point, tokens):
    values, start = plain_features(point, spec.num_features, spec.bandwidth), 0
    assert len(decoder.layers) == spec.depth
    for number, layer in enumerate(decoder.layers):
        outputs, inputs = layer.weight.shape
        groups = min(spec.num_groups, outputs)
        rows = [row * tokens[start + unit * groups // outputs][:inputs] for unit, row in enumerate(layer.weight)]
        values = plain_linear(rows, values.clamp_min(0) if number else values, layer.bias)
        start += groups
    assert start == len(tokens)
    return values


def assert_equals(plain_value, spec, num_tokens, width, shared):
    decoder = spec.build((8, 8), 3, num_tokens, width).double()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter)
    latents = torch.randn(2, num_tokens, width, dtype=torch.float64, requires_grad=True)
    coords = torch.rand(1 if shared else 2, 5, decoder.num_axes, dtype=torch.float64) * 2 - 1
    ours = decoder(coords[0] if shared else coords, latents)
    plain = torch.stack(
        [
            torch.stack([plain_value(decoder, spec, point, tokens) for point in points])
            for points, tokens in zip(coords.expand(2, -1, -1), latents, strict=True)
        ]
    )
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    inputs = {"latents": latents, **dict(decoder.named_parameters())}
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(values, list(inputs.values()), upstream) for values in (ours, plain)]
    for name, mine, reference in zip(inputs, *gradients, strict=True):
        assert (reference != 0).any(), name
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("axes", [2, 3, 6])
def test_ipc_equals_a_plain_mlp(axes, depth, shared):
    spec = IPCSpec(type="ipc", hidden_dim=8, depth=depth, num_features=26, bandwidth=4.0, num_axes=axes)
    assert_equals(plain_ipc, spec, num_tokens=5, width=8, shared=shared)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("groups", [1, 4, 8, 20])
@pytest.mark.parametrize(("depth", "axes"), [(2, 2), (3, 2), (4, 3), (3, 6)])
def test_transinr_equals_a_plain_mlp(axes, depth, groups, shared):
    """12 or 24 features into layers 8 wide: a token holds as many numbers as its layer has inputs, and more."""
    spec = TransINRSpec(
        type="transinr",
        hidden_dim=8,
        depth=depth,
        num_features=27 if axes == 6 else 13,
        bandwidth=4.0,
        num_axes=axes,
        num_groups=groups,
    )
    num_tokens = (depth - 1) * min(groups, 8) + min(groups, 3)
    assert_equals(plain_transinr, spec, num_tokens, width=24 if axes == 6 else 12, shared=shared)


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_every_number_of_groups_that_is_accepted_decodes(groups):
    """Three colours cannot form two equal groups: this is refused at construction."""
    decoder, num_tokens = {**TRANSINR, "num_groups": groups}, 2 * groups + min(groups, 3)
    options = {"decoder": decoder, "num_tokens": num_tokens, "channels": 3}
    if 8 % groups or (groups < 3 and 3 % groups):
        cut = "channels" if groups == 2 else "hidden_dim"
        with pytest.raises(
            InputError, match=rf"multiple of its 2 groups; got 3|multiple of num_groups; got 8 and {groups}"
        ) as stop:
            tiny_inr("transinr", **options)
        assert cut in str(stop.value)
    else:
        assert tiny_inr("transinr", **options).decode(torch.randn(2, num_tokens, 8), grid(4)).shape == (2, 16, 3)


# normalisation


def test_unit_columns_have_norm_one_and_keep_their_direction():
    weight = torch.randn(3, 5, 7) * 10 ** torch.linspace(-6, 6, 5)[:, None]
    unit = unit_columns(weight)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3, 5))
    torch.testing.assert_close(unit * weight.norm(dim=-1, keepdim=True), weight)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_weights_of_every_image_have_unit_columns(groups, scale):
    """The papers' columns are rows of PyTorch's [outputs, inputs]."""
    ipc = IPCSpec(type="ipc", hidden_dim=8, depth=4).build((8, 8), 3, 5, 8)
    weight = ipc.composed.weight(scale * torch.randn(2, 5, 8))
    assert weight.shape == (2, 8, 8)
    torch.testing.assert_close(weight.norm(dim=-1), torch.ones(2, 8))
    for layer in (ipc.first, *ipc.rest):
        rows = (layer(torch.eye(layer.in_features)) - layer.bias).T
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(layer.out_features))
    num_tokens = 2 * groups + min(groups, 3)
    transinr = TransINRSpec(type="transinr", hidden_dim=8, depth=3, num_features=12, num_groups=groups).build(
        (8, 8), 3, num_tokens, 12
    )
    weights = transinr.weights(scale * torch.randn(2, num_tokens, 12))
    assert [tuple(weight.shape) for weight in weights] == [(2, 8, 12), (2, 8, 8), (2, 3, 8)]
    for weight in weights:
        torch.testing.assert_close(weight.norm(dim=-1), torch.ones(weight.shape[:2]))


@pytest.mark.parametrize("kind", ["ipc", "transinr"])
def test_scaling_all_latents_by_a_positive_constant_changes_nothing(kind):
    autoencoder = tiny_inr(kind)
    latents = torch.randn(2, *autoencoder.latent_shape)
    values = autoencoder.decode(latents, grid(6))
    for scale in (0.01, 7.0):
        torch.testing.assert_close(autoencoder.decode(scale * latents, grid(6)), values, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(autoencoder.decode(-latents, grid(6)), values, atol=1e-2)


def test_first_weights_have_the_stated_size():
    """V ~ N(0, 1) / √(R · inputs); other weights as nn.Linear's, |w| <= 1 / √inputs; biases 0."""
    composed, plain = ComposedLinear(64, 100, 256), UnitLinear(100, 256)
    assert composed.composer.weight.shape == (256, 64)
    assert float(composed.composer.weight.detach().std()) == pytest.approx((64 * 100) ** -0.5, rel=0.03)
    assert float(composed.composer.weight.detach().mean()) == pytest.approx(0, abs=3e-4)
    assert float(plain.weight.detach().std()) == pytest.approx((3 * 100) ** -0.5, rel=0.03)
    assert not composed.bias.any() and not plain.bias.any()


# sizes


def test_the_papers_parameter_counts():
    """5 layers of 256, 256 features, 256 tokens, RGB."""
    square, output = 256 * 256 + 256, 256 * 3 + 3
    with torch.device("meta"):
        ipc = IPCSpec(type="ipc").build((178, 178), 3, 256, 256)
        transinr = TransINRSpec(type="transinr").build((178, 178), 3, 4 * 64 + 3, 256)
    assert sum(p.numel() for p in ipc.parameters()) == square + (256 * 256 + 256) + 2 * square + output  # V is [256, R]
    assert sum(p.numel() for p in transinr.parameters()) == 4 * square + output
    assert transinr.group_counts == [64, 64, 64, 64, 3]
    with torch.device("meta"):
        few = IPCSpec(type="ipc").build((178, 178), 3, 100, 256)
    assert sum(p.numel() for p in few.parameters()) == square + (256 * 100 + 256) + 2 * square + output


@pytest.mark.parametrize(("kind", "bandwidth"), [(IPCSpec, 128), (TransINRSpec, 128)])
def test_the_defaults_are_the_papers(kind, bandwidth):
    spec = kind(type=kind.model_fields["type"].annotation.__args__[0])
    assert (spec.hidden_dim, spec.depth, spec.num_features, spec.bandwidth, spec.num_axes) == (
        256, 5, 256, bandwidth, None,
    )  # fmt: skip
    assert spec.with_axes(2).num_axes == 2 and spec.with_axes(2).with_axes(3).num_axes == 2


# refusals


@pytest.mark.parametrize(
    ("decoder", "num_tokens", "latent_dim", "message"),
    [
        (IPC, 4, 6, r"decoder ipc does not fit latents of width 6: .*set latent_dim to 8"),
        (
            {**IPC, "num_features": 3},
            4,
            8,
            r"num_features must be at least 8, cosine and sine of two frequencies on 2 axes; got 3",
        ),
        ({**IPC, "depth": 1}, 4, 8, r"decoder.depth: .*greater than or equal to 2; got 1"),
        ({**IPC, "bandwidth": 0.5}, 4, 8, r"decoder.bandwidth: .*greater than or equal to 1; got 0.5"),
        ({**IPC, "type": "ipcs"}, 4, 8, r"decoder.type: must be .*; got 'ipcs'; did you mean 'ipc'\?"),
        (
            TRANSINR,
            4,
            8,
            r"transinr does not fit 4 tokens: its 3 layers have 4 \+ 4 \+ 3 groups; set num_tokens to 11, or",
        ),
        ({"type": "transinr"}, 256, 256, r"its 5 layers have 64 \+ 64 \+ 64 \+ 64 \+ 3 groups; set num_tokens to 259"),
        ({**TRANSINR, "num_groups": 64}, 4, 8, r"have 8 \+ 8 \+ 3 groups; set num_tokens to 19"),
        (TRANSINR, 11, 9, r"decoder transinr does not fit latents of width 9: .*set latent_dim to 8"),
        ({**TRANSINR, "num_features": 13}, 11, 8, r"transinr does not fit latents of width 8: .*set latent_dim to 12"),
        ({**TRANSINR, "num_groups": 3}, 9, 8, r"hidden_dim must be a multiple of num_groups; got 8 and 3"),
        (
            {**TRANSINR, "num_features": 5, "num_axes": 3},
            11,
            8,
            r"num_features must be at least 12, cosine and sine of two frequencies on 3 axes; got 5",
        ),
        ({**TRANSINR, "depth": 1}, 3, 8, r"decoder.depth: .*greater than or equal to 2; got 1"),
        ({**TRANSINR, "bandwidth": 0.5}, 11, 8, r"decoder.bandwidth: .*greater than or equal to 1; got 0.5"),
        (
            {**TRANSINR, "type": "transnir"},
            11,
            8,
            r"decoder.type: must be .*; got 'transnir'; did you mean 'transinr'\?",
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_invalid_options_are_refused(decoder, num_tokens, latent_dim, message):
    with pytest.raises(InputError, match=message):
        INRAutoencoder(ENCODER, decoder, image_size=8, num_tokens=num_tokens, latent_dim=latent_dim)


# heads of the encoder


@pytest.mark.parametrize("encoder", [ENCODER, AUTOENCODER["encoder"]], ids=["joint", "cross"])
def test_each_layer_of_transinr_has_a_separate_head(encoder):
    """LayerNorm and Linear for each modulated layer, as in the published code, one token at a time."""
    inr, tokens = tiny_inr("transinr", channels=3, num_tokens=11, encoder=encoder), torch.randn(2, 11, 16)
    for parameter in inr.encoder.parameters():
        nn.init.normal_(parameter)
    ours = inr.encoder.head(tokens)
    layer_of_token = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert len(inr.encoder.head) == 3 and inr.decoder.group_counts == [4, 4, 3]
    for place, layer in enumerate(layer_of_token):
        norm, linear = inr.encoder.head[layer]
        for image in range(2):
            token = tokens[image, place]
            normed = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
            torch.testing.assert_close(ours[image, place], linear.weight @ normed + linear.bias, atol=1e-5, rtol=1e-4)


def test_a_gradient_of_the_values_reaches_every_head_and_only_its_layer():
    inr, images = tiny_inr("transinr").train().requires_grad_(True), torch.rand(2, 1, 8, 8) * 2 - 1
    inr(images, grid(4)).square().sum().backward()
    for name, parameter in inr.encoder.head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    (weights, *_) = inr.decoder.weights(inr.encode(images))  # of the first layer
    gradients = torch.autograd.grad(weights.sum(), list(inr.encoder.head.parameters()), allow_unused=True)
    reached = [gradient is not None and bool((gradient != 0).any()) for gradient in gradients]
    assert reached == [True] * 4 + [False] * 8


def test_the_heads_of_transinr_at_the_papers_size():
    """Five heads from 768 to 256; every other decoder, and TransINR with shared_head, has one."""
    sizes = {"image_size": 178, "num_tokens": 259, "latent_dim": 256}
    with torch.device("meta"):
        own, shared = (
            INRAutoencoder({"type": "joint_attention"}, {"type": "transinr", "shared_head": key}, **sizes)
            for key in (False, True)
        )
    numbers = [sum(p.numel() for p in inr.encoder.head.parameters()) for inr in (own, shared)]
    head = 2 * 768 + 768 * 256 + 256
    assert numbers == [5 * head, head]
    assert [name for name in shared.encoder.state_dict() if "head." in name] == [
        "head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias",
    ]  # fmt: skip
    assert own.encoder.head[4][1].weight.shape == (256, 768)


@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind != "transinr"])
def test_other_decoders_have_one_head_under_its_old_name(kind):
    assert "encoder.head.0.weight" in tiny_inr(kind).state_dict()


# every decoder


@every_decoder
def test_saving_and_loading_an_autoencoder_changes_nothing(kind, tmp_path):
    autoencoder, images = tiny_inr(kind), torch.rand(3, 1, 8, 8) * 2 - 1
    autoencoder.save_pretrained(tmp_path)
    loaded = INRAutoencoder.from_pretrained(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)
    latents = autoencoder.encode(images)  # a product's last bit depends on where in memory a weight lies
    torch.testing.assert_close(loaded.encode(images), latents)
    torch.testing.assert_close(loaded.render(latents, size=12), autoencoder.render(latents, size=12))
    assert loaded.latent_shape == autoencoder.latent_shape


@every_decoder
def test_images_of_a_batch_are_decoded_alone(kind):
    autoencoder = tiny_inr(kind)
    latents = torch.randn(3, *autoencoder.latent_shape)
    alone = torch.cat([autoencoder.decode(latent_set[None], grid(6)) for latent_set in latents])
    torch.testing.assert_close(autoencoder.decode(latents, grid(6)), alone)


@every_decoder
def test_shared_coordinates_equal_coordinates_for_each_image(kind):
    autoencoder, coords = tiny_inr(kind), grid(5)
    latents = torch.randn(3, *autoencoder.latent_shape)
    torch.testing.assert_close(
        autoencoder.decode(latents, coords), autoencoder.decode(latents, coords.expand(3, -1, -1))
    )


@every_decoder
def test_a_frozen_autoencoder_has_slopes_on_a_grid(kind):
    """Derivatives with respect to the coordinates equal finite differences along both axes of a grid."""
    autoencoder, coords = tiny_inr(kind).double(), grid(4).double().requires_grad_()
    latents = torch.randn(1, *autoencoder.latent_shape, dtype=torch.float64)
    (slope,) = torch.autograd.grad(autoencoder.decode(latents, coords).sum(), coords)
    for axis, step in enumerate(2.0**-9 * torch.eye(2, dtype=torch.float64)):
        with torch.no_grad():
            ahead, behind = (autoencoder.decode(latents, coords + shift) for shift in (step, -step))
        difference = (ahead - behind)[0, :, 0] / 2**-8
        near = (difference - slope[:, axis]).abs() < 0.05 * difference.abs() + 1e-3
        assert near.double().mean() > 0.7, "all but points near a ReLU's kink"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_columns_of_zeros_stay_zeros_in_every_precision(dtype):
    """A locality picture zeroes a TransINR token, and with it the weights of its group."""
    weight = torch.ones(2, 4, dtype=dtype)
    weight[0] = 0
    assert unit_columns(weight)[0].eq(0).all() and unit_columns(weight)[1].float().norm() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_norms_of_half_precision_weights_are_not_rounded(dtype, scale):
    """On average 0.03 % from 1 for 256 rounded weights; if their norm were rounded as well it would be 0.15 %."""
    torch.manual_seed(0)
    norms = unit_columns((scale * torch.randn(100, 256)).to(dtype)).double().norm(dim=-1)
    assert (norms - 1).abs().mean() < 5e-4
