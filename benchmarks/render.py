"""How fast a decoder renders, compared with a plain implementation of the same equations in the same run.

    python benchmarks/render.py --representation locality --size 256 --batch 1
    python benchmarks/render.py --representation anr --size 128 --chunks 512,1024

Decoders have the papers' image settings. Plain: the whole grid at once, encoded for every image; attention in separate
passes; no merged linear layers. Ours: `render`. Times are medians of calls in turn; the machine's matrix-multiply rate is
measured between them, and the share of it that is reached says how far the code is from the limit.
"""

import argparse
import functools
import math
import statistics
import time
from typing import Any

import torch

from genrep.coords import grid
from genrep.models.autoencoder import INRAutoencoder
from genrep.options import positive, positives
from genrep.training.config import run_script

TINY_ENCODER = {"type": "joint_attention", "patch_size": 16, "depth": 1, "dim": 64}  # not used
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "anr": {
        "decoder": {"type": "localized_attention", "max_frequency": 1024.0, "threshold": 0.0015},
        "latent_dim": 512,
    },
    "locality": {"decoder": {"type": "multiband"}, "latent_dim": 256},
}


def fourier_features(encoding, coords):
    angles = (coords[..., None] * math.pi * encoding.frequencies).flatten(-2)
    return torch.cat([angles.cos(), angles.sin()], -1)


def plain_anr(decoder, latents, coords):
    """ANR eqs. 1 to 7, term by term."""
    query = decoder.to_query(fourier_features(decoder.encoding, coords))
    heads = [
        part.unflatten(-1, (decoder.num_heads, -1)).transpose(1, 2)
        for part in (query, decoder.to_key(latents), decoder.to_value(latents))
    ]
    scores = heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(heads[0].shape[-1])
    weights = torch.clamp(torch.softmax(scores, -1), min=decoder.threshold) - decoder.threshold
    weights = weights / weights.sum(-1, keepdim=True)
    return decoder.mlp(decoder.to_out((weights @ heads[2]).transpose(1, 2).flatten(2)))


def plain_locality(decoder, latents, coords):
    """Locality-aware eqs. 2 to 9, term by term."""

    def frequency_features(module):
        return torch.relu(module.linear(fourier_features(module.encoding, coords)))

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
    return values


PLAIN = {"anr": plain_anr, "locality": plain_locality}


def flops_per_coordinate(decoder, num_tokens):
    """FLOPs per coordinate of the equations as written (two per multiply-add): its matrices, and attention to the tokens."""
    of_tokens = ("to_key", "to_value.", "aggregate.to_key_value")  # applied to the tokens, not to coordinates
    weights = {name: p for name, p in decoder.named_parameters() if p.ndim == 2 and not name.startswith(of_tokens)}
    inner = next(p.shape[1] for name, p in weights.items() if name.endswith("to_out.weight"))
    return 2 * sum(p.numel() for p in weights.values()) + 2 * 2 * num_tokens * inner


def matrix_rate():
    """FLOP/s of a large float32 matrix product, now."""
    left, right = torch.randn(1536, 1536), torch.randn(1536, 1536)
    started = time.perf_counter()
    for _ in range(4):
        left @ right
    return 4 * 2 * 1536**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--representation", choices=AUTOENCODERS, default="locality", help="(default locality)")
    parser.add_argument("--size", type=positive, default=256, help="side of the render in pixels (default 256)")
    parser.add_argument("--batch", type=positive, default=1, help="number of latent sets (default 1)")
    parser.add_argument("--heads", type=positive, help="attention heads (default: the paper's)")
    parser.add_argument("--runs", type=positive, default=7, help="calls per variant (default 7)")
    parser.add_argument("--chunks", type=positives, default=[], help="also try these chunk sizes, as in 512,1024,4096")
    options = parser.parse_args()

    torch.manual_seed(0)
    setting = AUTOENCODERS[options.representation]
    if options.heads:
        setting["decoder"]["num_heads"] = options.heads
    autoencoder = INRAutoencoder(encoder=TINY_ENCODER, image_size=256, num_tokens=256, **setting).freeze()
    latents = torch.randn(options.batch, *autoencoder.latent_shape)

    def plain():
        coords = grid(options.size).expand(len(latents), -1, -1)
        values = PLAIN[options.representation](autoencoder.decoder, latents, coords)
        return values.transpose(1, 2).unflatten(2, (options.size, options.size))

    variants = {"plain": plain, "render": lambda: autoencoder.render(latents, options.size)}
    for chunk in options.chunks:
        name = f"render, chunks of {chunk}"
        variants[name] = functools.partial(autoencoder.render, latents, options.size, chunk=chunk)
    with torch.no_grad():
        error = (variants["plain"]() - variants["render"]()).abs().max()
        times: dict[str, list[float]] = {name: [] for name in variants}
        rates = []
        for _ in range(options.runs):
            rates.append(
                matrix_rate()
            )  # in every round: on a shared machine it drifted from 142 to 245 GFLOP/s in an hour
            for name, variant in variants.items():
                started = time.perf_counter()
                variant()
                times[name].append(time.perf_counter() - started)
    coordinates = options.batch * options.size**2
    work = coordinates * flops_per_coordinate(autoencoder.decoder, 256)
    print(
        f"largest difference {float(error):.1e}; matrix products run at {statistics.median(rates) / 1e9:.0f} GFLOP/s, "
        f"{torch.get_num_threads()} threads"
    )
    for name, seconds in times.items():
        # Above 100 % where `render` skips work of the equations as written, such as merged layers.
        shares = [work / duration / rate for duration, rate in zip(seconds, rates, strict=True)]
        speedups = [plain_duration / duration for plain_duration, duration in zip(times["plain"], seconds, strict=True)]
        print(
            f"{name:26} {coordinates / statistics.median(seconds):9,.0f} coordinates/s   {statistics.median(speedups):5.2f} × plain   "
            f"the equations' work at {statistics.median(shares):4.0%} of the matrix rate"
        )


if __name__ == "__main__":
    run_script(main)
