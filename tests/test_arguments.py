"""Arguments of public calls: every reasonable type is accepted, everything else is refused by name, and so are NaN and
infinities."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from genrep.arguments import as_integer, as_integers, as_number, in_training
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.refine import refine
from genrep.render import from_uint8, render
from tests.fields.test_levels_of_experts import make as make_field
from tests.models.test_denoiser import woken
from tests.tiny import tiny_autoencoder

NAN = float("nan")


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3], dtype=torch.int16)]
)
def test_integers_of_any_kind(value):
    assert as_integer(value, "steps") == 3 and type(as_integer(value, "steps")) is int


@pytest.mark.parametrize(
    "value",
    [3.0, "3", True, None, np.float32(3), np.True_, torch.tensor(3.0), torch.tensor(True), [3], torch.ones(2).long()],
)
def test_invalid_integers(value):
    with pytest.raises(InputError, match="^steps must be an integer; got "):
        as_integer(value, "steps")


def test_integers_out_of_range():
    with pytest.raises(InputError, match="^steps must be an integer from 1; got 0$"):
        as_integer(0, "steps", low=1)
    with pytest.raises(InputError, match="^steps must be an integer from 1 to 9; got 10$"):
        as_integer(10, "steps", low=1, high=9)
    with pytest.raises(InputError, match=r"^labels must be an integer; got '1, 2'$"):
        as_integers("1, 2", "labels")
    assert as_integers(range(3), "labels") == [0, 1, 2]


@pytest.mark.parametrize("value", [1.5, np.float32(1.5), np.array(1.5), torch.tensor(1.5)])
def test_numbers_of_any_kind(value):
    assert as_number(value, "scale") == 1.5


@pytest.mark.parametrize("value", [NAN, float("inf"), "1.5", True, None, 1j, [1.5], torch.ones(2), torch.tensor(NAN)])
def test_invalid_numbers(value):
    with pytest.raises(InputError, match="^scale must be a finite number; got "):
        as_number(value, "scale")


# the autoencoder

IMAGES, LATENTS, COORDS = torch.zeros(2, 1, 8, 8), torch.zeros(2, 4, 8), torch.zeros(3, 2)
AUTOENCODER_CALLS = {
    "uint8 images": (lambda m: m.encode(IMAGES.byte()), "images must be floating-point numbers; got torch.uint8: convert .* with genrep.render.from_uint8"),
    "integer images": (lambda m: m.encode(IMAGES.long()), "images must be floating-point numbers; got torch.int64$"),
    "numpy images": (lambda m: m.encode(IMAGES.numpy()), "images must be a torch tensor .* got numpy.ndarray: convert it with torch.from_numpy"),
    "a list of images": (lambda m: m.encode([IMAGES[0]]), "images must be a torch tensor .* got list"),
    "no images": (lambda m: m.encode(IMAGES[:0]), "there are no images to encode: give a batch of one or more"),
    "images with NaN": (lambda m: m.encode(IMAGES + NAN), "images must be finite; 128 of 128 numbers are NaN or infinite"),
    "decoding latents with NaN": (lambda m: m.decoding(LATENTS + NAN), "latents must be finite"),
    "latents with NaN": (lambda m: m.decode(LATENTS + NAN, COORDS), "latents must be finite; 64 of 64"),
    "coordinates with infinity": (lambda m: m.decode(LATENTS, COORDS / 0 + float("inf")), "coords must be finite; 6 of 6"),
    "integer latents": (lambda m: m.decode(LATENTS.int(), COORDS), "latents must be floating-point numbers; got torch.int32"),
    "integer coordinates": (lambda m: m.decode(LATENTS, COORDS.long()), "coords must be floating-point numbers; got torch.int64"),
    "numpy coordinates": (lambda m: m.decode(LATENTS, COORDS.numpy()), "coords must be a torch tensor .* got numpy.ndarray"),
    "one number as coordinates": (lambda m: m.decode(LATENTS, torch.tensor(0.0)), r"coords must be .*; got \[\]"),
    "rendering latents with NaN": (lambda m: m.render(LATENTS + NAN), "latents must be finite"),
    "rendering a list": (lambda m: m.render([LATENTS]), "latents must be a torch tensor .* got list"),
    "rendering one number": (lambda m: m.render(torch.tensor(0.0)), "there are no latents to render"),
    "a size of 2.5": (lambda m: m.render(LATENTS, size=2.5), "size must be a positive integer, .* got 2.5"),
    "a chunk of 2.5": (lambda m: m.render(LATENTS, chunk=2.5), "chunk must be an integer from 1; got 2.5"),
    "a region of words": (lambda m: m.render(LATENTS, region="left"), "region must be 4 finite numbers"),
    "rounding with gradients": (lambda m: m.render(LATENTS, gradients=True, as_uint8=True), "leave out gradients or as_uint8"),
    "refining uint8 images": (lambda m: refine(m, IMAGES.byte(), 1), "images must be floating-point numbers"),
    "refining for 1.5 steps": (lambda m: refine(m, IMAGES, 1.5), "steps must be an integer from 0; got 1.5"),
    "refining by 2.5 coordinates": (lambda m: refine(m, IMAGES, 1, num_coords=2.5), "num_coords must be an integer from 1 to 64; got 2.5"),
    "refining images with NaN": (lambda m: refine(m, IMAGES + NAN, 1), "images must be finite"),
}  # fmt: skip


@pytest.mark.parametrize("call", AUTOENCODER_CALLS)
def test_invalid_calls_of_the_autoencoder(call):
    function, message = AUTOENCODER_CALLS[call]
    with pytest.raises(InputError, match=message):
        function(tiny_autoencoder())


def test_floats_of_any_width_are_converted_to_the_models():
    autoencoder, images = tiny_autoencoder(), torch.rand(2, 1, 8, 8) * 2 - 1
    latents = autoencoder.encode(images)
    assert torch.equal(autoencoder.encode(images.double()), latents)
    assert torch.equal(autoencoder.decode(latents.double(), COORDS), autoencoder.decode(latents, COORDS))
    assert torch.equal(autoencoder.render(latents.double(), np.int64(6)), autoencoder.render(latents, 6))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = tiny_autoencoder().to(dtype)
        assert (
            narrow.encode(images).dtype
            == narrow.decode(latents, COORDS).dtype
            == narrow.render(latents, 6).dtype
            == dtype
        )
        assert (narrow.render(latents, 6).float() - autoencoder.render(latents, 6)).abs().max() < 0.05
        _, refined = refine(narrow, images, np.int64(3), num_coords=torch.tensor(20))
        assert refined.dtype == torch.float32, "Adam's steps are too small for narrow numbers"


def test_pixels_are_rounded_as_the_floats_are(monkeypatch):
    autoencoder, latents = tiny_autoencoder(), torch.randn(3, 4, 8)
    pixels = autoencoder.render(latents, 9, chunk=20, as_uint8=True)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 1, 9, 9)
    assert (from_uint8(pixels) - autoencoder.render(latents, 9).clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6


def test_a_render_that_the_machine_cannot_hold():
    with pytest.raises(
        InputError,
        match="a render of 1000000 × 1000000 would take 7,451 GiB, but cpu has .* GiB: render a smaller size",
    ):
        tiny_autoencoder().render(LATENTS, 10**6)
    with pytest.raises(InputError, match="a render of 10000000 × 10000000 would take 186,265 GiB"):
        render(tiny_autoencoder(), LATENTS, 10**7, as_uint8=True)


def test_values_are_not_checked_in_training_or_without_data():
    """No check that would synchronise with a GPU, and none for tensors without data."""
    autoencoder = tiny_autoencoder()
    assert not in_training(autoencoder, LATENTS) and in_training(autoencoder, LATENTS.clone().requires_grad_())
    assert autoencoder.decode((LATENTS + NAN).requires_grad_(), COORDS).isnan().any(), "through a frozen decoder"
    autoencoder.train()
    assert in_training(autoencoder, LATENTS)
    assert autoencoder.encode(IMAGES + NAN).isnan().any() and autoencoder(IMAGES + NAN, COORDS).isnan().any()
    with torch.no_grad(), pytest.raises(InputError, match="images must be finite"):
        autoencoder.encode(IMAGES + NAN)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert tiny_autoencoder().encode(torch.zeros(2, 1, 8, 8)).shape == (2, 4, 8)
    assert tiny_autoencoder().to("meta").encode(IMAGES.to("meta")).shape == (2, 4, 8)


# the denoiser, the field, the normalizer

DENOISER_CALLS = {
    "integer latents": ((LATENTS.long(), 5), "noisy_latents must be floating-point numbers; got torch.int64"),
    "latents of another shape": ((torch.zeros(2, 5, 8), 5), r"noisy_latents must be \[batch, 4, 8\] for this denoiser; got \[2, 5, 8\]"),
    "a timestep in words": ((LATENTS, "5"), "timesteps must be a finite number from 0; got '5'"),
    "timesteps of another batch": ((LATENTS, torch.zeros(3)), r"timesteps must be one number, or \[2\]; got torch.float32 \[3\]"),
    "labels in a list": ((LATENTS, 5, [0, 1]), r"class_labels must be a tensor of 2 integers; got \[0, 1\]"),
    "labels as floats": ((LATENTS, 5, torch.zeros(2)), r"class_labels must be a tensor of 2 integers; got tensor\(\[0., 0.\]\)"),
    "labels as bools": ((LATENTS, 5, torch.ones(2).bool()), "class_labels must be a tensor of 2 integers; got tensor"),
    "labels of another batch": ((LATENTS, 5, torch.zeros(3).long()), r"class_labels must be a tensor of 2 integers"),
}  # fmt: skip


@pytest.mark.parametrize("call", DENOISER_CALLS)
def test_invalid_calls_of_the_denoiser(call):
    arguments, message = DENOISER_CALLS[call]
    with pytest.raises(InputError, match=message):
        woken()(*arguments)


def test_the_denoiser_takes_numbers_of_any_kind():
    denoiser, noisy = woken(), torch.randn(2, 4, 8)
    expected = denoiser(noisy, torch.tensor([7, 7]), torch.tensor([0, 2]))
    for timestep in (7, np.int64(7), 7.0, torch.tensor(7), torch.tensor([7.0, 7.0])):
        for kind in (torch.uint8, torch.int32, torch.int64):
            assert torch.equal(denoiser(noisy.double(), timestep, torch.tensor([0, 2], dtype=kind)), expected)
    assert denoiser.to(torch.bfloat16)(noisy, 7).dtype == torch.bfloat16


def test_invalid_calls_of_a_field():
    field = make_field((6, 5), 1).eval()
    for call, message in (
        (lambda: field(COORDS + NAN), "coords must be finite; 6 of 6"),
        (lambda: field(COORDS.long()), "coords must be floating-point numbers"),
        (lambda: field(torch.zeros(3, 3)), r"coords must be \[points, 2\]; got \[3, 3\]"),
        (lambda: field.render(2.5), "size must be a positive integer, .* got 2.5"),
        (lambda: field.render(4, chunk=0.5), "chunk must be an integer from 1; got 0.5"),
        (lambda: field.render(10**7), "a render of 10000000 × 10000000 would take .* GiB"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert field.render(torch.tensor(4)).shape == (1, 4, 4)


def test_invalid_calls_of_the_normalizer():
    with pytest.raises(InputError, match="the standard deviation of the latents must be finite; 1 of 32"):
        std = torch.ones(4, 8)
        std[1, 2] = NAN
        LatentNormalizer.from_statistics(torch.zeros(4, 8), std)
    with pytest.raises(InputError, match=r"latents must be \[batch, 4, 8\] for this normalizer; got \[2, 5, 8\]"):
        LatentNormalizer(4, 8).restore(torch.zeros(2, 5, 8))


@pytest.mark.parametrize("place", [None, 3])
def test_a_model_is_loaded_from_a_folder(place):
    with pytest.raises(InputError, match="LatentNormalizer.from_pretrained takes a folder or a Hub id; got"):
        LatentNormalizer.from_pretrained(place)
