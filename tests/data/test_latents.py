"""The latent cache: equal to encoding, resumable, the same from any number of processes, and refused when it is another's."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

from genrep.data import DataSpec, LatentsSpec
from genrep.data.images import ImageData
from genrep.data.latents import (
    LatentCache,
    LatentStatistics,
    autoencoder_hash,
    cache_manifest,
    encode_views,
    write_cache,
)
from genrep.errors import InputError
from genrep.render import from_uint8
from genrep.training.latents import CachedLatents, EncodedLatents, open_latents
from genrep.training.order import ImageStream
from tests.tiny import tiny_autoencoder

COUNT = 50
SPEC = LatentsSpec(flips=True, shard_size=16, batch=8)
SHARDS = [f"latents-{number:05d}-of-00004.safetensors" for number in range(4)]


def digits(split: str = f"train[:{COUNT}]", **options) -> ImageData:
    return ImageData(DataSpec(train_split=split, held_out_fraction=0.0, in_memory=True, **options), "train", (8, 8), 1)


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


@pytest.fixture(scope="module")
def written(autoencoder, data, tmp_path_factory):
    """A cache that tests read and never touch."""
    folder = tmp_path_factory.mktemp("cache")
    write_cache(autoencoder, data, SPEC, folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the cache that a test may break."""
    shutil.copytree(written, tmp_path / "cache")
    return tmp_path / "cache"


def encoded(autoencoder, data, spec=SPEC) -> torch.Tensor:
    """`[N, views, R, D]`, encoded in the batches that a cache is encoded in."""
    batches = [
        range(first, min(first + spec.batch, start + spec.shard_size, len(data)))
        for start in range(0, len(data), spec.shard_size)
        for first in range(start, min(start + spec.shard_size, len(data)), spec.batch)
    ]
    return torch.cat([encode_views(autoencoder, data.pixels(indices), spec.flips) for indices in batches])


def every(cache: LatentCache, view: int = 0) -> torch.Tensor:
    return cache.latents(range(len(cache)), [view] * len(cache))


# a cache is what the encoder says


def test_a_cache_equals_encoding(written, autoencoder, data):
    cache, direct = LatentCache(written), encoded(autoencoder, data)
    assert len(cache) == COUNT and cache.num_views == 2 and cache.mean.shape == (4, 8)
    for view in (0, 1):
        assert torch.equal(every(cache, view), direct[:, view])
    order = [49, 0, 16, 15, 16]
    assert torch.equal(cache.latents(order, [0, 1, 0, 1, 1]), direct[order, [0, 1, 0, 1, 1]])


