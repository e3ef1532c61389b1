"""Run a recipe: the scripts of a whole experiment, one after another, each for as long as the recipe says.

    python train/recipe.py configs/cifar10/recipe_gpu.yaml
    python train/recipe.py configs/cifar10/recipe_gpu.yaml --minutes 60 --data.source data/cifar10/train.parquet

A stage with seconds trains for as many steps as fit, judging by the pace of its first steps. Config keys on the command
line go to every script in train/. Re-running the command skips finished stages and resumes the others. report.json in
the recipe's folder holds the time of every stage, the images per second of training, and the metrics.
"""

import argparse
import json
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from genrep.errors import InputError
from genrep.files import write_json
from genrep.specs import Spec, validate
from genrep.training.config import call_script, parse_options, read_config, run_script, split_overrides
from genrep.training.recipe import RECORD, RecipeSpec, arguments, progress, read_record, within

PROJECT = Path(__file__).resolve().parent.parent


def run_recipe(recipe: RecipeSpec, config_folder: Path, overrides: list[tuple[str, str]], keep_going: bool) -> None:
    """Run all stages that are not finished, and update the report after every stage."""
    folder = Path(recipe.folder)
    record = read_record(folder)
    failed: list[str] = []
    has_run_a_stage = False
    for stage in recipe.stages:
        words = arguments(recipe, stage, config_folder, overrides)
        command = shlex.join([stage.script, *words])
        if not has_run_a_stage and record.get(stage.name, {}).get("command") == command:
            print(f"{stage.name}: finished before")
            continue
        has_run_a_stage = True  # later stages build on its result, so they run again too
        started = time.perf_counter()
        try:
            call_script(PROJECT, stage.script, *words)
        except (SystemExit, Exception) as error:
            is_signal = isinstance(error, SystemExit) and error.code != 2  # the signal should end the recipe, too
            if is_signal or not keep_going:
                raise
            if isinstance(error, Exception):  # after a SystemExit the script has printed its message already
                traceback.print_exc()
            failed.append(stage.name)
            record.pop(stage.name, None)
            continue
        record[stage.name] = {"command": command, "wall_seconds": time.perf_counter() - started, **progress(words)}
        write_json(folder / RECORD, record)
        report(recipe, record)
    report(recipe, record)
    summary(recipe, record)
    if failed:
        raise InputError(
            f"these stages failed, see above: {', '.join(failed)}. Re-running the command tries them again"
        )


def report(recipe: RecipeSpec, record: dict[str, Any]) -> None:
    """Write report.json: the record in the order of the stages, including the reports written by scripts in sample/."""
    stages = {stage.name: dict(record[stage.name]) for stage in recipe.stages if stage.name in record}
    for stage in recipe.stages:
        if "out" not in stage.options or stage.name not in stages:
            continue
        path = Path(str(stage.options["out"]).replace("{folder}", recipe.folder)).with_suffix(".json")
        if path.is_file():
            stages[stage.name]["report"] = json.loads(path.read_text(encoding="utf-8"))
    total = sum(stage["wall_seconds"] for stage in stages.values())
    write_json(Path(recipe.folder) / "report.json", {"wall_seconds": total, "stages": stages})


def summary(recipe: RecipeSpec, record: dict[str, Any]) -> None:
    """Print one line per stage."""
    print()
    for stage in recipe.stages:
        row = record.get(stage.name)
        if row is None:
            print(f"{stage.name:>16}  not finished")
            continue
        images = f"{row['images']:>12,} images at {row['images_per_second']:>9,.0f}/s" if "images" in row else " " * 33
        metrics = ", ".join(f"{key} {row[key]:.4g}" for key in ("accuracy", "psnr", "held_out_loss") if key in row)
        print(f"{stage.name:>16}  {row['wall_seconds']:7.1f} s {images}  {metrics}".rstrip())
    print(f"\nreport: {Path(recipe.folder) / 'report.json'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.usage = "%(prog)s RECIPE.yaml [--section.key VALUE ...] [options]"
    parser.add_argument("recipe", type=Path, help="YAML of the recipe")
    parser.add_argument("--folder", help="where everything goes (default: the recipe's)")
    parser.add_argument("--minutes", type=float, help="training time of all stages together (default: the recipe's)")
    parser.add_argument("--keep-going", action="store_true", help="continue with the next stage when one fails")
    rest, overrides = split_overrides(Spec, sys.argv[1:])
    options = parse_options(parser, rest)
    recipe = validate(RecipeSpec, read_config(options.recipe), where=str(options.recipe))
    if options.folder is not None:
        recipe = recipe.model_copy(update={"folder": options.folder})
    if options.minutes is not None:
        if not options.minutes > 0:
            raise InputError(f"--minutes must be positive; got {options.minutes:g}")
        recipe = within(recipe, options.minutes)
    run_recipe(recipe, options.recipe.parent, overrides, options.keep_going)


if __name__ == "__main__":
    run_script(main)
