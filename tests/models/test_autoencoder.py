"""The autoencoder: parameter counts of the paper, plain references, round trips."""

import copy

import pytest
import torch

from genrep.coords import grid
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.specs import AutoencoderSpec
from genrep.training.config import read_config
from tests.nn.test_attention import plain_localized_attention
from tests.tiny import tiny_autoencoder


def celeba() -> dict:
    return AutoencoderSpec.model_validate(read_config("configs/celeba/anr.yaml")["autoencoder"]).model_dump()


def test_the_papers_parameter_count():
    """ANR table 1: 1970k for all parameters of the INR, 131k of them the representation."""
    with torch.device("meta"):
        autoencoder = INRAutoencoder(**celeba())
    decoder = sum(p.numel() for p in autoencoder.decoder.parameters())
    representation = autoencoder.latent_shape[0] * autoencoder.latent_shape[1]
    assert representation == 131_072
    assert decoder + representation == 1_970_179


@pytest.mark.parametrize(("depth", "channels", "printed"), [(5, 3, 1970), (5, 1, 1969), (8, 1, 2757)])
def test_the_depths_of_table_1_by_their_parameters(depth, channels, printed):
    """CelebA's and ERA5's 5/0 are five layers. LSUN's 7/0 is eight, three more than the 5/0 above it (with one channel)."""
    options = celeba()
    options["decoder"]["depth"], options["channels"] = depth, channels
    with torch.device("meta"):
        autoencoder = INRAutoencoder(**options)
    assert (sum(p.numel() for p in autoencoder.decoder.parameters()) + 131_072) // 1000 == printed


def test_decoder_equals_the_papers_equations_point_by_point():
    autoencoder, latents, coords = tiny_autoencoder(), torch.randn(2, 4, 8), torch.rand(5, 2) * 2 - 1
    decoder = autoencoder.decoder
    rows = []
    for latent in latents:
        for point in coords:
            angles = torch.cat([torch.pi * decoder.encoding.frequencies * c for c in point])
            query = decoder.to_query(torch.cat([angles.cos(), angles.sin()]))  # eqs. 1 and 2
            heads = [
                part.reshape(len(part), decoder.num_heads, -1)
                for part in (query[None], decoder.to_key(latent), decoder.to_value(latent))
            ]
            mixed = plain_localized_attention(
                *(part.transpose(0, 1)[None] for part in heads), decoder.threshold
            )  # eq. 5
            rows.append(decoder.mlp(decoder.to_out(mixed.transpose(1, 2).flatten())))  # eq. 3
    torch.testing.assert_close(
        autoencoder.decode(latents, coords), torch.stack(rows).reshape(2, 5, -1), atol=1e-5, rtol=1e-4
    )


