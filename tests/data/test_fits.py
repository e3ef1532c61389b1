"""Several fits of every signal in the latent cache: which views it holds, which of them training sees, and the messages."""

import re
import shutil
from collections import Counter

import pytest
import torch

from genrep.data import ImageDataSpec, LatentsSpec
from genrep.data.encoding import cache_settings, encode_views, write_cache
from genrep.data.images import ImageData
from genrep.data.latents import LatentCache
from genrep.errors import InputError
from genrep.metrics.reconstruction import reconstruction_psnr
from genrep.specs import validate
from genrep.training.latents import EncodedLatents, open_latents, open_split
from genrep.training.order import PositionBatches, SignalStream, training_loader
from tests.tiny import tiny_autoencoder

COUNT = 20
DATA = ImageDataSpec(train_split="train[:25]", held_out_fraction=0.2, in_memory=True)
SPEC = LatentsSpec(flips=True, fits=3, shard_size=8, batch=4, folder="given below")
FIT = {
    "encoder": {"type": "fit", "steps": 5, "parts": 1, "flat": "masked"},
    "decoder": {"type": "anchored"},
    "num_tokens": 30,
}


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder(**FIT)


@pytest.fixture(scope="module")
def splits():
    return [ImageData(DATA, split, (8, 8), 1) for split in ("train", "held_out")]


@pytest.fixture(scope="module")
def written(autoencoder, splits, tmp_path_factory):
    """A cache that tests only read."""
    folder = tmp_path_factory.mktemp("cache")
    write_cache(autoencoder, splits[0], SPEC, folder, held_out=splits[1])
    return folder


def test_a_cache_holds_every_fit_of_signals_and_mirror_images(written, autoencoder, splits):
    cache, (data, _) = LatentCache(written), splits
    assert (len(cache), cache.num_views, cache.fits, cache.flips) == (COUNT, 6, 3, True)
    kept = data.read(range(COUNT))
    for fit in range(3):
        for mirrored, signals in ((False, kept), (True, data.mirrored(kept))):
            latents, mask = autoencoder.encode_set(data.signal.values(signals), fit)
            views = cache.view(torch.full((COUNT,), fit), torch.full((COUNT,), mirrored)).tolist()
            assert set(views) == {2 * fit + mirrored}
            torch.testing.assert_close(cache.latents(range(COUNT), views), latents, atol=1e-5, rtol=1e-4)
            assert torch.equal(cache.masks(range(COUNT), views), mask)


def test_the_first_views_are_those_of_a_cache_with_one_fit(written, autoencoder, splits, tmp_path):
    write_cache(autoencoder, splits[0], SPEC.model_copy(update={"fits": 1}), tmp_path)
    one, several = LatentCache(tmp_path), LatentCache(written)
    assert "fits" not in one.manifest and one.num_views == 2 and one.fits == 1
    for view in (0, 1):
        views = [view] * COUNT
        assert torch.equal(one.latents(range(COUNT), views), several.latents(range(COUNT), views))


