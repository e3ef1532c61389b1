"""Encode held-out images and render them back: a picture to compare them, PSNR and SSIM.

    python sample/reconstruct.py runs/digits/anr --size 128
    python sample/reconstruct.py runs/digits/anr --source FOLDER --size 128 --out mine.png
    python sample/reconstruct.py runs/digits/anr --refine-steps 200 --num-images 16

The rows of the picture are originals, reconstructions before refinement (with --refine-steps), reconstructions, renders at
--size, and bicubic enlargements.

Metrics, with 128 as an example of a size other than the images' own:
    psnr, ssim               of reconstructions, on floats as in the papers
    psnr_8bit                of reconstructions rounded to 8 bits
    psnr_128, ssim_128       of renders at 128, against the bicubic resize of the original
    psnr_128_source, ...     of renders at 128, against the data set's own image at that size (same crop, antialiased): true
                             super-resolution, for those images that are large enough, listed in source_images
    psnr_128_source_bicubic  of the bicubic enlargement, against the same

With --refine-steps, the latents of every image are optimised further from the encoder's prediction (test-time optimisation);
with --refine-decoder, so is a copy of the decoder for every image. Coordinates and targets are drawn as in the run's
training. The report then also has all metrics before refinement (psnr_before, psnr_128_before), how many images improved at
each size, and the time it took.
"""

import argparse
from pathlib import Path
from typing import Any

from genrep.options import add_device_options, non_negative, parse_size, positive, positive_number
from genrep.training.config import run_script

LR, DECODER_LR = 0.05, 5e-4
"""Default learning rates of refinement, for the latents and for the decoder."""


