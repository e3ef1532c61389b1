"""The cost of the expert linear layer relative to `torch.nn.Linear` of the same width and to two naive versions, in one run.

    python benchmarks/expert_linear.py
    python benchmarks/expert_linear.py --channels 256 --tiles 2 --points grid --device cuda

Runs a stack of layers with ever finer grids (quad tree) on a square grid of points or on random points; forward, and forward
with backward. Ours: `ExpertLinear` and `PointOrder` as a field uses them, with activations in the layers' orders. The order
is planned once for a grid; random points change in every step, so every call plans again.

`gather` fetches a matrix for every point; `loop` selects each tile's points with a mask. Both run with fewer points (one
matrix per point of 512² would be 274 GB at 512 channels) and are compared with dense at the same number. Times are medians
of calls in turn, after an uncounted one.
"""

import argparse
import ctypes
import math
import statistics
import sys
import time

import torch
from torch import nn

from genrep.coords import grid
from genrep.devices import choose_device
from genrep.nn.expert_linear import ExpertLinear
from genrep.nn.point_order import PointOrder
from genrep.nn.tiling import layout
from genrep.options import positive
from genrep.training.config import run_script


def dense(layers, values):
    for layer in layers:
        values = layer(values)
    return values


def expert(layers, values, order):
    for layer, layer_order in zip(layers, order.layers, strict=True):
        values = layer(layer_order.to_input_order(values), layer_order)
    return values


def gather(layers, values, indices):
    for layer, index in zip(layers, indices, strict=True):
        values = torch.einsum("noi,nbi->nbo", layer.weight[index], values) + layer.bias
    return values


def loop(layers, values, indices):
    for layer, index in zip(layers, indices, strict=True):
        out = values.new_zeros(*values.shape[:2], layer.weight.shape[1])
        for tile, matrix in enumerate(layer.weight):
            mask = index == tile
            out[mask] = values[mask] @ matrix.T
        values = out + layer.bias
    return values


def keep_freed_memory():
    """Make glibc reuse freed memory."""
    # Otherwise every activation, a quarter of a gigabyte, gets fresh pages, which cost as much as the products themselves.
    if sys.platform == "linux":
        mmap_max, trim_threshold = -4, -1
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def return_freed_memory():
    """Return freed memory to the system before the next width, whose tensors would not fit the gaps."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def timed(variants, values, runs):
    """Median seconds of (forward, forward and backward) for every variant, run in turn."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in variants}

    def now():
        if values.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(runs + 1):
        for name, variant in variants.items():
            started = now()
            with torch.no_grad():
                variant(values)
            times[name][0].append(now() - started)
            started = now()
            variant(values).sum().backward()
            times[name][1].append(now() - started)
    return {name: [statistics.median(part[1:]) for part in parts] for name, parts in times.items()}


def measure(channels, tile, points, options):
    depth = max(1, round(math.log(options.side) / math.log(max(2, tile))))
    tilings = layout("quad_tree", [(tile, tile)] * depth, finest=options.side)
    linear = [nn.Linear(channels, channels).to(options.device) for _ in tilings]
    experts = [ExpertLinear(channels, channels, tiling).to(options.device) for tiling in tilings]

    def coords_of(side):
        coords = grid(side) if points == "grid" else torch.rand(side * side, 2) * 2 - 1
        return coords.to(options.device)

    def values_of(side):
        return torch.randn(side * side, 1, channels, device=options.device, requires_grad=True)

    coords = coords_of(options.side)
    planned = PointOrder(coords, tilings)

    def ours(values):
        return expert(experts, values, planned if points == "grid" else PointOrder(coords, tilings))

    large = timed({"dense": lambda x: dense(linear, x), "ours": ours}, values_of(options.side), options.runs)
    ratios = {"ours": [a / b for a, b in zip(large["ours"], large["dense"], strict=True)]}
    for naive, side in ((loop, options.loop_side), (gather, options.gather_side)):
        indices = [tiling.index(coords_of(side)) for tiling in tilings]
        variants = {"dense": lambda x: dense(linear, x), "naive": lambda x: naive(experts, x, indices)}  # noqa: B023
        small = timed(variants, values_of(side), options.runs)
        ratios[naive.__name__] = [a / b for a, b in zip(small["naive"], small["dense"], strict=True)]
    columns = "   ".join(f"{name} {forward:6.2f} ({backward:6.2f})" for name, (forward, backward) in ratios.items())
    forward, with_backward = large["dense"]
    rate = 2 * depth * options.side**2 * channels**2 / forward / 1e9  # a multiply-add counts as two
    print(
        f"{channels:4} channels, {depth} layers of {tile}×{tile} tiles, {points:6}: dense {forward * 1e3:6.0f} "
        f"({with_backward * 1e3:6.0f}) ms, {rate:5.0f} GFLOP/s   × dense: {columns}   "
        f"{sum(layer.permutation is not None for layer in planned.layers)} gathers",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--channels", type=positive, nargs="+", default=[64, 128, 256, 512], help="widths (default 64 to 512)"
    )
    parser.add_argument(
        "--tiles", type=positive, nargs="+", default=[2, 4], help="matrices along each axis (default 2 4)"
    )
    parser.add_argument(
        "--points", choices=["grid", "random"], nargs="+", default=["grid", "random"], help="(default both)"
    )
    parser.add_argument(
        "--side", type=positive, default=512, help="points along an axis, so side² in total (default 512)"
    )
    parser.add_argument("--loop-side", type=positive, default=128, help="the same for `loop` (default 128)")
    parser.add_argument("--gather-side", type=positive, default=32, help="the same for `gather` (default 32)")
    parser.add_argument("--runs", type=positive, default=3, help="calls per variant (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    options = parser.parse_args()
    options.device = choose_device(options.device)
    torch.manual_seed(0)
    keep_freed_memory()
    print(
        f"forward (forward and backward), {options.side}² points, {torch.get_num_threads()} threads; loop at "
        f"{options.loop_side}², gather at {options.gather_side}²"
    )
    for points in options.points:
        for tile in options.tiles:
            for channels in options.channels:
                measure(channels, tile, points, options)
                return_freed_memory()


if __name__ == "__main__":
    run_script(main)
