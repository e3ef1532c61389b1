"""A recipe: scripts that run one after another, each for a time or to its end. Does not import torch.

`train/recipe.py` runs one; the YAMLs are beside the configs they put together, `configs/<dataset>/recipe_<machine>.yaml`.
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
"""In the folder of a recipe: what is finished."""


class StageSpec(Spec):
    """One script of a recipe."""

    name: str
    """What the report calls it."""
    script: str
    """Path of the script: train/diffusion.py."""
    target: str
    """Its first argument: a config, from the recipe's folder, or a run folder. {folder} is the recipe's own."""
    seconds: PositiveFloat | None = None
    """Seconds of training (run.seconds): as many steps as fit. Null is what the config says."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keys of the config, or options of the script, without their dashes. In texts {folder} is the recipe's own."""

    @model_validator(mode="after")
    def _names_are_names(self) -> "StageSpec":
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"name must be of small letters, digits and underscores; got {self.name!r}")
        if not re.fullmatch(r"(train|sample)/[a-z_]+\.py", self.script):
            raise ValueError(f"script must be one of the project's, such as train/diffusion.py; got {self.script!r}")
        return self


class RecipeSpec(Spec):
    """Scripts in their order, and the folder that everything goes to."""

    folder: Annotated[str, Field(min_length=1)]
    """Where runs, pictures and the report go."""
    stages: list[StageSpec] = Field(min_length=1)
    """What runs, in this order."""

    @model_validator(mode="after")
    def _names_differ(self) -> "RecipeSpec":
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name}: give each a name of its own")
        return self

    @model_validator(mode="after")
    def _only_training_takes_a_time(self) -> "RecipeSpec":
        for stage in self.stages:
            if stage.seconds is not None and not trains(stage):
                raise ValueError(f"stage {stage.name}: {stage.script} trains nothing: leave seconds out")
        return self


def trains(stage: StageSpec) -> bool:
    """Whether a stage is a training run, which has steps."""
    return stage.script.startswith("train/") and stage.script != "train/latents.py"


def within(recipe: RecipeSpec, minutes: float) -> RecipeSpec:
    """The recipe with the seconds of its stages scaled to come to so many minutes together; encoding and measuring come on top."""
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
    recipe: RecipeSpec, stage: StageSpec, beside: Path, overrides: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """The command line of a stage.

    Args:
        recipe: whose folder the stage writes to.
        stage: one of its stages.
        beside: the folder of the recipe's YAML, which configs are looked for in.
        overrides: (dotted key, value) for every script that takes a config, those in train/.
    """
    target = stage.target.replace("{folder}", recipe.folder)
    if target.endswith(".yaml"):
        target = str(beside / target)
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
    """A value as a command line has it; None for a flag of a script, which has none."""
    if value is True and "." not in key:
        return None
    return value.replace("{folder}", folder) if isinstance(value, str) else json.dumps(value)


def read_record(folder: Path) -> dict[str, Any]:
    """What is finished in a recipe's folder, by the name of the stage."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: damaged ({error}); delete it, and every stage says by itself what is done"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: must be a mapping of stages; delete it")
    return record


def progress(words: Sequence[str]) -> dict[str, Any]:
    """Steps, images, seconds and images per second of the training run that a command line is of; nothing of others.

    The rate is the median over the lines of its log, so that compiling and the first steps do not count.
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
    shown = ("loss", "accuracy", "psnr", "held_out_loss", "peak_memory_gib")
    return {
        **{key: last[key] for key in ("step", "images", "seconds")},
        "images_per_second": statistics.median(rates),
        **{key: latest[key] for key in shown if key in latest},
    }
