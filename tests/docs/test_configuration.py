"""The configuration reference is complete and agrees with the specs."""

import re

from docs.configuration import PAGE, RUNS, page, type_text
from genrep.specs import Fraction, GridSize, Seed, Size, Spec, variants
from genrep.training.config import describe

TEXT = PAGE.read_text(encoding="utf-8")


def keys_of_the_page() -> set[str]:
    """Dotted keys: those of every table row, under the path in the heading above. Keys of a script itself have no path."""
    keys, path = set(), ""
    for line in TEXT.splitlines():
        if heading := re.match(r"#+ `([\w.]+)`", line):
            path = heading[1] + "."
        elif line.startswith("## `"):  # a script
            path = ""
        elif row := re.match(r"\| `(\w+)`", line):
            keys.add(path + row[1])
    return keys


def keys_of_help() -> set[str]:
    """Dotted keys in the scripts' --help: those that take a value, and those of sections."""
    lines = [line for kind in RUNS.values() for line in describe(kind)]
    return {match[1] for line in lines if (match := re.match(r"(?:  --)?([a-z][\w.]*)[: ]", line))}


def test_the_committed_page_agrees_with_the_specs():
    assert page() == TEXT, "specs have changed: run `python docs/configuration.py` and commit the page"


def test_every_key_of_every_run_is_on_the_page():
    assert keys_of_the_page() == keys_of_help()


def specs_in(kind: type[Spec], path: str = "") -> set[tuple[str, type[Spec]]]:
    """A spec and all specs in it, with their paths."""
    inner = [(f"{path}.{name}", info) for name, info in kind.model_fields.items()]
    return {(path, kind)}.union(
        *(specs_in(choice, key) for key, info in inner for choice in variants(info.annotation).values())
    )


def test_keys_that_share_a_name_have_separate_rows():
    """Such as `dim` of every encoder: there is one row for every field of every spec at every path."""
    specs = set().union(*(specs_in(kind) for kind in RUNS.values()))
    assert len(re.findall(r"^\| `", TEXT, re.MULTILINE)) == sum(len(kind.model_fields) for _, kind in specs)


def test_every_key_has_a_meaning():
    rows = re.findall(r"^\| `\w+`\*? .*$", TEXT, re.MULTILINE)
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_links_lead_to_headings_of_the_page():
    """Anchors as on GitHub; test_site.py checks the built site."""
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\(#(.*?)\)", TEXT))
    assert links and links <= anchors


def test_types_in_words():
    assert type_text(Fraction) == "number ≥ 0 and < 1"
    assert type_text(Seed) == "integer ≥ 0 and < 2^63"
    assert type_text(Size) == "integer > 0 or list of integer > 0"
    assert type_text(GridSize) == "integer > 0 or list of integer > 0 (1 or more)"
    assert type_text(list[str] | None) == "list of text or `null`"