def test_the_second_view_is_the_encoded_mirror_image(written, autoencoder, data):
    pixels = data.pixels(range(COUNT))
    mirrored = autoencoder.encode(from_uint8(pixels.flip(-1)))
    torch.testing.assert_close(every(LatentCache(written), view=1), mirrored, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(every(LatentCache(written), view=0), mirrored, atol=1e-3)


def test_labels_come_along(written, data):
    cache = LatentCache(written)
    assert torch.equal(cache.labels, data.labels) and cache.class_names == data.class_names
    assert torch.equal(cache.labels_of([3, 40]), data.labels[[3, 40]])


def test_a_cache_without_labels(autoencoder, tmp_path):
    write_cache(autoencoder, digits(label_column=None), SPEC, tmp_path)
    cache = LatentCache(tmp_path)
    assert cache.labels is None and cache.labels_of([0]) is None and cache.class_names == []


def test_statistics_are_those_of_all_latents(written, autoencoder, data):
    cache, rows = LatentCache(written), encoded(autoencoder, data).flatten(0, 1).double()
    assert len(rows) == 2 * COUNT
    torch.testing.assert_close(cache.mean.double(), rows.mean(0), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(cache.std.double(), rows.std(0, correction=0), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("sizes", [[100], [1, 99], [33, 33, 34], [1] * 100])
def test_statistics_are_the_same_in_any_parts(sizes):
    rows = torch.randn(100, 4, 8) * 0.01 + 1000  # a mean far from 0 is where naive sums lose digits
    statistics = LatentStatistics((4, 8))
    for part in rows.split(sizes):
        statistics.update(part)
    assert statistics.count == 100
    torch.testing.assert_close(statistics.mean, rows.double().mean(0), atol=0, rtol=1e-13)
    torch.testing.assert_close(statistics.std, rows.double().std(0, correction=0), atol=0, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_smaller_number_type_rounds_and_nothing_else(autoencoder, data, tmp_path, dtype):
    spec = SPEC.model_copy(update={"dtype": dtype})
    write_cache(autoencoder, data, spec, tmp_path)
    latents, direct = every(LatentCache(tmp_path)), encoded(autoencoder, data)[:, 0]
    assert latents.dtype == torch.float32 and torch.equal(latents, direct.to(getattr(torch, dtype)).float())
    assert not torch.equal(latents, direct)


@pytest.mark.parametrize("shard_size", [1, 7, 50, 1000])
def test_shards_of_any_size_hold_the_same(autoencoder, data, written, tmp_path, shard_size):
    write_cache(autoencoder, data, SPEC.model_copy(update={"shard_size": shard_size}), tmp_path)
    assert len(list(tmp_path.glob("latents-*.safetensors"))) == -(-COUNT // shard_size)
    torch.testing.assert_close(
        every(LatentCache(tmp_path), view=1), every(LatentCache(written), view=1), atol=1e-5, rtol=1e-5
    )


# interrupted, and on several processes


def test_nothing_unfinished_is_left(written):
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [*SHARDS, "manifest.json", "statistics.safetensors"]
    )


def test_an_interrupted_call_goes_on_and_keeps_whole_shards(folder, written, autoencoder, data):
    (folder / "manifest.json").rename(folder / "unfinished.json")
    (folder / "statistics.safetensors").unlink()
    (folder / SHARDS[1]).unlink()
    (folder / SHARDS[1]).with_suffix(".partial").write_bytes(b"half a shard")
    before = {name: (folder / name).stat().st_mtime_ns for name in SHARDS if name != SHARDS[1]}
    write_cache(autoencoder, data, SPEC, folder)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_a_whole_cache_is_left_alone(folder, autoencoder, data):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_cache(autoencoder, data, SPEC, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("num_processes", [2, 3, 6])
def test_many_processes_write_what_one_writes(autoencoder, data, written, tmp_path, num_processes):
    barrier, faults = threading.Barrier(num_processes), []

    def work(rank):
        try:
            write_cache(autoencoder, data, SPEC, tmp_path, (rank, num_processes), barrier.wait)
        except Exception as error:
            faults.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_a_process_writes_its_own_shards_alone(autoencoder, data, tmp_path):
    class Stopped(Exception):
        pass

    calls = []

    def barrier():
        calls.append(sorted(path.name for path in tmp_path.glob("latents-*.safetensors")))
        if len(calls) == 3:  # after the encoding
            raise Stopped

    with pytest.raises(Stopped):
        write_cache(autoencoder, data, SPEC, tmp_path, (1, 2), barrier)
    assert calls == [[], [], [SHARDS[1], SHARDS[3]]]


def test_shards_that_no_manifest_vouches_for_are_made_again(folder, data):
    (folder / "manifest.json").unlink()
    other = tiny_autoencoder(seed=9)
    write_cache(other, data, SPEC, folder)
    assert torch.equal(LatentCache(folder).latents([3], [0]), encode_views(other, data.pixels([3]), flips=False)[:, 0])


# damage


@pytest.mark.parametrize("name", [SHARDS[2], "statistics.safetensors"])
def test_a_damaged_shard_is_named(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (content[:-4], content[:5], b"", b"x" * len(content)):
        (folder / name).write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{name}: this shard is damaged .*; delete the folder and encode again"):
            LatentCache(folder)


def test_a_damaged_shard_is_named_when_encoding_goes_on(folder, autoencoder, data):
    (folder / "manifest.json").rename(folder / "unfinished.json")
    (folder / SHARDS[2]).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{SHARDS[2]}: this shard is damaged"):
        write_cache(autoencoder, data, SPEC, folder)


@pytest.mark.parametrize("name", [SHARDS[2], "statistics.safetensors"])
def test_a_missing_shard_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: this shard is missing; delete the folder and encode again"):
        LatentCache(folder)


def test_a_shard_of_another_length_is_refused(folder):
    shutil.copy(folder / SHARDS[3], folder / SHARDS[0])  # 2 rows instead of 16
    with pytest.raises(InputError, match=r"36 latents where the manifest says 50; delete the folder and encode again"):
        LatentCache(folder, verify=False)
    with pytest.raises(InputError, match=r"latents-00000-of-00004.safetensors: this shard is damaged"):
        LatentCache(folder)


def test_a_flipped_bit_in_a_shard_is_found(folder):
    path = folder / SHARDS[1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=rf"{SHARDS[1]}: this shard is damaged \(its hash is another\)"):
        LatentCache(folder)


def test_a_missing_or_damaged_manifest_is_named(folder, tmp_path):
    with pytest.raises(
        InputError,
        match=rf"{tmp_path}/nowhere: no latent cache here \(manifest.json is missing\); write it with train/latents.py",
    ):
        LatentCache(tmp_path / "nowhere")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: damaged .*; delete the folder and encode again"):
        LatentCache(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="no latent cache here"):
        LatentCache(folder)


# whose cache it is


def test_the_hash_of_an_autoencoder_is_of_its_weights_and_config(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    same = [tiny_autoencoder(), type(autoencoder).from_pretrained(tmp_path)]
    assert {autoencoder_hash(model) for model in same} == {autoencoder_hash(autoencoder)}
    other_weights = tiny_autoencoder()
    other_weights.decoder.mlp[0].bias[0] += 1e-6
    with_threshold = tiny_autoencoder(decoder={**autoencoder.config["decoder"], "threshold": 0.01})
    assert (
        len(
            {
                autoencoder_hash(model)
                for model in (autoencoder, tiny_autoencoder(seed=1), other_weights, with_threshold)
            }
        )
        == 4
    )


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autoencoder": 1}, r"autoencoder: the cache has '\w{16}', this run needs '\w{16}'"),
        ({"data": f"train[1:{COUNT + 1}]"}, r"data: the cache has '\w{16}', this run needs '\w{16}'"),
        ({"data": "train[:40]"}, r"num_images: the cache has 50, this run needs 40"),
        ({"dtype": "float16"}, r"dtype: the cache has 'float32', this run needs 'float16'"),
        ({"flips": False}, r"num_views: the cache has 2, this run needs 1"),
        ({"shard_size": 17}, r"shard_size: the cache has 16, this run needs 17"),
    ],
)
def test_the_cache_of_something_else_is_refused(folder, data, autoencoder, change, message, unfinished):
    change = dict(change)
    autoencoder = tiny_autoencoder(seed=change.pop("autoencoder")) if "autoencoder" in change else autoencoder
    data = digits(change.pop("data")) if "data" in change else data
    spec = SPEC.model_copy(update={**change, "folder": str(folder)})
    name = "unfinished.json" if unfinished else "manifest.json"
    if unfinished:
        (folder / "manifest.json").rename(folder / name)
    before = sorted(folder.iterdir())
    with pytest.raises(
        InputError,
        match=rf"(?s){re.escape(str(folder))}/{name}: this cache was made from something else. Delete its folder, .*{message}",
    ):
        open_latents(autoencoder, data, spec, (0, 1), lambda: None)
    assert sorted(folder.iterdir()) == before


def test_only_what_differs_is_named(folder, data, autoencoder):
    with pytest.raises(InputError) as error:
        LatentCache(folder, cache_manifest(autoencoder, data, SPEC.model_copy(update={"dtype": "float16"})))
    assert [line.strip().split(":")[0] for line in str(error.value).splitlines()[1:]] == ["dtype"]


def test_the_same_images_elsewhere_are_the_same(folder, data, autoencoder):
    manifest = cache_manifest(autoencoder, data, SPEC)
    written = json.loads((folder / "manifest.json").read_text())
    assert written.pop("files").keys() == {*SHARDS, "statistics.safetensors"}
    assert written == manifest
    assert len(LatentCache(folder, {**manifest, "source": "moved (train)"})) == COUNT


# in a training loop


@pytest.fixture
def batch(data):
    batch = ImageStream(data, seed=0, flip=True).__getitems__(list(range(40)))
    assert 5 < batch.mirrored.sum() < 35
    return batch


def test_latents_encoded_on_the_fly_equal_cached_ones(written, autoencoder, data, batch):
    cached = open_latents(autoencoder, data, SPEC.model_copy(update={"folder": str(written)}), (0, 1), lambda: None)
    encoding = open_latents(autoencoder, data, SPEC, (0, 1), lambda: None)
    assert isinstance(cached, CachedLatents) and isinstance(encoding, EncodedLatents)
    assert cached.flips and encoding.flips and encoding.wants_pixels and not cached.wants_pixels
    torch.testing.assert_close(cached.latents(batch), encoding.latents(batch), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached.mean, encoding.mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(cached.std, encoding.std, atol=1e-6, rtol=1e-5)


def test_without_a_cache_statistics_are_of_evenly_spaced_images(autoencoder, data):
    spec = LatentsSpec(statistics_images=8, batch=3)
    encoding = EncodedLatents(autoencoder, data, spec)
    rows = encode_views(autoencoder, data.pixels([0, 6, 12, 18, 25, 31, 37, 43]), flips=False)[:, 0]
    torch.testing.assert_close(encoding.mean, rows.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoding.std, rows.std(0, correction=0), atol=1e-6, rtol=1e-5)
    assert not encoding.flips


def test_opening_writes_the_cache_if_it_is_missing(autoencoder, data, written, tmp_path):
    spec = SPEC.model_copy(update={"folder": str(tmp_path / "new" / "cache")})
    opened = open_latents(autoencoder, data, spec, (0, 1), lambda: None)
    assert torch.equal(every(opened.cache), every(LatentCache(written)))
    assert Path(spec.folder, "manifest.json").is_file()


def test_no_gradient_flows_into_the_autoencoder(autoencoder, data):
    assert not encode_views(tiny_autoencoder().requires_grad_(True), data.pixels([0]), flips=True).requires_grad
