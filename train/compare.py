"""Train several representations on the same data for the same number of images or seconds, and compare them.

    python train/compare.py configs/cifar10/compare/{locality,ipc,transinr,anr}.yaml --folder runs/cifar10/comparison
    python train/compare.py configs/cifar10/compare/*.yaml --folder runs/comparison --seeds 0 1 --run.steps 500 --run.seconds 120

Every YAML is a run of train/autoencoder.py, named by its stem; options with a dot are config keys, given to all of them.
All are checked before the first is trained. The same command goes on where it stopped and keeps what is finished; a run
that fails is named, and the table is written of the others. Writes comparison.md (the table), comparison.json and
comparison.png (PSNR on held-out images over images and over seconds of training) into --folder. "PSNR after" columns read
those curves where the shortest run ends.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from genrep.errors import InputError
from genrep.pipelines.options import choose_device, non_negative, positive
from genrep.training.config import parse_command_line, run_script, split_overrides
from genrep.training.specs import AutoencoderRun

SCRIPT = Path(__file__).resolve().parent / "autoencoder.py"
Curve = list[tuple[int, float, float]]
"""(images, seconds, PSNR) of every evaluation of a run."""


def compare(options: argparse.Namespace, overrides: list[str]) -> None:
    # check
    configs = {Path(path).stem: path for path in options.configs}
    if len(configs) < len(options.configs):
        raise InputError("two of the configs have the same file name, by which a run is named: rename one")
    specs = {name: parse_command_line(AutoencoderRun, "", [path, *overrides])[0] for name, path in configs.items()}
    refuse_different_data(specs)

    # train, each in a process of its own
    runs = {(name, seed): options.folder / f"{name}-seed{seed}" for name in configs for seed in options.seeds}
    failed = []
    for (name, seed), folder in runs.items():
        own = ["--run.folder", str(folder), "--run.seed", str(seed)]
        print(f"\n{name}, seed {seed}", flush=True)
        if subprocess.run([sys.executable, str(SCRIPT), configs[name], *overrides, *own]).returncode:
            failed.append((name, seed))

    # report
    finished = {key: folder for key, folder in runs.items() if key not in failed}
    if finished:
        curves = {key: read_curve(folder / "metrics.jsonl") for key, folder in finished.items()}
        rows = table(finished, curves, specs, options.num_images, options.device)
        report = {"rows": rows, "options": overrides, "configs": {name: configs[name] for name, _ in finished}}
        (options.folder / "comparison.json").write_text(json.dumps(report, indent=2) + "\n")
        text = markdown(rows)
        (options.folder / "comparison.md").write_text(text)
        draw(curves, options.folder / "comparison.png")
        print(f"\n{text}\ntable: {options.folder / 'comparison.md'}\ncurves: {options.folder / 'comparison.png'}")
    if failed:
        names = " and ".join(f"{name} with seed {seed}" for name, seed in failed)
        raise InputError(f"{names} failed, see above; the same command goes on from what is done")


def refuse_different_data(specs: dict[str, AutoencoderRun]) -> None:
    """Images, evaluation and how long it trains must be the same in all runs."""
    (first, wanted), *others = specs.items()
    for name, spec in others:
        for part, one, other in (
            ("data", wanted.data, spec.data),
            ("autoencoder.image_size", wanted.autoencoder.image_shape, spec.autoencoder.image_shape),
            ("autoencoder.channels", wanted.autoencoder.channels, spec.autoencoder.channels),
            ("run.evaluate_images", wanted.run.evaluate_images, spec.run.evaluate_images),
            ("run.batch", wanted.run.batch, spec.run.batch),
            ("run.steps", wanted.run.num_steps, spec.run.num_steps),
            ("run.seconds", wanted.run.seconds, spec.run.seconds),
        ):
            if one != other:
                raise InputError(
                    f"{first} and {name} differ in {part}, so their PSNR would not compare: make it the same"
                )


def read_curve(path: Path) -> Curve:
    """The evaluations of a run, from its metrics.jsonl."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["images"], line["seconds"], line["psnr"]) for line in lines if "psnr" in line]


def at(curve: Curve, axis: int, where: float) -> float | None:
    """PSNR at so many images (axis 0) or seconds (axis 1), between two evaluations on the line through them.

    None before the first evaluation.
    """
    import numpy as np

    if where < curve[0][axis]:
        return None
    return float(np.interp(where, [point[axis] for point in curve], [point[2] for point in curve]))


