"""What a spec is: a typed, validated description of what a model is, or of how a run goes. Does not import torch.

The specs themselves are in the packages that they describe, such as `genrep/models/specs.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from genrep.errors import InputError, did_you_mean

S = TypeVar("S", bound="Spec")

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What torch's generators take."""
Frequencies = Annotated[int, Field(ge=0, le=24)]
"""Of a positional encoding 1, 2, 4, ...: past 24 the periods are shorter than the distance of two float32 coordinates."""


def _one_or_two(size: Any) -> Any:
    if not isinstance(size, int) and len(size) != 2:
        raise ValueError("give one number, or two: [height, width]")
    return size


Size = Annotated[PositiveInt | list[PositiveInt], AfterValidator(_one_or_two)]
"""Pixels: one number for a square, or [height, width]."""

GridSize = PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)]
"""A grid: one number for a square image, or one length per axis, any number of them."""


def grid_of(size: int | list[int]) -> tuple[int, ...]:
    """The lengths that a `GridSize` stands for."""
    return (size, size) if isinstance(size, int) else tuple(size)


class Mark:
    """Something said of a field besides its type, in its annotation's metadata."""

    def __init__(self, text: str):
        self.text = text


MAY_CHANGE = Mark("a resumed run may have it otherwise")
"""Marks keys that change what is shown, how often, or where things lie, but not what is learned."""


class Spec(BaseModel):
    """Frozen and strict: an unknown key, a wrong type or an impossible value is an error. A string below a field is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )


def validate(
    kind: type[S], given: Mapping[str, Any] | Any, where: str = "", origins: Mapping[str, str] | None = None
) -> S:
    """Build a spec from plain data. Raises one InputError that names every bad key.

    Args:
        kind: the spec class.
        given: plain data, as from YAML or `config.json`; anything but a mapping is an error.
        where: what the message starts with when a key's origin is not known (a file, a class).
        origins: dotted key -> file or option that set it.
    """
    try:
        return kind.model_validate(given)
    except pydantic.ValidationError as error:
        lines = [_explain(kind, problem, where, origins or {}) for problem in error.errors()]
        raise InputError("\n".join(dict.fromkeys(lines))) from None


def from_arguments(kind: type[S], arguments: Mapping[str, Any], where: str) -> S:
    """The spec of a constructor's arguments: `from_arguments(DenoiserSpec, locals(), "LatentDenoiser")`.

    Names that are no fields of the spec (`self`, `__class__`) are left out. Tuples stand for lists, as `config.json` has them.
    """
    given = {name: _plain(value) for name, value in arguments.items() if name in kind.model_fields}
    return validate(kind, given, where=where)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def variants(annotation: Any) -> dict[str, type[Spec]]:
    """The specs that an annotation admits, by their `type` tag (or class name when they have none)."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        tag = annotation.model_fields.get("type")
        return {str(get_args(tag.annotation)[0]) if tag else annotation.__name__: annotation}
    found: dict[str, type[Spec]] = {}
    if get_origin(annotation) is not None:
        for part in get_args(annotation):
            found |= variants(part)
    return found


def _explain(kind: type[Spec], problem: Any, where: str, origins: Mapping[str, str]) -> str:
    keys, owner = _readable_path(kind, problem["loc"])
    path = ".".join(keys)
    origin = next((origins[p] for p in (path, *_parents(path)) if p in origins), where)
    head = f"{origin}: {path}" if origin and path else origin or path
    given, fault = problem["input"], problem["type"]
    if fault == "extra_forbidden":
        allowed = sorted(owner.model_fields)
        return f"{head}: unknown key{did_you_mean(keys[-1], allowed) or ';'} allowed here: {', '.join(allowed)}"
    if fault == "missing":
        return f"{where}: {path}: this key is required and was not given" if where else f"{path}: this key is required"
    if fault in ("union_tag_invalid", "union_tag_not_found") and isinstance(given, Mapping):
        tags, got = sorted(variants_at(owner, keys[-1])), given.get("type")
        return f"{head}.type: got {got!r}; allowed: {', '.join(tags)}{did_you_mean(got, tags)}"
    if fault in ("model_type", "model_attributes_type", "union_tag_invalid", "union_tag_not_found"):
        nested = variants_at(owner, keys[-1]) if keys else {kind.__name__: kind}
        names = sorted(nested.popitem()[1].model_fields) if len(nested) == 1 else ["type", "..."]
        return f"{head}: must be a mapping of keys ({', '.join(names)}); got {given!r}"
    message = problem["msg"].removeprefix("Value error, ")
    suffix = ""
    if fault == "literal_error":
        suffix = did_you_mean(
            given, [part.strip("' ") for part in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
        )
    shown = "" if isinstance(given, Mapping) else f"got {given!r}; "
    return f"{head}: {shown}{message[:1].lower() + message[1:]}{suffix}"


def _parents(path: str) -> list[str]:
    keys = path.split(".")
    return [".".join(keys[:count]) for count in range(len(keys) - 1, 0, -1)]


def unmarked(spec: Spec, mark: Mark, at: str = "") -> dict[str, Any]:
    """The values of all fields but those that have the mark, at any depth, by their dotted keys."""
    values: dict[str, Any] = {}
    for name, info in type(spec).model_fields.items():
        value, key = getattr(spec, name), f"{at}.{name}" if at else name
        if mark in info.metadata:
            continue
        if isinstance(value, Spec):
            values |= unmarked(value, mark, key)
        else:
            values[key] = value
    return values


def variants_at(owner: type[Spec], key: str) -> dict[str, type[Spec]]:
    """The specs that the field `key` of `owner` admits."""
    info = owner.model_fields.get(key)
    return variants(info.annotation) if info else {}


def _readable_path(kind: type[Spec], loc: tuple[int | str, ...]) -> tuple[list[str], type[Spec]]:
    """The keys in an error's location, without pydantic's names of union branches, and the spec that owns the last one."""
    keys: list[str] = []
    owner: type[Spec] | None = kind
    last: type[Spec] = kind
    options: dict[str, type[Spec]] = {}
    for part in loc:
        if owner is None:
            if part in options:  # a union's tag is no key
                owner = options[str(part)]
                continue
            if len(options) != 1:  # inside a plain value: an index, or the name of a branch
                continue
            (owner,) = options.values()
        keys.append(str(part))
        last, options, owner = owner, variants_at(owner, str(part)), None
    return keys, last
