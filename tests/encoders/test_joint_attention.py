"""The joint-attention encoder against a plain transformer over patches and learned tokens."""

import pytest
import torch
import torch.nn.functional as F

from genrep.encoders import JointAttentionSpec
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder


def make_encoder(image_size=(8, 8), channels=1, num_tokens=5, latent_dim=6, **options):
    tiny = {"patch_size": 4, "dim": 8, "depth": 2, "num_heads": 2, "head_dim": 3, "mlp_dim": 12}
    spec = JointAttentionSpec.model_validate({"type": "joint_attention", **tiny, **options})
    return spec.build(image_size, channels, num_tokens, latent_dim).eval()


def plain_block(block, rows, num_heads):
    """One image's rows: x + attention(norm(x)), then x + MLP(norm(x))."""
    normed = F.layer_norm(rows, rows.shape[-1:], block.attention_norm.weight, block.attention_norm.bias)
    key, value = block.attention.to_key_value(normed).chunk(2, dim=-1)
    parts = [part.chunk(num_heads, dim=-1) for part in (block.attention.to_query(normed), key, value)]
    heads = [torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v for q, k, v in zip(*parts, strict=True)]
    rows = rows + block.attention.to_out(torch.cat(heads, dim=-1))
    normed = F.layer_norm(rows, rows.shape[-1:], block.mlp_norm.weight, block.mlp_norm.bias)
    return rows + block.mlp.down(F.gelu(block.mlp.up(normed)))


@pytest.mark.parametrize("depth", [1, 3])
def test_encoder_equals_a_plain_transformer(depth):
    encoder, images = make_encoder(depth=depth), torch.randn(2, 1, 8, 8)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    expected = []
    for image in images:
        patches = [image[:, y : y + 4, x : x + 4].flatten() for y in (0, 4) for x in (0, 4)]
        rows = torch.cat([encoder.tokenizer.project(torch.stack(patches)) + encoder.tokenizer.position, encoder.tokens])
        for block in encoder.blocks:
            rows = plain_block(block, rows, num_heads=2)
        norm, project = encoder.head
        expected.append(project(F.layer_norm(rows[4:], (8,), norm.weight, norm.bias)))
    torch.testing.assert_close(encoder(images), torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_the_papers_parameter_count():
    """178×178 in patches of 9, six blocks 768 wide with 12 heads, 256 tokens of 256."""
    with torch.device("meta"):
        encoder = JointAttentionSpec(type="joint_attention").build((178, 178), 3, 256, 256)
    tokenizer = (3 * 9 * 9 * 768 + 768) + 400 * 768
    attention, mlp = 4 * (768 * 768 + 768), (768 * 3072 + 3072) + (3072 * 768 + 768)
    block = 2 * 768 + attention + 2 * 768 + mlp  # each behind a LayerNorm
    head = 2 * 768 + (768 * 256 + 256)
    assert sum(p.numel() for p in encoder.parameters()) == tokenizer + 256 * 768 + 6 * block + head
    assert block == 7_087_872
    assert len(encoder.blocks) == 6 and encoder.blocks[0].attention.num_heads == 12
    assert JointAttentionSpec(type="joint_attention").dropout == 0


def test_tokens_begin_as_standard_normal_noise():
    tokens = make_encoder(num_tokens=256, dim=64).tokens
    assert tokens.shape == (256, 64) and tokens.requires_grad
    tokens = tokens.detach()
    assert float(tokens.mean()) == pytest.approx(0, abs=0.03) and float(tokens.std()) == pytest.approx(1, rel=0.03)


def test_permuting_the_learned_tokens_permutes_the_latents():
    """Row k of the latents belongs to learned token k."""
    encoder, images, order = make_encoder(), torch.randn(3, 1, 8, 8), torch.tensor([3, 0, 4, 1, 2])
    latents = encoder(images)
    encoder.tokens.data = encoder.tokens.data[order]
    torch.testing.assert_close(encoder(images), latents[:, order])
    assert not torch.allclose(latents[:, order], latents, atol=1e-2)


def test_every_latent_reads_every_other_learned_token_and_every_pixel():
    """Self-attention over patches and tokens together."""
    encoder, images = make_encoder(), torch.randn(1, 1, 8, 8, requires_grad=True)
    for row in encoder(images)[0]:
        to_tokens, to_pixels = torch.autograd.grad(row.square().sum(), [encoder.tokens, images], retain_graph=True)
        assert (to_tokens.abs().sum(dim=1) > 0).all() and (to_pixels != 0).all()


@pytest.mark.parametrize(
    ("size", "patch_size", "patches"),
    [((178, 178), 9, 400), ((1024, 1024), 48, 484), ((20, 33), 8, 15), ((7, 16), 16, 1)],
    ids=str,
)
def test_any_image_size_and_patch(size, patch_size, patches):
    encoder, image = make_encoder(size, 3, patch_size=patch_size, depth=1), torch.zeros(1, 3, *size)
    assert encoder.tokenizer(image).shape == (1, patches, 8)
    latents = encoder(image)
    assert latents.shape == (1, 5, 6)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # no pixel is lost
        changed = image.clone()
        changed[..., corner[0], corner[1]] = 100.0
        assert not torch.allclose(encoder(changed), latents)


def test_latents_do_not_depend_on_the_other_images():
    encoder, images = make_encoder(), torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(encoder(images), torch.cat([encoder(image[None]) for image in images]))


def test_dropout_is_off_in_evaluation_and_on_in_training():
    encoder, images = make_encoder(dropout=0.5), torch.randn(2, 1, 8, 8)
    without = make_encoder(dropout=0.0)
    without.load_state_dict(encoder.state_dict())
    latents = encoder(images)
    assert torch.equal(latents, encoder(images)) and torch.equal(latents, without(images))
    assert torch.equal(without.train()(images), latents)
    first, second = encoder.train()(images), encoder(images)
    assert not torch.allclose(first, second) and not torch.allclose(first, latents)


def test_dropout_is_on_the_residual_branches_alone():
    """With all branches dropped a token passes through unchanged."""
    encoder, images = make_encoder(dropout=0.99999).train(), torch.randn(2, 1, 8, 8)
    norm, project = encoder.head
    expected = project(F.layer_norm(encoder.tokens, (8,), norm.weight, norm.bias))
    torch.testing.assert_close(encoder(images), expected.expand(2, -1, -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"encoder.dropout: .*less than 1; got 1.0"),
        ({"dropout": -0.1}, r"encoder.dropout: .*greater than or equal to 0; got -0.1"),
        ({"encoder_depth": 2}, r"encoder.encoder_depth: unknown key"),
        ({"depth": 0}, r"encoder.depth: .*greater than 0; got 0"),
        (
            {"type": "joint_atention"},
            r"encoder.type: must be .*; got 'joint_atention'; did you mean 'joint_attention'\?",
        ),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        INRAutoencoder({"type": "joint_attention", **options}, {"type": "multiband"}, image_size=8)


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match="do not fit the encoder"):
        make_encoder()(torch.zeros(2, 3, 8, 8))
