"""The time of a training step of SCONE and of WIRE relative to that of a SIREN of the same width, measured in the same run.

    python benchmarks/scone.py
    python benchmarks/scone.py --widths 250 --chunks 1024,2048 --runs 5
    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 python benchmarks/scone.py    # see docs/train.md

Networks have four hidden layers. A step is the forward pass, the loss and the backward pass on all points of a square
grid, in chunks of points as in train/field.py. `plain` networks are computed as their equations are written: SCONE with sine,
activation and product in separate passes, WIRE with separate real operations that autograd differentiates. Networks and chunk
sizes are timed in turn, each after a step of its own that is not counted; times are medians, given for the fastest chunk size,
with those of all chunk sizes in parentheses. Values and gradients of both forms of SCONE and of WIRE are compared first.
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

KINDS = ("siren", "scone", "wire")


def make(spec: dict[str, Any], side: int, device: torch.device) -> Field:
    torch.manual_seed(0)
    return NeuralField(spec, (side, side), channels=3).field.to(device)


def plain_scone(field: Any, prepared: Any) -> Tensor:
    return field.to_values(last(field.hidden_layers(prepared)))


def plain_wire(field: Any, coords: Tensor) -> Tensor:
    def wavelets(real: Tensor, imaginary: Tensor) -> Tensor:
        envelope = (-field.omega * imaginary - field.scale**2 * (real.square() + imaginary.square())).exp()
        return torch.cat([envelope * (field.omega * real).cos(), envelope * (field.omega * real).sin()], dim=-1)

    real = field.first(coords)
    imaginary = torch.zeros_like(real)
    for layer in field.hidden:
        real, imaginary = layer(wavelets(real, imaginary)).chunk(2, dim=-1)
    return field.to_values.real_part(wavelets(real, imaginary))


def step(values: Callable[[Any], Tensor], parts: list[tuple[Any, Tensor]]) -> None:
    for prepared, targets in parts:
        F.mse_loss(values(prepared), targets, reduction="sum").backward()


def gradients(field: Field, values: Callable[[Any], Tensor], parts: list[tuple[Any, Tensor]]) -> list[Tensor]:
    field.zero_grad()
    step(values, parts)
    return [parameter.grad.clone() for parameter in field.parameters() if parameter.grad is not None]


def seconds(way: Callable[[], None], field: Field, device: torch.device) -> float:
    field.zero_grad()
    way()  # in training, a step follows one of the same network, not one that left other arrays in the cache
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(width: int, options: argparse.Namespace) -> None:
    siren, scone, wire = (make({"type": kind, "widths": [width] * 4}, options.side, options.device) for kind in KINDS)
    ways: dict[str, tuple[Field, Callable[[Any], Tensor]]] = {
        "siren": (siren, siren.values),
        "scone": (scone, scone.values),
        "plain scone": (scone, functools.partial(plain_scone, scone)),
        "wire": (wire, wire.values),
        "plain wire": (wire, functools.partial(plain_wire, wire)),
    }
    coords = grid(options.side, device=options.device)
    targets = torch.rand(len(coords), 3, device=options.device) * 2 - 1

    def parts_of(field: Field, chunk: int) -> list[tuple[Any, Tensor]]:
        pairs = zip(coords.split(chunk), targets.split(chunk), strict=True)
        return [(field.prepare(chunk_coords), chunk_targets) for chunk_coords, chunk_targets in pairs]

    # compare
    for name in ("scone", "wire"):
        field, plain = ways[name][0], ways[f"plain {name}"][1]
        parts = parts_of(field, options.chunks[0])[:2]
        with torch.no_grad():
            expected_values = plain(parts[0][0])
        # with gradients: without them, SCONE is computed as written
        difference = float(
            (field.values(parts[0][0]).detach() - expected_values).abs().max() / expected_values.abs().max()
        )
        pairs = zip(gradients(field, field.values, parts), gradients(field, plain, parts), strict=True)
        differences = [float((fast - expected).abs().max() / expected.abs().max()) for fast, expected in pairs]
        print(
            f"4 × {width}, {name}: largest relative difference of values {difference:.0e}, of gradients {max(differences):.0e}"
        )

    # measure
    steps = {
        (name, chunk): functools.partial(step, values, parts_of(field, chunk))
        for chunk in options.chunks
        for name, (field, values) in ways.items()
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _ in range(options.runs):
        for key, way in steps.items():
            times[key].append(seconds(way, ways[key[0]][0], options.device))

    # report
    medians = {key: statistics.median(values) for key, values in times.items()}
    best = {name: min(options.chunks, key=lambda chunk: medians[name, chunk]) for name in ways}
    for name, chunk in best.items():
        pairs_of_runs = zip(times[name, chunk], times["siren", best["siren"]], strict=True)
        ratio = statistics.median(elapsed / siren_elapsed for elapsed, siren_elapsed in pairs_of_runs)
        all_chunks = ", ".join(f"{size}: {medians[name, size] * 1e3:.0f}" for size in options.chunks)
        print(
            f"  {name:11} {medians[name, chunk] * 1e3:8.1f} ms in chunks of {chunk:6}   {ratio:5.2f} × siren   ({all_chunks})"
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
