"""Generate images, or signals of another kind, from a trained run, at any size.

    python sample/generate.py runs/digits/diffusion --classes 0-9 --per-class 8 --size 64 --out grid.png
    python sample/generate.py runs/digits/diffusion --num-images 16 --region -0.5,-0.5,0.5,0.5 --size 256 --images samples
    python sample/generate.py runs/digits/diffusion --sampling.num_inference_steps 50 --sampling.guidance_scale 2

Writes a grid of all samples to --out and, if asked for, each sample as a PNG (--images) or all values as a NumPy array
(--values). Sample i depends only on the seed and i: not, up to float rounding, on the batch size, the rendered size or the
number of processes.
"""

import argparse
from pathlib import Path

from genrep.options import parse_classes, positive
from genrep.sampling import Sampling, parse_sampling
from genrep.training.config import run_script


def generate(sampling: Sampling, options: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from accelerate.utils import gather_object
    from tqdm.auto import tqdm

    from genrep.devices import move
    from genrep.errors import InputError
    from genrep.files import check_writable, replacing
    from genrep.pictures import picture_grid, save_png
    from genrep.training.accelerator import make_accelerator

    accelerator = make_accelerator(device=options.device)
    pipeline = move(sampling.load_pipeline(options.run), accelerator.device, options.dtype)

    # which images
    names = {int(label): name for label, name in (pipeline.config.id2label or {}).items()}
    labels = None
    if options.classes is not None and options.num_images is not None:
        raise InputError("--num-images is for samples without a class; with --classes, give --per-class instead")
    if names and options.num_images is None:
        classes = parse_classes(options.classes, names) if options.classes is not None else sorted(names)
        labels = [label for label in classes for _ in range(options.per_class)]
    elif options.classes is not None:
        parse_classes(options.classes, names)  # raises: the model has no classes
    count = len(labels) if labels is not None else options.num_images or 16
    # before sampling, which may take hours
    check_writable(options.out)
    if options.images is not None:
        check_writable(Path(options.images) / "0.png")
    if options.values is not None:
        check_writable(options.values)

    # sample and render; every process takes a share of the batches
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    parts = {}
    with tqdm(total=count, desc="generating", unit=" images", disable=rank > 0) as bar:
        for start in list(range(0, count, sampling.batch_size))[rank::num_processes]:
            indices = range(start, min(start + sampling.batch_size, count))
            batch_labels = None if labels is None else labels[start : indices.stop]
            parts[start] = sampling.images(pipeline, indices, batch_labels, "kept")
            bar.update(len(indices) * num_processes)
    parts = {start: images for process_parts in gather_object([parts]) for start, images in process_parts.items()}
    if not accelerator.is_main_process:
        return
    kept = torch.cat([parts[start] for start in sorted(parts)])
    pictures = pipeline.signal.pictures(kept)

    # write
    columns = options.columns or (options.per_class if labels is not None else round(count**0.5))
    print(f"grid: {save_png(picture_grid(pictures, columns), options.out)}")
    if options.images is not None:
        for index, image in enumerate(tqdm(pictures, desc="writing", unit=" images")):
            label = f"-{names[labels[index]]}" if labels is not None else ""
            save_png(image, Path(options.images) / f"{index:06d}{label}.png")
        print(f"images: {options.images}")
    if options.values is not None:
        with replacing(options.values) as partial, partial.open("wb") as file:
            np.save(file, kept.numpy())
        print(f"values: {options.values}: {kept.dtype} {list(kept.shape)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder of train/diffusion.py or train/gan.py, or a pipeline folder")
    parser.add_argument("--classes", help="labels, ranges or names, such as 0-9 or cat,dog (default: all)")
    parser.add_argument("--per-class", type=positive, default=8, help="samples per class (default 8)")
    parser.add_argument(
        "--num-images",
        type=positive,
        help="number of samples without a class, instead of --classes (default 16 for a model without classes)",
    )
    parser.add_argument("--out", default="grid.png", help="PNG of the grid (default grid.png)")
    parser.add_argument("--columns", type=positive, help="samples per row of the grid (default: --per-class)")
    parser.add_argument("--images", help="folder to write every sample to, as a PNG")
    parser.add_argument(
        "--values",
        help="NumPy file to write all values to, [N, C, *size]: 0 to 255 for images, in their own unit for arrays",
    )


def main() -> None:
    generate(*parse_sampling(__doc__, add_options))


if __name__ == "__main__":
    run_script(main)
