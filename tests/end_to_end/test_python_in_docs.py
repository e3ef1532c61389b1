"""The Python code in README.md and the pages runs as printed, on models trained for two steps."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts import PROJECT

ELSEWHERE = ["extending.md"]  # what it adds to the package is run by tests/docs/test_extending.py
PAGES = [
    "README.md",
    *(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md")) if path.name not in ELSEWHERE),
]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (PROJECT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


BLOCKS = [pytest.param(code, id=f"{page}-{number}") for page in PAGES for number, code in enumerate(blocks(page))]


def execute(code: str, stage1: Path, stage2: Path) -> dict:
    """Run a block with the tiny runs in place of those it names; returns its variables."""
    code = re.sub(r'"runs/[^"]*/model"', repr(str(stage1 / "model")), code)
    code = re.sub(r'"runs/[^"]*/pipeline"', repr(str(stage2 / "pipeline")), code)
    assert "runs/" not in code, "a path without a tiny run"
    names: dict = {}
    exec(compile(code, "block", "exec"), names)
    return names


@pytest.mark.parametrize("code", BLOCKS)
def test_python_in_the_documentation_runs(code, stage1, stage2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(code, stage1, stage2)
    size = re.search(r"height=(\d+), width=(\d+)", code)
    for name in re.findall(r'\.save\("(.+?)"\)', code):
        with Image.open(name) as picture:
            assert size is None or picture.size == (int(size[2]), int(size[1]))


def test_the_readme_shows_a_pipeline_and_saves_a_picture():
    """Notices a README whose block is missing, or is not found by the test above."""
    code = "\n".join(blocks("README.md"))
    assert "LatentDiffusionPipeline.from_pretrained(" in code and ".save(" in code


def test_shapes_in_the_documentation_are_those_of_the_tensors(stage1, stage2):
    """docs/sample.md: [B, C, H, W] -> [B, R, D], and 100 coordinates -> [B, 100, C]."""
    (code,) = blocks("docs/sample.md")
    names = execute(code, stage1, stage2)
    shapes = {name: tuple(names[name].shape) for name in ("latents", "values", "pixels")}
    assert shapes == {"latents": (4, 8, 16), "values": (4, 100, 1), "pixels": (4, 1, 512, 512)}
