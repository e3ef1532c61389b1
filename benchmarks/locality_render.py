"""How fast the locality-aware decoder renders, beside a plain implementation of the same equations, in one run.

    python benchmarks/locality_render.py --size 256 --batch 1

Plain: the whole grid at once, encoded for every image; attention in separate passes; every linear layer for itself. Ours:
`render`. Times are medians of calls taken in turn; the machine's matrix-multiply rate is measured between them, and the
share of it says how far the code is from its limit.
"""

import argparse
import math
import statistics
import time

import torch

from genrep.coords import grid
from genrep.models.autoencoder import INRAutoencoder


def plain_render(decoder, latents, size):
    """Locality-aware eqs. 2 to 9, term by term."""
    coords = grid(size).expand(len(latents), -1, -1)

    def frequency_features(module):
        angles = (coords[..., None] * math.pi * module.encoding.frequencies).flatten(-2)
        return torch.relu(module.linear(torch.cat([angles.cos(), angles.sin()], -1)))

    attention = decoder.aggregate
    key, value = attention.to_key_value(latents).chunk(2, dim=-1)
    query = attention.to_query(frequency_features(decoder.query))
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)) for part in (query, key, value))
    scores = torch.einsum("bnhd,brhd->bhnr", query, key) / math.sqrt(query.shape[-1])
    mixed = torch.einsum("bhnr,brhd->bnhd", torch.softmax(scores, -1), value).flatten(2)
    vector = attention.to_out(mixed)
    hidden, values = None, 0
    for level, (band, modulate, to_values) in enumerate(
        zip(decoder.bands, decoder.modulate, decoder.to_values, strict=True)
    ):
        modulation = torch.relu(frequency_features(band) + modulate(vector))
        hidden = modulation if hidden is None else torch.relu(decoder.layers[level - 1](modulation + hidden))
        values = values + to_values(hidden)
    return values.transpose(1, 2).unflatten(2, (size, size))


def flops_a_coordinate(decoder, num_tokens):
    """Multiply-adds counted twice, of the equations as written."""
    linear = [decoder.query, *decoder.bands, *decoder.modulate, *decoder.layers, *decoder.to_values]
    linear += [decoder.aggregate.to_query, decoder.aggregate.to_out]
    weights = sum(p.numel() for module in linear for p in module.parameters() if p.ndim == 2)
    return 2 * weights + 2 * 2 * num_tokens * decoder.aggregate.to_out.in_features


def matrix_rate():
    """FLOP/s of a large float32 matrix product, now."""
    one, two = torch.randn(1536, 1536), torch.randn(1536, 1536)
    started = time.perf_counter()
    for _ in range(4):
        one @ two
    return 4 * 2 * 1536**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the render (default 256)")
    parser.add_argument("--batch", type=int, default=1, help="latent sets (default 1)")
    parser.add_argument("--heads", type=int, default=2, help="heads of the cross-attention (default 2)")
    parser.add_argument("--runs", type=int, default=7, help="calls of each (default 7)")
    parser.add_argument("--chunks", default="", help="also try these chunk sizes, as in 512,1024,4096")
    options = parser.parse_args()

    torch.manual_seed(0)
    autoencoder = INRAutoencoder(  # the paper's image setting; the encoder plays no part
        encoder={"type": "joint_attention", "patch_size": 16, "depth": 1, "dim": 64},
        decoder={"type": "multiband", "num_heads": options.heads},
        image_size=256, num_tokens=256, latent_dim=256,
    ).freeze()  # fmt: skip
    latents = torch.randn(options.batch, 256, 256)
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
