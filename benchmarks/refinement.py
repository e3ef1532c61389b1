"""Test-time optimisation against a Fourier-feature network trained from scratch, per image, in equal time.

    python benchmarks/refinement.py runs/photographs/locality --source kodak/ --num-images 10

Figure 7 of the locality-aware paper. For every image: the encoder's prediction; refined latents; refined latents and decoder;
and a Fourier-feature network (Gaussian features, Adam, half a cosine) that gets as many seconds as the refinement of the
latents took. All see the same number of pixels per step; refinement draws coordinates and targets as in the run's training,
the network sees pixel centres. Clocks stop while PSNR is measured. Writes refinement.json (every image) and refinement.png
(mean PSNR over seconds) to the run's folder, or --out.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from genrep.coords import grid, image_shape, random_subset
from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.data.signals import evenly
from genrep.fields.fourier import FourierField
from genrep.files import check_writable, write_json
from genrep.interpolation import values_at
from genrep.metrics.reconstruction import psnr
from genrep.options import non_negative, positive, positive_number
from genrep.plots import save_curves
from genrep.refine import NUM_COORDS, refinements
from genrep.render import from_uint8
from genrep.training.config import run_script
from genrep.training.folders import load_autoencoder
from genrep.training.reconstruction import refinement_objective


def refined_curve(autoencoder, pixels, steps, every, **options):
    """[(seconds, PSNR)] from the prediction to the last step."""
    curve, seconds, started = [], 0.0, time.perf_counter()  # seconds exclude the measurements
    for step, (tuned, latents) in enumerate(refinements(autoencoder, from_uint8(pixels), steps, **options)):
        if step % every == 0 or step == steps:
            seconds += time.perf_counter() - started
            curve.append((seconds, float(psnr(tuned.render(latents), from_uint8(pixels)))))
            started = time.perf_counter()
    return curve


def field_curve(pixels, total_seconds, num_coords, lr, scale, seed, measure=20):
    """[(seconds, PSNR)] of a Fourier-feature network of one image, trained for `total_seconds`."""
    torch.manual_seed(seed)
    images, shape = from_uint8(pixels), pixels.shape[-2:]
    coords = grid(shape)
    targets = values_at(images, coords, "nearest")[0]
    field = FourierField(channels=pixels.shape[1], scale=scale)
    optimizer = torch.optim.Adam(field.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)

    def quality():
        with torch.no_grad():
            values = torch.cat([field(part) for part in coords.split(8192)])
        return float(psnr(values.T.unflatten(1, shape)[None], images))

    curve, seconds, started, next_measure = [(0.0, quality())], 0.0, time.perf_counter(), total_seconds / measure
    while seconds < total_seconds:
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * seconds / total_seconds))
        chosen = random_subset(len(coords), min(num_coords, len(coords)), generator)
        optimizer.zero_grad()
        (field(coords[chosen]) - targets[chosen]).square().mean().backward()
        optimizer.step()
        now = time.perf_counter()
        seconds, started = seconds + now - started, now
        if seconds >= next_measure or seconds >= total_seconds:
            curve.append((seconds, quality()))
            next_measure += total_seconds / measure
            started = time.perf_counter()
    return curve


def mean_curve(curves):
    """The mean of the curves of several images, on a common axis of seconds."""
    import numpy as np

    # Up to the end of the shortest curve, so that every point is a mean over all images.
    end = min(curve[-1][0] for curve in curves)
    axis = np.linspace(0, end, 50)
    mean = np.mean([np.interp(axis, *np.array(curve).T) for curve in curves], axis=0)
    return axis.tolist(), mean.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run or model folder of stage 1")
    parser.add_argument("--source", required=True, help="images: a folder, parquet files, a Hub id")
    parser.add_argument("--num-images", type=positive, default=10, help="images, evenly spaced (default 10)")
    parser.add_argument("--steps", type=positive, default=100, help="refinement steps (default 100)")
    parser.add_argument("--coords", type=positive, default=NUM_COORDS, help=f"pixels per step (default {NUM_COORDS})")
    parser.add_argument(
        "--lr",
        type=positive_number,
        default=0.05,
        help="learning rate of the latents, in units of their standard deviation (default 0.05)",
    )
    parser.add_argument(
        "--decoder-lr", type=positive_number, default=5e-4, help="learning rate of the decoder (default 5e-4)"
    )
    parser.add_argument(
        "--field-lr",
        type=positive_number,
        default=1e-3,
        help="learning rate of the Fourier-feature network (default 1e-3)",
    )
    parser.add_argument(
        "--field-scale",
        type=positive_number,
        default=10.0,
        help="standard deviation of the network's frequencies (default 10)",
    )
    parser.add_argument("--seed", type=non_negative, default=0, help="seed of coordinates and network (default 0)")
    parser.add_argument("--out", type=Path, help="folder for the report (default RUN)")
    options = parser.parse_args()

    folder = options.out or Path(options.run)
    for name in ("refinement.json", "refinement.png"):
        check_writable(folder / name)
    autoencoder = load_autoencoder(options.run)
    spec = ImageDataSpec(source=options.source, label_column=None, held_out_fraction=0.0)
    data = ImageData(spec, "train", autoencoder.image_shape, autoencoder.config["channels"])
    every = max(1, options.steps // 20)
    objective = refinement_objective(options.run)
    num_pixels = math.prod(image_shape(objective["target_size"] or autoencoder.image_shape))
    shared: dict[str, Any] = {"num_coords": min(options.coords, num_pixels), "seed": options.seed, **objective}
    rows: list[dict[str, float]] = []
    curves: dict[str, list] = {"latents": [], "latents and decoder": [], "Fourier-feature network": []}
    for index in evenly(len(data), options.num_images):
        pixels = data.read([index])
        latents = refined_curve(autoencoder, pixels, options.steps, every, lr=options.lr, **shared)
        with_decoder = refined_curve(
            autoencoder, pixels, options.steps, every, lr=options.lr, decoder_lr=options.decoder_lr, **shared
        )
        seconds = latents[-1][0]
        field = field_curve(pixels, seconds, shared["num_coords"], options.field_lr, options.field_scale, options.seed)
        for name, curve in zip(curves, (latents, with_decoder, field), strict=True):
            curves[name].append(curve)
        rows.append(
            {"image": index, "predicted": latents[0][1], "latents": latents[-1][1],
             "latents_and_decoder": with_decoder[-1][1], "field_at_equal_seconds": field[-1][1], "seconds": seconds,
             "seconds_with_decoder": with_decoder[-1][0]}
        )  # fmt: skip
        print(
            "  ".join(
                f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"
                for key, value in rows[-1].items()
            ),
            flush=True,
        )

    keys = [key for key in rows[0] if key != "image"]
    report = {
        "mean": {key: sum(row[key] for row in rows) / len(rows) for key in keys},
        "latents_raised": sum(row["latents"] > row["predicted"] for row in rows),
        "latents_above_field": sum(row["latents"] > row["field_at_equal_seconds"] for row in rows),
        "num_images": len(rows), "images": rows,
        "objective": objective,
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
    }  # fmt: skip
    write_json(folder / "refinement.json", report)
    save_curves(
        {"seconds per image": {name: mean_curve(image_curves) for name, image_curves in curves.items()}},
        "PSNR (dB)",
        folder / "refinement.png",
    )
    print(json.dumps({key: value for key, value in report.items() if key not in ("images", "settings")}, indent=2))
    print(f"report: {folder / 'refinement.json'}\ncurves: {folder / 'refinement.png'}")


if __name__ == "__main__":
    run_script(main)
