"""Images at their own size: reading, sizes from headers, the latent cache, and what refuses them."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from genrep.data import ImageDataSpec, LatentsSpec
from genrep.data.encoding import autoencoder_hash, check_sizes, encode_rows, write_cache
from genrep.data.images import limited
from genrep.data.latents import LatentCache
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.specs import validate
from genrep.training.latents import check_cached, open_split
from genrep.training.specs import AutoencoderRun, ClassifierRun, CloudRun, DiffusionRun, GANRun
from tests.data.pictures import opened, random_image
from tests.tiny import tiny_autoencoder

SIZES = [(8, 8), (12, 9), (9, 12), (8, 8), (7, 20), (12, 9), (5, 5), (16, 24)]
SPEC = LatentsSpec(shard_size=5, batch=4)


def model_of(share=0.1, num_tokens=40, **encoder):
    torch.manual_seed(0)
    encoder = {"type": "fit", "share": share, "steps": 5, "lr": 0.05, "start": 0.1, "parts": 1, **encoder}
    decoder = {"type": "anchored", "offset_scale": 3.0, "hidden_dim": 8}
    return INRAutoencoder(encoder, decoder, 8, 1, num_tokens, 5).freeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(SIZES):
        path = place / ("cat" if number < 4 else "dog") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        random_image(*size, "L", seed=number).save(path)
    return place


def native(folder, **options):
    return opened(folder, native_size=True, **options)


def test_images_keep_their_size_and_are_read_by_size(folder):
    data = native(folder)
    assert [tuple(size) for size in data.sizes_of(range(8)).tolist()] == SIZES
    for number, size in enumerate(SIZES):
        expected = np.array(random_image(*size, "L", seed=number))
        assert np.array_equal(data.read([number])[0, 0].numpy(), expected)
    assert data.read([0, 3]).shape == (2, 1, 8, 8) and "8 of their own size, 2 classes" in data.describe()
    with pytest.raises(InputError, match=r"images of 8 × 8 and 12 × 9 pixels do not form a batch, .*leave data.native"):
        data.read([0, 1])
    assert opened(folder).sizes_of([1, 4]).tolist() == [[8, 8], [8, 8]]


def test_the_longest_side_is_limited(folder):
    data = native(folder, longest_side=12)
    assert data.sizes_of(range(8)).tolist()[4:] == [[4, 12], [12, 9], [5, 5], [8, 12]]
    assert [tuple(data.read([number]).shape[2:]) for number in range(4, 8)] == [(4, 12), (12, 9), (5, 5), (8, 12)]
    assert limited((1000, 2), 10) == (10, 1) and limited((3, 4), None) == (3, 4)


def test_a_size_is_that_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    random_image(6, 10, "L", seed=0).save(tmp_path / "0.jpg", exif=exif)
    data = native(tmp_path, label_column=None)
    assert data.sizes_of([0]).tolist() == [[10, 6]] and data.read([0]).shape == (1, 1, 10, 6)


def test_fingerprints_and_selections_tell_native_sizes(folder):
    variants = [opened(folder), native(folder), native(folder, longest_side=12)]
    assert len({data.fingerprint() for data in variants}) == 3
    keys = [data.spec.selection().keys() for data in variants]
    assert keys[1] - keys[0] == {"native_size", "longest_side"} and keys[0] < keys[1]


@pytest.fixture(scope="module")
def cached(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    write_cache(model_of(), native(folder), SPEC, place)
    return place


def test_a_cache_equals_fits_one_at_a_time(folder, cached):
    model, data, cache = model_of(), native(folder), LatentCache(cached)
    latents, masks = cache.latents(range(8)), cache.masks(range(8))
    assert masks.sum(1).tolist() == [max(4, int(0.1 * height * width)) for height, width in SIZES]
    for number, size in enumerate(SIZES):
        alone, mask = model.encode_set(data.signal.values(data.read([number])))
        assert torch.equal(mask[0], masks[number])
        torch.testing.assert_close(alone[0], latents[number], atol=1e-5, rtol=1e-4)
        region = model.region_of(size)
        pixels = model.render(latents[None, number], size=size, region=region, mask=masks[None, number])
        torch.testing.assert_close(pixels, model.render(alone, size=size, region=region, mask=mask), atol=1e-4, rtol=0)
    # one size at a time, then back in the order of the rows
    views, mask, psnr = encode_rows(model, data, [6, 1, 0, 5], flips=True)
    assert len(psnr) == 4
    torch.testing.assert_close(views[:, 0], latents[[6, 1, 0, 5]], atol=1e-5, rtol=1e-4)
    mirrored, _ = model.encode_set(data.signal.values(data.read([1]).flip(-1)))
    torch.testing.assert_close(views[1, 1], mirrored[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(mask[:, 0], masks[[6, 1, 0, 5]])


def test_few_pixels_at_once_change_nothing(folder, cached, monkeypatch):
    monkeypatch.setattr("genrep.data.encoding.POINTS_AT_ONCE", 1)
    views, _, _ = encode_rows(model_of(), native(folder), range(8), flips=False)
    torch.testing.assert_close(views[:, 0], LatentCache(cached).latents(range(8)), atol=1e-5, rtol=1e-4)


def test_a_cache_remembers_sizes(folder, cached, tmp_path):
    cache = LatentCache(cached)
    assert cache.sizes.dtype == torch.int32 and [tuple(size) for size in cache.sizes.tolist()] == SIZES
    write_cache(model_of(), opened(folder), SPEC, tmp_path)
    assert LatentCache(tmp_path).sizes is None
    shard = tmp_path / "latents-00000-of-00002.safetensors"
    assert load_file(shard).keys() == {"latents", "mask", "labels"}


def test_without_share_a_hash_is_that_of_earlier_versions():
    config = {"type": "fit", "steps": 5}
    written_out, left_out = (
        INRAutoencoder(encoder, {"type": "anchored"}, 8, 1, 8, 5) for encoder in ({**config, "share": None}, config)
    )
    written_out.load_state_dict(left_out.state_dict())
    assert autoencoder_hash(written_out) == autoencoder_hash(left_out)


def test_unsuitable_images_are_named_before_encoding(folder, tmp_path):
    with pytest.raises(
        InputError, match=r"row 7 of split train: .* at most 30 anchors, .* 0.1 is 38: limit the images"
    ):
        write_cache(model_of(num_tokens=30), native(folder), SPEC, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(InputError, match=r"row 6 of split train: an image must have at least 26 pixels"):
        check_sizes(model_of(parts=26), native(folder))
    with pytest.raises(
        InputError, match=r"native_size needs an autoencoder that encodes images of any size .* 8 × 8: leave"
    ):
        check_sizes(tiny_autoencoder(), native(folder))


def test_held_out_images_must_be_cached(folder, cached):
    model, spec = model_of(), LatentsSpec(folder=str(cached), shard_size=5)
    data = ImageDataSpec(source=str(folder), native_size=True, held_out_split="train[:2]")
    held_out = open_split(data, spec, model, "held_out")
    with pytest.raises(
        InputError, match=r"encoded before training, and the latent cache .* lacks these: add them with"
    ):
        check_cached(held_out, spec.folder)
    check_cached(LatentCache(cached), spec.folder)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"longest_side": 9}, "longest_side has no effect without native_size"),
        ({"native_size": True, "crop": "random"}, r"crop has no effect on images of their own size \(native_size\)"),
        ({"native_size": True, "source_size": 16}, "source_size has no effect on images of their own size"),
        ({"native_size": True, "in_memory": True}, "in_memory has no effect on images of their own size"),
    ],
)
def test_keys_without_effect_are_refused(keys, message):
    with pytest.raises(InputError, match=message):
        validate(ImageDataSpec, keys)


RUN = {"folder": "runs/none", "batch": 4, "steps": 1}
FIT = {"encoder": {"type": "fit"}, "decoder": {"type": "anchored"}, "image_size": 8, "num_tokens": 8, "latent_dim": 5}
NETWORK = {"encoder": {"type": "cross_attention"}, "decoder": {"type": "localized_attention"}}


@pytest.mark.parametrize(
    ("kind", "keys", "consumer"),
    [
        (AutoencoderRun, {"autoencoder": NETWORK}, "train/autoencoder.py"),
        (CloudRun, {"autoencoder": FIT}, r"train/clouds.py, which can crop instead \(data.crop\)"),
        (GANRun, {"image_size": 8, "channels": 1}, "train/gan.py"),
        (ClassifierRun, {"image_size": 8}, "classifier.type convolutional"),
        (DiffusionRun, {"autoencoder": "runs/none"}, r"encoding during training \(latents.folder null or .* false\)"),
        (
            DiffusionRun,
            {"autoencoder": "runs/none", "latents": {"folder": "none"}, "diffusion": {"loss": "two_term"}},
            "diffusion.loss two_term",
        ),
    ],
)
def test_what_needs_one_size_refuses_native_sizes(kind, keys, consumer):
    content = {"data": {"native_size": True}, "run": RUN, **keys}
    with pytest.raises(
        InputError, match=rf"native_size leaves images at different sizes, but {consumer} needs all of one"
    ):
        validate(kind, content)
