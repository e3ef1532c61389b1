"""Write docs/reference/configuration.md, every key of every run's YAML, from the specs. Does not import torch.

    python docs/configuration.py

The page is committed, so that it can be read without building the site; tests/docs/test_configuration.py holds it equal
to the specs.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo

from genrep.files import write_text
from genrep.specs import MAY_CHANGE, Spec, variants
from genrep.training.specs import AutoencoderRun, ClassifierRun, CloudRun, DiffusionRun, FieldRun, GANRun

PAGE = Path(__file__).parent / "reference" / "configuration.md"

RUNS: dict[str, type[Spec]] = {
    "train/autoencoder.py": AutoencoderRun,
    "train/diffusion.py": DiffusionRun,
    "train/gan.py": GANRun,
    "train/classifier.py": ClassifierRun,
    "train/field.py": FieldRun,
    "train/clouds.py": CloudRun,
}
"""Script -> the spec of its YAML. `train/latents.py` takes the YAML of diffusion or of a GAN over latents."""

HEAD = """\
# Configuration reference

<!-- Written by `python docs/configuration.py` from the specs. Change the strings below the fields there, not this page. -->

Every key of every run's YAML. On the command line a key is written with dots, `--run.batch 32`; values are YAML. A config
may name others to start from with `base: other.yaml` (relative to itself; later ones win). The resolved config is saved as
`config.yaml` in the run folder. An unknown key, a wrong type or an impossible value stops a script before any work.

A resumed run may change the keys marked with *; all others must stay. [Training](../train.md) explains how runs go.
"""

TYPES = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", NoneType: "`null`"}


def main() -> None:
    print(write_text(PAGE, page()))


def page() -> str:
    """The whole page."""
    sections = list(find_sections())
    lines = [HEAD]
    for script, kind in RUNS.items():
        lines += [f"## `{script}`", "", *sentences(kind), *table(kind, "", script, sections)]
    lines += ["## Sections", ""]
    for section in sections:
        lines += [f"### {section.title}", "", *sentences(section.spec), f"In {spoken(section.scripts)}.", ""]
        lines += table(section.spec, section.path, section.scripts[0], sections)
    return "\n".join(lines).rstrip() + "\n"


class Section:
    """The keys of one spec below one dotted path, and the scripts whose YAML has them."""

    def __init__(self, path: str, spec: type[Spec]):
        self.path, self.spec, self.scripts, self.title = path, spec, list[str](), f"`{path}`"
        if is_tagged(spec):
            self.title += f", type `{tag(spec)}`"

    @property
    def anchor(self) -> str:
        """What both GitHub and the site make of the title."""
        kept = "".join(character for character in self.title.lower() if character.isalnum() or character in " -_")
        return kept.replace(" ", "-")


def find_sections() -> Iterable[Section]:
    """All sections, in the order in which the runs' specs name them."""
    sections: dict[tuple[str, type[Spec]], Section] = {}
    for script, kind in RUNS.items():
        for path, spec in nested(kind):
            section = sections.setdefault((path, spec), Section(path, spec))
            if script not in section.scripts:
                section.scripts.append(script)
    titles = [section.title for section in sections.values()]
    for section in sections.values():
        if titles.count(section.title) > 1:  # `sampling` of diffusion is not that of a GAN
            section.title += f" of {spoken(section.scripts)}"
    return sections.values()


def nested(spec: type[Spec], at: str = "") -> Iterator[tuple[str, type[Spec]]]:
    """(dotted path, spec) of what a spec contains, at any depth."""
    for name, info in spec.model_fields.items():
        path = f"{at}.{name}" if at else name
        for choice in variants(info.annotation).values():
            yield path, choice
            yield from nested(choice, path)


def table(spec: type[Spec], at: str, script: str, sections: list[Section]) -> list[str]:
    """Markdown of a spec's keys."""
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, info in spec.model_fields.items():
        path = f"{at}.{name}" if at else name
        choices = [section for section in sections if section.path == path and script in section.scripts]
        choices = [section for section in choices if section.spec in variants(info.annotation).values()]
        star = "*" if MAY_CHANGE in info.metadata else ""
        meaning = info.description or ("Selects this section." if name == "type" else "")
        meaning = " ".join(meaning.split()).replace("|", "\\|")
        lines.append(f"| `{name}`{star} | {kind_of(info, choices)} | {default(info)} | {meaning} |")
    return [*lines, ""]


def kind_of(info: FieldInfo, choices: list[Section]) -> str:
    """What a key takes: a section, or a type with its bounds."""
    if not choices:
        return type_text(info.annotation, info.metadata)
    links = [
        f"[{f'`{tag(section.spec)}`' if is_tagged(section.spec) else 'section'}](#{section.anchor})"
        for section in choices
    ]
    return ", ".join(links) + (" or `null`" if NoneType in get_args(info.annotation) else "")


def type_text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words, with the bounds that its metadata sets."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], [*metadata, *flattened(arguments[1:])])
    if origin in (Union, UnionType):
        return " or ".join(type_text(part) for part in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {type_text(arguments[0])}{length(flattened(metadata))}"
    if annotation not in TYPES:
        raise TypeError(f"docs/configuration.py has no words for {annotation}")
    bounds = [bound for item in flattened(metadata) if (bound := bound_text(item))]
    return " ".join([TYPES[annotation], " and ".join(bounds)]).strip()


def flattened(metadata: Iterable[Any]) -> list[Any]:
    """pydantic's Field in an annotation carries its bounds in a list of its own."""
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def bound_text(item: Any) -> str:
    """A bound of a number; nothing for what is none, such as a validator."""
    match item:
        case Gt(gt=bound):
            return f"> {bound}"
        case Ge(ge=bound):
            return f"≥ {bound}"
        case Lt(lt=bound):
            return "< 2^63" if bound == 2**63 else f"< {bound}"
        case Le(le=bound):
            return f"≤ {bound}"
    return ""


def length(metadata: list[Any]) -> str:
    """How many items a list must have, where that is bounded."""
    low = next((item.min_length for item in metadata if isinstance(item, MinLen)), 0)
    high = next((item.max_length for item in metadata if isinstance(item, MaxLen)), None)
    if high is None:
        return f" ({low} or more)" if low else ""
    return f" (exactly {low})" if low == high else f" ({low} to {high})"


def default(info: FieldInfo) -> str:
    """A key's default, as YAML."""
    if info.is_required():
        return "required"
    value = info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]
    if isinstance(value, Spec):
        return f"`{tag(type(value))}`" if is_tagged(type(value)) else "its defaults"
    return f"`{value}`" if value and isinstance(value, str) else f"`{json.dumps(value)}`"


def is_tagged(spec: type[Spec]) -> bool:
    """Whether `type` chooses this spec among others, rather than being a setting of it."""
    info = spec.model_fields.get("type")
    return info is not None and get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1


def tag(spec: type[Spec]) -> str:
    """The `type` that chooses a spec."""
    return str(get_args(spec.model_fields["type"].annotation)[0])


def sentences(spec: type[Spec]) -> list[str]:
    """A spec's docstring, as lines of Markdown."""
    return [line.strip() for line in (spec.__doc__ or "").strip().splitlines()] + [""]


def spoken(scripts: list[str]) -> str:
    """Names of scripts in a sentence."""
    return ", ".join(f"`{script}`" for script in scripts)


if __name__ == "__main__":
    main()
