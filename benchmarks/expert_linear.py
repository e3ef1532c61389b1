"""What the expert linear layer costs beside `torch.nn.Linear` of the same width, and beside two naive versions, in one run.

    python benchmarks/expert_linear.py
    python benchmarks/expert_linear.py --channels 256 --tiles 2 --points grid --device cuda

A stack of layers, each of a finer grid (quad tree), on a square grid of points or on random ones; forward, and forward
with backward. Ours: `ExpertLinear` and `PointOrder` as a field uses them, the activations in the layers' orders. The plan
of the order is made once for a grid; for random points, which are new in every step, every call of ours makes it anew.
`gather` fetches a matrix for every point; `loop` takes each tile's points by a mask. Both run at fewer points (a matrix for
each of 512² points would be 274 GB at 512 channels), which is said, and their ratio is to dense at as many. Times are
medians of calls taken in turn, after one that is not counted.
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
    """Fresh pages of a quarter of a gigabyte for every activation would cost as much as the products that are compared."""
    if sys.platform == "linux":
        mmap_max, trim_threshold = -4, -1
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def return_freed_memory():
    """Before the next widths, whose tensors would not fit the gaps."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def timed(ways, values, runs):
    """Median seconds of (forward, forward and backward) of every way, in turn."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}

    def now():
        if values.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(runs + 1):
        for name, way in ways.items():
            started = now()
            with torch.no_grad():
                way(values)
            times[name][0].append(now() - started)
            started = now()
            way(values).sum().backward()
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
        ways = {"dense": lambda x: dense(linear, x), "naive": lambda x: naive(experts, x, indices)}  # noqa: B023
        small = timed(ways, values_of(side), options.runs)
        ratios[naive.__name__] = [a / b for a, b in zip(small["naive"], small["dense"], strict=True)]
    shown = "   ".join(f"{name} {forward:6.2f} ({both:6.2f})" for name, (forward, both) in ratios.items())
    forward, both = large["dense"]
    rate = 2 * depth * options.side**2 * channels**2 / forward / 1e9
    print(
        f"{channels:4} channels, {depth} layers of {tile}×{tile} tiles, {points:6}: dense {forward * 1e3:6.0f} ({both * 1e3:6.0f}) ms, "
        f"{rate:5.0f} GFLOP/s   × dense: {shown}   "
        f"{sum(layer.permutation is not None for layer in planned.layers)} moves",
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
        "--side", type=positive, default=512, help="points along an axis; their square is the number (default 512)"
    )
    parser.add_argument("--loop-side", type=positive, default=128, help="the same for `loop` (default 128)")
    parser.add_argument("--gather-side", type=positive, default=32, help="the same for `gather` (default 32)")
    parser.add_argument("--runs", type=positive, default=3, help="calls of each (default 3)")
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
