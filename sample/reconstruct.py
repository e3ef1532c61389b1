"""Encode held-out images and render them back: pictures side by side, PSNR and SSIM.

    python sample/reconstruct.py runs/digits/anr --size 128

    python sample/reconstruct.py runs/digits/anr --refine-steps 200 --num-images 16

The picture shows originals, (with --refine-steps) first reconstructions, reconstructions, renders at --size, bicubic
enlargements. PSNR and SSIM are of floats, as the papers measure them; psnr_8bit is of the reconstructions rounded to 8
bits. At another size than the image's own, say 128, psnr_128 and ssim_128 are against the bicubic resize of the original.
Where the data set's images are that large themselves, psnr_128_source and ssim_128_source are against the image resized
to that size (same crop, antialiased): true super-resolution, of the images that source_images lists in the report.
psnr_128_source_bicubic is what the bicubic enlargement reaches there.

With --refine-steps the latents of every image are optimised from the encoder's prediction (test-time optimisation), with
--refine-decoder a copy of the decoder too, for each image its own. Coordinates and targets are drawn as in the run's
training. The report then has all metrics before (psnr_before, psnr_128_before) and after, how many images of each size
were raised, and the seconds that it took.
"""

import argparse
from pathlib import Path
from typing import Any

from genrep.options import add_device_options, non_negative, parse_size, positive, positive_number
from genrep.training.config import run_script

LR, DECODER_LR = 0.05, 5e-4
"""Rates of refinement unless said otherwise, of the latents and of the decoder."""


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

    # model and data
    out, report_file = picture_and_report(options.out or Path(options.run) / "reconstructions.png")
    without_steps = ("refine_decoder", "refine_decoder_lr", "refine_lr", "refine_coords")
    for name in without_steps if not options.refine_steps else ():
        if getattr(options, name) not in (None, False):
            raise InputError(
                f"--{name.replace('_', '-')} says how latents are refined: say for how many steps with --refine-steps"
            )
    if options.refine_decoder_lr is not None and not options.refine_decoder:
        raise InputError("--refine-decoder-lr is the rate of the decoder: give --refine-decoder too, or leave it out")
    if options.refine_decoder and options.batch_size not in (None, 1):
        raise InputError(
            f"--batch-size must be 1 with --refine-decoder, which gives every image a decoder of its own; got {options.batch_size}"
        )
    lr = LR if options.refine_lr is None else options.refine_lr
    decoder_lr = DECODER_LR if options.refine_decoder_lr is None else options.refine_decoder_lr
    decoder_lr = decoder_lr if options.refine_decoder else None
    autoencoder = move(load_autoencoder(options.run), choose_device(options.device), options.dtype)
    own, signal = autoencoder.image_shape, autoencoder.signal
    asked = parse_size(options.size)
    size = enlarged(own) if asked is None else grid_shape(asked, len(own))
    num_bytes = 4 * autoencoder.config["channels"] * math.prod(size)
    check_memory(num_bytes, torch.device("cpu"), f"one render of {' × '.join(map(str, size))}")
    if options.source is not None:
        spec: BaseDataSpec = all_of(
            signal.spec.type,
            source=options.source,
            image_column=options.image_column,
            value_range=list(signal.spec.scale()),
            missing="keep" if autoencoder.missing else "refuse",
        )
        split = "train"
    else:
        spec, split = run_data(options.run, ", or say which with --source"), options.split
    data = open_for(autoencoder, spec.light().with_source(size, own), split)
    chosen = evenly(len(data), options.num_images)
    count = len(chosen)
    objective = refinement_objective(options.run)

    # encode and render
    metrics: dict[str, list[torch.Tensor]] = {}
    shown: list[list[torch.Tensor]] = []
    with_source: list[int] = []
    seconds = 0.0

    def references_of(indices, values):
        """What renders are compared with: ending of a metric's name => (size, rows of the batch, values)."""
        references: dict[str, tuple] = {"": (own, slice(None), values)}
        if size != own:
            references[size_suffix(size)] = (size, slice(None), signal.resize(values, size))
        rows, source = data.at_source_size(indices)
        if source is not None:
            larger = signal.values(source.to(values.device))
            references[f"{size_suffix(size)}_source"] = (size, rows, larger)
            for name, of_each in signal.measure(signal.resize(values[rows], size), larger).items():
                metrics.setdefault(f"{name}{size_suffix(size)}_source_bicubic", []).append(of_each.cpu())
            with_source.extend(indices[row] for row in rows)
        return references

    def measure(model, latents, mask, references, ending=""):
        """Render at every size and keep the metrics under their names and `ending`; returns the renders as they are kept."""
        renders = {shape: model.render(latents, size=shape, mask=mask) for shape in dict.fromkeys([own, size])}
        kept = {shape: signal.keep(rendered).cpu() for shape, rendered in renders.items()}
        for suffix, (shape, rows, reference) in references.items():
            for name, of_each in signal.measure(renders[shape][rows], reference).items():
                metrics.setdefault(f"{name}{suffix}{ending}", []).append(of_each.cpu())
        for name, of_each in signal.measure_kept(kept[own], signal.keep(references[""][2]).cpu()).items():
            metrics.setdefault(f"{name}{ending}", []).append(of_each)
        return kept

    batch_size = 1 if options.refine_decoder else options.batch_size or (8 if options.refine_steps else 64)
    with torch.no_grad(), tqdm(total=count, desc="reconstructing", unit=" images") as bar:
        for start in range(0, count, batch_size):
            indices = chosen[start : start + batch_size]
            kept = data.read(indices)
            values = signal.values(kept.to(autoencoder.device))
            references = references_of(indices, values)
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
                synchronize(latents.device)
                seconds += time.perf_counter() - started
            renders = measure(model, latents, mask, references)
            if sum(len(rows[0]) for rows in shown) < options.show:
                larger = [] if size == own else [renders[size], signal.keep(signal.resize(values, size)).cpu()]
                shown.append([kept, *before, renders[own], *larger])
            bar.update(len(kept))

    # write
    values_of = {name: torch.cat(values) for name, values in metrics.items()}
    report: dict[str, Any] = {name: float(values.mean()) for name, values in values_of.items()}
    report |= {"num_images": count, "size": list(size), "data": data.name, "autoencoder": str(options.run)}
    if with_source:
        report["source_images"] = {"num_images": len(with_source), "indices": with_source}
    if options.refine_steps:
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
            "seconds_an_image": seconds / count,
            **{
                name.replace("psnr", "raised"): int((values_of[name] > values_of[f"{name}_before"]).sum())
                for name in compared
            },
            **{key: values_of[key].tolist() for name in compared for key in (f"{name}_before", name)},
        }
    rows = [torch.cat(parts)[: options.show] for parts in zip(*shown, strict=True)]
    save_png(side_by_side([signal.pictures(row) for row in rows]), out)
    write_json(report_file, report)
    for name, value in report.items():
        if name == "refinement":
            print(f"refined: {value['steps']} steps, {value['seconds']:.1f} s")
            for key in (key for key in value if key.startswith("raised")):
                psnr = key.replace("raised", "psnr")
                print(f"raised: {psnr} of {value[key]} of {len(value[psnr])} images")
        elif name == "source_images":
            print(f"{name}: {value['num_images']} of {count} images are {'×'.join(map(str, size))} pixels or larger")
        else:
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    print(f"picture: {out}\nreport: {report_file}")


