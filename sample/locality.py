"""Show which part of an image each latent token determines: how the render changes when the token is set to zero.

    python sample/locality.py runs/digits/locality --tokens 0,3,7 --num-images 6

Every row shows an image: the original, its reconstruction, and for each token the absolute difference between the renders
with and without it, scaled to a maximum of 1 (figures 5 and 12 of the locality-aware paper). The tokens are the same in all
rows. The report gives each token's spread, the share of the image that its difference covers: 1 for a token that changes
all pixels equally, down to a single pixel's share.
"""

import argparse
from pathlib import Path

from genrep.options import add_device_options, non_negative, positive
from genrep.training.config import run_script


def show(options: argparse.Namespace) -> None:
    import torch

    from genrep.data.signals import evenly
    from genrep.devices import choose_device, move
    from genrep.errors import InputError
    from genrep.files import write_json
    from genrep.metrics.locality import spread, token_differences
    from genrep.pictures import legible, picture_and_report, picture_grid, save_png
    from genrep.randomness import stream_generator
    from genrep.training.folders import load_autoencoder, run_data
    from genrep.training.latents import open_for

    # model and data
    out, report_file = picture_and_report(options.out or Path(options.run) / "locality.png")
    autoencoder = move(load_autoencoder(options.run), choose_device(options.device), options.dtype)
    data = open_for(autoencoder, run_data(options.run).light(), options.split)
    signal = data.signal
    num_tokens = autoencoder.spec.tokens_at_image_size  # those beyond are padding
    if options.tokens is None:
        if options.num_tokens > num_tokens:
            raise InputError(
                f"--num-tokens must be at most {num_tokens}, the tokens of {options.run}; got {options.num_tokens}"
            )
        order = torch.randperm(num_tokens, generator=stream_generator(options.seed, "tokens"))
        tokens = sorted(order[: options.num_tokens].tolist())
    else:
        try:
            tokens = [int(word) for word in options.tokens.split(",")]
        except ValueError:
            raise InputError(f"--tokens must be integers, as in 0,3,7; got {options.tokens!r}") from None

    # differences
    kept = data.read(evenly(len(data), options.num_images))
    values = signal.values(kept.to(autoencoder.device))
    size = tuple(options.scale * length for length in autoencoder.image_shape)
    with torch.no_grad():
        latents, mask = autoencoder.encode_set(values)
        reconstructed = signal.pictures(signal.keep(autoencoder.render(latents, size=size, mask=mask).cpu()))
    differences = token_differences(autoencoder, latents, tokens, size, mask).cpu()

    # write
    grid_axes = tuple(range(2, differences.ndim))
    # scaled one by one, as in the paper: the picture tells where a token acts, the report how strongly
    scaled = differences / differences.amax(dim=grid_axes, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    as_values = (2 * scaled - 1).flatten(0, 1)[:, None].expand(-1, kept.shape[1], *size)
    difference_pictures = signal.pictures(signal.keep(as_values)).unflatten(0, differences.shape[:2])
    originals = signal.pictures(signal.keep(signal.resize(values, size)).cpu())
    rows = torch.cat([originals[:, None], reconstructed[:, None], difference_pictures], dim=1)
    save_png(picture_grid(legible(rows.flatten(0, 1)), columns=rows.shape[1]), out)
    spreads = spread(differences, len(size)).mean(dim=0)
    report = {
        "spread": float(spreads.mean()),
        "spread_of_tokens": dict(zip(map(str, tokens), spreads.tolist(), strict=True)),
        "largest_difference_of_tokens": dict(
            zip(map(str, tokens), differences.amax(dim=(0, *grid_axes)).tolist(), strict=True)
        ),
        "num_images": len(kept),
        "size": list(size),
        "data": data.name,
        "autoencoder": str(options.run),
    }
    write_json(report_file, report)
    print(f"tokens: {', '.join(map(str, tokens))} of {num_tokens}\nspread: {report['spread']:.4f}")
    print(f"picture: {out}\nreport: {report_file}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run folder of train/autoencoder.py")
    parser.add_argument("--tokens", help="tokens to show, as in 0,3,7 (default: --num-tokens random ones)")
    parser.add_argument("--num-tokens", type=positive, default=8, help="number of random tokens (default 8)")
    parser.add_argument(
        "--num-images", type=positive, default=6, help="number of images, evenly spaced in the split (default 6)"
    )
    parser.add_argument(
        "--scale", type=positive, default=2, help="render at this multiple of the image's size (default 2)"
    )
    parser.add_argument("--split", default="held_out", help="held_out or train (default held_out)")
    parser.add_argument("--seed", type=non_negative, default=0, help="seed that draws the tokens (default 0)")
    parser.add_argument("--out", help="PNG; a JSON report of the same name goes with it (default RUN/locality.png)")
    add_device_options(parser)
    show(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
