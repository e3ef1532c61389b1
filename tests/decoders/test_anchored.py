"""The anchored decoder against the paper's equations, and the effect of moving, hiding and adding anchors on renders."""

import pytest
import torch

from genrep.coords import grid
from genrep.decoders import AnchoredSpec
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.specs import AutoencoderSpec
from genrep.specs import validate
from genrep.training.describe import num_parameters
from tests.scripts import PROJECT, run


def cloud_autoencoder(image_size=(6, 9), num_tokens=12, latent_dim=7, channels=3, **decoder):
    """A model with large random weights, so that every input has an effect."""
    torch.manual_seed(0)
    model = INRAutoencoder(
        {"type": "fit", "steps": 3}, {"type": "anchored", **decoder}, image_size, channels, num_tokens, latent_dim
    ).freeze()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def clouds(model, batch=2):
    torch.manual_seed(1)
    latents = torch.randn(batch, *model.latent_shape)
    latents[..., : model.position_dim] = torch.rand(batch, model.latent_shape[0], model.position_dim) * 2 - 1
    return latents


def plain(model, cloud, coord, pixels, scale, mask=None):
    """Equations 1 to 11 for one coordinate; `pixels`, the size of the image, sets the unit of offsets."""
    axes = len(pixels)
    present = range(len(cloud)) if mask is None else mask.nonzero()[:, 0].tolist()
    offsets = {k: [(float(cloud[k, a]) - float(coord[a])) * pixels[a] / 2 for a in range(axes)] for k in present}
    nearest = sorted(present, key=lambda k: sum(d * d for d in offsets[k]))[: model.decoder.num_neighbours]
    vector = [w for k in nearest for w in cloud[k, axes:].tolist()]
    hidden = torch.tensor(vector + [d / scale for k in nearest for d in offsets[k]])
    linears = [layer for layer in model.decoder.mlp if isinstance(layer, torch.nn.Linear)]
    for layer in linears[:-1]:
        hidden = torch.relu(layer.weight @ hidden + layer.bias)
    return linears[-1].weight @ hidden + linears[-1].bias


@pytest.mark.parametrize(
    ("pixels", "options"),
    [((6, 9), {}), ((6, 9), {"num_neighbours": 3, "depth": 3, "hidden_dim": 5, "offset_scale": 2.5}), ((20,), {}), ((4, 5, 3), {})],
    ids=str,
)  # fmt: skip
def test_the_decoder_equals_its_equations(pixels, options):
    model = cloud_autoencoder(pixels, **options)
    total = torch.tensor(pixels).prod().item()
    scale = options.get("offset_scale") or (total / 12) ** (1 / len(pixels))
    latents, coords = clouds(model), torch.rand(15, len(pixels)) * 2.4 - 1.2  # outside the image, too
    expected = torch.stack(
        [torch.stack([plain(model, cloud, coord, pixels, scale) for coord in coords]) for cloud in latents]
    )
    torch.testing.assert_close(model.decode(latents, coords), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.decode(latents, coords.expand(2, -1, -1)), expected, atol=1e-4, rtol=1e-4)
    mask = torch.arange(12) >= torch.tensor([[2], [7]])
    masked = [
        plain(model, cloud, coords[0], pixels, scale, present) for cloud, present in zip(latents, mask, strict=True)
    ]
    expected = torch.stack(masked)
    torch.testing.assert_close(model.decode(latents, coords[:1], mask)[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_the_papers_decoder_has_19_043_parameters(monkeypatch, capsys):
    """Appendix A: [4 (32 + 2), 4 (32 + 2), 3]. The dry run prints it."""
    decoder = AnchoredSpec(type="anchored").build((32, 32), 3, 51, 34)
    assert num_parameters(decoder) == 136 * 136 + 136 + 136 * 3 + 3 == 19_043
    monkeypatch.chdir(PROJECT)
    run("train/clouds.py", "configs/cifar10/arc.yaml", "--data.source", "nowhere", "--dry-run", expect=2)
    assert "decoder: 19,043\n" in capsys.readouterr().out


def test_gradients_reach_positions_features_and_weights():
    model = cloud_autoencoder().double().requires_grad_(True)
    latents, coords = clouds(model).double().requires_grad_(True), torch.rand(4, 2).double()
    torch.autograd.gradcheck(lambda latents: model.decoder(coords, latents), latents)
    model.decoder(coords, latents).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.decoder.parameters())


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (31, 50)], ids=str)
def test_moving_the_anchors_moves_the_render(size):
    """By whole pixels of the render, equal up to rounding, because the decoder sees only offsets."""
    model = cloud_autoencoder((24, 24), 30)
    latents = clouds(model)
    # anchors on a grid, so that there are ties
    latents[..., :2] = torch.stack([grid(24)[torch.randperm(576)[:30]] for _ in range(2)])
    moved, steps = latents.clone(), (4, -6)
    moved[..., :2] += torch.tensor([2 * step / length for step, length in zip(steps, size, strict=True)])
    render, of_moved = model.render(latents, size=size), model.render(moved, size=size)
    torch.testing.assert_close(of_moved[:, :, 4:, :-6], render[:, :, :-4, 6:], atol=2e-4, rtol=1e-3)