def reconstruct(options: argparse.Namespace) -> None:
    import math
    import time

    import torch
    from tqdm.auto import tqdm

    from genrep.coords import grid_shape
    from genrep.data import BaseDataSpec, all_of
    from genrep.data.signals import evenly
    from genrep.devices import check_memory, choose_device, move, synchronize
    from genrep.errors import InputError
    from genrep.files import write_json
    from genrep.pictures import enlarged, picture_and_report, save_png, side_by_side
    from genrep.refine import refine
    from genrep.training.folders import load_autoencoder, run_data
    from genrep.training.latents import open_for
    from genrep.training.reconstruction import refinement_objective

    # options
    out, report_file = picture_and_report(options.out or Path(options.run) / "reconstructions.png")
    without_steps = ("refine_decoder", "refine_decoder_lr", "refine_lr", "refine_coords")
    for name in without_steps if not options.refine_steps else ():
        if getattr(options, name) not in (None, False):
            raise InputError(f"--{name.replace('_', '-')} has no effect without --refine-steps: give a number of steps")
    if options.refine_decoder_lr is not None and not options.refine_decoder:
        raise InputError("--refine-decoder-lr has no effect without --refine-decoder: give both, or leave it out")
    if options.refine_decoder and options.batch_size not in (None, 1):
        raise InputError(
            f"--batch-size must be 1 with --refine-decoder, which refines one decoder per image; got {options.batch_size}"
        )
    lr = LR if options.refine_lr is None else options.refine_lr
    decoder_lr = DECODER_LR if options.refine_decoder_lr is None else options.refine_decoder_lr
    decoder_lr = decoder_lr if options.refine_decoder else None

    # model and data
    autoencoder = move(load_autoencoder(options.run), choose_device(options.device), options.dtype)
    # `own` is the size that the encoder takes; metrics there have no suffix
    own, signal = autoencoder.image_shape, autoencoder.signal
    requested_size = parse_size(options.size)
    size = enlarged(own) if requested_size is None else grid_shape(requested_size, len(own))
    # before encoding: --size 1000000 would ask for terabytes only at the first render
    num_bytes = 4 * autoencoder.config["channels"] * math.prod(size)
    check_memory(num_bytes, torch.device("cpu"), f"one render of {' × '.join(map(str, size))}")
    if options.source is not None:
        spec: BaseDataSpec = all_of(
            signal.spec.type,
            source=options.source,
            image_column=options.image_column,
            value_range=list(signal.spec.scale()),  # of the model: other arrays must be scaled as in training
            missing="keep" if autoencoder.missing else "refuse",
        )
        split = "train"
    else:
        spec, split = run_data(options.run, ", or name other images with --source"), options.split
    data = open_for(autoencoder, spec.light().with_source(size, own), split)
    image_indices = evenly(len(data), options.num_images)
    count = len(image_indices)
    objective = refinement_objective(options.run)

    # encode and render
    metrics: dict[str, list[torch.Tensor]] = {}  # a tensor of one number per image for every batch
    picture_rows: list[list[torch.Tensor]] = []
    with_source: list[int] = []
    seconds = 0.0

    def references_of(indices, values):
        """What renders are compared with: suffix of a metric's name => (size, rows of the batch, values)."""
        references: dict[str, tuple] = {"": (own, slice(None), values)}
        if size != own:
            references[size_suffix(size)] = (size, slice(None), signal.resize(values, size))
        # a bicubic enlargement of the input is no ground truth; the data set's own larger image is, if there is one
        rows, source = data.at_source_size(indices)
        if source is not None:
            larger = signal.values(source.to(values.device))
            references[f"{size_suffix(size)}_source"] = (size, rows, larger)
            for name, numbers in signal.measure(signal.resize(values[rows], size), larger).items():
                metrics.setdefault(f"{name}{size_suffix(size)}_source_bicubic", []).append(numbers.cpu())
            with_source.extend(indices[row] for row in rows)
        return references

    def measure(model, latents, mask, references, ending=""):
        """Render at every size and record the metrics, with `ending` appended to their names; returns the stored renders."""
        # dict.fromkeys, because the two sizes may be the same
        renders = {shape: model.render(latents, size=shape, mask=mask) for shape in dict.fromkeys([own, size])}
        kept = {shape: signal.keep(rendered).cpu() for shape, rendered in renders.items()}
        for suffix, (shape, rows, reference) in references.items():
            for name, numbers in signal.measure(renders[shape][rows], reference).items():
                metrics.setdefault(f"{name}{suffix}{ending}", []).append(numbers.cpu())
        # the 8-bit PSNR, of what a saved picture would hold: on rounded renders 47.25 dB reads as 46.97
        for name, numbers in signal.measure_kept(kept[own], signal.keep(references[""][2]).cpu()).items():
            metrics.setdefault(f"{name}{ending}", []).append(numbers)
        return kept

    # refining stores the activations of a backward pass as well, so fewer images fit
    batch_size = 1 if options.refine_decoder else options.batch_size or (8 if options.refine_steps else 64)
    with torch.no_grad(), tqdm(total=count, desc="reconstructing", unit=" images") as bar:
        for start in range(0, count, batch_size):
            indices = image_indices[start : start + batch_size]
            kept = data.read(indices)
            values = signal.values(kept.to(autoencoder.device))
            references = references_of(indices, values)
            # refining may return a model with a decoder of its own for these images
            model, (latents, mask) = autoencoder, autoencoder.encode_set(values)
            before = []
            if options.refine_steps:
                before = [measure(autoencoder, latents, mask, references, "_before")[own]]
                started = time.perf_counter()
                model, latents = refine(
                    autoencoder,
                    values,
                    options.refine_steps,
                    lr=lr,
                    decoder_lr=decoder_lr,
                    num_coords=options.refine_coords,
                    seed=options.seed,
                    **objective,
                )
                synchronize(latents.device)  # a GPU works behind the CPU: the time must include what is queued
                seconds += time.perf_counter() - started
            renders = measure(model, latents, mask, references)
            if sum(len(rows[0]) for rows in picture_rows) < options.show:
                larger = [] if size == own else [renders[size], signal.keep(signal.resize(values, size)).cpu()]
                picture_rows.append([kept, *before, renders[own], *larger])
            bar.update(len(kept))

    # write
    values_of = {name: torch.cat(values) for name, values in metrics.items()}
    report: dict[str, Any] = {name: float(values.mean()) for name, values in values_of.items()}
    report |= {"num_images": count, "size": list(size), "data": data.name, "autoencoder": str(options.run)}
    if with_source:
        report["source_images"] = {"num_images": len(with_source), "indices": with_source}
    if options.refine_steps:
        # per image, not only means: refinement at pixel centres once raised every image at its own size while the larger
        # renders fell, which a single mean does not tell
        compared = [name for name in values_of if name.startswith("psnr") and f"{name}_before" in values_of]
        compared = [name for name in compared if name != "psnr_8bit"]
        report["refinement"] = {
            "steps": options.refine_steps,
            "lr": lr,
            "decoder_lr": decoder_lr,
            "coords": options.refine_coords,
            "objective": objective,
            "seed": options.seed,
            "seconds": seconds,
            "seconds_per_image": seconds / count,
            **{
                name.replace("psnr", "raised"): int((values_of[name] > values_of[f"{name}_before"]).sum())
                for name in compared
            },
            **{key: values_of[key].tolist() for name in compared for key in (f"{name}_before", name)},
        }
    rows = [torch.cat(parts)[: options.show] for parts in zip(*picture_rows, strict=True)]
    save_png(side_by_side([signal.pictures(row) for row in rows]), out)
    write_json(report_file, report)
    for name, value in report.items():
        if name == "refinement":
            print(f"refined: {value['steps']} steps, {value['seconds']:.1f} s")
            for key in (key for key in value if key.startswith("raised")):
                psnr = key.replace("raised", "psnr")
                print(f"improved: {psnr} of {value[key]} of {len(value[psnr])} images")
        elif name == "source_images":
            print(f"{name}: {value['num_images']} of {count} images have {'×'.join(map(str, size))} pixels or more")
        else:
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    print(f"picture: {out}\nreport: {report_file}")


