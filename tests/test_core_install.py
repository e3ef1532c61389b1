"""All requirements are declared, and the core's are enough to load models and sample from them."""

import ast
import functools
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Mapping
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import make_scheduler
from genrep.models.field import NeuralField
from genrep.models.generator import CoordinateGenerator
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.pipelines.gan import GANPipeline
from genrep.training.config import EXTRAS
from tests.models.test_denoiser import woken
from tests.scripts import PROJECT
from tests.tiny import tiny_autoencoder

DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = ("train", "eval", "tracking", "video", "shapes")
"""Extras that scripts need; `test` and `dev` are for working on the project."""
ABSENT = [*EXTRAS, "torchvision", "pandas", "pytest"]

WORK = f"""
import importlib.util, runpy, sys
for name in {ABSENT}:
    assert importlib.util.find_spec(name) is None, name
import torch
from genrep import GANPipeline, INRAutoencoder, LatentDiffusionPipeline, NeuralField
folder = sys.argv[1]
autoencoder = INRAutoencoder.from_pretrained(folder + "/autoencoder")
latents = autoencoder.encode(torch.zeros(1, 1, 8, 8))
assert autoencoder.render(latents, size=(12, 10)).shape == (1, 1, 12, 10)
pipeline = LatentDiffusionPipeline.from_pretrained(folder + "/diffusion")
images = pipeline([0, 1], num_inference_steps=2, height=16, width=16).images
assert [image.size for image in images] == [(16, 16)] * 2
assert GANPipeline.from_pretrained(folder + "/gan")(num_images=1).images[0].size == (10, 8)
assert NeuralField.from_pretrained(folder + "/field").render((6, 6)).shape == (3, 6, 6)
print("done")
sys.argv = ["train/diffusion.py", "configs/digits/diffusion.yaml"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MESSAGE = 'error: train/diffusion.py needs accelerate, which is not installed: pip install "genrep[train]"\n'


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def extra(name: str) -> set[str]:
    return names(DECLARED["optional-dependencies"][name])


CORE = names(DECLARED["dependencies"])


def imports(path: Path, top_level: bool) -> set[str]:
    """Third-party modules that a file imports: anywhere, or only at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.split(".")[0])
    return modules - sys.stdlib_module_names - {"genrep", "train", "sample", "tests", "docs"}


@functools.cache
def installed() -> Mapping[str, list[str]]:
    """Module => the packages that provide it."""
    return packages_distributions()


def packages(modules: set[str]) -> set[str]:
    """The packages of modules; those of the `docs` extra may be absent, and are called what their modules are."""
    known = installed()
    return {canonicalize_name(package) for module in modules for package in known.get(module, [module])}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PROJECT / folder).rglob("*.py"))


def test_every_import_is_declared():
    scripts = CORE.union(*map(extra, SCRIPTS))
    imported = {
        package
        for path in files("genrep", "train", "sample", "benchmarks")
        for package in packages(imports(path, False))
    }
    assert imported - scripts == set()
    assert CORE - imported == set(), "the core requires nothing that it does not import"
    tests = {package for path in files("tests") for package in packages(imports(path, False))}
    assert tests - scripts - extra("test") - extra("docs") == set()


def test_only_training_needs_an_extra_to_be_imported():
    for path in files("genrep"):
        if path.parent != PROJECT / "genrep" / "training":
            assert packages(imports(path, True)) - CORE == set(), path


def test_the_message_about_extras_knows_every_package():
    for package, name in EXTRAS.values():
        assert package in extra(name)
    in_extras = set().union(*map(extra, SCRIPTS))
    assert in_extras == {package for package, _ in EXTRAS.values()}


def test_constraints_name_every_requirement():
    pinned = names((PROJECT / "constraints.txt").read_text(encoding="utf-8").partition("\n")[2].split())
    required = CORE.union(*(extra(name) for name in DECLARED["optional-dependencies"])) - {"genrep", "psutil"}
    assert required - pinned == set()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a tiny model of every kind."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    autoencoder, normalizer = tiny_autoencoder(), LatentNormalizer.from_statistics(torch.zeros(4, 8), torch.ones(4, 8))
    scheduler = make_scheduler("dpm_solver", NoiseLevels(NoiseSpec(), (4, 8)))
    generator = CoordinateGenerator(2, 1, 0, noise_dim=5, widths=[8, 8], tile=[2], cells=[2], num_frequencies=2)
    autoencoder.save_pretrained(folder / "autoencoder")
    LatentDiffusionPipeline(autoencoder, woken(), normalizer, scheduler).save_pretrained(folder / "diffusion")
    GANPipeline(generator, sample_size=(8, 10)).save_pretrained(folder / "gan")
    NeuralField({"type": "levels_of_experts", "widths": [8, 8]}, (8, 8), 3).save_pretrained(folder / "field")
    return folder


def needed(requirements: list[str]) -> dict[str, Distribution]:
    """The installed packages that these requirements need, directly or indirectly."""
    required_packages: dict[str, Distribution] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for text in distribution(name).requires or [] if name not in required_packages or requirement.extras else []:
            following = Requirement(text)
            if any(
                following.marker is None or following.marker.evaluate({"extra": part})
                for part in ("", *requirement.extras)
            ):
                todo.append(following)
        required_packages[name] = distribution(name)
    return required_packages


@pytest.fixture(scope="module")
def core_only(tmp_path_factory) -> Path:
    """A folder of links to the core's requirements, for a Python that can import nothing else."""
    folder = tmp_path_factory.mktemp("core")
    for package in needed(DECLARED["dependencies"]).values():
        for top in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link, target = folder / top, Path(str(package.locate_file(top)))
            if not link.exists():
                link.symlink_to(target, target_is_directory=target.is_dir())
    return folder


def run(place: Path | None, python: Path | str, *arguments: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join(map(str, filter(None, (place, PROJECT))))
    options = ["-S"] if place else []  # no packages but those in `place`
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONNOUSERSITE": "1"}
    command = [str(python), *options, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROJECT)


def test_the_core_alone_draws_and_training_says_what_it_needs(models, core_only):
    done = run(core_only, sys.executable, "-c", WORK, models)
    assert (done.returncode, done.stdout) == (2, "done\n") and done.stderr.endswith(MESSAGE), done.stderr
    assert "pip install accelerate" not in done.stderr, "diffusers' warning"


@pytest.mark.slow
def test_a_fresh_environment_with_the_core_alone(models):
    """Takes minutes, and gigabytes in the system's temporary folder, which are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if run(None, python, "-m", "pip", "download", "--no-deps", "--dest", folder, "einops").returncode:
            pytest.skip("no package index can be reached")
        install = ["-m", "pip", "install", "--quiet", "-c", "constraints.txt", *DECLARED["dependencies"]]
        installed = run(None, python, *install)
        assert installed.returncode == 0, installed.stderr
        done = run(None, python, "-c", WORK, models)
        assert (done.returncode, done.stdout) == (2, "done\n") and done.stderr.endswith(MESSAGE), done.stderr
