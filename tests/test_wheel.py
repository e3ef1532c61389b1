"""The wheel holds the package and nothing else, and installed elsewhere it loads a pipeline and draws from it."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import genrep
from tests.scripts import PROJECT

DRAW = """
import sys
from pathlib import Path
import genrep
assert Path(genrep.__file__).is_relative_to(sys.prefix), genrep.__file__
pipeline = genrep.LatentDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline([0, 1], num_inference_steps=2, height=16, width=12).images[0].save("drawn.png")
"""


def run(folder: Path, *command: object) -> str:
    """What a command says, run in a folder outside the checkout and without its modules in reach."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the package, so that nothing is left in the checkout and nothing stale gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("genrep", "train", "sample", "configs", "tests", "docs"):
        shutil.copytree(
            PROJECT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "fixtures", "*.png")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder / "source")
    if subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, "setuptools>=77"]
    ).returncode:
        pytest.skip("no package index can be reached, which building in isolation takes")
    run(
        folder,
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--wheel-dir",
        folder / "dist",
        folder / "source",
    )
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_is_the_package_alone(wheel):
    """Scripts and configs are the checkout's; the site's and the tests' files too."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "genrep",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    package = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "genrep").rglob("*.py")}
    assert {name for name in names if name.startswith("genrep/")} == {*package, "genrep/py.typed"}


@pytest.mark.slow
def test_an_installed_wheel_draws_from_a_saved_pipeline(wheel, tmp_path):
    """In an environment that has the requirements of this one, and this wheel."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(tmp_path, python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    purelib = Path(run(tmp_path, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    requirements = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (purelib / "requirements.pth").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    run(tmp_path, python, "-c", DRAW, PROJECT / "tests" / "fixtures" / "earlier_pipeline")
    assert (tmp_path / "drawn.png").stat().st_size > 0
    assert f"Version: {genrep.__version__}" in run(tmp_path, python, "-m", "pip", "show", "genrep")
