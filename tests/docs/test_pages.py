"""README.md and docs/: every file, link, script, config and option that a page names exists."""

import glob
import itertools
import re
import shlex
from pathlib import Path

import pytest

from genrep.pipelines import DiffusionSamplingSpec, GANSamplingSpec
from genrep.specs import validate
from genrep.training.config import override, read_config, split_overrides
from genrep.training.recipe import RecipeSpec
from genrep.training.specs import AutoencoderRun, ClassifierRun, CloudRun, DiffusionRun, FieldRun, GANRun
from tests.scripts import PROJECT

GENERATED = ["bad_inputs.md"]  # its commands are invalid on purpose
PAGES = [
    page
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md")))
    if page.name not in GENERATED and "reference" not in page.parts
]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
KINDS = {
    "autoencoder": AutoencoderRun,
    "classifier": ClassifierRun,
    "clouds": CloudRun,
    "diffusion": DiffusionRun,
    "field": FieldRun,
    "gan": GANRun,
    "latents": DiffusionRun,
}
PLACES = "train|sample|benchmarks|configs|genrep|tests"


def expand(path: str) -> list[str]:
    """The paths to which a shell expands one with braces: a{b,c}d to abd and acd."""
    pieces = [piece.split(",") for piece in re.split(r"\{([^}]*)\}", path)]
    pieces = [[",".join(piece)] if number % 2 == 0 else piece for number, piece in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*pieces)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as on GitHub."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page, starting at the script: those in bash blocks, and in code within the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", outside)]
    command_lines = []
    for line in lines:
        words = shlex.split(line, comments=True) if line.count('"') % 2 == 0 and line.count("'") % 2 == 0 else []
        start = [n for n, word in enumerate(words) if re.fullmatch(r"(train|sample|benchmarks)/\w+\.py", word)]
        if start:
            command_lines.append(words[start[0] :])
    return command_lines


@PAGE
def test_the_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/.-])((?:{PLACES})/[\w/.{{}},*-]*\w[}}\w/*]*)", re.sub(r"\]\([^)]*\)", "", text))
    if page.name == "extending.md":  # the files that it adds do not exist, see test_extending.py
        added = set(re.findall(r"^# (\S+)$", text, re.MULTILINE))
        named = [path for path in named if path not in added]
    missing = [path for path in named for pattern in expand(path) if not glob.glob(str(PROJECT / pattern))]
    assert missing == []


@PAGE
def test_the_links_of_a_page_are_valid(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


OWN_KEYS = {name for kind in KINDS.values() for name in kind.model_fields}


@PAGE
def test_the_options_of_a_page_exist(page, monkeypatch):
    monkeypatch.chdir(PROJECT)
    shared = "".join((PROJECT / "genrep" / name).read_text(encoding="utf-8") for name in ("options.py", "sampling.py"))
    shared += (PROJECT / "genrep" / "training" / "config.py").read_text(encoding="utf-8")
    for script, *words in commands(page):
        code = (PROJECT / script).read_text(encoding="utf-8")
        keys = [word.removeprefix("--").partition("=")[0] for word in words if re.match(r"--\w+\.", word)]
        options = [word.partition("=")[0] for word in words if word.startswith("--") and "." not in word]
        unknown = [option for option in options if option[2:] not in OWN_KEYS and f'"{option}"' not in code + shared]
        assert unknown == [], script
        if script.startswith("sample/"):
            fields = {*DiffusionSamplingSpec.model_fields, *GANSamplingSpec.model_fields}
            assert {key.removeprefix("sampling.") for key in keys} <= fields


@PAGE
def test_the_training_commands_of_a_page_are_valid(page, monkeypatch):
    """The specs accept their configs with their overrides."""
    monkeypatch.chdir(PROJECT)
    added = page.name == "extending.md"
    for script, *words in commands(page):
        stem = Path(script).stem
        if not script.startswith("train/") or added:
            continue
        configs = [path for word in words if re.match(r"configs/.*yaml$", word) for path in expand(word)]
        for path in [path for config in configs for path in glob.glob(config)]:
            content = read_config(path)
            if stem == "recipe":  # its options go to its stages, which test_structure.py validates
                validate(RecipeSpec, content, where=path)
                continue
            kind = KINDS.get(stem) or (FieldRun if "field" in content else AutoencoderRun)
            _, overrides = split_overrides(kind, [word for word in words if word not in configs])
            override(kind, content, overrides, path)


def test_the_commands_of_the_pages_are_found():
    """Without any, the tests above would pass without checking anything."""
    scripts = [command[0] for page in PAGES for command in commands(page)]
    assert len(scripts) > 60 and {Path(script).parts[0] for script in scripts} == {"train", "sample", "benchmarks"}


def test_the_readme_is_short():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").split()) <= 900
