"""Recipes: their times, their command lines, and one run from beginning to end."""

import json

import pytest

from genrep.errors import InputError
from genrep.specs import validate
from genrep.training.config import dump_yaml
from genrep.training.recipe import RecipeSpec, arguments, within
from tests.scripts import PROJECT, SMALL, SMALL_DENOISER, run

EVALUATE = {
    "name": "evaluate", "script": "sample/evaluate.py", "target": "{folder}/diffusion",
    "options": {"metrics": "fd_classifier,agreement", "num-images": 20, "no-floors": True, "out": "{folder}/evaluation.json"},
}  # fmt: skip


def training(name: str, target: str, seconds: float | None = None, **options) -> dict:
    options = {key.replace("__", "."): value for key, value in options.items()}
    return {"name": name, "script": f"train/{name}.py", "target": target, "seconds": seconds, "options": options}


def recipe(*stages: dict, folder: str = "out") -> RecipeSpec:
    return validate(RecipeSpec, {"folder": folder, "stages": list(stages)})


def test_minutes_scale_the_times_in_proportion():
    whole = recipe(training("classifier", "a.yaml", 30.0), training("diffusion", "b.yaml", 90.0), EVALUATE)
    assert [stage.seconds for stage in within(whole, 4.0).stages] == [60, 180, None]
    with pytest.raises(InputError, match="no stage of this recipe has seconds"):
        within(recipe(EVALUATE), 4.0)


def test_command_lines_have_the_folder_the_flags_and_the_overrides(tmp_path):
    whole = recipe(training("diffusion", "b.yaml", 90.0, autoencoder="{folder}/a", run__compile=True), EVALUATE)
    overrides = [("data.source", "x.parquet"), ("run.compile", "false")]
    first, second = (arguments(whole, stage, tmp_path, overrides) for stage in whole.stages)
    times = ["--run.steps", "null", "--run.images", "null", "--run.seconds", "90"]
    options = ["--autoencoder", "out/a", "--run.compile", "false", "--data.source", "x.parquet"]
    assert first == [str(tmp_path / "b.yaml"), *options, *times]
    assert second[:3] == ["out/diffusion", "--metrics", "fd_classifier,agreement"] and "--data.source" not in second
    assert second[second.index("--no-floors") + 1] == "--out" and second[-1] == "out/evaluation.json"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([EVALUATE, EVALUATE], "stages must have different names; got evaluate more than once"),
        ([{**EVALUATE, "seconds": 5.0}], "sample/evaluate.py does not train: leave seconds out"),
        ([{**EVALUATE, "script": "rm"}], "script must be one of the project's, such as train/diffusion.py; got 'rm'"),
        ([{**EVALUATE, "name": "My Stage"}], "name must consist of lower-case letters"),
    ],
)
def test_invalid_recipes_are_refused(stages, message):
    with pytest.raises(InputError, match=message):
        recipe(*stages)


def test_a_recipe_from_beginning_to_end(tmp_path, capsys):
    """Two timed training stages, one of two steps, latents and an evaluation; a second call has nothing left to do."""
    configs, folder = PROJECT / "configs" / "digits", tmp_path / "out"
    small = dict(zip((str(word)[2:] for word in SMALL[::2]), SMALL[1::2], strict=True))
    small_denoiser = dict(zip((str(word)[2:] for word in SMALL_DENOISER[::2]), SMALL_DENOISER[1::2], strict=True))
    stage2 = {
        "autoencoder": "{folder}/autoencoder",
        "latents.folder": "{folder}/latents",
        "run.folder": "{folder}/diffusion",
    }
    stages = [
        training("classifier", "classifier.yaml", 0.5, run__folder="{folder}/classifier", classifier__width=8),
        training("autoencoder", "anr.yaml", 1.0, **small, run__folder="{folder}/autoencoder"),
        training("latents", "diffusion.yaml", **stage2),
        training("diffusion", "diffusion.yaml", **stage2, **small_denoiser, run__steps=2, sampling__num_inference_steps=2),
        {**EVALUATE, "options": {**EVALUATE["options"], "classifier": "{folder}/classifier"}},
    ]  # fmt: skip
    for stage in stages[:4]:
        stage["target"] = str(configs / stage["target"])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml({"folder": "elsewhere", "stages": stages}))
    command = ["train/recipe.py", path, "--folder", folder, "--run.batch", 16, "--run.evaluate_images", 20]
    run(*command)
    report = json.loads((folder / "report.json").read_text())["stages"]
    assert list(report) == ["classifier", "autoencoder", "latents", "diffusion", "evaluate"]
    assert report["diffusion"]["step"] == 2 and report["diffusion"]["images"] == 32
    assert report["classifier"]["images"] == 16 * report["classifier"]["step"] and report["classifier"]["seconds"] < 2
    assert set(report["evaluate"]["report"]["metrics"]) >= {"fd_classifier", "class_agreement"}
    capsys.readouterr()
    run(*command)
    assert capsys.readouterr().out.count("finished before") == 5


def test_a_failing_stage_stops_a_recipe_unless_keep_going_is_given(tmp_path, capsys):
    broken = {**EVALUATE, "name": "broken", "target": str(tmp_path / "nothing")}
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml({"folder": str(tmp_path / "out"), "stages": [broken, {**broken, "name": "other"}]}))
    run("train/recipe.py", path, expect=2)
    assert capsys.readouterr().err.count("error: ") == 1
    run("train/recipe.py", path, "--keep-going", expect=2)
    assert "these stages failed, see above: broken, other" in capsys.readouterr().err
    run("train/recipe.py", path, "--minutes", -1, expect=2)