def size_suffix(shape: tuple[int, ...]) -> str:
    """What a report's key ends in for renders of another size than the signals': _64, _48x64."""
    return f"_{shape[0]}" if len(set(shape)) == 1 else f"_{'x'.join(map(str, shape))}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run folder of stage 1, or a model folder")
    parser.add_argument(
        "--size", help="N or HEIGHTxWIDTH to render at as well (default: four times the image, up to 1,024)"
    )
    parser.add_argument("--split", default="held_out", help="held_out or train (default held_out)")
    parser.add_argument(
        "--source", help="other images: a folder, parquet files, a Hub id (default: the run's own data)"
    )
    parser.add_argument("--image-column", default="image", help="column of --source that holds images (default image)")
    parser.add_argument("--num-images", type=positive, help="images to measure (default: all)")
    parser.add_argument("--show", type=positive, default=8, help="images in the picture (default 8)")
    parser.add_argument("--out", help="PNG; the report goes beside it as JSON (default RUN/reconstructions.png)")
    parser.add_argument("--batch-size", type=positive, help="images at a time (default 64, with --refine-steps 8)")
    add_device_options(parser)
    refining = parser.add_argument_group("test-time optimisation")
    refining.add_argument(
        "--refine-steps", type=non_negative, default=0, help="optimise the latents for so many steps (default 0)"
    )
    refining.add_argument("--refine-decoder", action="store_true", help="optimise the decoder too, one image at a time")
    refining.add_argument(
        "--refine-lr", type=positive_number, help=f"rate, in deviations of the latents (default {LR})"
    )
    refining.add_argument(
        "--refine-decoder-lr", type=positive_number, help=f"rate for the decoder (default {DECODER_LR})"
    )
    refining.add_argument(
        "--refine-coords", type=positive, help="pixels of an image a step (default all, 2,048 at most)"
    )
    refining.add_argument("--seed", type=non_negative, default=0, help="seed of that draw (default 0)")
    reconstruct(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
