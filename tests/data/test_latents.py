"""The latent cache equals encoding, resumes, is the same from any number of processes, and is refused if it does not fit."""

import json
import os
import pickle
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

from genrep.data import ImageDataSpec, LatentsSpec
from genrep.data.encoding import autoencoder_hash, cache_manifest, encode_views, write_cache
from genrep.data.images import ImageData
from genrep.data.latents import LatentCache, LatentStatistics, delete_cache, has_cache
from genrep.data.sources import MissingSource
from genrep.errors import InputError
from genrep.lock import FolderLock
from genrep.render import from_uint8
from genrep.training.latents import CachedLatents, EncodedLatents, open_latents, open_split
from genrep.training.order import PositionBatches, SignalStream, training_loader
from tests.tiny import tiny_autoencoder

COUNT = 50
SPEC = LatentsSpec(flips=True, shard_size=16, batch=8)
SHARDS = [f"latents-{number:05d}-of-00004.safetensors" for number in range(4)]


def digits(split: str = f"train[:{COUNT}]", **options) -> ImageData:
    return ImageData(
        ImageDataSpec(train_split=split, held_out_fraction=0.0, in_memory=True, **options), "train", (8, 8), 1
    )


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


@pytest.fixture(scope="module")
def written(autoencoder, data, tmp_path_factory):
    """A cache that tests only read."""
    folder = tmp_path_factory.mktemp("cache")
    write_cache(autoencoder, data, SPEC, folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the cache that a test may damage."""
    shutil.copytree(written, tmp_path / "cache")
    return tmp_path / "cache"


def views(autoencoder, data, indices, flips: bool) -> torch.Tensor:
    """Latents `[B, views, R, D]`; sets with slots have no mask."""
    latents, mask = encode_views(autoencoder, data, data.read(indices), flips)
    assert mask is None
    return latents


def encoded(autoencoder, data, spec=SPEC) -> torch.Tensor:
    """Latents `[N, views, R, D]`, encoded in the same batches as the cache."""
    batches = [
        range(first, min(first + spec.batch, start + spec.shard_size, len(data)))
        for start in range(0, len(data), spec.shard_size)
        for first in range(start, min(start + spec.shard_size, len(data)), spec.batch)
    ]
    return torch.cat([views(autoencoder, data, indices, spec.flips) for indices in batches])


def every(cache: LatentCache, view: int = 0) -> torch.Tensor:
    return cache.latents(range(len(cache)), [view] * len(cache))


# a cache equals the encoder's output


def test_cached_latents_equal_encoded_ones(written, autoencoder, data):
    cache, direct = LatentCache(written), encoded(autoencoder, data)
    assert len(cache) == COUNT and cache.num_views == 2 and cache.mean.shape == (4, 8)
    for view in (0, 1):
        assert torch.equal(every(cache, view), direct[:, view])
    order = [49, 0, 16, 15, 16]
    assert torch.equal(cache.latents(order, [0, 1, 0, 1, 1]), direct[order, [0, 1, 0, 1, 1]])


def test_the_second_view_is_the_encoded_mirror_image(written, autoencoder, data):
    pixels = data.read(range(COUNT))
    mirrored = autoencoder.encode(from_uint8(pixels.flip(-1)))
    torch.testing.assert_close(every(LatentCache(written), view=1), mirrored, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(every(LatentCache(written), view=0), mirrored, atol=1e-3)


def test_labels_are_cached(written, data):
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
def test_statistics_do_not_depend_on_the_batches(sizes):
    rows = torch.randn(100, 4, 8) * 0.01 + 1000  # with a mean far from 0, naive sums lose digits
    statistics = LatentStatistics((4, 8))
    for part in rows.split(sizes):
        statistics.update(part)
    assert statistics.count == 100
    torch.testing.assert_close(statistics.mean, rows.double().mean(0), atol=0, rtol=1e-13)
    torch.testing.assert_close(statistics.std, rows.double().std(0, correction=0), atol=0, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_smaller_dtype_only_rounds(autoencoder, data, tmp_path, dtype):
    spec = SPEC.model_copy(update={"dtype": dtype})
    write_cache(autoencoder, data, spec, tmp_path)
    latents, direct = every(LatentCache(tmp_path)), encoded(autoencoder, data)[:, 0]
    assert latents.dtype == torch.float32 and torch.equal(latents, direct.to(getattr(torch, dtype)).float())
    assert not torch.equal(latents, direct)


@pytest.mark.parametrize("shard_size", [1, 7, 50, 1000])
def test_the_shard_size_does_not_change_the_latents(autoencoder, data, written, tmp_path, shard_size):
    write_cache(autoencoder, data, SPEC.model_copy(update={"shard_size": shard_size}), tmp_path)
    assert len(list(tmp_path.glob("latents-*.safetensors"))) == -(-COUNT // shard_size)
    torch.testing.assert_close(
        every(LatentCache(tmp_path), view=1), every(LatentCache(written), view=1), atol=1e-5, rtol=1e-5
    )


# interruptions and several processes


def test_no_unfinished_files_are_left(written):
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [*SHARDS, "manifest.json", "statistics.safetensors"]
    )


def test_an_interrupted_call_resumes_and_keeps_complete_shards(folder, written, autoencoder, data):
    (folder / "manifest.json").rename(folder / "unfinished.json")
    (folder / "statistics.safetensors").unlink()
    (folder / SHARDS[1]).unlink()
    (folder / f"{SHARDS[1]}.partial").write_bytes(b"half a shard")
    (folder / SHARDS[2]).with_suffix(".partial").write_bytes(b"half a shard, of an earlier version")
    before = {name: (folder / name).stat().st_mtime_ns for name in SHARDS if name != SHARDS[1]}
    write_cache(autoencoder, data, SPEC, folder)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_a_complete_cache_is_left_alone(folder, autoencoder, data):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_cache(autoencoder, data, SPEC, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("num_processes", [2, 3, 6])
def test_several_processes_write_what_one_writes(autoencoder, data, written, tmp_path, num_processes):
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


def test_a_process_writes_only_its_own_shards(autoencoder, data, tmp_path):
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


def test_shards_without_a_manifest_are_encoded_again(folder, data):
    (folder / "manifest.json").unlink()
    other = tiny_autoencoder(seed=9)
    write_cache(other, data, SPEC, folder)
    assert torch.equal(LatentCache(folder).latents([3], [0]), views(other, data, [3], flips=False)[:, 0])


# damage


@pytest.mark.parametrize("name", [SHARDS[2], "statistics.safetensors"])
def test_a_damaged_shard_is_named(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (content[:-4], content[:5], b"", b"x" * len(content)):
        (folder / name).write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{name}: this shard is damaged .*; delete the folder and encode again"):
            LatentCache(folder)


def test_a_damaged_shard_is_named_when_encoding_resumes(folder, autoencoder, data):
    (folder / "manifest.json").rename(folder / "unfinished.json")
    (folder / SHARDS[2]).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{SHARDS[2]}: this shard is damaged"):
        write_cache(autoencoder, data, SPEC, folder)


@pytest.mark.parametrize("name", [SHARDS[2], "statistics.safetensors"])
def test_a_missing_shard_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: this shard is missing; delete the folder and encode again"):
        LatentCache(folder)


def change_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def as_an_earlier_version_wrote_it(folder: Path) -> None:
    change_manifest(folder, lambda manifest: [manifest.pop(key, None) for key in ("sizes", "selection", "held_out")])


def test_a_shard_of_another_length_is_refused(folder):
    shutil.copy(folder / SHARDS[3], folder / SHARDS[0])  # 2 rows instead of 16
    with pytest.raises(
        InputError, match=r"latents-00000-of-00004.safetensors: this shard is damaged \(it has 664 bytes"
    ):
        LatentCache(folder)
    as_an_earlier_version_wrote_it(folder)
    with pytest.raises(
        InputError,
        match=r"the shards hold 36 latent sets, but the manifest says 50; delete the folder and encode again",
    ):
        LatentCache(folder)


@pytest.mark.parametrize("cut", [1, 4, 600])
def test_a_cache_of_an_earlier_version_is_checked_by_its_headers(folder, written, cut):
    as_an_earlier_version_wrote_it(folder)
    assert torch.equal(every(LatentCache(folder)), every(LatentCache(written)))
    (folder / SHARDS[2]).write_bytes((folder / SHARDS[2]).read_bytes()[:-cut])
    with pytest.raises(InputError, match=rf"{SHARDS[2]}: this shard is damaged"):
        LatentCache(folder)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def test_verify_finds_a_flipped_bit_in_a_shard(folder, autoencoder, data):
    flip_a_bit(folder / SHARDS[1])
    assert len(LatentCache(folder)) == COUNT  # file sizes alone do not reveal it
    spec = SPEC.model_copy(update={"folder": str(folder)})
    assert open_latents(autoencoder, data, spec, (0, 1), lambda: None)
    damaged = rf"{SHARDS[1]}: this shard is damaged \(its hash does not match\)"
    with pytest.raises(InputError, match=damaged):
        LatentCache(folder, verify=True)
    with pytest.raises(InputError, match=damaged):
        open_latents(autoencoder, data, spec.model_copy(update={"verify": True}), (0, 1), lambda: None)


def test_only_the_main_process_hashes_while_the_others_wait(folder, autoencoder, data):
    flip_a_bit(folder / SHARDS[1])
    waits = []
    spec = SPEC.model_copy(update={"folder": str(folder), "verify": True})
    assert open_latents(autoencoder, data, spec, (1, 2), lambda: waits.append(1)) and len(waits) == 1


def test_a_flipped_bit_in_the_statistics_is_always_found(folder):
    flip_a_bit(folder / "statistics.safetensors")
    with pytest.raises(InputError, match=r"statistics.safetensors: this shard is damaged \(its hash does not match\)"):
        LatentCache(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"manifest"', '[{"format": 2}]'])
@pytest.mark.parametrize("name", ["manifest.json", "unfinished.json"])
def test_a_manifest_that_is_not_an_object_is_refused(folder, autoencoder, data, name, content):
    (folder / "manifest.json").rename(folder / name)
    (folder / name).write_text(content)
    message = rf"{name}: damaged \(it must hold a JSON object; got \w+\); delete the folder and encode again"
    spec = SPEC.model_copy(update={"folder": str(folder)})
    with pytest.raises(InputError, match=message):
        open_latents(autoencoder, data, spec, (0, 1), lambda: None)
    if name == "manifest.json":
        with pytest.raises(InputError, match=message):
            LatentCache(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("files", []), ("shard_size", "16"), ("class_names", None), ("num_images", None), ("held_out", [1])],
)
def test_a_manifest_without_a_required_entry_is_refused(folder, key, value):
    change_manifest(folder, lambda manifest: manifest.update({key: value}))
    with pytest.raises(InputError, match=rf"manifest.json: damaged \({key}.* is missing or wrong\); delete the folder"):
        LatentCache(folder)
    if key != "held_out":
        change_manifest(folder, lambda manifest: manifest.pop(key))
        with pytest.raises(InputError, match=rf"manifest.json: damaged \({key} is missing or wrong\)"):
            LatentCache(folder)


def test_a_missing_or_damaged_manifest_is_named(folder, tmp_path):
    with pytest.raises(
        InputError,
        match=rf"{tmp_path}/nowhere: no latent cache here \(manifest.json is missing\); create it with train/latents.py",
    ):
        LatentCache(tmp_path / "nowhere")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: damaged .*; delete the folder and encode again"):
        LatentCache(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="no latent cache here"):
        LatentCache(folder)


# whether a cache fits


def test_the_hash_of_an_autoencoder_covers_weights_and_config(autoencoder, tmp_path):
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
def test_a_cache_of_something_else_is_refused(folder, data, autoencoder, change, message, unfinished):
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


def test_only_differing_entries_are_named(folder, data, autoencoder):
    with pytest.raises(InputError) as error:
        LatentCache(folder, cache_manifest(autoencoder, data, SPEC.model_copy(update={"dtype": "float16"})))
    assert [line.strip().split(":")[0] for line in str(error.value).splitlines()[1:]] == ["dtype"]


def test_a_cache_fits_the_same_images_elsewhere(folder, data, autoencoder):
    manifest = cache_manifest(autoencoder, data, SPEC)
    written = json.loads((folder / "manifest.json").read_text())
    assert written.pop("files").keys() == {*SHARDS, "statistics.safetensors"}
    sizes = {name: (folder / name).stat().st_size for name in (*SHARDS, "statistics.safetensors")}
    assert written.pop("sizes") == sizes
    assert written == manifest
    assert len(LatentCache(folder, {**manifest, "source": "moved (train)"})) == COUNT


# two commands at once


def test_a_cache_in_use_by_another_process_is_refused(autoencoder, data, tmp_path):
    with FolderLock(tmp_path, "a latent cache"):
        for write in (lambda: write_cache(autoencoder, data, SPEC, tmp_path), lambda: delete_cache(tmp_path)):
            (tmp_path / "unfinished.json").write_text("{}")
            with pytest.raises(InputError, match=r"is in use: a latent cache is being written there by process \d+ on"):
                write()
    assert os.listdir(tmp_path) == ["unfinished.json"]
    (tmp_path / "unfinished.json").unlink()
    write_cache(autoencoder, data, SPEC, tmp_path)
    assert len(LatentCache(tmp_path)) == COUNT


def test_a_complete_cache_can_be_read_while_locked(folder, autoencoder, data):
    with FolderLock(folder, "a latent cache"):
        spec = SPEC.model_copy(update={"folder": str(folder)})
        assert len(open_latents(autoencoder, data, spec, (0, 1), lambda: None).cache) == COUNT


def test_deleting_leaves_a_folder_without_a_cache_alone(folder, tmp_path):
    delete_cache(folder)
    assert os.listdir(folder) == []
    (tmp_path / "thesis.txt").write_text("years of work")
    delete_cache(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


# without the images


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Digits in a file that can be moved away."""
    path = tmp_path_factory.mktemp("table") / "digits.parquet"
    digits("train[:60]").rows.to_parquet(path)
    return path


@pytest.fixture
def alone(autoencoder, table, tmp_path):
    """A cache with its held-out split, and the spec of its data."""
    source = shutil.copy(table, tmp_path / "digits.parquet")
    spec = ImageDataSpec(source=str(source), held_out_fraction=0.2)
    latents = SPEC.model_copy(update={"folder": str(tmp_path / "alone")})
    open_latents(autoencoder, open_split(spec, latents, autoencoder, "train"), latents, (0, 1), lambda: None)
    return spec, latents


def test_a_cache_includes_the_held_out_split(autoencoder, alone):
    spec, latents = alone
    images = ImageData(spec, "held_out", (8, 8), 1)
    cache = open_split(spec, latents, autoencoder, "held_out")
    assert isinstance(cache, LatentCache) and len(cache) == len(images) == 12
    direct = views(autoencoder, images, range(12), flips=False)[:, 0]
    torch.testing.assert_close(cache.latents(range(12)), direct, atol=1e-5, rtol=1e-5)
    assert torch.equal(cache.labels, images.labels) and cache.class_names == images.class_names
    assert cache.fingerprint() == images.fingerprint() and cache.name == images.name
    train = open_split(spec, latents, autoencoder, "train")
    assert isinstance(train, LatentCache) and len(train) == 48 and torch.equal(train.mean, cache.mean)


def test_the_held_out_split_is_added_to_a_cache_that_lacks_it(folder, autoencoder, data, alone):
    with pytest.raises(
        InputError, match="manifest.json: the cache has no held-out latents; add them with train/latents.py"
    ):
        LatentCache(folder, split="held_out")
    before = {name: (folder / name).stat().st_mtime_ns for name in (*SHARDS, "statistics.safetensors")}
    as_an_earlier_version_wrote_it(folder)
    (folder / "held_out-00000-of-00001.safetensors").write_bytes(b"half, from a call that was killed")
    write_cache(autoencoder, data, SPEC, folder, held_out=ImageData(alone[0], "held_out", (8, 8), 1))
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert len(LatentCache(folder, verify=True)) == COUNT and len(LatentCache(folder, split="held_out")) == 12
    assert not (folder / ".lock").exists() and not (folder / "unfinished.json").exists()


def test_an_interrupted_call_resumes_its_own_held_out_split(autoencoder, alone, tmp_path):
    spec, latents = alone
    folder = Path(latents.folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    data, held_out = (ImageData(spec, split, (8, 8), 1) for split in ("train", "held_out"))
    for other in (held_out, ImageData(spec.model_copy(update={"split_seed": 1}), "held_out", (8, 8), 1)):
        (folder / "manifest.json").rename(folder / "unfinished.json")
        before = (folder / "held_out-00000-of-00001.safetensors").stat().st_mtime_ns
        write_cache(autoencoder, data, latents, folder, held_out=other)
        kept = (folder / "held_out-00000-of-00001.safetensors").stat().st_mtime_ns == before
        assert kept == (other is held_out)
    assert {path.name for path in folder.iterdir()} == set(whole)
    assert LatentCache(folder, split="held_out").fingerprint() == other.fingerprint()


@pytest.mark.parametrize("change", [{"held_out": False}, {"held_out": True, "fraction": 0.0}])
def test_no_held_out_split_is_encoded_if_disabled(autoencoder, table, tmp_path, change):
    data = ImageData(
        ImageDataSpec(source=str(table), held_out_fraction=change.get("fraction", 0.2)), "train", (8, 8), 1
    )
    spec = LatentsSpec(folder=str(tmp_path / "cache"), held_out=change["held_out"])
    open_latents(autoencoder, data, spec, (0, 1), lambda: None)
    assert has_cache(spec.folder) and not has_cache(spec.folder, "held_out")


def test_without_the_images_the_cache_is_enough(autoencoder, alone, capsys):
    spec, latents = alone
    splits = [open_split(spec, latents, autoencoder, split) for split in ("train", "held_out")]
    assert capsys.readouterr().out == ""
    Path(spec.source).unlink()
    cache, held_out = (open_split(spec, latents, autoencoder, split) for split in ("train", "held_out"))
    assert f"data.source {spec.source!r} does not exist: training on the latent cache {latents.folder} alone" in (
        capsys.readouterr().out
    )
    for one, two in zip(splits, (cache, held_out), strict=True):
        assert torch.equal(every(one), every(two)) and torch.equal(one.labels, two.labels)
        assert one.fingerprint() == two.fingerprint()
    moved = spec.model_copy(update={"source": "/nowhere/else.parquet"})
    assert len(open_split(moved, latents, autoencoder, "train")) == 48
    assert open_latents(autoencoder, cache, latents, (0, 1), lambda: None).cache is cache


def test_without_the_images_the_cache_must_match_the_config(autoencoder, alone):
    spec, latents = alone
    Path(spec.source).unlink()
    for change in ({"split_seed": 1}, {"train_split": "train[:40]"}, {"label_column": None}):
        with pytest.raises(
            MissingSource, match=r"does not exist.* was made with data {.*}, which differs from this config"
        ):
            open_split(spec.model_copy(update=change), latents, autoencoder, "train")
    for change, message in (
        ({"flips": False}, "num_views: the cache has 2"),
        ({"dtype": "float16"}, "dtype: the cache"),
    ):
        with pytest.raises(InputError, match=message):
            open_split(spec, latents.model_copy(update=change), autoencoder, "train")
    with pytest.raises(InputError, match="autoencoder: the cache has"):
        open_split(spec, latents, tiny_autoencoder(seed=1), "train")


def test_runs_that_need_images_say_so_if_they_are_missing(autoencoder, alone):
    spec, latents = alone
    change_manifest(Path(latents.folder), lambda manifest: manifest.pop("held_out"))
    assert isinstance(open_split(spec, latents, autoencoder, "held_out"), ImageData)
    assert isinstance(open_split(spec, latents, autoencoder, "train", signals=True), ImageData)
    Path(spec.source).unlink()
    with pytest.raises(
        MissingSource, match=r"does not exist.*The latent cache .* is not enough: this run also needs the signals"
    ):
        open_split(spec, latents, autoencoder, "train", signals=True)
    with pytest.raises(MissingSource, match=r"is not enough: it has no held-out latents, which train/latents.py adds"):
        open_split(spec, latents, autoencoder, "held_out")


def test_the_cache_is_checked_against_existing_images(autoencoder, alone):
    spec, latents = alone
    digits("train[60:120]").rows.to_parquet(spec.source)  # other images at the same path
    with pytest.raises(InputError, match=r"data: the cache has '\w{16}', this run needs '\w{16}'"):
        open_split(spec, latents, autoencoder, "train")
    assert isinstance(open_split(spec, latents, autoencoder, "held_out"), ImageData)


# in a training loop


@pytest.fixture
def batch(data, written):
    batch = SignalStream(data, seed=0, flips=True, cache=LatentCache(written)).__getitems__(list(range(40)))
    assert 5 < batch.mirrored.sum() < 35
    return batch


def test_latents_encoded_on_the_fly_equal_cached_ones(written, autoencoder, data, batch):
    cached = open_latents(autoencoder, data, SPEC.model_copy(update={"folder": str(written)}), (0, 1), lambda: None)
    encoding = open_latents(autoencoder, data, SPEC, (0, 1), lambda: None)
    assert isinstance(cached, CachedLatents) and isinstance(encoding, EncodedLatents)
    assert cached.flips and encoding.flips and encoding.wants_signals and not cached.wants_signals
    (latents, mask), (directly, no_mask) = cached.sets(batch), encoding.sets(batch)
    torch.testing.assert_close(latents, directly, atol=1e-5, rtol=1e-5)
    assert mask is None and no_mask is None
    torch.testing.assert_close(cached.mean, encoding.mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(cached.std, encoding.std, atol=1e-6, rtol=1e-5)


def test_the_stream_reads_latents_and_labels_without_images(written, data):
    cache = LatentCache(written)
    with_images = SignalStream(data, seed=3, flips=True, cache=cache).__getitems__(list(range(70)))
    batch = SignalStream(cache, seed=3, flips=True, wants_signals=False, cache=cache).__getitems__(list(range(70)))
    assert batch.signals is None and batch.indices == with_images.indices
    assert torch.equal(batch.labels, with_images.labels) and torch.equal(batch.latents, with_images.latents)
    for row, (index, mirrored) in enumerate(zip(batch.indices, batch.mirrored.long().tolist(), strict=True)):
        assert torch.equal(batch.latents[row], cache.latents([index], [mirrored])[0])


def test_the_stream_keeps_the_dtype_of_the_cache(autoencoder, data, tmp_path):
    """That halves the bytes that workers send; the conversion to float32 happens on use."""
    write_cache(autoencoder, data, SPEC.model_copy(update={"dtype": "float16"}), tmp_path)
    cache = LatentCache(tmp_path)
    batch = SignalStream(data, seed=0, flips=True, cache=cache).__getitems__([0, 30, 49])
    assert batch.latents.dtype == torch.float16
    assert torch.equal(batch.latents.float(), cache.latents(batch.indices, batch.mirrored.long().tolist()))


def test_a_cache_is_pickled_as_its_folder_name(written):
    """Spawned workers receive the stream pickled: latents and labels must not be part of it."""
    cache = LatentCache(written)
    stream = SignalStream(cache, seed=0, flips=True, wants_signals=False, cache=cache, noise={"noise": (4, 8)})
    unsent = stream.__getitems__(list(range(40)))
    sent = pickle.dumps(stream)
    assert len(sent) < 2000
    unpickled = pickle.loads(sent)
    assert unpickled.cache._opened == {}  # no shard is opened before it is read
    batch = unpickled.__getitems__(list(range(40)))
    for name in ("latents", "labels", "mirrored"):
        assert torch.equal(getattr(batch, name), getattr(unsent, name)), name
    assert torch.equal(batch.noise["noise"], unsent.noise["noise"])


def test_workers_read_the_same_latents(written):
    cache = LatentCache(written)
    stream = SignalStream(cache, seed=0, flips=True, wants_signals=False, cache=cache, noise={"noise": (4, 8)})
    batches = PositionBatches(12, 1, (0, 1), 0, 6)
    for one, two in zip(*(training_loader(stream, batches, workers) for workers in (0, 2)), strict=True):
        assert one.positions == two.positions and torch.equal(one.latents, two.latents)
        assert torch.equal(one.noise["noise"], two.noise["noise"]) and torch.equal(one.labels, two.labels)


def test_without_a_cache_statistics_use_evenly_spaced_images(autoencoder, data):
    spec = LatentsSpec(statistics_images=8, batch=3)
    encoding = EncodedLatents(autoencoder, data, spec)
    rows = views(autoencoder, data, [0, 6, 12, 18, 25, 31, 37, 43], flips=False)[:, 0]
    torch.testing.assert_close(encoding.mean, rows.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoding.std, rows.std(0, correction=0), atol=1e-6, rtol=1e-5)
    assert not encoding.flips


def test_opening_writes_the_cache_if_it_is_missing(autoencoder, data, written, tmp_path):
    spec = SPEC.model_copy(update={"folder": str(tmp_path / "new" / "cache")})
    opened = open_latents(autoencoder, data, spec, (0, 1), lambda: None)
    assert torch.equal(every(opened.cache), every(LatentCache(written)))
    assert Path(spec.folder, "manifest.json").is_file()


def test_no_gradient_flows_into_the_autoencoder(autoencoder, data):
    assert not views(tiny_autoencoder().requires_grad_(True), data, [0], flips=True).requires_grad
