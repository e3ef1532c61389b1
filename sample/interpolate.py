"""Walk from one sample of a GAN to another: a row of images for every pair of noise vectors.

    python sample/interpolate.py runs/digits/gan --rows 5 --steps 8 --size 64 --out walk.png

Row k goes from the noise of sample 2k to that of sample 2k + 1 along the sphere (noise from N(0, 1) has nearly one length,
and a straight line would leave it), at one class: --classes in turn. Sample i is that of sample/generate.py with this seed.
"""

import argparse

from genrep.pipelines.options import add_device_options, non_negative, parse_classes, parse_size, positive
from genrep.training.config import run_script


def interpolate(options: argparse.Namespace) -> None:
    import torch

    from genrep.devices import DTYPES, choose_device
    from genrep.errors import InputError
    from genrep.files import check_writable
    from genrep.pictures import picture_grid, save_png
    from genrep.pipelines import load_pipeline, pipeline_name
    from genrep.pipelines.gan import spherical
    from genrep.randomness import image_generators

    if pipeline_name(options.run) != "GANPipeline":
        raise InputError(
            f"{options.run} holds no GAN, whose noise alone makes the image: give the run folder of train/gan.py"
        )
    pipeline = load_pipeline(options.run).to(choose_device(options.device), DTYPES[options.dtype])
    names = {int(label): name for label, name in (pipeline.config.id2label or {}).items()}
    labels = [0]
    if pipeline.num_classes:
        labels = parse_classes(options.classes, names) if options.classes is not None else sorted(names)
    elif options.classes is not None:
        raise InputError("--classes: this model was trained without classes; leave it out")
    check_writable(options.out)
    noise_dim = pipeline.generator_model.noise_dim
    rows = []
    for row in range(options.rows):
        pair = image_generators(options.seed, [2 * row, 2 * row + 1])
        one, other = (torch.randn(noise_dim, generator=generator) for generator in pair)
        noise = torch.stack([spherical(one, other, share) for share in torch.linspace(0, 1, options.steps).tolist()])
        size = parse_size(options.size) or pipeline.image_shape
        rows.append(
            pipeline.from_noise(noise, [labels[row % len(labels)]] * options.steps, size, output_type="uint8").images
        )
    print(f"grid: {save_png(picture_grid(torch.cat(rows), options.steps), options.out)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run folder of train/gan.py, or its pipeline folder")
    parser.add_argument("--classes", help="labels, ranges or names, for the rows in turn (default: all)")
    parser.add_argument("--rows", type=positive, default=8, help="pairs of samples (default 8)")
    parser.add_argument("--steps", type=positive, default=8, help="images a row, the two samples included (default 8)")
    parser.add_argument("--size", help="N or HEIGHTxWIDTH in pixels (default: what the model was trained at)")
    parser.add_argument("--seed", type=non_negative, default=0, help="sample i depends on (seed, i) alone (default 0)")
    parser.add_argument("--out", default="walk.png", help="PNG of the grid (default walk.png)")
    add_device_options(parser)
    interpolate(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
