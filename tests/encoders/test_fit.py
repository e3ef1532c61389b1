"""Fits of clouds: equal to Adam with autograd, independent of the other images, and reproducible."""

import hashlib
import json
import math

import pytest
import torch

from genrep.coords import grid
from genrep.data.encoding import autoencoder_hash
from genrep.encoders import fit as fitting
from genrep.encoders.anchors import draw_anchors, gradient_norm
from genrep.encoders.fit import cut_into_parts, loss_of_part
from genrep.errors import InputError
from genrep.interpolation import values_at
from genrep.models.autoencoder import INRAutoencoder
from genrep.randomness import stream_generator
from genrep.training.clouds import JointClouds

SHAPE = (8, 10)


def model_of(channels=2, num_tokens=12, missing=False, shape=SHAPE, depth=2, **encoder):
    torch.manual_seed(0)
    encoder = {"type": "fit", "steps": 25, "lr": 0.05, "start": 0.1, **encoder}
    decoder = {"type": "anchored", "depth": depth}
    return INRAutoencoder(encoder, decoder, shape, channels, num_tokens, len(shape) + 4, missing=missing).freeze()


def images(batch=5, channels=2, shape=SHAPE):
    torch.manual_seed(1)
    return torch.rand(batch, channels, *shape) * 2 - 1


def mean_squares(model, latents, values, mask=None):
    rendered = model.decode(latents, grid(values.shape[2:]), mask)
    return (rendered.transpose(1, 2).unflatten(2, values.shape[2:]) - values).square().flatten(1).mean(1)


