"""What the expert linear layer costs beside `torch.nn.Linear` of the same width, and beside two naive versions, in one run.

    python benchmarks/expert_linear.py --channels 64,128,256,512 --tile 2
    python benchmarks/expert_linear.py --points random --tile 4

A stack of layers, each of a finer grid (quad tree), on a square grid of points or on random ones; forward, and forward
with backward. Ours: `ExpertLinear` and `Arrangement` as a field uses them, the activations in the layers' orders; the
plan of the order is made once and timed by itself (random points need one every step). `gather` fetches a matrix for
every point; `loop` takes each tile's points by a mask. Both run at fewer points, which is said, and their ratio is to
dense at as many. Times are medians of calls taken in turn.
"""

import argparse
import math
import statistics
import time

import torch
from torch import nn

from genrep.coords import grid
from genrep.nn.expert_linear import Arrangement, ExpertLinear
from genrep.nn.tiling import layout
from genrep.pipelines.options import positive
from genrep.training.config import run_script


def dense(layers, values):
    for layer in layers:
        values = layer(values)
    return values


def expert(layers, values, arrangement):
    for number, layer in enumerate(layers):
        values = layer(arrangement.enter(values, number), arrangement.places[number])
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


def timed(ways, values, runs):
    """Median seconds of (forward, forward and backward) of every way, in turn."""
    times = {name: ([], []) for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            with torch.no_grad():
                way(values)
            times[name][0].append(time.perf_counter() - started)
            started = time.perf_counter()
            way(values).sum().backward()
            times[name][1].append(time.perf_counter() - started)
    return {name: [statistics.median(part) for part in parts] for name, parts in times.items()}


def measure(channels, tile, num_layers, points, side, naive_side, runs):
    tilings = layout("quad_tree", [(tile, tile)] * num_layers, finest=side)
    linear = [nn.Linear(channels, channels) for _ in tilings]
    experts = [ExpertLinear(channels, channels, tiling) for tiling in tilings]

    def coords_of(side):
        return grid(side) if points == "grid" else torch.rand(side * side, 2) * 2 - 1

    def values_of(side):
        return torch.randn(side * side, 1, channels, requires_grad=True)

    coords = coords_of(side)
    started = time.perf_counter()
    arrangement = Arrangement(coords, tilings)
    plan = time.perf_counter() - started
    ways = {"dense": lambda x: dense(linear, x), "ours": lambda x: expert(experts, x, arrangement)}
    large = timed(ways, values_of(side), runs)
    few = coords_of(naive_side)
    indices = [tiling.index(few) for tiling in tilings]
    small = timed(
        {"dense": ways["dense"], "loop": lambda x: loop(experts, x, indices), "gather": lambda x: gather(experts, x, indices)},
        values_of(naive_side),
        min(runs, 3),
    )  # fmt: skip
    moves = sum(move is not None for move in arrangement.moves)
    rate = 2 * num_layers * side**2 * channels**2 / large["dense"][0] / 1e9
    ratios = {"ours": [a / b for a, b in zip(large["ours"], large["dense"], strict=True)]}
    ratios |= {name: [a / b for a, b in zip(small[name], small["dense"], strict=True)] for name in ("loop", "gather")}
    shown = "   ".join(f"{name} {forward:6.2f} ({both:6.2f})" for name, (forward, both) in ratios.items())
    print(
        f"{channels:4} channels, {tile}×{tile} tiles, {points}: dense {large['dense'][0] * 1e3:6.0f} ({large['dense'][1] * 1e3:6.0f}) ms, "
        f"{rate:4.0f} GFLOP/s   × dense: {shown}   {moves} moves, plan {plan * 1e3:.0f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", default="64,128,256,512", help="widths (default 64,128,256,512)")
    parser.add_argument("--tile", type=positive, default=2, help="matrices along each axis (default 2)")
    parser.add_argument("--layers", type=positive, help="layers (default: until a cell is a pixel)")
    parser.add_argument("--points", choices=["grid", "random"], default="grid", help="(default grid)")
    parser.add_argument(
        "--side", type=positive, default=512, help="points along an axis; their square is the number (default 512)"
    )
    parser.add_argument("--naive-side", type=positive, default=64, help="the same for the naive ways (default 64)")
    parser.add_argument("--runs", type=positive, default=5, help="calls of each (default 5)")
    options = parser.parse_args()
    torch.manual_seed(0)
    depth = options.layers or max(1, round(math.log(options.side) / math.log(max(2, options.tile))))
    print(
        f"forward (forward and backward), {options.side}² points, {depth} layers, {torch.get_num_threads()} threads; naive ways at {options.naive_side}² points"
    )
    for channels in options.channels.split(","):
        measure(int(channels), options.tile, depth, options.points, options.side, options.naive_side, options.runs)


if __name__ == "__main__":
    run_script(main)