def table(
    runs: dict[tuple[str, int], Path],
    curves: dict[tuple[str, int], Curve],
    specs: dict[str, AutoencoderRun],
    num_images: int,
    device: str | None,
) -> list[dict[str, Any]]:
    """A row a representation, means over the seeds; `psnr_by_seed` has the single values."""
    from genrep.data.images import ImageData, evenly
    from genrep.metrics.reconstruction import SSIM_WINDOW, psnr, reconstructions, ssim
    from genrep.training.stages import load_autoencoder, num_parameters

    spec = next(iter(specs.values()))
    light = spec.data.model_copy(update={"in_memory": False})
    held_out = ImageData(light, "held_out", spec.autoencoder.image_shape, spec.autoencoder.channels)
    chosen = evenly(len(held_out), num_images)
    pixels = held_out.pixels(chosen)
    images, seconds = (min(curve[-1][axis] for curve in curves.values()) for axis in (0, 1))
    rows = []
    for name in dict.fromkeys(name for name, _ in runs):
        keys = [key for key in runs if key[0] == name]
        quality, similarity = [], []
        for key in keys:
            model = load_autoencoder(str(runs[key])).to(choose_device(device))
            restored = reconstructions(model, held_out, chosen)
            quality.append(float(psnr(restored, pixels).mean()))
            if min(held_out.image_shape) >= SSIM_WINDOW:
                similarity.append(float(ssim(restored, pixels).mean()))
        rows.append(
            {
                "name": name,
                "psnr": mean(quality),
                "ssim": mean(similarity),
                "psnr_at_equal_images": mean([at(curves[key], 0, images) for key in keys]),
                "psnr_at_equal_seconds": mean([at(curves[key], 1, seconds) for key in keys]),
                "equal_images": images,
                "equal_seconds": seconds,
                "psnr_by_seed": dict(zip([str(seed) for _, seed in keys], quality, strict=True)),
                "encoder_parameters": num_parameters(model.encoder),
                "decoder_parameters": num_parameters(model.decoder),
                "representation": list(model.latent_shape),
                "images": [curves[key][-1][0] for key in keys],
                "seconds": [curves[key][-1][1] for key in keys],
                "images_per_second": mean([curves[key][-1][0] / curves[key][-1][1] for key in keys]),
                "num_images": len(chosen),
                "curve_images": spec.run.evaluate_images or len(held_out),
            }
        )
    return rows


def mean(values: list[Any]) -> float | None:
    """Mean, or None where there is nothing or something is missing."""
    return None if not values or None in values else sum(values) / len(values)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    first = rows[0]
    lines = [
        f"| | PSNR | SSIM | PSNR after {first['equal_images']:,} images | PSNR after {first['equal_seconds']:.0f} s "
        "| encoder + decoder parameters | representation | images/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        psnr, ssim, images, seconds = (
            "–" if row[key] is None else f"{row[key]:.{digits}f}"
            for key, digits in (("psnr", 2), ("ssim", 3), ("psnr_at_equal_images", 2), ("psnr_at_equal_seconds", 2))
        )
        tokens, dim = row["representation"]
        lines.append(
            f"| {row['name']} | {psnr} | {ssim} | {images} | {seconds} | {row['encoder_parameters']:,} + "
            f"{row['decoder_parameters']:,} | {tokens} × {dim} | {row['images_per_second']:.0f} |"
        )
    note = f"PSNR and SSIM at the end of each run, on {first['num_images']:,} held-out images; the two columns after them on {first['curve_images']:,}."
    return "\n".join([*lines, "", note]) + "\n"


def draw(curves: dict[tuple[str, int], Curve], path: Path) -> None:
    """PSNR over images and over seconds; a curve a run."""
    from genrep.plots import save_curves

    several = len({seed for _, seed in curves}) > 1
    labels = {key: f"{key[0]}, seed {key[1]}" if several else key[0] for key in curves}
    save_curves(
        {
            xlabel: {labels[key]: ([p[axis] for p in points], [p[2] for p in points]) for key, points in curves.items()}
            for axis, xlabel in enumerate(["images", "seconds of training"])
        },
        "PSNR on held-out images (dB)",
        path,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("configs", nargs="+", help="YAMLs of stage 1, one a representation")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs and the report go")
    parser.add_argument(
        "--seeds", type=non_negative, nargs="+", default=[0], help="train each with each of these (default 0)"
    )
    parser.add_argument("--num-images", type=positive, default=1000, help="held-out images to measure (default 1000)")
    parser.add_argument("--device", help="of that measurement: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    rest, overrides = split_overrides(AutoencoderRun, sys.argv[1:])
    for key, option in (("run.folder", "--folder"), ("run.seed", "--seeds")):
        if key in dict(overrides):
            raise InputError(f"--{key}: every run has its own; give {option}")
    options = parser.parse_args(rest)
    compare(options, [word for key, value in overrides for word in (f"--{key}", value)])


if __name__ == "__main__":
    run_script(main)