def test_encode_save_load_decode_is_equal(tmp_path):
    autoencoder, images = tiny_autoencoder(), torch.rand(3, 1, 8, 8) * 2 - 1
    autoencoder.save_pretrained(tmp_path)
    loaded = INRAutoencoder.from_pretrained(tmp_path)
    latents = autoencoder.encode(images)
    assert latents.shape == (3, 4, 8)
    torch.testing.assert_close(loaded.state_dict(), autoencoder.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(loaded.encode(images), latents)
    torch.testing.assert_close(loaded.render(latents, size=12), autoencoder.render(latents, size=12))


def test_permuting_the_points_permutes_the_values():
    autoencoder, latents, coords = tiny_autoencoder(), torch.randn(2, 4, 8), grid(6)
    order = torch.randperm(len(coords))
    torch.testing.assert_close(
        autoencoder.decode(latents, coords[order]), autoencoder.decode(latents, coords)[:, order]
    )


def test_permuting_the_tokens_changes_nothing():
    """The decoder reads a set."""
    autoencoder, latents = tiny_autoencoder(), torch.randn(2, 4, 8)
    torch.testing.assert_close(
        autoencoder.decode(latents[:, [2, 0, 3, 1]], grid(4)), autoencoder.decode(latents, grid(4))
    )


def test_shared_coordinates_equal_coordinates_for_each_image():
    autoencoder, latents, coords = tiny_autoencoder(), torch.randn(3, 4, 8), grid(5)
    torch.testing.assert_close(
        autoencoder.decode(latents, coords), autoencoder.decode(latents, coords.expand(3, -1, -1))
    )


def test_one_training_step_moves_every_parameter():
    autoencoder = tiny_autoencoder().train().requires_grad_(True)
    before = copy.deepcopy(autoencoder.state_dict())
    optimizer = torch.optim.SGD(autoencoder.parameters(), lr=1.0)
    for _ in range(2):  # parameters behind a zero gradient in the first step move in the second
        optimizer.zero_grad()
        (autoencoder(torch.rand(4, 1, 8, 8) * 2 - 1, grid(8)) - 0.5).square().mean().backward()
        optimizer.step()
    still = [name for name, value in autoencoder.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_submodules_are_not_hidden_by_the_config():
    autoencoder = tiny_autoencoder()
    assert isinstance(autoencoder.encoder, torch.nn.Module) and isinstance(autoencoder.decoder, torch.nn.Module)


def test_the_threshold_and_the_top_frequency_have_the_stated_defaults():
    autoencoder = INRAutoencoder(
        encoder={"type": "cross_attention", "dim": 16, "num_heads": 1, "mlp_dim": 8, "encoder_depth": 0, "decoder_depth": 1},
        decoder={"type": "localized_attention", "num_frequencies": 4, "hidden_dim": 8}, image_size=[16, 24], num_tokens=8, latent_dim=4,
    )  # fmt: skip
    assert autoencoder.decoder.threshold == pytest.approx(0.384 / 8)
    assert autoencoder.decoder.encoding.frequencies[-1] == 12  # Nyquist of 24 pixels


def test_wrong_shapes_are_refused():
    autoencoder = tiny_autoencoder()
    with pytest.raises(InputError, match=r"latents must be \[batch, 4, 8\] for this decoder; got \[1, 5, 8\]"):
        autoencoder.decode(torch.zeros(1, 5, 8), grid(2))
    with pytest.raises(InputError, match=r"coords must be .*; got \[4, 3\]"):
        autoencoder.decode(torch.zeros(1, 4, 8), torch.zeros(4, 3))
    with pytest.raises(InputError, match="do not fit the encoder"):
        autoencoder.encode(torch.zeros(1, 3, 8, 8))


def test_a_misspelt_key_suggests_the_closest():
    encoder = {"type": "cross_attention", "pach_size": 2}
    with pytest.raises(InputError, match=r"encoder.pach_size: unknown key; did you mean 'patch_size'"):
        INRAutoencoder(encoder=encoder, decoder={"type": "localized_attention"})
    with pytest.raises(InputError, match="decoder.type: .*localized_attention"):
        INRAutoencoder(encoder={"type": "cross_attention"}, decoder={"type": "localised"})


def test_coordinates_of_another_batch_and_empty_batches_are_refused():
    autoencoder = tiny_autoencoder()
    latents = torch.randn(2, *autoencoder.latent_shape)
    with pytest.raises(
        InputError, match=r"must be \[points, 2\], or \[2, points, 2\] for 2 latent sets; got \[3, 5, 2\]"
    ):
        autoencoder.decoding(latents)(torch.zeros(3, 5, 2))
    with pytest.raises(InputError, match="there are no latents to render"):
        autoencoder.render(latents[:0])


def test_a_number_is_a_size_of_one_axis_or_of_a_square():
    decoder = {"type": "multiband", "hidden_dim": 8, "num_features": 8, "bandwidths": [4.0, 2.0], "num_heads": 1}
    encoder = {
        "type": "joint_attention",
        "patch_size": 4,
        "dim": 8,
        "depth": 1,
        "num_heads": 1,
        "head_dim": 8,
        "mlp_dim": 8,
    }
    for shape, rendered in (([16], (32,)), ([16, 8], (32, 32))):
        model = INRAutoencoder(encoder, decoder, image_size=shape, channels=1, num_tokens=2, latent_dim=8)
        assert model.render(torch.zeros(1, 2, 8), size=32).shape == (1, 1, *rendered)
        assert model.render(torch.zeros(1, 2, 8)).shape == (1, 1, *shape)
