"""Rendering: chunked equals whole, any size and region, bounded memory, consistent rounding."""

import math
import subprocess
import sys

import pytest
import torch

from genrep.coords import GridChunk, grid
from genrep.decoders import MultiBandSpec
from genrep.errors import InputError
from genrep.render import from_uint8, render, to_uint8
from tests.tiny import tiny_autoencoder


class Plane:
    """A field known in closed form: channel 0 is y, channel 1 is x plus the first number of the latents."""

    def decode(self, latents, coords):
        return torch.stack([coords[:, 0].expand(len(latents), -1), coords[:, 1] + latents[:, 0, :1]], dim=-1)


def test_the_picture_of_a_known_field():
    images = render(Plane(), torch.zeros(2, 1, 1), size=(3, 5), chunk=4)
    assert images.shape == (2, 2, 3, 5)
    torch.testing.assert_close(images[0, 0], torch.tensor([-2 / 3, 0, 2 / 3])[:, None].expand(3, 5))
    torch.testing.assert_close(images[1, 1], torch.tensor([-0.8, -0.4, 0, 0.4, 0.8]).expand(3, 5))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_chunked_equals_whole(chunk, gradients):
    autoencoder, latents = tiny_autoencoder(), torch.randn(3, 4, 8)
    whole = autoencoder.decode(latents, grid((9, 6))).transpose(1, 2).reshape(3, 1, 9, 6)
    torch.testing.assert_close(autoencoder.render(latents, size=(9, 6), chunk=chunk, gradients=gradients), whole)


def test_a_region_is_a_crop_of_the_whole():
    autoencoder, latents = tiny_autoencoder(), torch.randn(2, 4, 8)
    whole = autoencoder.render(latents, size=16)
    torch.testing.assert_close(
        autoencoder.render(latents, size=(8, 4), region=(-1, -0.5, 0, 0)), whole[:, :, :8, 4:8], atol=1e-5, rtol=1e-4
    )


def test_gradients_are_kept_when_asked_for_and_only_then():
    autoencoder, latents = tiny_autoencoder(), torch.randn(1, 4, 8, requires_grad=True)
    upstream = torch.randn(1, 1, 5, 5)
    (chunked,) = torch.autograd.grad(autoencoder.render(latents, size=5, chunk=3, gradients=True), latents, upstream)
    whole = autoencoder.decode(latents, grid(5)).transpose(1, 2).reshape(1, 1, 5, 5)
    torch.testing.assert_close(chunked, torch.autograd.grad(whole, latents, upstream)[0])
    assert not autoencoder.render(latents, size=5).requires_grad, "a large render would keep every activation"


def test_rounding_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)
    assert to_uint8(torch.tensor([-3.0, -1, 0, 0.0039, 0.0040, 1, 9])).tolist() == [0, 0, 128, 128, 128, 255, 255]
    values = torch.linspace(-1.2, 1.2, 1001)
    plain = [min(255, max(0, round(255 * (x + 1) / 2))) for x in values.double().tolist()]
    assert (to_uint8(values).int() - torch.tensor(plain)).abs().max() <= 1  # ties of float32 and float64 apart
    assert (to_uint8(values).int() != torch.tensor(plain)).sum() <= 2


def test_to_uint8_leaves_its_input_alone():
    values = torch.zeros(3)
    to_uint8(values)
    assert (values == 0).all()


def test_impossible_renders_are_refused():
    autoencoder, latents = tiny_autoencoder(), torch.zeros(1, 4, 8)
    with pytest.raises(InputError, match="size must be a positive integer"):
        autoencoder.render(latents, size=0)
    with pytest.raises(InputError, match="region must have every start below its end"):
        autoencoder.render(latents, size=4, region=(0, 0, -1, 1))
    with pytest.raises(InputError, match="chunk must be an integer from 1; got 0"):
        autoencoder.render(latents, size=4, chunk=0)


class Volume:
    """A decoder for any number of axes, in the form that `render` takes."""

    def __init__(self, num_axes):
        torch.manual_seed(0)
        tiny = {"hidden_dim": 8, "num_features": 24, "bandwidths": [5.0, 3.0], "query_bandwidth": 2.0}
        spec = MultiBandSpec.model_validate({"type": "multiband", "num_axes": num_axes, **tiny})
        self.decoder, self.asked = spec.build((8, 8), 3, 4, 6), []

    def decode(self, latents, coords):
        return self.decoder(coords, latents)

    def decoding(self, latents):
        decode = self.decoder.decoding(latents)
        return lambda coords: self.asked.append(coords) or decode(coords)


@pytest.mark.parametrize("size", [(40,), (11, 9), (4, 5, 6)])
@pytest.mark.parametrize("chunk", [7, 32, 1000])
def test_decoders_are_given_chunks_of_the_grid_of_any_axes(size, chunk):
    """Chunks may begin and end within a row; the result equals decoding the grid's points."""
    model, latents = Volume(len(size)), torch.randn(2, 4, 6)
    rendered = render(model, latents, size, chunk=2 * chunk)
    assert [type(coords) for coords in model.asked] == [GridChunk] * -(-math.prod(size) // chunk)
    expected = model.decode(latents, grid(size)).transpose(1, 2).unflatten(2, size)
    torch.testing.assert_close(rendered, expected, atol=1e-5, rtol=1e-4)


MEMORY = """
import sys, torch
torch.set_num_threads(2)
from genrep.devices import peak_memory
from genrep.models.autoencoder import INRAutoencoder
autoencoder = INRAutoencoder(
    encoder={"type": "cross_attention", "dim": 16, "num_heads": 1, "head_dim": 8, "mlp_dim": 8, "encoder_depth": 1, "decoder_depth": 1, "patch_size": 4},
    decoder={"type": "localized_attention", "hidden_dim": 8, "depth": 2, "num_heads": 1, "head_dim": 8, "num_frequencies": 4},
    image_size=8, channels=3, num_tokens=4, latent_dim=8).freeze()
latents = torch.randn(1, 4, 8)
latents.requires_grad_()  # as `encode` gives them
autoencoder.render(latents, size=64)
before = peak_memory(torch.device("cpu"))
from genrep.render import to_uint8
to_uint8(autoencoder.render(latents, size=int(sys.argv[1])))
print(peak_memory(torch.device("cpu")) - before)
"""


def peak_bytes(size: int) -> int:
    return int(
        subprocess.run([sys.executable, "-c", MEMORY, str(size)], check=True, capture_output=True, text=True).stdout
    )


def test_memory_of_a_render_is_its_picture_and_a_little():
    """1024×1024 RGB: 12.6 MB of floats; coordinates and activations of the whole grid at once would take 300 MB."""
    assert peak_bytes(1024) < 100e6


@pytest.mark.slow
def test_an_8192_render_stays_below_two_gibibytes():
    assert peak_bytes(8192) < 2 * 2**30


@pytest.mark.parametrize("gradients", [False, True])
def test_work_on_the_latents_alone_is_done_once(gradients):
    """Equal to `decode` chunk by chunk, and prepared once however many chunks there are."""
    autoencoder, latents, prepared = tiny_autoencoder(), torch.randn(3, 4, 8), []
    decoding = autoencoder.decoder.decoding
    autoencoder.decoder.decoding = lambda latents: prepared.append(len(latents)) or decoding(latents)
    images = autoencoder.render(latents, size=(9, 7), chunk=12, gradients=gradients)
    assert prepared == [3]
    torch.testing.assert_close(images.flatten(2).transpose(1, 2), autoencoder.decode(latents, grid((9, 7))))
