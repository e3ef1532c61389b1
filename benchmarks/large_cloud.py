"""Time and memory of one large image as a cloud: its fit, and its render.

    python benchmarks/large_cloud.py --megapixels 12 --no-fit
    python benchmarks/large_cloud.py --run runs/kodak/arc --image photo.png --recipe configs/cifar10/arc_fast.yaml

Without --image, the image is smooth noise. Without --run, the decoder is an untrained one of the paper's size; this takes the
same time, but the PSNR means nothing. --no-fit renders anchors with random features. The peaks are those of the whole process
so far, image included.
"""

import argparse
import math
import time
from typing import Any

import torch
import torch.nn.functional as F

from genrep.data.single import PictureSourceSpec
from genrep.data.single.pictures import open_pictures
from genrep.decoders.anchored import AnchoredDecoder
from genrep.devices import choose_device, peak_memory, synchronize
from genrep.errors import InputError
from genrep.metrics.reconstruction import psnr
from genrep.models.autoencoder import INRAutoencoder
from genrep.options import positive, positive_number
from genrep.specs import grid_of, validate
from genrep.training.config import read_config, run_script
from genrep.training.folders import load_autoencoder
from genrep.training.specs import CloudRun


def image_of(options: argparse.Namespace, channels: Any) -> torch.Tensor:
    """The image, `[1, channels, height, width]` in [-1, 1]."""
    if options.image is not None:
        return open_pictures(PictureSourceSpec(source=options.image, channels=channels, num_frames=1)).values[None]
    height = math.isqrt(round(options.megapixels * 1e6 * 3 / 4))
    size = (height, round(options.megapixels * 1e6 / height))
    noise = torch.rand(1, channels, *(max(1, length // 16) for length in size)) * 2 - 1
    return F.interpolate(noise, size=size, mode="bicubic").clamp_(-1, 1)


def model_of(options: argparse.Namespace, run: INRAutoencoder | None, num_pixels: int) -> INRAutoencoder:
    """The run's decoder, or an untrained one, and an encoder that gives an image its share of anchors."""
    config: dict[str, Any] = {
        "encoder": {"type": "fit"},
        "decoder": {"type": "anchored"},
        "image_size": 32,
        "latent_dim": 34,
    }
    if run is not None:
        config |= {key: run.config[key] for key in (*config, "channels")}
    if options.recipe is not None:
        recipe = validate(CloudRun, read_config(options.recipe), where=options.recipe).autoencoder.encoder
        config["encoder"] = recipe.model_dump()
    steps = {} if options.steps is None else {"steps": options.steps}
    config["encoder"] = {**config["encoder"], "share": options.share, **steps}
    most_pixels = max(num_pixels, math.prod(grid_of(config["image_size"])))
    model = INRAutoencoder(**config, num_tokens=max(4, int(options.share * most_pixels)))
    if run is not None:
        model.decoder.load_state_dict(run.decoder.state_dict())
    return model.freeze()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run folder of train/clouds.py")
    parser.add_argument("--image", help="file of the image (default: smooth noise)")
    parser.add_argument("--megapixels", type=positive_number, default=8.0, help="size of the noise image (default 8)")
    parser.add_argument("--share", type=positive_number, default=0.05, help="anchors per pixel (default 0.05)")
    parser.add_argument("--recipe", help="config of train/clouds.py whose encoder is used (default: the run's)")
    parser.add_argument("--steps", type=positive, help="steps of the fit (default: those of the recipe, or 500)")
    parser.add_argument("--no-fit", action="store_true", help="render anchors with random features")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.manual_seed(0)
    run = None if options.run is None else load_autoencoder(options.run)
    if run is not None and not isinstance(run.decoder, AnchoredDecoder):
        raise InputError(f"--run {options.run}: must be a run of train/clouds.py; its latents are not clouds")
    image = image_of(options, 3 if run is None else run.config["channels"]).to(device)
    shape = tuple(image.shape[2:])
    model = model_of(options, run, math.prod(shape)).to(device)

    def report(what: str, started: float) -> None:
        synchronize(device)
        seconds, peak = time.perf_counter() - started, peak_memory(device) / 2**30
        print(f"{what:8} {seconds:8.1f} s, peak memory {peak:.2f} GiB", flush=True)

    count = model.latent_shape[0]
    print(f"{shape[0]} × {shape[1]} pixels, {math.prod(shape) / 1e6:.1f} megapixels, {count:,} anchors", flush=True)
    started = time.perf_counter()
    if options.no_fit:
        clouds = model.encoder.place(image, model.decoder)
        latents, mask = torch.cat([clouds.positions, torch.randn_like(clouds.features)], dim=-1), clouds.mask
        report("anchors", started)
    else:
        latents, mask = model.encode_set(image)
        report("fit", started)
    started = time.perf_counter()
    rendered = model.render(latents, size=shape, region=model.region_of(shape), mask=mask)
    report("render", started)
    if not options.no_fit:
        print(f"{model.encoder.steps} steps: PSNR {float(psnr(rendered, image).mean()):.2f} dB")


if __name__ == "__main__":
    run_script(main)