@pytest.mark.parametrize("shape", [(30,), SHAPE, (3, 4, 5)], ids=str)
def test_a_fit_approaches_its_image_and_anchors_are_pixel_centres(shape):
    model, values = model_of(shape=shape, steps=400, parts=1), images(shape=shape)
    latents, mask = model.encode_set(values)
    assert latents.shape == (5, 12, len(shape) + 4) and mask is None
    assert (mean_squares(model, latents, values) < 0.75 * values.square().flatten(1).mean(1)).all()
    for cloud in latents:
        anchors = {tuple(position) for position in cloud[:, : len(shape)].tolist()}
        assert len(anchors) == 12 and anchors <= {tuple(centre) for centre in grid(shape).tolist()}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coords": "uniform", "draws": 2},
        {"schedule": "cosine", "jitter": True},
        {"schedule": "trapezoid", "betas": [0.8, 0.9]},
    ],
    ids=str,
)
def test_a_fit_equals_adam_on_the_error_of_the_decoder(depth, options):
    """With autograd and the decoder's forward, one image at a time, one part of the pixels per step."""
    model, values = model_of(depth=depth, parts=3, **options), images(3)
    encoder = model.encoder
    expected = []
    for image in values:
        clouds = encoder.place(image[None], model.decoder)
        features = clouds.features.clone().requires_grad_(True)
        adam = torch.optim.Adam([features], lr=encoder.lr, betas=encoder.betas)
        for step in range(25):
            if encoder.schedule == "cosine":
                adam.param_groups[0]["lr"] = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / 25)).item()) / 2
            if encoder.schedule == "trapezoid" and step > 50 / 3:
                adam.param_groups[0]["lr"] = 0.05 * (25 - step) / (25 / 3)
            pixels = clouds.order[0].tensor_split(3)[step % 3]
            coords = grid(SHAPE)[pixels]
            if clouds.shifts is not None:
                coords = coords + clouds.shifts[0, step // 3 % 2, pixels]
            targets = values_at(image[None], coords, "bicubic")
            error = model.decoder(coords, torch.cat([clouds.positions, features], dim=-1)) - targets
            adam.zero_grad()
            error.square().mean().backward()
            adam.step()
        expected.append(torch.cat([clouds.positions, features.detach()], dim=-1))
    torch.testing.assert_close(model.encode(values), torch.cat(expected), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("points_at_once", "pieces"), [(100, 1), (16, 5)])
def test_loss_and_gradient_of_parts_equal_autograd_of_the_plain_loss(points_at_once, pieces, monkeypatch):
    shape = (40, 10)
    model, values = model_of(depth=3, parts=1, steps=1, shape=shape, num_tokens=40), images(3, shape=shape)
    monkeypatch.setattr(fitting, "points_at_once", lambda device: points_at_once)
    clouds = model.encoder.place(values, model.decoder)
    (parts,) = cut_into_parts(model.encoder, values, clouds, model.decoder)
    assert len(parts) == pieces and sum(len(part.targets) for part in parts) == 3 * 400
    if pieces > 1:  # strips of the images, with few of the anchors near them
        assert all(len(part.anchors) < 0.6 * 3 * 40 for part in parts)
    features = clouds.features.clone().requires_grad_(True)
    loss = sum(loss_of_part(model.decoder, features, part) for part in parts)
    latents = torch.cat([clouds.positions, features], dim=-1)
    plain_loss = mean_squares(model, latents, values).sum()
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(torch.autograd.grad(loss, features), torch.autograd.grad(plain_loss, features))


@pytest.mark.parametrize("options", [{}, {"flat": "masked"}, {"coords": "uniform", "jitter": True}], ids=str)
def test_an_encoding_does_not_depend_on_the_batch(options, monkeypatch):
    model, values = model_of(**options), images()
    values[1, :, 2:] = 0.5  # few pixels with a gradient
    latents, mask = model.encode_set(values)
    for k in range(5):
        alone, mask_alone = model.encode_set(values[k : k + 1])
        torch.testing.assert_close(alone[0], latents[k], atol=1e-5, rtol=1e-4)
        assert mask is None or torch.equal(mask_alone[0], mask[k])
    for points in (7, 10**6):  # a part of an image at a time, and all images at a time
        monkeypatch.setattr(fitting, "points_at_once", lambda device, points=points: points)
        torch.testing.assert_close(model.encode(values), latents, atol=1e-5, rtol=1e-4)


def test_fit_0_is_the_encoding_of_earlier_versions():
    model, values = model_of(), images(3)
    clouds, number_0 = (model.encoder.place(values, model.decoder, *number) for number in ((), (0,)))
    for k, image in enumerate(values):
        digest = hashlib.sha256(image.numpy().tobytes()).digest()
        generator = stream_generator(0, "cloud", int.from_bytes(digest[:8], "big"))
        centres = grid(SHAPE)[draw_anchors(gradient_norm(image[None])[0].flatten(), 12, generator)]
        assert torch.equal(clouds.positions[k], centres) and torch.equal(number_0.positions[k], centres)
    assert torch.equal(model.encode_set(values, fit=0)[0], model.encode(values))


def test_fits_of_an_image_differ_and_are_equally_good():
    model, values = model_of(num_tokens=24, steps=200, parts=1), images(20)
    fits = [model.encode_set(values, fit)[0] for fit in range(4)]
    for k in range(1, 4):
        assert torch.equal(model.encode_set(values, k)[0], fits[k])
        assert not torch.equal(fits[k][..., :2].sort(1).values, fits[k - 1][..., :2].sort(1).values)
    errors = torch.stack([mean_squares(model, latents, values) for latents in fits]).mean(1)
    decibels = -10 * errors.log10()
    assert decibels.max() - decibels.min() < 0.5 and errors.max() < 0.7 * values.square().mean()


def test_further_fits_do_not_depend_on_the_batch():
    model, values = model_of(flat="masked", jitter=True), images()
    values[1, :, 2:] = 0.5  # few pixels with a gradient
    latents, mask = model.encode_set(values, fit=3)
    for k in range(5):
        alone, mask_alone = model.encode_set(values[k : k + 1], fit=3)
        assert torch.equal(mask_alone[0], mask[k])
        torch.testing.assert_close(alone[0], latents[k], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fit", [-1, 1.0, True, "2"])
def test_the_number_of_a_fit_must_be_a_non_negative_integer(fit):
    with pytest.raises(InputError, match="fit must be an integer from 0; got "):
        model_of().encode_set(images(1), fit=fit)


def test_the_seed_decides_the_anchors():
    values = images()
    first, repeated, reseeded = (model_of(seed=seed).encode(values)[..., :2] for seed in (0, 0, 1))
    assert torch.equal(first, repeated) and not torch.equal(first, reseeded)


def test_flat_images_are_filled_or_masked():
    values = torch.full((3, 2, *SHAPE), 0.3)
    values[1, :, 3, 4] = -1.0  # the eight pixels around it have a gradient
    values[2] = images(1)[0]
    filled, mask = model_of().encode_set(values)
    assert mask is None and len({tuple(position) for position in filled[0, :, :2].tolist()}) == 12
    _, mask = model_of(flat="masked").encode_set(values)
    assert mask.sum(1).tolist() == [4, 8, 12]  # never fewer than num_neighbours


def test_missing_values_have_no_weight_and_no_anchors():
    model, values = model_of(missing=True, steps=60), images(1)
    values[:, :, :3] = torch.nan
    latents = model.encode(values)
    assert latents.isfinite().all() and (latents[..., 0] > -1 + 6 / 8).all()
    targets = values[:, :, 3:]  # the rows that are present
    rendered = model.decode(latents, grid(SHAPE)).transpose(1, 2).unflatten(2, SHAPE)
    assert (rendered[:, :, 3:] - targets).square().mean() < 0.9 * targets.square().mean()


def test_edges_of_holes_attract_no_anchors():
    model = model_of(missing=True)
    values = torch.full((1, 2, *SHAPE), 0.8)
    values += 0.01 * images(1)  # weak gradients everywhere
    values[:, :, 2:5, 3:6] = torch.nan
    positions = model.encoder.place(model.observed(values), model.decoder).positions[0]
    rows, columns = (((positions[:, axis] + 1) * SHAPE[axis] / 2 - 0.5).round().long() for axis in range(2))
    assert len(rows) and not bool(((rows >= 1) & (rows <= 5) & (columns >= 2) & (columns <= 6)).any())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_fit_does_not_depend_on_the_grad_mode(mode):
    model, values = model_of(), images(2)
    expected = model.encode(values)
    with mode():
        latents = model.encode(values)
    torch.testing.assert_close(latents, expected)
    assert not latents.requires_grad and all(parameter.grad is None for parameter in model.parameters())


def test_a_model_in_float64_or_bfloat16_can_be_fitted():
    values = images(2)
    expected = model_of().encode(values)
    torch.testing.assert_close(model_of().double().encode(values.double()).float(), expected, atol=1e-3, rtol=1e-2)
    assert model_of().to(torch.bfloat16).encode(values).dtype == torch.bfloat16


def test_autocast_does_not_change_a_fit():
    """A user's autocast or a bf16 run: Adam's steps are too small for half precision."""
    encoder = {"type": "fit", "steps": 5}
    model = INRAutoencoder(
        encoder=encoder, decoder={"type": "anchored"}, image_size=12, channels=1, num_tokens=10, latent_dim=8
    )
    images = torch.rand(2, 1, 12, 12) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = model.encode(images)
    torch.testing.assert_close(latents, model.encode(images), rtol=0, atol=0)


def test_a_penalty_makes_features_small_and_zero_is_its_limit():
    """Under a large penalty, the minimum of the loss has features of 0."""
    values, sizes = images(2), []
    for penalty in (0.0, 0.3, 1e4):
        model = model_of(steps=300, lr=0.02, parts=1, schedule="cosine", penalty=penalty)
        sizes.append(float(model.encode(values)[..., 2:].square().mean()))
    assert sizes[0] > 2 * sizes[1] > 0
    assert sizes[2] < 1e-6


def test_joint_training_minimises_the_mean_error_and_the_penalty():
    model, values = model_of(parts=1, penalty=0.2), images(3)
    model.decoder.requires_grad_(True)
    clouds = JointClouds(model.decoder, model.encoder, values)
    loss = sum(clouds(rows, part) for rows, part in clouds.parts(0)) + clouds.regulariser()
    positions = model.encoder.place(values, model.decoder).positions
    errors = mean_squares(model, torch.cat([positions, clouds.features], dim=-1), values)
    torch.testing.assert_close(loss, errors.mean() + 0.2 * clouds.features.square().mean())


def test_latent_noise_of_joint_training_is_relative_and_depends_on_the_step_alone():
    model, values = model_of(parts=1), images(3)
    clouds = JointClouds(model.decoder, model.encoder, values, latent_noise=0.5, seed=3)
    with torch.no_grad():
        clouds.features.normal_().mul_(torch.arange(1.0, 1 + clouds.features.shape[2]))
    noise = clouds.noise(7)
    torch.testing.assert_close(clouds.noise(7), noise, rtol=0, atol=0)
    deviation = clouds.features.detach().std(dim=(0, 1))
    relative = torch.cat([clouds.noise(step) / deviation for step in range(2000)]).flatten(1)
    # a level per image: E|N(0, 0.5²)|² = 0.25, and a normal of a half-normal standard deviation has kurtosis 9
    assert float(relative.square().mean()) == pytest.approx(0.25, rel=0.05)
    assert float(relative.pow(4).mean()) == pytest.approx(9 * 0.25**2, rel=0.1)
    levels = relative.std(dim=1)
    assert float(levels.mean()) == pytest.approx(0.5 * math.sqrt(2 / math.pi), rel=0.05)
    # what the decoder sees is the noisy features
    moved = JointClouds(model.decoder, model.encoder, values)
    with torch.no_grad():
        moved.features.copy_(clouds.features + noise)
    (rows, part), *_ = clouds.parts(7)
    torch.testing.assert_close(clouds(rows, part, noise), moved(rows, part))
    assert JointClouds(model.decoder, model.encoder, values).noise(7) is None


def test_keys_added_later_do_not_change_the_hash_of_a_model_at_their_defaults():
    """Else the latent caches of earlier clouds would be refused."""
    plain = autoencoder_hash(model_of())
    assert autoencoder_hash(model_of(share=None, betas=[0.9, 0.999], penalty=0.0)) == plain
    public = {key: value for key, value in model_of().config.items() if not key.startswith("_")}
    earlier = {"type", "steps", "lr", "schedule", "parts", "coords", "draws", "start", "jitter", "flat", "seed"}
    public["encoder"] = {key: value for key, value in public["encoder"].items() if key in earlier}
    for key in ("signal", "missing"):
        public.pop(key)
    digest = hashlib.sha256(json.dumps(public, sort_keys=True, default=list).encode())
    for name, value in sorted(model_of().state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert digest.hexdigest()[:16] == plain
    assert autoencoder_hash(model_of(penalty=0.1)) != plain != autoencoder_hash(model_of(betas=[0.9, 0.9]))
