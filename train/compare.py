"""Train several representations of the same data, or several fields of one signal, as long as each other, and compare them.

    python train/compare.py configs/cifar10/compare/{locality,ipc,transinr,anr}.yaml --folder runs/cifar10/comparison
    python train/compare.py configs/cifar10/compare/*.yaml --folder runs/comparison --seeds 0 1 --run.steps 500 --run.seconds 120
    python train/compare.py configs/camera/*.yaml --folder runs/camera/comparison --run.steps 300

Every YAML is a run of train/autoencoder.py or, where it has a `field`, of train/field.py, named by its stem; options with a
dot are config keys, given to all of them. All are checked before the first is trained. The same command goes on where it
stopped and keeps what is finished; a run that fails is named, and the table is written of the others. Writes comparison.md
(the table), comparison.json and comparison.png (PSNR on held-out images over images and over seconds of training) into
--folder. "PSNR after" columns read those curves where the shortest run ends. With --published FILE the table holds every
config's gap to the first against the published one, and gaps.png draws it:

    python train/compare.py configs/camera/{pe_mlp,quad_tree,fine_to_coarse}.yaml --folder runs/camera/table_5 \\
        --published configs/camera/published.json
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genrep.errors import InputError
from genrep.files import make_folder, write_json, write_text
from genrep.options import non_negative, positive
from genrep.training.config import STOPPED, parse_command_line, read_config, run_script, split_overrides
from genrep.training.interrupts import run_child
from genrep.training.specs import AutoencoderRun, FieldRun

Curve = list[tuple[int, float, float]]
"""(images or steps, seconds, PSNR) of every evaluation of a run."""
EXAMPLE = '{"pe_mlp": 31.38, "quad_tree": 40.55}'
Key = tuple[str, int]
"""Name and seed of a run."""


def compare(options: argparse.Namespace, overrides: list[str]) -> None:
    # check
    configs = {Path(path).stem: path for path in options.configs}
    if len(configs) < len(options.configs):
        raise InputError("two of the configs have the same file name, by which a run is named: rename one")
    kinds = {path: kind_of(path) for path in options.configs}
    kind = kinds[options.configs[0]]
    for path, other in kinds.items():
        if other is not kind:
            raise InputError(f"{options.configs[0]} and {path} must both be of images, or both of fields")
    specs = {name: parse_command_line(kind, "", [path, *overrides])[0] for name, path in configs.items()}
    refuse_different_data(specs)
    published = {} if options.published is None else read_published(options.published, list(configs))
    if kind is AutoencoderRun:
        from genrep.devices import choose_device

        choose_device(options.device)
    make_folder(options.folder)

    # train, each in a process of its own
    script = Path(__file__).resolve().parent / ("field.py" if kind is FieldRun else "autoencoder.py")
    runs = {(name, seed): options.folder / f"{name}-seed{seed}" for name in configs for seed in options.seeds}
    failed = []
    for (name, seed), folder in runs.items():
        own = ["--run.folder", str(folder), "--run.seed", str(seed)]
        print(f"\n{name}, seed {seed}", flush=True)
        status = run_child([sys.executable, str(script), configs[name], *overrides, *own])
        if status == STOPPED:
            raise SystemExit(STOPPED)
        if status:
            failed.append((name, seed))

    # report
    finished = {key: folder for key, folder in runs.items() if key not in failed}
    if finished:
        curves = {key: read_curve(folder / "metrics.jsonl") for key, folder in finished.items()}
        measure = of_field if kind is FieldRun else of_representation
        measured = {key: measure(folder, options) for key, folder in finished.items()}
        first = next(iter(configs))
        if published and any(not shared_seeds(curves, name, first) for name, _ in curves):
            print(f"no gaps: {first}, which they are held against, has no finished run of the same seed")
            published = {}
        (options.folder / "gaps.png").unlink(missing_ok=True)
        rows = table(curves, measured, published)
        report = {"rows": rows, "options": overrides, "configs": {name: configs[name] for name, _ in finished}}
        write_json(options.folder / "comparison.json", report)
        text = markdown(rows, "steps" if kind is FieldRun else "images")
        write_text(options.folder / "comparison.md", text)
        draw(curves, options.folder / "comparison.png", "steps" if kind is FieldRun else "images")
        print(f"\n{text}\ntable: {options.folder / 'comparison.md'}\ncurves: {options.folder / 'comparison.png'}")
        if published:
            draw_gaps(curves, published, options.folder / "gaps.png", "steps" if kind is FieldRun else "images")
            print(f"gaps: {options.folder / 'gaps.png'}")
    if failed:
        names = " and ".join(f"{name} with seed {seed}" for name, seed in failed)
        raise InputError(f"{names} failed, see above; the same command goes on from what is done")


def kind_of(path: str) -> type[AutoencoderRun] | type[FieldRun]:
    """What a YAML trains."""
    return FieldRun if "field" in read_config(path) else AutoencoderRun


def refuse_different_data(specs: dict[str, Any]) -> None:
    """Data, evaluation and how long it trains must be the same in all runs."""
    shared = [("run.evaluate_images",), ("run.batch",), ("run.num_steps", "run.steps"), ("run.seconds",)]
    shared += [("signal",), ("data",), ("autoencoder.image_shape", "autoencoder.image_size"), ("autoencoder.channels",)]
    (first, wanted), *others = specs.items()
    for name, spec in others:
        for path, *shown in shared:
            if at_path(wanted, path) != at_path(spec, path):
                raise InputError(
                    f"{first} and {name} differ in {(shown or [path])[0]}, so their PSNR would not compare: make it the same"
                )


def read_published(path: Path, names: list[str]) -> dict[str, float]:
    """PSNRs that somebody published, by the configs' names; the first config's must be among them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no JSON to read ({error}); give a file like {EXAMPLE}") from error
    numbers = isinstance(found, dict) and all(type(value) in (int, float) for value in found.values())
    if not numbers or names[0] not in found:
        raise InputError(
            f"{path}: {json.dumps(found)[:100]}, wanted the PSNR of {names[0]}, the first config, and of others by their "
            f"names, like {EXAMPLE}"
        )
    return found


