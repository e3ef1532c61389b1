"""Files that describe the project: what is cited, what CI runs, what is published."""

import re
import tomllib
from itertools import product

import pytest

import genrep
from genrep.training.config import parse_yaml
from tests.scripts import PROJECT

DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def yaml(name: str) -> dict:
    return parse_yaml((PROJECT / name).read_text(encoding="utf-8"), name)


def test_the_citation_names_the_five_papers():
    citation = yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys(), "what the format requires"
    assert (citation["version"], citation["license"]) == (genrep.__version__, DECLARED["license"])
    papers = {
        (paper["authors"][0]["family-names"], paper["year"], len(paper["authors"])) for paper in citation["references"]
    }
    assert papers == {("Zhang", 2024, 7), ("Lee", 2023, 4), ("Li", 2024, 4), ("Luijmes", 2024, 1), ("Hao", 2022, 4)}
    assert all(paper["type"] in ("article", "thesis") and paper["title"] for paper in citation["references"])


def test_ci_runs_the_tests_everywhere():
    tests = yaml(".github/workflows/tests.yml")
    matrix = tests["jobs"]["tests"]["strategy"]["matrix"]
    systems, versions = matrix["os"], matrix["python-version"]
    assert set(product(systems, versions)) == set(
        product(["ubuntu-latest", "macos-latest", "windows-latest"], ["3.11", "3.13"])
    )
    commands = {name: [step.get("run") for step in job["steps"]] for name, job in tests["jobs"].items()}
    assert "python -m pytest" in commands["tests"] and "python docs/build.py" in commands["pages"]
    assert "mypy" in commands["style"]


def test_ci_runs_the_slow_tests_every_week():
    slow = yaml(".github/workflows/slow.yml")
    (schedule,) = slow["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", schedule["cron"])
    assert {"run": "python -m pytest -m slow"} in slow["jobs"]["slow"]["steps"]
    assert slow["jobs"]["slow"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.13"]


@pytest.mark.parametrize("name", ["tests", "slow"])
def test_what_ci_installs_is_declared(name):
    """Extras by their names, and the versions of constraints.txt."""
    text = (PROJECT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    installs = re.findall(r"pip install (.*)", text)
    assert installs
    for command in installs:
        (extra,) = re.findall(r'^-c constraints.txt -e "\.\[(\w+)\]"$', command)
        assert extra in DECLARED["optional-dependencies"]


def test_hooks_check_style_and_types():
    hooks = [hook["id"] for repository in yaml(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {"ruff-check", "ruff-format", "mypy", "end-of-file-fixer", "check-yaml"} <= set(hooks)


def test_versions_of_python_agree():
    """What is required, what is declared and what CI tries."""
    assert DECLARED["requires-python"] == ">=3.11"
    versions = {line.rpartition(" ")[2] for line in DECLARED["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert versions == {"3.11", "3.12", "3.13"}


def test_the_changelog_has_this_version():
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+?)(?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and genrep.__version__ in versions
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_links_of_the_package_are_one_repository():
    repository = DECLARED["urls"]["Homepage"]
    assert all(link.startswith(repository) for link in DECLARED["urls"].values())
    assert tomllib.loads((PROJECT / "zensical.toml").read_text(encoding="utf-8"))["project"]["repo_url"] == repository
    assert yaml("CITATION.cff")["repository-code"] == repository