def test_a_region_outside_the_image_renders_anchors_there():
    model = cloud_autoencoder((8, 8), 16)
    latents = clouds(model)
    moved = latents.clone()
    moved[..., :2] += 2.0
    torch.testing.assert_close(
        model.render(moved, size=8, region=(1, 1, 3, 3)), model.render(latents, size=8), atol=2e-4, rtol=1e-3
    )


def test_distant_and_hidden_anchors_do_not_change_a_render():
    """Of two clouds far apart, only the near one is rendered, and a mask can hide it."""
    model = cloud_autoencoder((8, 8), 24)
    both = clouds(model, 1)
    both[:, 12:, 0] += 50.0
    near = torch.arange(24)[None] < 12
    render = model.render(both, size=8)
    torch.testing.assert_close(model.render(both, size=8, mask=near), render)
    assert not torch.allclose(model.render(both, size=8, mask=~near), render, atol=1e-2)


def test_a_cloud_with_too_few_anchors_is_refused():
    model = cloud_autoencoder()
    mask = torch.arange(12) < torch.tensor([[12], [3]])
    with pytest.raises(
        InputError, match="a cloud must have at least 4 anchors, the neighbours that .* got 3: add anchors"
    ):
        model.render(clouds(model), mask=mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 3}, "num_tokens must be at least 4, decoder.num_neighbours; got 3: raise num_tokens"),
        ({"latent_dim": 2}, "latent_dim must be more than 2, because the first 2 numbers of a token are the anchor's position; got 2"),
        ({"decoder": {"type": "anchored", "num_axes": 3}}, "decoder.num_axes must be 2, the axes of the signal; got 3: leave it out"),
        ({"num_tokens": 65}, "num_tokens must be at most 64, the pixels that anchors are drawn from; got 65: lower"),
        ({"encoder": {"type": "fit", "parts": 65}}, "encoder.parts must be at most 64, the pixels of an image; got 65"),
        ({"decoder": {"type": "multiband"}}, "encoder fit needs a decoder whose tokens have positions, .* have slots: use decoder anchored"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_impossible_arguments_are_refused(changes, message):
    arguments = {
        "encoder": {"type": "fit"}, "decoder": {"type": "anchored"}, "image_size": 8, "channels": 1, "num_tokens": 16, "latent_dim": 10,
    }  # fmt: skip
    assert validate(AutoencoderSpec, arguments).decoder.position_dim == 2
    with pytest.raises(InputError, match=message):
        validate(AutoencoderSpec, {**arguments, **changes})


def test_a_saved_model_renders_and_encodes_the_same(tmp_path):
    model = cloud_autoencoder()
    model.save_pretrained(tmp_path)
    loaded, latents = INRAutoencoder.from_pretrained(tmp_path), clouds(model)
    assert torch.equal(loaded.render(latents), model.render(latents))
    images = torch.rand(2, 3, 6, 9) * 2 - 1
    assert torch.equal(loaded.encode(images), model.encode(images))