def test_statistics_are_those_of_all_fits_and_held_out_signals_have_one(written):
    cache, held_out = LatentCache(written), LatentCache(written, split="held_out")
    views = range(6)
    latents = torch.cat(
        [cache.latents(range(COUNT), [view] * COUNT)[cache.masks(range(COUNT), [view] * COUNT)] for view in views]
    )
    torch.testing.assert_close(cache.mean[0].double(), latents.double().mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(cache.std[0].double(), latents.double().std(0, correction=0), atol=1e-6, rtol=1e-5)
    assert (len(held_out), held_out.num_views, held_out.fits, held_out.flips) == (5, 1, 1, False)
    assert held_out.latents(range(5)).shape == (5, 30, 8)


def test_a_cache_knows_how_many_tokens_its_sets_have(splits, tmp_path):
    autoencoder = tiny_autoencoder(**{**FIT, "num_tokens": 60})  # more than some digits have pixels with a gradient
    write_cache(autoencoder, splits[0], SPEC, tmp_path)
    cache = LatentCache(tmp_path)
    sizes = [int(cache.masks([index], [view]).sum()) for index in range(COUNT) for view in range(6)]
    assert len(set(sizes)) > 1 and cache.token_counts == Counter(sizes)
    directly = EncodedLatents(autoencoder, splits[0], LatentsSpec(flips=True))
    assert sum(directly.token_counts.values()) == 2 * COUNT and directly.token_counts <= cache.token_counts


def test_an_interrupted_call_gives_the_same_bytes(written, autoencoder, splits, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(written, folder)
    (folder / "manifest.json").rename(folder / "unfinished.json")
    (folder / "latents-00001-of-00003.safetensors").unlink()
    write_cache(autoencoder, splits[0], SPEC, folder, held_out=splits[1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_the_bar_shows_the_mean_psnr_of_the_fits(autoencoder, splits, tmp_path, capsys):
    write_cache(autoencoder, splits[0], SPEC, tmp_path, held_out=splits[1])
    err = capsys.readouterr().err
    for data in splits:
        last = [line for line in re.split(r"[\r\n]", err) if f"encoding {data.name}" in line][-1]
        psnr = reconstruction_psnr(autoencoder, data, range(len(data))).mean()
        assert float(re.search(r"psnr=([\d.]+) dB", last)[1]) == pytest.approx(float(psnr), abs=0.006)
    write_cache(tiny_autoencoder(), splits[0], SPEC.model_copy(update={"fits": 1}), tmp_path / "network")
    assert "psnr" not in capsys.readouterr().err


def test_training_sees_every_fit_equally_often(written):
    cache = LatentCache(written)
    stream = SignalStream(cache, seed=0, flips=True, wants_signals=False, cache=cache)
    rows = {
        cache.latents([index], [view])[0].numpy().tobytes(): (index, view)
        for index in range(COUNT)
        for view in range(6)
    }
    batch = stream.__getitems__(list(range(COUNT * 60)))
    seen = [rows[latents.numpy().tobytes()] for latents in batch.latents]
    assert [index for index, _ in seen] == batch.indices
    assert [view % 2 for _, view in seen] == batch.mirrored.long().tolist()
    counts = torch.bincount(torch.tensor([view for _, view in seen]), minlength=6)
    assert counts.min() > 160 and counts.max() < 240  # 200 expected, standard deviation 13
    assert len(set(seen)) == COUNT * 6
    for row, (index, view) in enumerate(seen):
        assert torch.equal(batch.mask[row], cache.masks([index], [view])[0])


def test_the_fit_of_a_sample_depends_on_its_position_alone(written):
    cache = LatentCache(written)
    stream = SignalStream(cache, seed=0, flips=True, wants_signals=False, cache=cache)
    whole = stream.__getitems__(list(range(48)))
    for first_step, workers in ((0, 0), (2, 2)):  # straight, and resumed after two steps in other processes
        loader = training_loader(stream, PositionBatches(12, 1, (0, 1), first_step, 4), workers)
        latents = torch.cat([batch.latents for batch in loader])
        assert torch.equal(latents, whole.latents[12 * first_step :])
    another = SignalStream(cache, seed=1, flips=True, wants_signals=False, cache=cache).__getitems__(list(range(48)))
    assert not torch.equal(another.latents, whole.latents)


def test_a_cache_with_other_fits_is_refused(written, autoencoder, splits):
    for changes, message in (
        ({"fits": 1}, "fits: the cache has 3, this run needs 1\n  num_views: the cache has 6, this run needs 2"),
        ({"fits": 4}, "fits: the cache has 3, this run needs 4\n  num_views: the cache has 6, this run needs 8"),
        ({"fits": 6, "flips": False}, "latents.folder to another one.\n  fits: the cache has 3, this run needs 6$"),
    ):
        spec = SPEC.model_copy(update={"folder": str(written), **changes})
        with pytest.raises(InputError, match=message):
            open_latents(autoencoder, splits[0], spec, (0, 1), lambda: None)


def test_two_fits_are_not_taken_for_a_fit_and_its_mirror_image(autoencoder, splits, tmp_path):
    mirrored, twice = (SPEC.model_copy(update={"fits": fits, "flips": fits == 1}) for fits in (1, 2))
    for spec, needed in ((mirrored, twice), (twice, mirrored)):
        folder = tmp_path / f"fits_{spec.fits}"
        write_cache(autoencoder, splits[0], spec, folder)
        assert LatentCache(folder).num_views == 2
        with pytest.raises(
            InputError, match=rf"one.\n  fits: the cache has {spec.fits}, this run needs {needed.fits}$"
        ):
            LatentCache(folder, cache_settings(autoencoder, needed))


def test_several_fits_need_a_cache_and_an_encoder_that_is_a_fit(splits, tmp_path):
    with pytest.raises(InputError, match=r"fits must be 1 without a latent cache, .*; got 2: set folder"):
        validate(LatentsSpec, {"fits": 2})
    network, spec = tiny_autoencoder(), SPEC.model_copy(update={"folder": str(tmp_path / "cache")})
    message = "latents.fits must be 1 for encoder cross_attention, a network, .*; got 3: several fits need encoder fit"
    for work in (
        lambda: open_split(DATA, spec, network, "train"),
        lambda: write_cache(network, splits[0], spec, tmp_path / "cache"),
    ):
        with pytest.raises(InputError, match=message):
            work()
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match=re.escape("fit must be 0, because this model's encoder is a network")):
        encode_views(network, splits[0], splits[0].read([0]), flips=False, fits=2)
