"""Run a recipe: the scripts of a whole experiment, one after another, each for the time that the recipe gives it.

    python train/recipe.py configs/cifar10/recipe_gpu.yaml
    python train/recipe.py configs/cifar10/recipe_gpu.yaml --minutes 60 --data.source data/cifar10/train.parquet

A stage with seconds trains for as many steps as fit: the pace of its first steps decides. Config keys given here go to every
script in train/. Re-running the command skips what is finished and resumes what is not. The folder gets report.json: the time
of every stage, images per second of those that train, and what was measured.
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


def cook(recipe: RecipeSpec, beside: Path, overrides: list[tuple[str, str]], keep_going: bool) -> None:
    """Run every stage that is not finished, and write the report after each."""
    folder = Path(recipe.folder)
    record = read_record(folder)
    failed: list[str] = []
    went_on = False
    for stage in recipe.stages:
        words = arguments(recipe, stage, beside, overrides)
        command = shlex.join([stage.script, *words])
        if not went_on and record.get(stage.name, {}).get("command") == command:
            print(f"{stage.name}: finished before")
            continue
        went_on = True  # what follows builds on it
        started = time.perf_counter()
        try:
            call_script(PROJECT, stage.script, *words)
        except (SystemExit, Exception) as error:
            is_signal = isinstance(error, SystemExit) and error.code != 2  # meant for the recipe as well
            if is_signal or not keep_going:
                raise
            if isinstance(error, Exception):  # scripts have said what is wrong themselves
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
        raise InputError(f"these stages failed, see above: {', '.join(failed)}. The same command runs them again")


def report(recipe: RecipeSpec, record: dict[str, Any]) -> None:
    """Write report.json: the record in the order of the stages, with the reports that the scripts in sample/ wrote."""
    stages = {stage.name: dict(record[stage.name]) for stage in recipe.stages if stage.name in record}
    for stage in recipe.stages:
        if "out" not in stage.options or stage.name not in stages:
            continue
        written = Path(str(stage.options["out"]).replace("{folder}", recipe.folder)).with_suffix(".json")
        if written.is_file():
            stages[stage.name]["report"] = json.loads(written.read_text(encoding="utf-8"))
    total = sum(stage["wall_seconds"] for stage in stages.values())
    write_json(Path(recipe.folder) / "report.json", {"wall_seconds": total, "stages": stages})


def summary(recipe: RecipeSpec, record: dict[str, Any]) -> None:
    """A line for every stage."""
    print()
    for stage in recipe.stages:
        row = record.get(stage.name)
        if row is None:
            print(f"{stage.name:>16}  not finished")
            continue
        images = f"{row['images']:>12,} images at {row['images_per_second']:>9,.0f}/s" if "images" in row else " " * 33
        measured = ", ".join(f"{key} {row[key]:.4g}" for key in ("accuracy", "psnr", "held_out_loss") if key in row)
        print(f"{stage.name:>16}  {row['wall_seconds']:7.1f} s {images}  {measured}".rstrip())
    print(f"\nreport: {Path(recipe.folder) / 'report.json'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.usage = "%(prog)s RECIPE.yaml [--section.key VALUE ...] [options]"
    parser.add_argument("recipe", type=Path, help="YAML of the recipe")
    parser.add_argument("--folder", help="where everything goes (default: the recipe's)")
    parser.add_argument("--minutes", type=float, help="training time of all stages together (default: the recipe's)")
    parser.add_argument("--keep-going", action="store_true", help="run the following stages where one fails")
    rest, overrides = split_overrides(Spec, sys.argv[1:])
    options = parse_options(parser, rest)
    recipe = validate(RecipeSpec, read_config(options.recipe), where=str(options.recipe))
    if options.folder is not None:
        recipe = recipe.model_copy(update={"folder": options.folder})
    if options.minutes is not None:
        if not options.minutes > 0:
            raise InputError(f"--minutes must be positive; got {options.minutes:g}")
        recipe = within(recipe, options.minutes)
    cook(recipe, options.recipe.parent, overrides, options.keep_going)


if __name__ == "__main__":
    run_script(main)
