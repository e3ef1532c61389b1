"""How long a training step waits for cached latents and noise, compared with a plain implementation in the same run.

    python benchmarks/data.py --batch 256 --tokens 256 --latent-dim 256 --workers 0,2

Plain: rows of the memory-mapped shards, one at a time, stacked and converted to float32; one draw per image (for small ones
from blocks), stacked; all in the training thread. Ours: `training_loader` over a `SignalStream`, which leaves the conversion
to the device. A pause replaces the network's part of a step (--step); measured is the time in which the training thread waits
for its data and touches every page of it. The variants run in turn, and their data are compared.
"""

import argparse
import functools
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from genrep.data.latents import LatentCache
from genrep.data.shards import FORMAT, MANIFEST, STATISTICS
from genrep.files import file_hash, write_json
from genrep.options import non_negatives, positive, positive_number
from genrep.randomness import BLOCK_NUMBERS, stream_generator
from genrep.training.config import run_script
from genrep.training.order import DataOrder, PositionBatches, SignalStream, training_loader

SEED = 0
PAGE = 1024
"""Numbers in a page of memory, at 4 bytes each."""
SHARD_SIZE = 512


def write_random_cache(folder: Path, num_images: int, shape: tuple[int, int]) -> None:
    """A cache of random float16 latents, in the format of `write_cache`."""
    starts = range(0, num_images, SHARD_SIZE)
    for number, start in enumerate(starts):
        rows = torch.randn(min(SHARD_SIZE, num_images - start), 1, *shape, dtype=torch.float16)
        save_file({"latents": rows}, folder / f"latents-{number:05d}-of-{len(starts):05d}.safetensors")
    save_file({"mean": torch.zeros(shape), "std": torch.ones(shape)}, folder / STATISTICS)
    manifest = {"format": FORMAT, "data": "random", "source": "random", "num_images": num_images, "labelled": False}
    manifest |= {"num_views": 1, "latent_shape": list(shape), "dtype": "float16", "shard_size": SHARD_SIZE}
    manifest |= {"class_names": [], "files": {STATISTICS: file_hash(folder / STATISTICS)}}
    write_json(folder / MANIFEST, manifest)


def plain_steps(folder: Path, batches: PositionBatches, num_images: int, shape: tuple[int, int]):
    """Latents and noise of every step, one row at a time."""
    shards = [load_file(path)["latents"] for path in sorted(folder.glob("latents-*"))]
    order = DataOrder(num_images, SEED)
    length = max(1, BLOCK_NUMBERS // math.prod(shape))  # rows drawn at once, as in `genrep.randomness`: equal noise

    @functools.lru_cache(maxsize=8)
    def block(number: int) -> torch.Tensor:
        return torch.randn(length, *shape, generator=stream_generator(SEED, "noise", number))

    for positions in batches:
        rows = [shards[index // SHARD_SIZE][index % SHARD_SIZE, 0] for index in order.indices(positions)]
        noise = [block(position // length)[position % length] for position in positions]
        yield torch.stack(rows).float(), torch.stack(noise)


def our_steps(folder: Path, batches: PositionBatches, shape: tuple[int, int], num_workers: int):
    """The same from our loader."""
    cache = LatentCache(folder)
    stream = SignalStream(cache, SEED, flips=False, wants_signals=False, cache=cache, noise={"noise": shape})
    for batch in training_loader(stream, batches, num_workers):
        yield batch.latents, batch.noise["noise"]


def timed(steps, step_seconds: float) -> tuple[list[float], torch.Tensor]:
    """Seconds that every step waits for its data, and sums of the data for the comparison."""
    seconds: list[float] = []
    sums: list[torch.Tensor] = []
    while True:
        started = time.perf_counter()
        data = next(steps, None)
        if data is None:
            return seconds, torch.stack(sums)
        for part in data:
            part.flatten()[::PAGE].sum()  # faults the pages in, as the copy to a device would
        seconds.append(time.perf_counter() - started)
        time.sleep(step_seconds)  # workers keep loading, as during a step on a GPU
        sums.append(torch.stack([part.double().sum() for part in data]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=positive, default=256, help="images per step (default 256)")
    parser.add_argument("--tokens", type=positive, default=256, help="tokens of a latent set (default 256)")
    parser.add_argument("--latent-dim", type=positive, default=256, help="width of a token (default 256)")
    parser.add_argument("--images", type=positive, default=2048, help="images in the cache (default 2048)")
    parser.add_argument(
        "--workers", type=non_negatives, default="0,2", help="numbers of worker processes (default 0,2)"
    )
    parser.add_argument("--steps", type=positive, default=6, help="steps per run (default 6)")
    parser.add_argument(
        "--step", type=positive_number, default=500.0, help="milliseconds of the network's part (default 500)"
    )
    parser.add_argument("--runs", type=positive, default=2, help="runs per variant (default 2)")
    options = parser.parse_args()

    shape = (options.tokens, options.latent_dim)
    batches = PositionBatches(options.batch, 1, (0, 1), 0, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_random_cache(place, options.images, shape)
        variants = {"plain": lambda: plain_steps(place, batches, options.images, shape)}
        for number in options.workers:
            variants[f"ours, {number} workers"] = functools.partial(our_steps, place, batches, shape, number)
        waits: dict[str, list[float]] = {name: [] for name in variants}
        sums = {}
        for _ in range(options.runs):
            for name, variant in variants.items():
                seconds, sums[name] = timed(variant(), options.step / 1000)
                waits[name] += seconds[min(2, len(seconds) - 1) :]  # the first two wait for the workers to start
    equal = all(torch.equal(variant_sums, sums["plain"]) for variant_sums in sums.values())
    print(f"data {'equal' if equal else 'NOT equal'} to the plain variant's; {torch.get_num_threads()} threads")
    plain = statistics.median(waits["plain"])
    for name, seconds in waits.items():
        wait = statistics.median(seconds)
        print(
            f"{name:16} {1000 * wait:8.1f} ms of waiting per step   "
            f"{options.batch / wait:9,.0f} images/s   {plain / wait:5.2f} × plain"
        )


if __name__ == "__main__":
    run_script(main)
