"""Refinement at test time: errors fall, the autoencoder is not modified, results are reproducible."""

import copy
import math

import pytest
import torch

from genrep.coords import draw_targets, grid
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.interpolation import values_at
from genrep.metrics.reconstruction import enlarge, psnr
from genrep.models.autoencoder import INRAutoencoder
from genrep.refine import refine, refinements
from genrep.render import from_uint8
from tests.decoders.test_modulated_mlp import DECODERS, ENCODER, tiny_inr
from tests.tiny import AUTOENCODER

every_decoder = pytest.mark.parametrize("kind", DECODERS)


def make_images(autoencoder, count=3):
    """Images that the decoder can represent, each with a different contrast."""
    return autoencoder.render(
        torch.tensor([2.0, 4.0, 0.5])[:count, None, None] * torch.randn(count, *autoencoder.latent_shape)
    )


def errors(autoencoder, latents, images):
    """Mean squared error of every image."""
    with torch.no_grad():
        values = autoencoder.decode(latents, grid(8))
    return (values - values_at(images, grid(8), "nearest")).square().mean(dim=(1, 2))


def state(autoencoder):
    """Everything about a model that refinement could change."""
    flags = [(name, p.requires_grad, p.grad is None) for name, p in autoencoder.named_parameters()]
    return copy.deepcopy(autoencoder.state_dict()), flags, autoencoder.training


