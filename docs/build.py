"""Build the documentation site into build/site, and check that nothing in it is missing or broken.

    python docs/build.py            # needs the extra: pip install -c constraints.txt -e ".[docs]"
    python docs/build.py --serve    # shows the site at http://localhost:8000 and follows changes in docs/

The pages in docs/ can be read on GitHub as they are. For the site they are copied to build/docs, next to pages that are
written elsewhere (WRITTEN_ELSEWHERE); links that leave docs/ become links to those pages, or to the repository.
"""

import argparse
import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PROJECT = Path(__file__).resolve().parent.parent
DOCS, CONFIG = PROJECT / "docs", PROJECT / "zensical.toml"
SETTINGS = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]
PAGES, SITE = PROJECT / SETTINGS["docs_dir"], PROJECT / SETTINGS["site_dir"]

WRITTEN_ELSEWHERE = {
    "tutorial.md": DOCS / "tutorial.ipynb",
    "contributing.md": PROJECT / "CONTRIBUTING.md",
    "changelog.md": PROJECT / "CHANGELOG.md",
}
"""Page of the site -> the file that it is made from."""

PAGE_FILES = (".md", ".png", ".jpg", ".gif", ".svg", ".css")
"""What is copied from docs/; scripts and notebooks are not."""

FENCED = re.compile(r"(^```.*?^```[ ]*$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="show the site and follow changes, instead of building it")
    if not importlib.util.find_spec("zensical"):
        parser.error('Zensical is not installed: pip install -c constraints.txt -e ".[docs]"')
    if parser.parse_args().serve:
        serve()
    else:
        problems = build()
        if problems:
            raise SystemExit("\n".join(problems))
        print(SITE / "index.html")


def build() -> list[str]:
    """Write the site. Returns what is wrong with it, one message each."""
    stage()
    problems = nav_problems()
    if problems:
        return problems
    shutil.rmtree(SITE, ignore_errors=True)
    command = [*zensical("build"), "--clean", "--strict"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8")
    if done.returncode:
        said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)  # in colour whether or not a terminal reads it
        return [said.partition("Traceback")[0] if "issues found" in said or "issue found" in said else said]
    return broken_links(SITE)


def serve() -> None:
    """Show the site until Ctrl-C. Zensical watches build/docs, this watches what build/docs is made from."""
    stage()
    server = subprocess.Popen(zensical("serve"), cwd=PROJECT)
    try:
        while server.poll() is None:
            time.sleep(1)
            stage()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()


def zensical(command: str) -> list[str]:
    return [sys.executable, "-m", "zensical", command, "--config-file", str(CONFIG)]


def stage() -> None:
    """Bring build/docs up to date; files that have not changed are left alone, and pages that are gone are removed."""
    files = dict(staged_files())
    for name, content in files.items():
        path = PAGES / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in PAGES.rglob("*"):
        if path.is_file() and path.relative_to(PAGES).as_posix() not in files:
            path.unlink()


def staged_files() -> Iterator[tuple[str, bytes]]:
    """(name below build/docs, content) of all pages and pictures."""
    for source in sorted(DOCS.rglob("*")):
        name = source.relative_to(DOCS).as_posix()
        if source.suffix == ".md":
            yield name, relinked(source.read_text(encoding="utf-8"), source, name).encode()
        elif source.suffix in PAGE_FILES:
            yield name, source.read_bytes()
    for name, source in WRITTEN_ELSEWHERE.items():
        if not source.exists():  # the check of the navigation names the page
            continue
        text = source.read_text(encoding="utf-8")
        if source.suffix == ".ipynb":
            text, pictures = notebook_page(json.loads(text), Path(name).stem)
            yield from pictures.items()
        yield name, relinked(text, source, name).encode()


def relinked(text: str, source: Path, page: str) -> str:
    """The text of a page whose relative links, written for the repository, lead to the same on the site.

    Args:
        text: Markdown.
        source: the file that it is from, which its links are relative to.
        page: the page's name on the site, which they will be relative to.
    """

    def on_site(match: re.Match[str]) -> str:
        link = urlsplit(match[1])
        if link.scheme or link.netloc or not link.path:
            return match[1]
        target = (source.parent / unquote(link.path)).resolve()
        name = next((name for name, origin in WRITTEN_ELSEWHERE.items() if origin == target), None)
        if name is None and target.is_relative_to(DOCS):
            name = target.relative_to(DOCS).as_posix()
        if name is None:
            if not target.is_relative_to(PROJECT) or not target.exists():
                return match[1]  # Zensical says that there is no such page
            kind = "tree" if target.is_dir() else "blob"
            return f"{SETTINGS['repo_url']}/{kind}/main/{target.relative_to(PROJECT).as_posix()}"
        relative = Path(os.path.relpath(name, Path(page).parent)).as_posix()
        return relative + (f"#{link.fragment}" if link.fragment else "")

    parts = FENCED.split(text)  # text, code, text, ...
    parts[::2] = [LINK.sub(on_site, part) for part in parts[::2]]
    return "".join(parts)


def notebook_page(notebook: dict[str, Any], folder: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by their names, in a folder next to the page."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{folder}/{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output of the cell above]({name})")
            elif text := "".join(output.get("text") or data.get("text/plain", "")).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n", pictures


def nav_problems() -> list[str]:
    """Pages that the navigation lacks, and entries of it that have no page."""
    named = list(nav_pages(SETTINGS["nav"]))
    staged = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")}
    sources = {name: origin.relative_to(PROJECT).as_posix() for name, origin in WRITTEN_ELSEWHERE.items()}
    problems = [f"zensical.toml names {name}, and there is no {sources.get(name, f'docs/{name}')}" for name in named]
    problems = [problem for problem, name in zip(problems, named, strict=True) if name not in staged]
    problems += [f"docs/{name} is not in the navigation of zensical.toml" for name in sorted(staged - set(named))]
    hidden = [name for name in WRITTEN_ELSEWHERE if (DOCS / name).exists()]
    return problems + [f"docs/{name} would be replaced by the page made from {sources[name]}" for name in hidden]


def nav_pages(entries: list[Any]) -> Iterator[str]:
    """The pages that a navigation names, in order."""
    for entry in entries:
        for title in entry:
            yield from [entry[title]] if isinstance(entry[title], str) else nav_pages(entry[title])


class Links(HTMLParser):
    """What a page links to, shows, and can be linked to at."""

    def __init__(self, html: str):
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := attributes.get(key))}
        self.targets |= {value for key in ("href", "src") if (value := attributes.get(key))}


def broken_links(site: Path) -> list[str]:
    """Links, pictures and anchors of a built site that lead nowhere; Zensical checks some of the pages' own only."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    problems = []
    for path, page in sorted(pages.items()):
        for target in sorted(page.targets):
            link = urlsplit(target)
            if link.scheme or link.netloc:
                continue
            place = Path(os.path.normpath(path.parent / unquote(link.path))) if link.path else path
            place = place / "index.html" if place.is_dir() else place
            lost = not place.is_file() or (
                link.fragment and place in pages and unquote(link.fragment) not in pages[place].anchors
            )
            if lost:
                problems.append(f"{path.relative_to(site).as_posix()}: {target} leads nowhere")
    return problems


if __name__ == "__main__":
    main()
