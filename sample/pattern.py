"""Look for a pattern that all samples share: the mean and standard deviation of each pixel over many samples.

    python sample/pattern.py runs/cifar10/gan --num-images 1000

The picture shows the mean of the samples and three times their standard deviation, then the same for as many real images. A
generator that paints a fixed noise pattern, as coordinate embeddings may (figure 7 of Levels-of-Experts), shows it in the
mean, because it is in every sample. The report measures detail, the root mean square, in grey values, of what a 3×3 mean
filter removes: the detail of both means, and that of their difference, `pattern`. Without a shared pattern, `pattern` is
about as large as `chance`, the detail that this many independent images leave in the difference.
"""

import argparse
import math
from pathlib import Path

from genrep.options import positive
from genrep.sampling import Sampling, parse_sampling
from genrep.training.config import run_script


def show(sampling: Sampling, options: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from genrep.data.signals import evenly
    from genrep.devices import choose_device, move
    from genrep.errors import InputError
    from genrep.files import write_json
    from genrep.metrics.pattern import detail, statistics
    from genrep.pictures import legible, picture_and_report, picture_grid, save_png
    from genrep.training.folders import run_data

    if sampling.region is not None:
        raise InputError("--region: a part of an image cannot be compared with whole images; leave it out")
    out, report_file = picture_and_report(options.out or Path(options.run) / "pattern.png")
    pipeline = move(sampling.load_pipeline(options.run), choose_device(options.device), options.dtype)
    sampling.refuse_resizing(pipeline, run_data(options.run))
    data = run_data(options.run).light().without_source().open("train", sampling.grid(pipeline), pipeline.channels)

    def samples():
        with tqdm(total=options.num_images, desc="generating", unit=" images") as bar:
            for start in range(0, options.num_images, sampling.batch_size):
                indices = range(start, min(start + sampling.batch_size, options.num_images))
                labels = [i % pipeline.num_classes for i in indices] if pipeline.num_classes else None
                yield sampling.images(pipeline, indices, labels)
                bar.update(len(indices))

    def reals():
        indices = evenly(len(data), options.num_images)
        for start in range(0, len(indices), sampling.batch_size):
            yield data.signal.pictures(data.read(indices[start : start + sampling.batch_size]))

    sampled, real = statistics(samples()), statistics(reals())
    panels = [sampled.mean, 3 * sampled.deviation, real.mean, 3 * real.deviation]
    report = {
        "num_images": options.num_images,
        "run": str(options.run),
        "data": data.name,
        # relative to the real mean, whose own detail, such as that of centred faces, is not the generator's pattern
        "pattern": detail(sampled.mean - real.mean),
        "chance": math.hypot(sampled.chance, real.chance),
        "detail_of_samples": detail(sampled.mean),
        "detail_of_real": detail(real.mean),
        "deviation_of_samples": float(sampled.deviation.mean()),
        "deviation_of_real": float(real.deviation.mean()),
    }
    pixels = torch.stack(panels).round().clamp(0, 255).to(torch.uint8)
    print(f"picture: {save_png(picture_grid(legible(pixels), 4), out)}")
    write_json(report_file, report)
    for name, value in report.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    print(f"report: {report_file}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder of train/gan.py or train/diffusion.py")
    parser.add_argument(
        "--num-images", type=positive, default=1000, help="number of samples, and of real images (default 1000)"
    )
    parser.add_argument("--out", help="PNG; a JSON report of the same name goes with it (default RUN/pattern.png)")


def main() -> None:
    show(*parse_sampling(__doc__, add_options))


if __name__ == "__main__":
    run_script(main)
