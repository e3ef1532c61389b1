"""Rules of the project: imports run one way, importing is fast, every shipped config builds."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import genrep
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.models.field import NeuralField
from genrep.models.generator import CoordinateGenerator
from genrep.pipelines import DiffusionSamplingSpec, GANSamplingSpec
from genrep.specs import validate
from genrep.training.classification import build_of_clouds, build_of_signals, build_of_sizes
from genrep.training.config import override, read_config, split_overrides
from genrep.training.folders import describe_autoencoder
from genrep.training.recipe import RecipeSpec, arguments
from genrep.training.specs import AutoencoderRun, ClassifierRun, CloudRun, DiffusionRun, FieldRun, GANRun

PROJECT = Path(__file__).parent.parent
# A package may import itself and those before it. `specs` files and packages' tables are typed descriptions without torch,
# which may be read from anywhere above them.
ORDER = [
    ["errors"], ["files", "devices", "arguments", "options"], ["lock", "pictures", "plots"], ["randomness", "specs", "interpolation"], ["coords"], ["signals"], ["nn"],
    ["encoders", "decoders"], ["fields"], ["models"], ["render"], ["refine", "clouds"], ["diffusion", "gan"], ["pipelines"], ["data"], ["metrics"], ["training"],
    ["sampling"],
]  # fmt: skip
ALLOWED = {
    ("models.autoencoder", "render"),  # `autoencoder.render` is the one function that turns latents into pixels
    ("models.field", "render"),
}


def rank(module: str) -> int:
    return next(number for number, names in enumerate(ORDER) if module.split(".")[0] in names)


def imports(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("genrep."):
            modules.add(node.module.removeprefix("genrep."))
    return modules


def test_imports_run_one_way():
    wrong = []
    for path in sorted((PROJECT / "genrep").rglob("*.py")):
        module = ".".join(path.relative_to(PROJECT / "genrep").with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        for imported in imports(path):
            if rank(imported) > rank(module) and (module, imported.split(".")[0]) not in ALLOWED:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_a_pipeline_needs_no_training_code():
    """A copied pipeline works without training code and without the scripts' command lines."""
    paths = (PROJECT / "genrep" / "pipelines").glob("*.py")
    above = [f"{path.name}: {name}" for path in paths for name in imports(path) if rank(name) > rank("pipelines")]
    assert above == []


def test_nouns_never_import_verbs():
    for path in (PROJECT / "genrep").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            assert not any(name.split(".")[0] in ("train", "sample") for name in names), path


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=PROJECT).stdout