def size_suffix(shape: tuple[int, ...]) -> str:
    """The suffix of report keys for renders at another size than the signals' own: _64, _48x64."""
    return f"_{shape[0]}" if len(set(shape)) == 1 else f"_{'x'.join(map(str, shape))}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run folder of train/autoencoder.py, or a model folder")
    parser.add_argument(
        "--size", help="N or HEIGHTxWIDTH to also render at (default: four times the image's size, up to 1,024)"
    )
    parser.add_argument("--split", default="held_out", help="held_out or train (default held_out)")
    parser.add_argument(
        "--source", help="other images: a folder, parquet files or a Hub id (default: the run's own data set)"
    )
    parser.add_argument(
        "--image-column", default="image", help="column of --source that holds the images (default image)"
    )
    parser.add_argument("--num-images", type=positive, help="number of images to measure (default: all)")
    parser.add_argument("--show", type=positive, default=8, help="number of images in the picture (default 8)")
    parser.add_argument(
        "--out", help="PNG; a JSON report of the same name goes with it (default RUN/reconstructions.png)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        help="images at a time (default 64; 8 with --refine-steps, 1 with --refine-decoder)",
    )
    add_device_options(parser)
    refining = parser.add_argument_group("test-time optimisation")
    refining.add_argument(
        "--refine-steps", type=non_negative, default=0, help="steps to optimise the latents for (default 0)"
    )
    refining.add_argument(
        "--refine-decoder", action="store_true", help="also optimise the decoder, for one image at a time"
    )
    refining.add_argument(
        "--refine-lr",
        type=positive_number,
        help=f"learning rate, in standard deviations of the latents (default {LR})",
    )
    refining.add_argument(
        "--refine-decoder-lr", type=positive_number, help=f"learning rate of the decoder (default {DECODER_LR})"
    )
    refining.add_argument(
        "--refine-coords", type=positive, help="pixels per image and step (default: all, but at most 2,048)"
    )
    refining.add_argument("--seed", type=non_negative, default=0, help="seed that draws these pixels (default 0)")
    reconstruct(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
