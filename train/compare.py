"""Train several representations of the same data, or several fields on the same signals, equally long; compare them.

    python train/compare.py configs/cifar10/compare/{locality,ipc,transinr,anr}.yaml --folder runs/cifar10/comparison
    python train/compare.py configs/cifar10/compare/*.yaml --folder runs/comparison --seeds 0 1 --run.steps 500 --run.seconds 120
    python train/compare.py configs/camera/*.yaml --folder runs/camera/comparison --run.steps 300
    python train/compare.py configs/kodak/*.yaml --sources data/kodak/*.png --folder runs/kodak/comparison --run.steps 500

Every YAML is a run of train/autoencoder.py or, if it has a `field`, of train/field.py, and is named after its file;
options with a dot are config keys for all of them. With --sources every field is fitted to each of these signals
(signal.source), and the table holds means over them; a signal is named after its file. All configs are checked before
the first is trained. Re-running the command skips finished runs and resumes the others; a run that fails is named, and
the table is made of the rest.

--folder receives comparison.md (the table), comparison.json and comparison.png: PSNR, or IoU for shapes, over images or
steps and over seconds of training. The "PSNR after" columns read those curves where the shortest run ends. With
--published FILE the table compares every config's gap to the first with the published one, and gaps.png draws the gaps:

    python train/compare.py configs/camera/{pe_mlp,quad_tree,fine_to_coarse}.yaml --folder runs/camera/table_5 \\
        --published configs/camera/published.json
"""

import argparse
import itertools
import sys
from pathlib import Path

from genrep.errors import InputError
from genrep.files import make_folder, write_json, write_text
from genrep.options import non_negative, positive
from genrep.training.comparison import (
    HEADLINES,
    PUBLISHED_EXAMPLE,
    TrainedRun,
    draw_curves,
    draw_gaps,
    make_table,
    read_curve,
    read_published,
    without_pair,
)
from genrep.training.config import STOPPED, parse_command_line, run_script, split_overrides
from genrep.training.interrupts import run_child
from genrep.training.measurements import (
    AUTOENCODERS,
    FIELDS,
    RunKind,
    common_kind,
    is_finished,
    kind_of,
    refuse_different_data,
)

PROJECT = Path(__file__).resolve().parent.parent


def compare(options: argparse.Namespace, overrides: list[str]) -> None:
    # check
    configs = {Path(path).stem: path for path in options.configs}
    if len(configs) < len(options.configs):
        raise InputError("two of the configs have the same file name, which names a run: rename one")
    kind = common_kind(options.configs)
    specs = {name: parse_command_line(kind.config, "", [path, *overrides])[0] for name, path in configs.items()}
    refuse_different_data(kind, specs)
    first, *_ = configs
    published = {} if options.published is None else read_published(options.published, first)

    sources = name_sources(kind, options.sources)

    from genrep.devices import choose_device  # imports torch, so only after the quick checks

    device = choose_device(options.device)
    folder = make_folder(options.folder)

    # train, every run in a separate process
    runs, failed = [], []
    for name, signal, seed in itertools.product(configs, sources, options.seeds):
        title = ", ".join(filter(None, [name, signal, f"seed {seed}"]))
        print(f"\n{title}", flush=True)
        run_folder = folder / "-".join(filter(None, [name, signal, f"seed{seed}"]))
        per_run = ["--run.folder", str(run_folder), "--run.seed", str(seed)]
        per_run += ["--signal.source", sources[signal]] if signal else []
        words = [configs[name], *overrides, *per_run]
        if is_finished(run_folder, parse_command_line(kind.config, "", words)[0]):
            print("finished before")
        else:
            status = run_child([sys.executable, str(PROJECT / kind.script), *words])
            if status == STOPPED:
                raise SystemExit(STOPPED)
            if status:
                failed.append(f"{name} with seed {seed}" + (f" on {signal}" if signal else ""))
                continue
        measurements = kind.measure(run_folder, options.num_images, device)
        runs.append(TrainedRun(name, seed, read_curve(run_folder), measurements, signal))

    # report
    if published and without_pair(runs, first):
        print(f"no gaps: {first}, the config to compare with, has no finished run with the same seed")
        published = {}
    if runs:
        table = make_table(runs, kind.unit, published)
        config_paths = {run.name: configs[run.name] for run in runs}
        write_json(folder / "comparison.json", {"rows": table.report(), "options": overrides, "configs": config_paths})
        write_text(folder / "comparison.md", table.markdown())
        quality = " ".join(filter(None, [HEADLINES[table.headline].label, kind.where]))
        draw_curves(runs, kind.unit, quality, folder / "comparison.png")
        print(f"\n{table.markdown()}\ntable: {folder / 'comparison.md'}\ncurves: {folder / 'comparison.png'}")
        (folder / "gaps.png").unlink(missing_ok=True)
        if published:
            draw_gaps(runs, kind.unit, published, folder / "gaps.png")
            print(f"gaps: {folder / 'gaps.png'}")
    if failed:
        raise InputError(f"{' and '.join(failed)} failed, see above. Re-running the command skips what is finished")


def name_sources(kind: RunKind, sources: list[str] | None) -> dict[str, str]:
    """The signals by name; without --sources, the configs' own under the name "". InputError if two names are equal."""
    if not sources:
        return {"": ""}
    if kind is not FIELDS:
        raise InputError("--sources is for fields, which have one signal; for autoencoders give --data.source")
    names = {Path(source).stem: source for source in sources}
    if len(names) < len(sources):
        stems = [Path(source).stem for source in sources]
        repeated = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"two of the --sources have the same file name, {repeated}, which names a signal: rename one")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("configs", nargs="+", help="YAMLs of stage 1 or of fields, one per run")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs and the report go")
    parser.add_argument(
        "--seeds", type=non_negative, nargs="+", default=[0], help="train every config with each of these (default 0)"
    )
    parser.add_argument("--sources", nargs="+", metavar="SOURCE", help="fit every field to each of these signals")
    parser.add_argument(
        "--published",
        type=Path,
        help=f"JSON of published PSNRs, whose gaps to the first config are compared, like {PUBLISHED_EXAMPLE}",
    )
    parser.add_argument(
        "--num-images", type=positive, default=1000, help="held-out images to measure on (default 1000)"
    )
    parser.add_argument("--device", help="device to measure on: cpu, cuda, cuda:1, mps (default: a GPU if any)")
    first = next((word for word in sys.argv[1:] if word.endswith(".yaml")), None)
    rest, overrides = split_overrides((AUTOENCODERS if first is None else kind_of(first)).config, sys.argv[1:])
    for key, option in (("run.folder", "--folder"), ("run.seed", "--seeds")):
        if key in dict(overrides):
            raise InputError(f"--{key}: every run has its own; give {option}")
    options = parser.parse_args(rest)
    if options.sources and "signal.source" in dict(overrides):
        raise InputError("--signal.source: every run has its own with --sources; leave it out")
    compare(options, [word for key, value in overrides for word in (f"--{key}", value)])


if __name__ == "__main__":
    run_script(main)