def at_path(spec: Any, path: str) -> Any:
    """`spec.a.b` for "a.b"; None where there is none."""
    for part in path.split("."):
        spec = getattr(spec, part, None)
    return spec


def read_curve(path: Path) -> Curve:
    """The evaluations of a run, from its metrics.jsonl."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line["images"], line["seconds"], line["psnr"]) for line in lines if "psnr" in line]


def at(curve: Curve, axis: int, where: float) -> float | None:
    """PSNR at so many images (axis 0) or seconds (axis 1), between two evaluations on the line through them.

    None before the first evaluation.
    """
    import numpy as np

    if where < curve[0][axis]:
        return None
    return float(np.interp(where, [point[axis] for point in curve], [point[2] for point in curve]))


def of_representation(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Quality on held-out images, parameters and size of a trained autoencoder."""
    from genrep.data.images import ImageData, evenly
    from genrep.devices import choose_device
    from genrep.metrics.reconstruction import reconstruction_quality
    from genrep.training.stages import load_autoencoder, num_parameters, run_config

    spec = run_config(folder, AutoencoderRun)
    light = spec.data.model_copy(update={"in_memory": False})
    held_out = ImageData(light, "held_out", spec.autoencoder.image_shape, spec.autoencoder.channels)
    chosen = evenly(len(held_out), options.num_images)
    model = load_autoencoder(str(folder)).to(choose_device(options.device))
    measured = reconstruction_quality(model, held_out, chosen)
    return {
        "psnr": float(measured["psnr"].mean()),
        "ssim": float(measured["ssim"].mean()) if "ssim" in measured else None,
        "encoder_parameters": num_parameters(model.encoder),
        "decoder_parameters": num_parameters(model.decoder),
        "representation": list(model.latent_shape),
        "num_images": len(chosen),
        "curve_images": spec.run.evaluate_images or len(held_out),
    }


