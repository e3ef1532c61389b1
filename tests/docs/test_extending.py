"""docs/extending.md: its files are added to a copy of the project, and its commands run there for a few steps."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.scripts import PROJECT

PAGE = (PROJECT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|yaml)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
UNIONS = {  # the union of a package's specs, and the form of its members
    "genrep/encoders/__init__.py": ("EncoderSpec", "{}"),
    "genrep/decoders/__init__.py": ("DecoderSpec", "{}"),
    "genrep/fields/__init__.py": ("FieldSpec", "{}"),
    "genrep/signals/__init__.py": ("SignalSpec", "{}"),
    "genrep/data/__init__.py": ("DataSpec", 'Annotated[{}, Tag("masks")]'),
}
RUN = """
import runpy, sys
for arguments in {commands}:
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
"""


def with_spec(text: str, code: str, union: str, member: str) -> str:
    """A package's `__init__.py` with a new spec, inserted above the union of all specs and added to it."""
    name = re.match(r"class (\w+)", code)[1]
    start = re.search(rf"^{union} = Annotated\[", text, re.MULTILINE)
    return f"{text[: start.start()]}{code}\n\n{start[0]}{member.format(name)} | {text[start.end() :]}"


@pytest.fixture
def extended(tmp_path):
    """A copy of the project with every file of the page added."""
    for folder in ("genrep", "train", "sample", "configs"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for language, code in BLOCKS:
        named = re.match(r"# (\S+\.(?:py|yaml))\n", code)
        if named is None:
            assert language == "python", "a config without a name"
            continue
        path, code = tmp_path / named[1], code[named.end() :]
        if named[1] in UNIONS:
            code = with_spec(path.read_text(encoding="utf-8"), code, *UNIONS[named[1]])
        else:
            assert not path.exists(), f"{named[1]} exists already"
            path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    return tmp_path


def test_the_commands_of_the_page_run_with_its_files(extended):
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    (discs,) = [code for language, code in BLOCKS if language == "python" and not code.startswith("# ")]
    commands = [
        shlex.split(line.removeprefix("python "))
        for line in re.findall(r"^python .*$", PAGE, re.MULTILINE)
    ]  # fmt: skip
    assert len(commands) == 5
    short = ["--run.steps", "2", "--run.report_every", "1", "--run.evaluate_images", "8"]
    commands = [words + short * words[0].startswith("train/") for words in commands]
    commands = [words + ["--signal.size", "32"] * (words[0] == "train/field.py") for words in commands]
    done = subprocess.run(
        [sys.executable, "-c", discs + RUN.format(commands=commands)],
        capture_output=True, text=True, cwd=extended, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for run in ("digits/mixing", "digits/film", "camera/gaussian", "discs/locality"):
        assert (extended / "runs" / run / "model" / "config.json").is_file()
    report = json.loads((extended / "runs" / "discs" / "locality" / "reconstructions.json").read_text(encoding="utf-8"))
    assert 0 <= report["iou"] <= 1
