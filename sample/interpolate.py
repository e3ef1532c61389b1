"""Interpolate between samples of a GAN: a row of images for every pair of noise vectors.

    python sample/interpolate.py runs/digits/gan --rows 5 --steps 8 --size 64 --out walk.png

Row k goes from the noise of sample 2k to that of sample 2k + 1, at a fixed class; the rows cycle through --classes. The path
follows a sphere, because vectors from N(0, 1) all have nearly the same length and a straight line would pass through shorter
ones. Sample i is that of sample/generate.py with the same seed and truncation.
"""

import argparse

from genrep.options import parse_classes, positive
from genrep.sampling import Sampling, parse_sampling
from genrep.training.config import run_script


def interpolate(sampling: Sampling, options: argparse.Namespace) -> None:
    import torch

    from genrep.devices import choose_device, move
    from genrep.errors import InputError
    from genrep.files import check_writable
    from genrep.pictures import picture_grid, save_png
    from genrep.pipelines import GANSamplingSpec
    from genrep.pipelines.gan import spherical
    from genrep.randomness import image_generators

    assert isinstance(sampling.settings, GANSamplingSpec)
    pipeline = move(sampling.load_pipeline(options.run), choose_device(options.device), options.dtype)
    names = {int(label): name for label, name in (pipeline.config.id2label or {}).items()}
    labels = [0]
    if pipeline.num_classes:
        labels = parse_classes(options.classes, names) if options.classes is not None else sorted(names)
    elif options.classes is not None:
        raise InputError("--classes: this model was trained without classes: leave it out")
    check_writable(options.out)
    noise_dim = pipeline.generator_model.noise_dim
    rows = []
    for row in range(options.rows):
        pair = image_generators(sampling.seed, [2 * row, 2 * row + 1])
        first, last = (torch.randn(noise_dim, generator=generator) for generator in pair)
        noise = torch.stack([spherical(first, last, share) for share in torch.linspace(0, 1, options.steps).tolist()])
        images = pipeline.from_noise(
            noise * sampling.settings.truncation,
            [labels[row % len(labels)]] * options.steps,
            sampling.grid(pipeline),
            sampling.region,
            sampling.batch_size,
            output_type="uint8",
        ).images
        rows.append(images)
    print(f"grid: {save_png(picture_grid(torch.cat(rows), options.steps), options.out)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder of train/gan.py, or its pipeline folder")
    parser.add_argument(
        "--classes", help="labels, ranges or names, such as 0-9 or cat,dog, that the rows cycle through (default: all)"
    )
    parser.add_argument("--rows", type=positive, default=8, help="number of rows, one pair of samples each (default 8)")
    parser.add_argument("--steps", type=positive, default=8, help="images per row, including both samples (default 8)")
    parser.add_argument("--out", default="walk.png", help="PNG of the grid (default walk.png)")


def main() -> None:
    # no former flags: here --steps has always been the number of images per row, not of sampling steps
    interpolate(*parse_sampling(__doc__, add_options, pipelines=["GANPipeline"], former_flags=False))


if __name__ == "__main__":
    run_script(main)