def test_importing_genrep_is_light():
    heavy = ("torch", "diffusers", "datasets", "numpy", "accelerate")
    assert python(f"import genrep, sys; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"


def test_public_names_exist_and_unknown_ones_say_so():
    for name in genrep.__all__:
        assert getattr(genrep, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'; it has .*INRAutoencoder"):
        genrep.Nothing  # noqa: B018


OF_DIFFUSION, OF_GAN = (tuple(kind.model_fields) for kind in (DiffusionSamplingSpec, GANSamplingSpec))
SAMPLING_KEYS = {
    **dict.fromkeys(["sample/generate.py", "sample/evaluate.py", "sample/pattern.py"], (*OF_DIFFUSION, *OF_GAN)),
    "sample/interpolate.py": OF_GAN,
    "train/diffusion.py": OF_DIFFUSION,
    "train/latents.py": OF_DIFFUSION,
    "train/gan.py": OF_GAN,
}
"""Keys of `sampling` that a script's --help explains."""


@pytest.mark.parametrize(
    "script",
    sorted(str(p.relative_to(PROJECT)) for folder in ("train", "sample") for p in (PROJECT / folder).glob("*.py")),
)
def test_help_teaches_and_loads_no_torch(script):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
    )
    help_text = python(code)
    assert f"python {script}" in help_text, "an example to copy"
    assert len(help_text) > 300
    keys = SAMPLING_KEYS.get(script, ())
    assert re.findall(r"^  --sampling\.(\w+)", help_text, re.MULTILINE) == list(keys)
    for kind in (DiffusionSamplingSpec, GANSamplingSpec):
        for name in kind.model_fields.keys() & set(keys):
            assert kind.model_fields[name].description in help_text, "what it means"


STAGE = {
    **dict.fromkeys(["anr", "locality", "ipc", "transinr"], AutoencoderRun),
    "diffusion": DiffusionRun,
    "classifier": ClassifierRun,
    "gan": GANRun,
    "arc": CloudRun,
}
CONFIGS = sorted(
    path for path in (PROJECT / "configs").rglob("*.yaml") if path.stem.split("_")[0] not in ("data", "recipe")
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_config_loads_and_builds(path, monkeypatch):
    """Large ones too, on the meta device."""
    monkeypatch.chdir(PROJECT)
    content = read_config(path)
    kind = FieldRun if "field" in content else STAGE[path.stem.split("_")[0]]
    config = validate(kind, content, where=str(path))
    with torch.device("meta"):
        if isinstance(config, FieldRun):
            model = NeuralField(config.field.model_dump(), (64, 64), getattr(config.signal, "channels", None) or 1)
        elif isinstance(config, GANRun):
            spec = (
                describe_autoencoder(config.autoencoder, str(path.relative_to(PROJECT))) if config.autoencoder else None
            )
            axes, channels = (1, spec.latent_dim) if spec else (2, config.channels)
            model = CoordinateGenerator(axes, channels, 10, **config.generator.model_dump())
        elif isinstance(config, AutoencoderRun | CloudRun):
            model = INRAutoencoder(**config.autoencoder.model_dump())
        elif isinstance(config, ClassifierRun):
            if config.classifier.type == "image_size":
                model = build_of_sizes(config, 10, num_axes=2)
            elif config.autoencoder is None:
                model = build_of_signals(config, 10)
            else:
                spec = describe_autoencoder(config.autoencoder, str(path.relative_to(PROJECT)))
                model = build_of_clouds(config, 10, spec)
        else:
            spec = describe_autoencoder(config.autoencoder, str(path.relative_to(PROJECT)))
            model = LatentDenoiser(
                spec.num_tokens,
                spec.latent_dim,
                10,
                position_dim=spec.decoder.position_dim,
                **config.denoiser.model_dump(),
            )
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").rglob("recipe*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_names_scripts_and_configs(path):
    recipe = validate(RecipeSpec, read_config(path), where=str(path))
    for stage in recipe.stages:
        assert (PROJECT / stage.script).is_file()
        if stage.target.endswith(".yaml"):
            kind = STAGE[stage.target.split("_")[0].removesuffix(".yaml")]
            words = arguments(recipe, stage, path.parent)[1:]
            _, overrides = split_overrides(kind, words)
            config = override(kind, read_config(path.parent / stage.target), overrides, stage.target)
            assert config.run.seconds == stage.seconds


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").rglob("recipe*.yaml")), ids=lambda path: path.stem)
def test_the_classifier_that_measures_a_recipe_takes_no_part_in_its_training(path):
    stages = validate(RecipeSpec, read_config(path), where=str(path)).stages
    judges = {stage.options["classifier"] for stage in stages if stage.script == "sample/evaluate.py"}
    users = {
        stage.name: value
        for stage in stages
        if stage.script.startswith("train/")
        for key, value in stage.options.items()
        if key.endswith(".classifier")
    }
    made = {str(stage.options["run.folder"]) for stage in stages if stage.script == "train/classifier.py"}
    assert judges <= made and set(users.values()) <= made
    assert not judges & set(users.values()), users


def test_no_path_of_this_machine_is_in_the_tree():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=PROJECT).stdout.split()
    for name in tracked:
        if (
            name.endswith((".py", ".yaml", ".md", ".toml", ".txt"))
            and (PROJECT / name).exists()
            and name != "tests/test_structure.py"
        ):
            assert str(PROJECT) not in (PROJECT / name).read_text(encoding="utf-8"), name
