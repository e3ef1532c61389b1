"""The time of a training step of SCONE relative to that of a SIREN of the same width, measured in the same run.

    python benchmarks/scone.py
    python benchmarks/scone.py --widths 250 --chunks 1024,2048 --runs 5
    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 python benchmarks/scone.py    # see docs/train.md

Networks have four hidden layers. A step is the forward pass, the loss and the backward pass on all points of a square
grid, in chunks of points as in train/field.py. `plain` is SCONE as its equations are written, with sine, activation and
product in separate passes. Networks and chunk sizes are timed in turn, after a first round that is not counted; times
are medians, given for the fastest chunk size, with those of all chunk sizes in parentheses. Values and gradients of
both forms of SCONE are compared first.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrep.coords import grid
from genrep.devices import choose_device
from genrep.fields.base import Field, last
from genrep.models.field import NeuralField
from genrep.options import positive, positives
from genrep.training.config import run_script


def make(spec: dict[str, Any], side: int, device: torch.device) -> Field:
    torch.manual_seed(0)
    return NeuralField(spec, (side, side), channels=3).field.to(device)


def plain_values(field: Any, prepared: Any) -> Tensor:
    return field.to_values(last(field.hidden_layers(prepared)))


def step(values: Callable[[Any], Tensor], parts: list[tuple[Any, Tensor]]) -> None:
    for prepared, targets in parts:
        F.mse_loss(values(prepared), targets, reduction="sum").backward()


def gradients(field: Field, values: Callable[[Any], Tensor], parts: list[tuple[Any, Tensor]]) -> list[Tensor]:
    field.zero_grad()
    step(values, parts)
    return [parameter.grad.clone() for parameter in field.parameters() if parameter.grad is not None]


def seconds(way: Callable[[], None], field: Field, device: torch.device) -> float:
    field.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(width: int, options: argparse.Namespace) -> None:
    siren = make({"type": "siren", "widths": [width] * 4}, options.side, options.device)
    scone = make({"type": "scone", "widths": [width] * 4}, options.side, options.device)
    coords = grid(options.side, device=options.device)
    targets = torch.rand(len(coords), 3, device=options.device) * 2 - 1

    def parts_of(field: Field, chunk: int) -> list[tuple[Any, Tensor]]:
        pairs = zip(coords.split(chunk), targets.split(chunk), strict=True)
        return [(field.prepare(chunk_coords), chunk_targets) for chunk_coords, chunk_targets in pairs]

    # compare
    plain = functools.partial(plain_values, scone)
    parts = parts_of(scone, options.chunks[0])[:2]
    with torch.no_grad():
        largest = plain(parts[0][0]).abs().max()
    difference = (scone.values(parts[0][0]) - plain(parts[0][0])).abs().max() / largest
    pairs = zip(gradients(scone, scone.values, parts), gradients(scone, plain, parts), strict=True)
    differences = [(fast - expected).abs().max() / expected.abs().max() for fast, expected in pairs]
    print(
        f"4 × {width}: largest relative difference of values {float(difference.detach()):.0e}, of gradients {float(max(differences)):.0e}"
    )

    # measure
    ways: dict[tuple[str, int], tuple[Callable[[], None], Field]] = {}
    for chunk in options.chunks:
        scone_parts = parts_of(scone, chunk)
        ways["siren", chunk] = functools.partial(step, siren.values, parts_of(siren, chunk)), siren
        ways["scone", chunk] = functools.partial(step, scone.values, scone_parts), scone
        ways["plain", chunk] = functools.partial(step, plain, scone_parts), scone
    times: dict[tuple[str, int], list[float]] = {key: [] for key in ways}
    for number in range(options.runs + 1):
        for key, (way, field) in ways.items():
            elapsed = seconds(way, field, options.device)
            if number:
                times[key].append(elapsed)

    # report
    medians = {key: statistics.median(values) for key, values in times.items()}
    best = {name: min(options.chunks, key=lambda chunk: medians[name, chunk]) for name in ("siren", "scone", "plain")}
    for name, chunk in best.items():
        pairs_of_runs = zip(times[name, chunk], times["siren", best["siren"]], strict=True)
        ratio = statistics.median(elapsed / siren_elapsed for elapsed, siren_elapsed in pairs_of_runs)
        all_chunks = ", ".join(f"{size}: {medians[name, size] * 1e3:.0f}" for size in options.chunks)
        print(
            f"  {name:6} {medians[name, chunk] * 1e3:8.1f} ms in chunks of {chunk:6}   {ratio:5.2f} × siren   ({all_chunks})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=positives, default=[64, 250], help="widths, as in 64,250 (default 64,250)")
    parser.add_argument("--side", type=positive, default=256, help="points along each axis (default 256)")
    parser.add_argument(
        "--chunks", type=positives, default=[2048, 4096, 8192], help="points at a time (default 2048,4096,8192)"
    )
    parser.add_argument("--runs", type=positive, default=7, help="timed rounds (default 7)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    options = parser.parse_args()
    options.device = choose_device(options.device)
    print(f"forward and backward of {options.side}² points, {torch.get_num_threads()} threads, {options.device}")
    for width in options.widths:
        measure(width, options)


if __name__ == "__main__":
    run_script(main)
