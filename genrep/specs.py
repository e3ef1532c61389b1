"""The base class of specs: typed, validated descriptions of a model or of a run. Does not import torch.

The specs themselves are in the packages that they describe, such as `genrep/models/specs.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field

from genrep.errors import InputError, did_you_mean

S = TypeVar("S", bound="Spec")

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""The seeds that torch's generators accept."""
Frequencies = Annotated[int, Field(ge=0, le=24)]
"""Frequencies 1, 2, 4, ... of a positional encoding: beyond 24 a period is shorter than the spacing of float32 coordinates."""


def _one_or_two(size: Any) -> Any:
    if not isinstance(size, int) and len(size) != 2:
        raise ValueError("must be one number, or two: [height, width]")
    return size


Size = Annotated[PositiveInt | list[PositiveInt], AfterValidator(_one_or_two)]
"""Pixels: one number for a square, or [height, width]."""

GridSize = PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)]
"""A grid: one number for a square image, or one length per axis, for any number of axes."""


def grid_of(size: int | list[int]) -> tuple[int, ...]:
    """A `GridSize` as one length per axis."""
    return (size, size) if isinstance(size, int) else tuple(size)


class Mark:
    """A property of a field, in the metadata of its annotation."""

    def __init__(self, text: str):
        self.text = text


MAY_CHANGE = Mark("may change when a run is resumed")
"""Marks keys that affect what is reported, how often, or where files are, but not what is learned."""


def by_type(default: str) -> Any:
    """Distinguishes the specs of a union by `type`. Configs of earlier versions have none: they are of the `default` kind."""

    def tag(spec: Any) -> Any:
        return spec.get("type", default) if isinstance(spec, dict) else getattr(spec, "type", None)

    return Discriminator(tag)


class Spec(BaseModel):
    """Frozen and strict: unknown keys, wrong types and invalid values are errors. The string below a field is its help."""

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
        where: the beginning of the message if a key's origin is not known (a file, a class).
        origins: dotted key => file or option that set it.
    """
    try:
        return kind.model_validate(given)
    except pydantic.ValidationError as error:
        lines = [_explain(kind, problem, where, origins or {}) for problem in error.errors()]
        raise InputError("\n".join(dict.fromkeys(lines))) from None


def from_arguments(kind: type[S], arguments: Mapping[str, Any], where: str) -> S:
    """The spec of a constructor's arguments: `from_arguments(DenoiserSpec, locals(), "LatentDenoiser")`.

    Names that are not fields of the spec (`self`, `__class__`) are ignored. Tuples become lists, as in `config.json`.
    """
    values = {name: _plain(value) for name, value in arguments.items() if name in kind.model_fields}
    return validate(kind, values, where=where)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def variants(annotation: Any) -> dict[str, type[Spec]]:
    """The specs that an annotation admits, by `type` tag (or class name if they have none)."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        tag = annotation.model_fields.get("type")
        return {str(get_args(tag.annotation)[0]) if tag else annotation.__name__: annotation}
    specs: dict[str, type[Spec]] = {}
    if get_origin(annotation) is not None:
        for part in get_args(annotation):
            specs |= variants(part)
    return specs


def _explain(kind: type[Spec], problem: Any, where: str, origins: Mapping[str, str]) -> str:
    keys, owner = _readable_path(kind, problem["loc"])
    path = ".".join(keys)
    origin = next((origins[p] for p in (path, *_parents(path)) if p in origins), where)
    head = f"{origin}: {path}" if origin and path else origin or path
    value, fault = problem["input"], problem["type"]
    if fault == "extra_forbidden":
        allowed = sorted(owner.model_fields)
        return f"{head}: unknown key{did_you_mean(keys[-1], allowed) or ';'} allowed here: {', '.join(allowed)}"
    if fault == "missing":
        return f"{where}: {path}: this key is required" if where else f"{path}: this key is required"
    if fault in ("union_tag_invalid", "union_tag_not_found") and isinstance(value, Mapping):
        tags, got = sorted(variants_at(owner, keys[-1])), value.get("type")
        return f"{head}.type: must be one of {', '.join(tags)}; got {got!r}{did_you_mean(got, tags)}"
    if fault in ("model_type", "model_attributes_type", "union_tag_invalid", "union_tag_not_found"):
        nested = variants_at(owner, keys[-1]) if keys else {kind.__name__: kind}
        names = sorted(nested.popitem()[1].model_fields) if len(nested) == 1 else ["type", "..."]
        return f"{head}: must be a mapping of keys ({', '.join(names)}); got {value!r}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    suffix = ""
    if fault == "literal_error":
        suffix = did_you_mean(
            value, [part.strip("' ") for part in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
        )
    got = "" if isinstance(value, Mapping) else f"; got {value!r}"
    return f"{head}: {message[:1].lower() + message[1:]}{got}{suffix}"


def _parents(path: str) -> list[str]:
    keys = path.split(".")
    return [".".join(keys[:count]) for count in range(len(keys) - 1, 0, -1)]


def unmarked(spec: Spec, mark: Mark, at: str = "") -> dict[str, Any]:
    """The values of all fields without the mark, at any depth, by their dotted keys."""
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
            if part in options:  # a union's tag is not a key
                owner = options[str(part)]
                continue
            if len(options) != 1:  # inside a plain value: an index, or the name of a branch
                continue
            (owner,) = options.values()
        keys.append(str(part))
        last, options, owner = owner, variants_at(owner, str(part)), None
    return keys, last