def assert_same_state(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    assert first[1:] == second[1:]


@every_decoder
def test_every_images_error_falls(kind):
    autoencoder = tiny_inr(kind)
    images = make_images(autoencoder)
    before = errors(autoencoder, autoencoder.encode(images), images)
    refined, latents = refine(autoencoder, images, 30, lr=0.2)
    assert refined is autoencoder and latents.shape == (3, *autoencoder.latent_shape)
    assert not latents.requires_grad
    assert (errors(autoencoder, latents, images) < 0.9 * before).all()


@every_decoder
def test_a_refined_image_does_not_depend_on_the_others(kind):
    autoencoder = tiny_inr(kind)
    images = make_images(autoencoder)
    _, latents = refine(autoencoder, images, 6, lr=0.1)
    for number, image in enumerate(images):
        _, alone = refine(autoencoder, image[None], 6, lr=0.1)
        torch.testing.assert_close(latents[number], alone[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            errors(autoencoder, latents, images)[[number]],
            errors(autoencoder, alone, image[None]),
            atol=1e-5,
            rtol=1e-3,
        )


@every_decoder
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("decoder_lr", [None, 1e-2])
def test_the_given_autoencoder_is_not_changed(kind, frozen, decoder_lr):
    autoencoder = tiny_inr(kind).requires_grad_(not frozen)
    before = state(autoencoder)
    refine(autoencoder, make_images(autoencoder), 3, decoder_lr=decoder_lr)
    assert_same_state(state(autoencoder), before)


@every_decoder
def test_a_refined_decoder_is_a_copy_with_the_same_encoder(kind):
    autoencoder, images = tiny_inr(kind), torch.rand(1, 1, 8, 8) * 2 - 1
    refined, latents = refine(autoencoder, images, 20, lr=0.1, decoder_lr=1e-2)
    assert refined is not autoencoder
    torch.testing.assert_close(refined.encoder.state_dict(), autoencoder.encoder.state_dict(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in refined.encoder.parameters())
    before = dict(autoencoder.decoder.named_parameters())
    unchanged = [name for name, p in refined.decoder.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == []
    _, alone = refine(autoencoder, images, 20, lr=0.1)
    assert errors(refined, latents, images) < errors(autoencoder, alone, images)


@pytest.mark.parametrize("decoder_lr", [None, 1e-2])
def test_no_steps_give_the_encoders_prediction(decoder_lr):
    autoencoder = tiny_inr("multiband")
    images = make_images(autoencoder)
    refined, latents = refine(autoencoder, images, 0, decoder_lr=decoder_lr)
    assert torch.equal(latents, autoencoder.encode(images))
    torch.testing.assert_close(refined.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("grad", [True, False])
def test_refining_works_with_gradients_off_outside(grad):
    autoencoder = tiny_inr("multiband")
    images = make_images(autoencoder)
    with torch.set_grad_enabled(grad):
        _, latents = refine(autoencoder, images, 3)
    assert not torch.equal(latents, autoencoder.encode(images))


def test_a_seed_repeats_and_another_draws_other_pixels():
    autoencoder = tiny_inr("multiband")
    images = make_images(autoencoder)

    def latents(seed, **options):
        return refine(autoencoder, images, 5, seed=seed, **options)[1]

    assert torch.equal(latents(3, num_coords=10), latents(3, num_coords=10))
    assert not torch.allclose(latents(3, num_coords=10), latents(4, num_coords=10))
    every_centre = {"coords": "grid", "targets": "pixel"}
    torch.testing.assert_close(latents(3, **every_centre), latents(4, **every_centre), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(latents(3), latents(3, num_coords=64), rtol=0, atol=0)


@every_decoder
@pytest.mark.parametrize("num_coords", [None, 5])
def test_refining_one_image_equals_adam_written_out(kind, num_coords):
    """New pixels in every step, betas 0.9 and 0.999, half a cosine to 0, in units of the latents' standard deviation."""
    autoencoder, steps = tiny_inr(kind), 6
    images = torch.rand(1, 1, 8, 8) * 2 - 1
    coords, targets = grid(8), images.flatten(2).transpose(1, 2)
    generator = torch.Generator().manual_seed(7)
    latents = autoencoder.encode(images)
    deviation, mean, square = latents.std(correction=0), torch.zeros_like(latents), torch.zeros_like(latents)
    for step in range(steps):
        chosen = torch.randperm(64, generator=generator)[:num_coords]
        latents = latents.detach().requires_grad_()
        loss = (autoencoder.decode(latents, coords[chosen]) - targets[:, chosen]).square().mean()
        (gradient,) = torch.autograd.grad(loss, latents)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        move = (mean / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        latents = latents - 0.1 * deviation * (1 + math.cos(math.pi * step / steps)) / 2 * move
    objective = {"coords": "grid", "targets": "pixel"}
    _, refined = refine(autoencoder, images, steps, lr=0.1, num_coords=num_coords, seed=7, **objective)
    torch.testing.assert_close(refined, latents.detach(), atol=1e-4, rtol=1e-3)


def test_refinements_begin_with_the_prediction_and_end_as_refine_does():
    autoencoder = tiny_inr("multiband")
    images = make_images(autoencoder)
    course = [latents.clone() for _, latents in refinements(autoencoder, images, 4)]
    assert len(course) == 5
    assert torch.equal(course[0], autoencoder.encode(images))
    assert torch.equal(course[-1], refine(autoencoder, images, 4)[1])


@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_the_rate_begins_at_lr_deviations_and_falls_to_zero(lr):
    """Adam's first step moves every number by its rate, whatever the gradient; later ones by little more than theirs."""
    autoencoder, steps = tiny_inr("multiband"), 10
    images = make_images(autoencoder, 1)
    course = torch.stack([latents.clone() for _, latents in refinements(autoencoder, images, steps, lr=lr)])
    moves = course.diff(dim=0).abs().flatten(1) / (lr * course[0].std(correction=0))
    torch.testing.assert_close(moves[0].median(), torch.tensor(1.0), atol=0.05, rtol=0)
    assert float(moves[steps // 2].max()) > 0.1, "half the rate half-way"
    assert float(moves[-1].max()) < 0.1, "0.024 of the rate at the end"


def test_the_decoder_has_a_separate_learning_rate():
    autoencoder = tiny_inr("multiband")
    images = make_images(autoencoder, 1)
    refined, _ = refine(autoencoder, images, 1, decoder_lr=1e-3)
    for refined_weight, weight in zip(refined.decoder.parameters(), autoencoder.decoder.parameters(), strict=True):
        assert float((refined_weight - weight).detach().abs().max()) == pytest.approx(1e-3, rel=0.01)


@pytest.fixture(scope="module")
def trained():
    """An autoencoder trained on four digits for a few seconds, and these digits."""
    data = ImageData(ImageDataSpec(), "held_out", (8, 8), 1)
    images = from_uint8(data.read(range(4)))
    torch.manual_seed(0)
    options = {"num_tokens": 8, "latent_dim": 16, "decoder": {**AUTOENCODER["decoder"], "hidden_dim": 32}}
    autoencoder = INRAutoencoder(**{**AUTOENCODER, **options})
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=5e-3)
    for step in range(300):
        coords, targets = draw_targets(images, torch.Generator().manual_seed(step))
        (autoencoder(images, coords) - targets).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return autoencoder.freeze(), images


def decibels(autoencoder, latents, images, size):
    return psnr(autoencoder.render(latents, size=size), enlarge(images, size))


def test_refinement_raises_the_image_between_its_pixels_too(trained):
    autoencoder, images = trained
    _, latents = refine(autoencoder, images, 150)
    for size in (8, 32):
        before = decibels(autoencoder, autoencoder.encode(images), images, size)
        assert (decibels(autoencoder, latents, images, size) > before + 0.5).all()


def test_refinement_at_pixel_centres_harms_other_points(trained):
    """Why that is not the default."""
    autoencoder, images = trained
    predicted = autoencoder.encode(images)
    _, latents = refine(autoencoder, images, 150, coords="grid", targets="pixel")
    at_centres, between = (
        decibels(autoencoder, latents, images, size) - decibels(autoencoder, predicted, images, size)
        for size in (8, 32)
    )
    assert (at_centres > 2).all() and between.mean() < -0.3, (at_centres, between)


def test_the_grid_of_coordinates_may_have_another_size():
    """By default all of its pixels are used, up to 2,048."""
    autoencoder = tiny_inr("multiband")
    images = make_images(autoencoder)
    asked = []
    decode = autoencoder.decode
    autoencoder.decode = lambda latents, coords, mask=None: asked.append(coords) or decode(latents, coords, mask)
    refine(autoencoder, images, 1, target_size=11, coords="grid")
    refine(autoencoder, images, 1, target_size=(50, 60), coords="grid")
    assert [len(coords) for coords in asked] == [121, 2048]
    assert torch.equal(asked[0].sort(dim=0).values, grid(11).sort(dim=0).values)
    with pytest.raises(
        InputError, match="coords must be one of grid, gaussian, uniform; got 'grids'; did you mean 'grid'"
    ):
        refine(autoencoder, images, 1, coords="grids")
    with pytest.raises(InputError, match="targets must be one of pixel, bicubic; got 'cubic'"):
        refine(autoencoder, images, 1, targets="cubic")


def test_images_need_not_be_square():
    autoencoder = tiny_inr("multiband", image_size=[8, 12])
    images = autoencoder.render(2 * torch.randn(2, *autoencoder.latent_shape))
    coords = grid((8, 12))
    course = [
        (autoencoder.decode(latents, coords) - images.flatten(2).transpose(1, 2)).square().mean(dim=(1, 2))
        for _, latents in refinements(autoencoder, images, 30, lr=0.2)
    ]
    assert (course[-1] < 0.9 * course[0]).all()
    with pytest.raises(InputError, match="num_coords must be an integer from 1 to 96; got 97"):
        refine(autoencoder, images, 1, num_coords=97)


@pytest.mark.parametrize(
    ("steps", "num_coords", "message"),
    [
        (-1, None, "steps must be an integer from 0; got -1"),
        (1, 65, "num_coords must be an integer from 1 to 64; got 65"),
        (1, 0, "num_coords must be an integer from 1 to 64; got 0"),
        (0, -5, "num_coords must be an integer from 1 to 64; got -5"),
    ],
)
def test_invalid_numbers_are_refused(steps, num_coords, message):
    with pytest.raises(InputError, match=message):
        refine(tiny_inr("multiband"), torch.zeros(2, 1, 8, 8), steps, num_coords=num_coords)


@pytest.mark.parametrize("rates", [{"lr": 0.0}, {"lr": -0.1}, {"lr": math.nan}, {"decoder_lr": math.inf}])
def test_invalid_learning_rates_are_refused(rates):
    autoencoder = tiny_inr("anr")
    with pytest.raises(InputError, match="lr must be a finite number above 0; got"):
        refine(autoencoder, make_images(autoencoder), 1, **rates)


def test_refinement_in_inference_mode_is_refused():
    autoencoder = tiny_inr("multiband")
    with torch.inference_mode(), pytest.raises(InputError, match="needs gradients, which torch.inference_mode forbids"):
        refine(autoencoder, torch.zeros(1, autoencoder.config["channels"], 8, 8), 1)


def test_a_model_in_training_starts_where_one_in_evaluation_does():
    autoencoder = tiny_inr("multiband", encoder={**ENCODER, "dropout": 0.5})
    images = make_images(autoencoder)
    expected = autoencoder.eval().encode(images)
    _, latents = refine(autoencoder.train(), images, 0)
    torch.testing.assert_close(latents, expected)
    assert autoencoder.training


def test_latents_of_a_single_number_stay_finite():
    autoencoder = tiny_inr("multiband", num_tokens=1, latent_dim=1)
    _, latents = refine(autoencoder, make_images(autoencoder), 2)
    assert latents.isfinite().all()


def test_a_refined_decoder_keeps_no_gradients():
    autoencoder = tiny_inr("multiband")
    tuned, _ = refine(autoencoder, make_images(autoencoder)[:1], 2, decoder_lr=1e-3)
    assert all(parameter.grad is None for parameter in tuned.decoder.parameters())