def of_field(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Quality on its signal, parameters and cost of a trained field."""
    from genrep.models.field import NeuralField
    from genrep.training.cost import multiply_adds
    from genrep.training.stages import model_folder, num_parameters

    field = NeuralField.from_pretrained(model_folder(folder))
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = next(line for line in reversed(last) if "psnr" in line)
    costs = {"parameters": num_parameters(field), "multiply_adds": multiply_adds(field)}
    return {"psnr": found["psnr"], "ssim": found.get("ssim"), **costs}


def table(
    curves: dict[Key, Curve], measured: dict[Key, dict[str, Any]], published: dict[str, float]
) -> list[dict[str, Any]]:
    """A row a config, means over the seeds; `psnr_by_seed` has the single values."""
    steps, seconds = (min(curve[-1][axis] for curve in curves.values()) for axis in (0, 1))
    rows = []
    for name in dict.fromkeys(name for name, _ in curves):
        keys = [key for key in curves if key[0] == name]
        rows.append(
            {
                "name": name,
                **measured[keys[0]],
                "psnr": mean([measured[key]["psnr"] for key in keys]),
                **({"published": published.get(name)} if published else {}),
                "ssim": mean([measured[key]["ssim"] for key in keys]),
                "psnr_at_equal_images": mean([at(curves[key], 0, steps) for key in keys]),
                "psnr_at_equal_seconds": mean([at(curves[key], 1, seconds) for key in keys]),
                "equal_images": steps,
                "equal_seconds": seconds,
                "psnr_by_seed": {str(key[1]): measured[key]["psnr"] for key in keys},
                "images": [curves[key][-1][0] for key in keys],
                "seconds": [curves[key][-1][1] for key in keys],
                "images_per_second": mean([curves[key][-1][0] / curves[key][-1][1] for key in keys]),
            }
        )
    return rows


def mean(values: list[Any]) -> float | None:
    """Mean, or None where there is nothing or something is missing."""
    return None if not values or None in values else sum(values) / len(values)


def markdown(rows: list[dict[str, Any]], unit: str) -> str:
    """The table as Markdown; `unit` is what a step takes, images or (of a field) steps."""
    first = rows[0]
    of_fields = "multiply_adds" in first
    sizes = "parameters | multiply-adds a point" if of_fields else "encoder + decoder parameters | representation"
    beside = "published" in first
    gaps = f" over {first['name']} | published | over it |" if beside else ""
    lines = [
        f"| | PSNR |{gaps} SSIM | PSNR after {first['equal_images']:,} {unit} | PSNR after {first['equal_seconds']:.0f} s "
        f"| {sizes} | {unit}/s |",
        "|" + " --- |" * (11 if beside else 8),
    ]
    for row in rows:
        numbers = [(row["psnr"], 2)]
        if beside:
            other, seeds = row["published"], row["psnr_by_seed"].keys() & first["psnr_by_seed"].keys()
            gap = mean([row["psnr_by_seed"][seed] - first["psnr_by_seed"][seed] for seed in seeds])
            numbers += [(gap, 2), (other, 2), (None if other is None else other - first["published"], 2)]
        numbers += [(row["ssim"], 3), (row["psnr_at_equal_images"], 2), (row["psnr_at_equal_seconds"], 2)]
        quality = " | ".join("–" if value is None else f"{value:.{digits}f}" for value, digits in numbers)
        size = (
            f"{row['parameters']:,} | {row['multiply_adds']:,}"
            if of_fields
            else f"{row['encoder_parameters']:,} + {row['decoder_parameters']:,} | {' × '.join(map(str, row['representation']))}"
        )
        lines.append(f"| {row['name']} | {quality} | {size} | {row['images_per_second']:.3g} |")
    if not of_fields:
        lines += [
            "",
            f"PSNR and SSIM at the end of each run, on {first['num_images']:,} held-out images; the two columns after them on "
            f"{first['curve_images']:,}.",
        ]
    return "\n".join(lines) + "\n"


def draw(curves: dict[Key, Curve], path: Path, unit: str) -> None:
    """PSNR over images (or steps) and over seconds; a curve a run."""
    from genrep.plots import save_curves

    several = len({seed for _, seed in curves}) > 1
    labels = {key: f"{key[0]}, seed {key[1]}" if several else key[0] for key in curves}
    save_curves(
        {
            xlabel: {labels[key]: ([p[axis] for p in points], [p[2] for p in points]) for key, points in curves.items()}
            for axis, xlabel in enumerate([unit, "seconds of training"])
        },
        "PSNR (dB)" if unit == "steps" else "PSNR on held-out images (dB)",
        path,
    )


def shared_seeds(keys: Iterable[Key], *names: str) -> list[int]:
    """The seeds that runs of all these names have."""
    return sorted(set.intersection(*({seed for name, seed in keys if name == wanted} for wanted in names)))


def draw_gaps(curves: dict[Key, Curve], published: dict[str, float], path: Path, unit: str) -> None:
    """What each config has over the first, of equal seeds, over images (or steps); dashed, what was published at the end."""
    import numpy as np

    from genrep.plots import save_curves

    (first, _), *_ = curves
    gaps = {}
    for name in dict.fromkeys(name for name, _ in curves if name != first):
        seeds = shared_seeds(curves, name, first)
        both = [[curves[key, seed] for seed in seeds] for key in (name, first)]
        start, stop = max(c[0][0] for part in both for c in part), min(c[-1][0] for part in both for c in part)
        where = [point[0] for point in both[0][0] if start <= point[0] <= stop]
        # every curve has begun by `start`, so that no mean is missing
        values = [np.array([[at(curve, 0, x) for x in where] for curve in part], dtype=float) for part in both]
        own, base = (part.mean(axis=0) for part in values)
        gaps[name] = (where, (own - base).tolist())
    levels = {name: value - published[first] for name, value in published.items()}
    save_curves({unit: gaps}, f"PSNR over {first} (dB)", path, levels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("configs", nargs="+", help="YAMLs of stage 1 or of fields, one a run")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs and the report go")
    parser.add_argument(
        "--seeds", type=non_negative, nargs="+", default=[0], help="train each with each of these (default 0)"
    )
    parser.add_argument(
        "--published", type=Path, help=f"JSON of PSNRs to hold the gaps to the first config against, like {EXAMPLE}"
    )
    parser.add_argument("--num-images", type=positive, default=1000, help="held-out images to measure (default 1000)")
    parser.add_argument("--device", help="of that measurement: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    first = next((word for word in sys.argv[1:] if word.endswith(".yaml")), None)
    rest, overrides = split_overrides(AutoencoderRun if first is None else kind_of(first), sys.argv[1:])
    for key, option in (("run.folder", "--folder"), ("run.seed", "--seeds")):
        if key in dict(overrides):
            raise InputError(f"--{key}: every run has its own; give {option}")
    options = parser.parse_args(rest)
    compare(options, [word for key, value in overrides for word in (f"--{key}", value)])


if __name__ == "__main__":
    run_script(main)
