"""Recipes: scripts that run one after another, for a given time or to completion. Does not import torch.

`train/recipe.py` runs a recipe. The YAMLs are in the folder of the configs they use:
`configs/<dataset>/recipe_<machine>.yaml`.
"""

import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from genrep.errors import InputError
from genrep.specs import PositiveFloat, Spec

RECORD = "recipe.json"
"""File in a recipe's folder that lists the finished stages."""


class StageSpec(Spec):
    """One script of a recipe."""

    name: str
    """Name of the stage in the report."""
    script: str
    """Path of the script, such as train/diffusion.py."""
    target: str
    """First argument: a config, relative to the recipe's YAML, or a run folder. {folder} becomes the recipe's folder."""
    seconds: PositiveFloat | None = None
    """Training time in seconds (run.seconds), for as many steps as fit; null trains as long as the config says."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Config keys, or options of the script without their dashes. In text values {folder} becomes the recipe's folder."""

    @model_validator(mode="after")
    def _names_are_names(self) -> "StageSpec":
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"name must consist of lower-case letters, digits and underscores; got {self.name!r}")
        if not re.fullmatch(r"(train|sample)/[a-z_]+\.py", self.script):
            raise ValueError(f"script must be one of the project's, such as train/diffusion.py; got {self.script!r}")
        return self


class RecipeSpec(Spec):
    """Scripts in the order in which they run, and the folder that everything goes to."""

    folder: Annotated[str, Field(min_length=1)]
    """Where runs, pictures and the report go."""
    stages: list[StageSpec] = Field(min_length=1)
    """The stages, in the order in which they run."""

    @model_validator(mode="after")
    def _names_differ(self) -> "RecipeSpec":
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages must have different names; got {name} more than once")
        return self

    @model_validator(mode="after")
    def _only_training_has_seconds(self) -> "RecipeSpec":
        for stage in self.stages:
            if stage.seconds is not None and not trains(stage):
                raise ValueError(f"stage {stage.name}: {stage.script} does not train: leave seconds out")
        return self


def trains(stage: StageSpec) -> bool:
    """Whether a stage is a training run, and so has steps."""
    return stage.script.startswith("train/") and stage.script != "train/latents.py"


def within(recipe: RecipeSpec, minutes: float) -> RecipeSpec:
    """The recipe with the seconds of its stages scaled to a total of `minutes`; encoding and measuring take extra time."""
    total = sum(stage.seconds or 0 for stage in recipe.stages)
    if total == 0:
        raise InputError("--minutes: no stage of this recipe has seconds to scale: leave it out")
    scale = 60 * minutes / total
    stages = [
        stage.model_copy(update={"seconds": stage.seconds * scale}) if stage.seconds is not None else stage
        for stage in recipe.stages
    ]
    return recipe.model_copy(update={"stages": stages})


def arguments(
    recipe: RecipeSpec, stage: StageSpec, config_folder: Path, overrides: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """The command line of a stage.

    Args:
        recipe: the recipe, whose folder the stage writes to.
        stage: one of its stages.
        config_folder: the folder of the recipe's YAML, which configs are relative to.
        overrides: (dotted key, value) pairs for every script that takes a config: those in train/.
    """
    target = stage.target.replace("{folder}", recipe.folder)
    if target.endswith(".yaml"):
        target = str(config_folder / target)
    words = [target]
    options: dict[str, str | None] = {key: _text(key, value, recipe.folder) for key, value in stage.options.items()}
    if stage.script.startswith("train/"):
        options |= dict(overrides)
    for key, value in options.items():
        words += [f"--{key}", *([] if value is None else [value])]
    if stage.seconds is not None:
        words += ["--run.steps", "null", "--run.images", "null", "--run.seconds", f"{stage.seconds:g}"]
    return words


def _text(key: str, value: Any, folder: str) -> str | None:
    """A value as it is written on a command line; None for a script's flag, which has no value."""
    if value is True and "." not in key:
        return None
    return value.replace("{folder}", folder) if isinstance(value, str) else json.dumps(value)


def read_record(folder: Path) -> dict[str, Any]:
    """The records of the finished stages in a recipe's folder, by the name of the stage."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it, and every script checks for itself what is done"
        ) from error
    if not isinstance(record, dict):
        raise InputError(
            f"{path} must be a mapping of stages; delete it, and every script checks for itself what is done"
        )
    return record


def progress(words: Sequence[str]) -> dict[str, Any]:
    """Steps, images, seconds and images per second of the training run of a command line; empty for other scripts.

    The rate is the median over the lines of the run's log, so that compilation and the first steps do not affect it.
    """
    keys = dict(itertools.pairwise(words))
    log = Path(keys.get("--run.folder", "")) / "metrics.jsonl"
    if "--run.folder" not in keys or not log.is_file():
        return {}
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    if not rates:
        return {}
    last: Mapping[str, Any] = rows[-1]
    latest = {key: value for row in rows for key, value in row.items() if isinstance(value, int | float)}
    metrics = ("loss", "accuracy", "psnr", "held_out_loss", "peak_memory_gib")
    return {
        **{key: last[key] for key in ("step", "images", "seconds")},
        "images_per_second": statistics.median(rates),
        **{key: latest[key] for key in metrics if key in latest},
    }
