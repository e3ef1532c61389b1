"""Train several representations on the same data for the same number of images or seconds, and compare them.

    python train/compare.py configs/cifar10/compare/{locality,ipc,transinr,anr}.yaml --folder runs/cifar10/comparison
    python train/compare.py configs/cifar10/compare/*.yaml --folder runs/comparison --seeds 0 1 --run.steps 500 --run.seconds 120

Every YAML is a run of train/autoencoder.py, and so is every other option: it is given to all of them. What goes on after
an interruption, and what is finished, is not trained again. Writes comparison.md (the table), comparison.json and
comparison.png (PSNR on held-out images over images and over seconds of training) into --folder. The columns "at equal
images" and "at equal seconds" read the curves where the shortest run ends.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

from genrep.errors import InputError
from genrep.training.config import call_script, run_script

PROJECT = Path(__file__).resolve().parent.parent


run = functools.partial(call_script, PROJECT)


def compare(options: argparse.Namespace, overrides: list[str]) -> None:
    # train
    names = [Path(config).stem for config in options.configs]
    if len(set(names)) < len(names):
        raise InputError(
            f"two of the configs have the same name: {', '.join(names)}; a run is named by its YAML's stem"
        )
    runs = {(name, seed): options.folder / f"{name}-seed{seed}" for name in names for seed in options.seeds}
    for (name, seed), folder in runs.items():
        config = options.configs[names.index(name)]
        run("train/autoencoder.py", config, "--run.folder", folder, "--run.seed", seed, *overrides)

    # measure
    for folder in runs.values():
        size = json.loads((folder / "model" / "config.json").read_text())["image_size"]
        side = "x".join(map(str, size)) if isinstance(size, list) else size
        run("sample/reconstruct.py", folder, "--num-images", options.num_images, "--size", side)

    # report
    curves = {key: curve(folder / "metrics.jsonl") for key, folder in runs.items()}
    rows = table(runs, curves)
    (options.folder / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")
    text = markdown(rows)
    (options.folder / "comparison.md").write_text(text)
    draw(curves, options.folder / "comparison.png")
    print(f"\n{text}\ntable: {options.folder / 'comparison.md'}\ncurves: {options.folder / 'comparison.png'}")


def curve(path: Path) -> list[tuple[int, float, float]]:
    """(images, seconds, PSNR) of every evaluation of a run."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["images"], line["seconds"], line["psnr"]) for line in lines if "psnr" in line]


def table(runs: dict[tuple[str, int], Path], curves: dict[tuple[str, int], Any]) -> list[dict[str, Any]]:
    """A row a representation, means over the seeds; `psnr_by_seed` keeps the single values."""
    import numpy as np

    from genrep.models.autoencoder import INRAutoencoder
    from genrep.training.stages import num_parameters

    images, seconds = (min(points[-1][axis] for points in curves.values()) for axis in (0, 1))

    def read(key: tuple[str, int], axis: int, where: float) -> float:
        points = curves[key]
        return float(np.interp(where, [point[axis] for point in points], [point[2] for point in points]))

    rows = []
    for name in dict.fromkeys(name for name, _ in runs):
        keys = [key for key in runs if key[0] == name]
        model = INRAutoencoder.from_pretrained(runs[keys[0]] / "model")
        ends = [json.loads((runs[key] / "reconstructions.json").read_text()) for key in keys]
        rows.append(
            {
                "name": name,
                "psnr": float(np.mean([end["psnr"] for end in ends])),
                "ssim": float(np.mean([end["ssim"] for end in ends])) if "ssim" in ends[0] else None,
                "psnr_at_equal_images": float(np.mean([read(key, 0, images) for key in keys])),
                "psnr_at_equal_seconds": float(np.mean([read(key, 1, seconds) for key in keys])),
                "equal_images": images,
                "equal_seconds": seconds,
                "psnr_by_seed": {str(key[1]): end["psnr"] for key, end in zip(keys, ends, strict=True)},
                "encoder_parameters": num_parameters(model.encoder),
                "decoder_parameters": num_parameters(model.decoder),
                "representation": list(model.latent_shape),
                "images_per_second": float(np.mean([curves[key][-1][0] / curves[key][-1][1] for key in keys])),
                "num_images": ends[0]["num_images"],
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    images, seconds = rows[0]["equal_images"], rows[0]["equal_seconds"]
    lines = [
        f"| | PSNR | SSIM | PSNR after {images:,} images | PSNR after {seconds:.0f} s | encoder + decoder parameters | representation | images/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        tokens, dim = row["representation"]
        similarity = "" if row["ssim"] is None else f"{row['ssim']:.3f}"
        lines.append(
            f"| {row['name']} | {row['psnr']:.2f} | {similarity} | {row['psnr_at_equal_images']:.2f} | {row['psnr_at_equal_seconds']:.2f} "
            f"| {row['encoder_parameters']:,} + {row['decoder_parameters']:,} | {tokens} × {dim} | {row['images_per_second']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(curves: dict[tuple[str, int], Any], path: Path) -> None:
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="train each with each of these (default 0)")
    parser.add_argument("--num-images", type=int, default=1000, help="held-out images of the table (default 1000)")
    compare(*parser.parse_known_args())


if __name__ == "__main__":
    run_script(main)
