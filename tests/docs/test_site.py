"""The site has every page, complete and in its navigation; the build itself is tested where Zensical is installed."""

import json
import re

import pytest

import genrep
from docs.build import (
    DOCS,
    PROJECT,
    SETTINGS,
    WRITTEN_ELSEWHERE,
    broken_links,
    build,
    nav_pages,
    notebook_page,
    relinked,
)

NAV = list(nav_pages(SETTINGS["nav"]))
API = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "reference" / "api").glob("*.md")}


@pytest.mark.parametrize("page", NAV)
def test_every_page_of_the_navigation_exists(page):
    assert WRITTEN_ELSEWHERE.get(page, DOCS / page).is_file()


def test_every_page_is_in_the_navigation_once():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages | WRITTEN_ELSEWHERE.keys()) == sorted(NAV)


def test_every_public_name_is_in_the_api_reference():
    for name in genrep.__all__:
        module = genrep._HOMES[name]
        assert f"#{module}.{name})" in API["index"] and any(f"::: {module}\n" in text for text in API.values())


def test_every_module_but_training_is_in_the_api_reference():
    documented = [name for text in API.values() for name in re.findall(r"^::: genrep\.(\S+)$", text, re.MULTILINE)]
    internal = ("__init__", "training", "lock", "options", "plots", "sampling")
    modules = set()
    for path in (PROJECT / "genrep").rglob("*.py"):
        parts = path.relative_to(PROJECT / "genrep").with_suffix("").parts
        if parts[0] not in internal and re.search(r"^(class|def) ", path.read_text(encoding="utf-8"), re.MULTILINE):
            modules.add(".".join(parts).removesuffix(".__init__"))
    assert sorted(documented) == sorted(modules), "add a new module to a page of docs/reference/api/"


def test_links_have_the_same_targets_on_the_site():
    text = "[a](data.md#x) [b](tutorial.ipynb) [c](../CONTRIBUTING.md) [d](../LICENSE) [e](https://x.y/z.md) [f](#here)"
    assert relinked(text, DOCS / "train.md", "train.md") == (
        f"[a](data.md#x) [b](tutorial.md) [c](contributing.md) [d]({SETTINGS['repo_url']}/blob/main/LICENSE) "
        "[e](https://x.y/z.md) [f](#here)"
    )
    page = DOCS / "papers" / "anr.md"
    assert (
        relinked("[a](../data.md) ![b](../digits.png)", page, "papers/anr.md") == "[a](../data.md) ![b](../digits.png)"
    )
    assert relinked("[a](docs/data.md) [b](configs)", PROJECT / "CONTRIBUTING.md", "contributing.md") == (
        f"[a](data.md) [b]({SETTINGS['repo_url']}/tree/main/configs)"
    )
    code = "```\n[a](../LICENSE)\n```\n"
    assert relinked(code, DOCS / "train.md", "train.md") == code
    assert relinked("[a](nowhere.md)", DOCS / "train.md", "train.md") == "[a](nowhere.md)", "Zensical reports it"


def test_a_notebook_becomes_a_page():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "display_data", "data": {"image/png": "AAEC", "text/plain": ["<Figure>"]}},
        {"output_type": "execute_result", "data": {"text/plain": ["torch.Size([3])"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": outputs},
    ]
    text, pictures = notebook_page(json.loads(json.dumps({"cells": cells})), "tutorial")
    assert text == (
        "# Title\nText.\n\n```python\nprint(1)\n```\n\n```text\none\ntwo\n```\n\n"
        "![Output of the cell above](tutorial/0.png)\n\n```text\ntorch.Size([3])\n```\n"
    )
    assert pictures == {"tutorial/0.png": b"\x00\x01\x02"}


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<a href="a/#here">x</a><a href="a/#gone">x</a><img src="none.png">')
    (tmp_path / "a" / "index.html").write_text(
        '<p id="here"><a href="..">x</a><a href="../b/">x</a><a href="#here">x</a>'
    )
    assert broken_links(tmp_path) == [
        "a/index.html: ../b/ leads nowhere",
        "index.html: a/#gone leads nowhere",
        "index.html: none.png leads nowhere",
    ]


def test_the_site_builds_without_a_broken_link():
    """Takes about ten seconds: renders every page, collects the API from the sources, follows every link and anchor."""
    pytest.importorskip("zensical", reason='needs pip install -e ".[docs]"')
    assert build() == []
