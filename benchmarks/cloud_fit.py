"""Images per second of fitting clouds: many images at a time against one at a time, in one process.

    python benchmarks/cloud_fit.py
    python benchmarks/cloud_fit.py --run runs/cifar10/arc --source data/cifar10/train.parquet --recipe configs/cifar10/arc_fast.yaml

Compares three ways to compute the same clouds: `encode` of all images at once; `encode` of one image at a time; and, one image at
a time, a plain implementation of the paper's equations with autograd and torch's Adam, which searches the neighbours once.
--recipe adds a fourth: all images at once under the same decoder, with the encoder of another config, whose clouds differ.
Without --run the decoder is an untrained one of the paper's size and the images are smooth noise; this takes the same time,
but the PSNR means nothing. The ways are timed in turn, --rounds times, and the shortest wall time counts. On a shared machine,
use --seconds process for CPU time.
"""

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F

from genrep.coords import grid
from genrep.data import ImageDataSpec
from genrep.data.signals import evenly
from genrep.errors import InputError
from genrep.metrics.reconstruction import psnr
from genrep.models.autoencoder import INRAutoencoder
from genrep.options import positive
from genrep.specs import validate
from genrep.training.config import read_config, run_script
from genrep.training.folders import load_autoencoder
from genrep.training.specs import CloudRun


def plain_fit(autoencoder: INRAutoencoder, image: torch.Tensor) -> torch.Tensor:
    """The cloud of one image, `[1, C, *shape]`, from the encoder's anchors and initial features."""
    encoder: Any = autoencoder.encoder
    if encoder.draws or encoder.schedule != "constant" or encoder.betas != (0.9, 0.999) or encoder.penalty:
        raise InputError(
            "--run must have encoder.coords grid, schedule constant, betas [0.9, 0.999] and penalty 0, which the plain fit has: "
            "give a run of configs/cifar10/arc.yaml, and other recipes with --recipe"
        )
    decoder: Any = autoencoder.decoder
    clouds = encoder.place(image, decoder)
    coords, targets = grid(image.shape[2:]), image.flatten(2).transpose(1, 2)
    index = decoder.nearest(clouds.positions, clouds.mask)(coords)[0]
    offsets = decoder.offsets(coords[None], clouds.positions[0][index][None])[0].flatten(1)
    features = clouds.features[0].clone().requires_grad_(True)
    adam = torch.optim.Adam([features], lr=encoder.lr)
    parts = clouds.order[0].tensor_split(encoder.parts)
    for step in range(encoder.steps):
        pixels = parts[step % len(parts)]
        inputs = torch.cat([features[index[pixels]].flatten(1), offsets[pixels]], dim=1)
        loss = F.mse_loss(decoder.mlp(inputs), targets[0, pixels])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return torch.cat([clouds.positions, features.detach()[None]], dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", help="run folder of train/clouds.py, with encoder.coords grid and encoder.schedule constant"
    )
    parser.add_argument(
        "--source", help="images to fit: a folder or parquet files (default: the held-out images of --run)"
    )
    parser.add_argument("--recipe", help="config of train/clouds.py whose encoder is compared as well")
    parser.add_argument("--num-images", type=positive, default=32, help="number of images (default 32)")
    parser.add_argument("--size", type=positive, default=32, help="size of the noise images (default 32)")
    parser.add_argument("--steps", type=positive, help="steps of a fit (default: those of the run, or 500)")
    parser.add_argument(
        "--rounds", type=positive, default=2, help="number of timings, of which the shortest counts (default 2)"
    )
    parser.add_argument(
        "--seconds", choices=["clock", "process"], default="clock", help="wall time or CPU time (default clock)"
    )
    options = parser.parse_args()
    clock = time.perf_counter if options.seconds == "clock" else time.process_time
    torch.manual_seed(0)
    if options.run is None:
        size, tokens = options.size, max(4, int(0.05 * options.size**2))
        fit = {"type": "fit", "steps": options.steps or 500}
        autoencoder = INRAutoencoder(fit, {"type": "anchored"}, size, 3, tokens, 34).freeze()
        noise = torch.rand(options.num_images, 3, max(1, size // 4), max(1, size // 4)) * 2 - 1
        images = F.interpolate(noise, size=(size, size), mode="bicubic")
    else:
        autoencoder = load_autoencoder(options.run)
        autoencoder.encoder.steps = options.steps or autoencoder.encoder.steps
        from genrep.training.folders import run_data

        spec = run_data(options.run).light()
        if options.source is not None:
            spec = spec.model_copy(update={"source": options.source}) if isinstance(spec, ImageDataSpec) else spec
        data = spec.open("held_out", autoencoder.image_shape, autoencoder.config["channels"])
        images = data.signal.values(data.read(evenly(len(data), options.num_images)))
    ways = {
        "at once": lambda: autoencoder.encode(images),
        "one at a time": lambda: torch.cat([autoencoder.encode(image[None]) for image in images]),
        "one at a time, plain": lambda: torch.cat([plain_fit(autoencoder, image[None]) for image in images]),
    }
    if options.recipe is not None:
        settings = validate(CloudRun, read_config(options.recipe), where=options.recipe).autoencoder.encoder
        recipe = settings.build(autoencoder.image_shape, images.shape[1], *autoencoder.latent_shape)
        ways["at once, recipe"] = lambda: recipe(images, autoencoder.decoder)[0]
    seconds, quality = dict.fromkeys(ways, float("inf")), {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = clock()
            latents = way()
            seconds[name] = min(seconds[name], clock() - started)
            quality[name] = float(psnr(autoencoder.render(latents), images).mean())
    print(
        f"{len(images)} images of {' × '.join(map(str, images.shape[1:]))}, {autoencoder.encoder.steps} steps, {torch.get_num_threads()} thread(s)"
    )
    for name in ways:
        rate, ratio = len(images) / seconds[name], seconds["one at a time, plain"] / seconds[name]
        print(f"{name:22} {rate:8.3g} images/s  {ratio:5.2f} × as fast as plain  {quality[name]:.2f} dB")


if __name__ == "__main__":
    run_script(main)
