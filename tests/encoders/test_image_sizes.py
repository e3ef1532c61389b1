"""Fits of images of other sizes than the model's: regions of the same plane, with as many anchors as their pixels ask for."""

import pytest
import torch

from genrep.coords import region_of
from genrep.encoders.fit import CloudFit
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.refine import refine
from genrep.signals.quality import psnr
from genrep.training.clouds import JointClouds

SIZES = [(16, 16), (12, 20), (23, 9), (31, 40), (4, 4)]


def model_of(image_size=16, share=0.1, num_tokens=128, **encoder):
    torch.manual_seed(0)
    encoder = {"type": "fit", "share": share, "steps": 40, "lr": 0.05, "start": 0.1, "parts": 2, **encoder}
    decoder = {"type": "anchored", "offset_scale": 3.0, "hidden_dim": 24}
    return INRAutoencoder(encoder, decoder, image_size, 3, num_tokens, 8).freeze()


def picture(height, width, batch=1):
    """Smooth waves with an edge, whose detail is the same in pixels whatever the size."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    waves = [(y / 3 + channel).sin() * (x / 4 - channel).cos() for channel in range(3)]
    image = torch.stack(waves) * 0.5 + 0.4 * torch.where(x + y > (height + width) / 2, 1.0, -1.0)
    return torch.stack([image.roll(k, dims=0) for k in range(batch)])


def rendered(model, latents, mask, size):
    return model.render(latents, size=size, region=model.region_of(size), mask=mask)


def trained(steps=150):
    """A model of 16×16 whose decoder was trained on crops of that size."""
    model = model_of(steps=200, lr=0.02, start=1e-2)
    model.requires_grad_(True)
    large = picture(40, 40, batch=3)
    crops = torch.cat([large[..., y : y + 16, x : x + 16] for y, x in ((0, 0), (10, 20), (24, 5), (12, 12))])
    clouds = JointClouds(model.decoder, model.encoder, crops)
    optimizer = torch.optim.Adam(clouds.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.zero_grad()
        for rows, part in clouds.parts(step):
            clouds(rows, part).backward()
        optimizer.step()
    return model.freeze()


def test_the_region_keeps_the_size_of_a_pixel():
    assert region_of(49, 49) == (-1, -1, 1, 1) and region_of((8, 32), 16) == (-0.5, -2, 0.5, 2)
    assert region_of((10, 30), (20, 10)) == (-0.5, -3, 0.5, 3) and model_of().region_of(8) == (-0.5, -0.5, 0.5, 0.5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_anchors_are_pixel_centres_of_the_plane(size):
    model = model_of()
    latents, mask = model.encode_set(picture(*size))
    count = max(4, int(0.1 * size[0] * size[1]))
    assert latents.shape == (1, 128, 8) and mask.tolist() == [[True] * count + [False] * (128 - count)]
    pixels = (latents[0, :count, :2] * 16 + torch.tensor(size) - 1) / 2  # row and column in the image
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-4, rtol=0)
    assert len({tuple(pixel) for pixel in pixels.round().tolist()}) == count
    assert (pixels.round() >= 0).all() and (pixels.round() < torch.tensor(size)).all()


@pytest.mark.parametrize("options", [{}, {"coords": "uniform", "draws": 2, "jitter": True}], ids=str)
def test_a_fit_of_another_size_equals_a_model_of_that_size(options):
    """With the same weights: only the unit of the positions differs."""
    size = (12, 20)
    model, of_size = model_of(**options), model_of(image_size=size, **options)
    of_size.decoder.load_state_dict(model.decoder.state_dict())
    values = picture(*size, batch=3)
    (latents, mask), (expected, expected_mask) = model.encode_set(values), of_size.encode_set(values)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(latents[..., :2] * 16, expected[..., :2] * torch.tensor(size), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latents[..., 2:], expected[..., 2:], atol=2e-3, rtol=1e-3)
    pixels = of_size.render(expected, mask=expected_mask)
    torch.testing.assert_close(rendered(model, latents, mask, size), pixels, atol=5e-3, rtol=0)


def test_padding_has_no_influence():
    model = model_of()
    latents, mask = model.encode_set(picture(12, 20))
    expected = rendered(model, latents[:, : int(mask.sum())], None, (12, 20))
    torch.testing.assert_close(rendered(model, latents, mask, (12, 20)), expected)
    latents[~mask] = 1e3
    torch.testing.assert_close(rendered(model, latents, mask, (12, 20)), expected)


def test_a_share_of_the_models_size_equals_that_number_of_tokens():
    values = picture(16, 16, batch=2)
    with_share, with_number = model_of(num_tokens=25), model_of(share=None, num_tokens=25)
    (latents, mask), (expected, no_mask) = with_share.encode_set(values), with_number.encode_set(values)
    assert mask.all() and no_mask is None and torch.equal(latents, expected)


def test_a_decoder_of_crops_reconstructs_images_of_any_size():
    model, decibels = trained(), {}
    for size in [*SIZES[:-1], (16, 70)]:
        values = picture(*size)
        latents, mask = model.encode_set(values)
        decibels[size] = float(psnr(rendered(model, latents, mask, size), values))
    assert min(decibels.values()) > 20 and max(decibels.values()) - min(decibels.values()) < 4, decibels


def test_the_default_offset_scale_follows_the_share():
    sizes = {"image_size": 20, "channels": 1, "latent_dim": 8}
    with_share, with_number = (
        INRAutoencoder({"type": "fit", "share": share}, {"type": "anchored"}, num_tokens=tokens, **sizes)
        for share, tokens in ((0.05, 300), (None, 20))
    )
    assert with_share.decoder.offset_scale == with_number.decoder.offset_scale == pytest.approx(20**0.5)


def test_images_that_cannot_be_fitted_are_refused():
    model = model_of()
    with pytest.raises(InputError, match=r"at most 128 anchors, num_tokens; got 40 × 40 pixels, .* 0.1 is 160: limit"):
        model.encode(picture(40, 40))
    with pytest.raises(InputError, match=r"must have at least 4 pixels, for its anchors and .*; got 1 × 3"):
        model.encode(picture(1, 3))
    with pytest.raises(InputError, match=r"at least 30 pixels, .*; got 5 × 5"):
        model_of(share=None, num_tokens=30).encode(picture(5, 5))
    with pytest.raises(
        InputError, match=r"num_tokens must be at least 25, encoder.share 0.1 of the 256 pixels .*; got 20"
    ):
        model_of(num_tokens=20)
    with pytest.raises(InputError, match=r"refinement needs images of the model's size, 16 × 16; got 12 × 20"):
        refine(model, picture(12, 20), 1)


def test_a_fit_of_the_models_size_has_no_mask():
    model = model_of(share=None, num_tokens=20)
    assert isinstance(model.encoder, CloudFit) and model.encode_set(picture(30, 7))[1] is None
