"""How fast the ANR decoder renders, beside a plain implementation of the same equations, in one run.

    python benchmarks/anr_render.py --size 128 --batch 1

Plain: the whole grid at once, encoded for every image; softmax, threshold and normalisation each a pass; every linear
layer for itself, as the published code does it. Ours: `render`. Times are medians of calls taken in turn; the machine's
matrix-multiply rate is measured between them, and the share of it says how far the code is from its limit.
"""

import argparse
import math
import statistics
import time

import torch

from genrep.coords import grid
from genrep.models.autoencoder import INRAutoencoder


def plain_render(decoder, latents, size):
    """ANR eqs. 1 to 7, term by term."""
    coords = grid(size).expand(len(latents), -1, -1)
    angles = (coords[..., None] * math.pi * decoder.encoding.frequencies).flatten(-2)
    query = decoder.to_query(torch.cat([angles.cos(), angles.sin()], -1))
    heads = [
        part.unflatten(-1, (decoder.num_heads, -1)).transpose(1, 2)
        for part in (query, decoder.to_key(latents), decoder.to_value(latents))
    ]
    scores = heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(heads[0].shape[-1])
    weights = torch.clamp(torch.softmax(scores, -1), min=decoder.threshold) - decoder.threshold
    weights = weights / weights.sum(-1, keepdim=True)
    values = decoder.mlp(decoder.to_out((weights @ heads[2]).transpose(1, 2).flatten(2)))
    return values.transpose(1, 2).unflatten(2, (size, size))


def flops_a_coordinate(decoder, num_tokens):
    """Multiply-adds counted twice, of the equations as written."""
    linear = sum(
        2 * layer.weight.numel()
        for layer in (decoder.to_query, decoder.to_out, *decoder.mlp)
        if hasattr(layer, "weight")
    )
    return linear + 2 * 2 * num_tokens * decoder.to_key.out_features


def matrix_rate():
    """FLOP/s of a large float32 matrix product, now."""
    one, two = torch.randn(1536, 1536), torch.randn(1536, 1536)
    started = time.perf_counter()
    for _ in range(4):
        one @ two
    return 4 * 2 * 1536**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the render (default 128)")
    parser.add_argument("--batch", type=int, default=1, help="latent sets (default 1)")
    parser.add_argument("--runs", type=int, default=7, help="calls of each (default 7)")
    parser.add_argument("--chunks", default="", help="also try these chunk sizes, as in 512,1024,4096")
    options = parser.parse_args()

    torch.manual_seed(0)
    autoencoder = INRAutoencoder(  # the paper's image setting; the encoder plays no part
        encoder={"type": "cross_attention", "encoder_depth": 0, "decoder_depth": 1, "dim": 64, "mlp_dim": 64},
        decoder={"type": "localized_attention", "max_frequency": 1024.0, "threshold": 0.0015},
        image_size=128, num_tokens=256, latent_dim=512,
    ).freeze()  # fmt: skip
    latents = torch.randn(options.batch, 256, 512)
    ways = {
        "plain": lambda: plain_render(autoencoder.decoder, latents, options.size),
        "render": lambda: autoencoder.render(latents, options.size),
    }
    for chunk in filter(None, options.chunks.split(",")):
        ways[f"render, chunks of {chunk}"] = lambda chunk=int(chunk): autoencoder.render(
            latents, options.size, chunk=chunk
        )
    with torch.no_grad():
        error = (ways["plain"]() - ways["render"]()).abs().max()
        times, rates = {name: [] for name in ways}, []
        for _ in range(options.runs):
            rates.append(matrix_rate())
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - started)
    coordinates = options.batch * options.size**2
    work = coordinates * flops_a_coordinate(autoencoder.decoder, 256)
    print(
        f"largest difference {float(error):.1e}; matrix products run at {statistics.median(rates) / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads"
    )
    for name, seconds in times.items():
        ratios = [work / second / rate for second, rate in zip(seconds, rates, strict=True)]
        speedups = [plain / second for plain, second in zip(times["plain"], seconds, strict=True)]
        print(
            f"{name:26} {coordinates / statistics.median(seconds):9,.0f} coordinates/s   {statistics.median(speedups):5.2f} × plain   "
            f"the equations' work at {statistics.median(ratios):4.0%} of the matrix rate"
        )


if __name__ == "__main__":
    main()
