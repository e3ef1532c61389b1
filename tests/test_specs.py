"""Specs: what is accepted, what is refused, and that every message names the key, the value and what to do."""

import inspect
from typing import Annotated, Literal

import pydantic
import pytest
from pydantic import Field

from genrep.data import ArrayDataSpec, DataSpec, ImageDataSpec
from genrep.diffusion import NoiseSpec
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.classifier import ImageClassifier
from genrep.models.denoiser import LatentDenoiser
from genrep.models.specs import AutoencoderSpec, DenoiserSpec
from genrep.specs import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Size, Spec, validate, variants
from genrep.training.specs import ClassifierArchitecture, DiffusionRun


class Named(Spec):
    type: Literal["named"]
    name: Literal["red", "green", "blue"] = "red"


class Mixed(Spec):
    type: Literal["mixed"]
    parts: list[PositiveFloat] = Field(min_length=2)


class Paint(Spec):
    """Every kind of field there is: plain, optional, a size, a spec, a union of specs."""

    colour: Annotated[Named | Mixed, Field(discriminator="type")]
    coats: PositiveInt = 2
    thinner: Fraction = 0.5
    layers: NonNegativeInt | None = None
    glossy: bool = False
    size: Size = 8


def paint(**values) -> Paint:
    return validate(Paint, {"colour": {"type": "named"}, **values}, where="paint.yaml")


def refusal(**values) -> str:
    with pytest.raises(InputError) as error:
        paint(**values)
    return str(error.value)


def test_plain_data_becomes_a_frozen_spec():
    spec = paint(colour={"type": "mixed", "parts": [1, 2.5]}, size=[8, 16], layers=0)
    assert isinstance(spec.colour, Mixed) and spec.colour.parts == [1.0, 2.5]
    assert (spec.coats, spec.thinner, spec.size, spec.layers) == (2, 0.5, [8, 16], 0)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        spec.coats = 3


def test_an_unknown_key_suggests_the_closest():
    assert refusal(cotas=3).startswith(
        "paint.yaml: cotas: unknown key; did you mean 'coats'? allowed here: coats, colour, glossy, layers, size, thinner"
    )
    assert "did you mean" not in refusal(zzzzz=3)


def test_inside_a_union_only_the_chosen_variants_keys_are_allowed():
    assert (
        refusal(colour={"type": "mixed", "parts": [1, 2], "nam": "red"})
        == "paint.yaml: colour.nam: unknown key; allowed here: parts, type"
    )
    assert (
        refusal(colour={"type": "named", "nam": "red"})
        == "paint.yaml: colour.nam: unknown key; did you mean 'name'? allowed here: name, type"
    )


def test_a_wrong_or_missing_type_lists_the_variants():
    assert (
        refusal(colour={"type": "mxed"})
        == "paint.yaml: colour.type: must be one of mixed, named; got 'mxed'; did you mean 'mixed'?"
    )
    assert refusal(colour={"parts": [1, 2]}) == "paint.yaml: colour.type: must be one of mixed, named; got None"


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match=r"^paint.yaml: colour: this key is required$"):
        validate(Paint, {}, where="paint.yaml")
    assert refusal(colour={"type": "mixed"}) == "paint.yaml: colour.parts: this key is required"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coats", "2"),
        ("coats", 2.0),
        ("coats", True),
        ("thinner", "0.5"),
        ("glossy", 1),
        ("glossy", "yes"),
        ("layers", "none"),
    ],
)
def test_nothing_is_converted_silently(key, value):
    assert refusal(**{key: value}).startswith(f"paint.yaml: {key}: must be a valid ")


def test_anything_but_a_mapping_is_refused():
    assert refusal(colour=3) == "paint.yaml: colour: must be a mapping of keys (type, ...); got 3"
    with pytest.raises(InputError, match=r"^paint.yaml: must be a mapping of keys \(.*coats.*\); got \[1\]$"):
        validate(Paint, [1], where="paint.yaml")


@pytest.mark.parametrize(
    ("key", "value", "required"),
    [
        ("coats", 0, "greater than 0"),
        ("coats", -3, "greater than 0"),
        ("thinner", 1.0, "less than 1"),
        ("thinner", -0.1, "greater than or equal to 0"),
        ("layers", -1, "greater than or equal to 0"),
    ],
)
def test_an_invalid_value_says_what_is_valid(key, value, required):
    assert refusal(**{key: value}) == f"paint.yaml: {key}: must be {required}; got {value!r}"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value):
    assert "colour.parts: must be a finite number; got" in refusal(colour={"type": "mixed", "parts": [1.0, value]})


def test_a_misspelt_choice_suggests_the_closest():
    assert refusal(colour={"type": "named", "name": "gren"}) == (
        "paint.yaml: colour.name: must be 'red', 'green' or 'blue'; got 'gren'; did you mean 'green'?"
    )


def test_an_index_into_a_list_is_not_a_key():
    assert (
        refusal(colour={"type": "mixed", "parts": [1, -1]})
        == "paint.yaml: colour.parts: must be greater than 0; got -1"
    )


@pytest.mark.parametrize("size", [8, [8, 16]])
def test_a_size_is_one_number_or_two(size):
    assert paint(size=size).size == size


@pytest.mark.parametrize("size", [0, -1, [], [8], [8, 8, 8], [8, 0], "8", 8.0, None, True])
def test_other_sizes_are_refused(size):
    assert refusal(size=size).startswith("paint.yaml: size: must be ")


def test_all_errors_are_reported_at_once_one_per_line():
    lines = refusal(coats=0, thinner=2.0, cotas=1, colour={"type": "mixed", "parts": [-1, -1]}).splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == ["coats", "colour.parts", "cotas", "thinner"]


def test_the_origin_is_of_the_key_then_its_section_then_the_default():
    origins = {"coats": "command line", "colour": "colours.yaml", "colour.type": "command line"}
    with pytest.raises(InputError) as error:
        validate(
            Paint,
            {"coats": 0, "glossy": 3, "colour": {"type": "named", "name": "gray"}},
            where="paint.yaml",
            origins=origins,
        )
    lines = {line.split(": ")[1]: line.split(": ")[0] for line in str(error.value).splitlines()}
    assert lines == {"coats": "command line", "glossy": "paint.yaml", "colour.name": "colours.yaml"}


def test_a_rule_over_several_keys_speaks_for_the_whole():
    with pytest.raises(InputError, match=r"^NoiseSpec: beta_start must be below beta_end; got 0.5 and 0.1$"):
        validate(NoiseSpec, {"beta_start": 0.5, "beta_end": 0.1}, where="NoiseSpec")


@pytest.mark.parametrize("value", [[1], None, 3, "digits"])
def test_anything_but_a_mapping_has_no_type(value):
    run = {"autoencoder": "anr", "run": {"folder": "run", "batch": 1, "steps": 1}}
    for kind, key, rest in ((Paint, "colour", {}), (DiffusionRun, "data", run)):
        with pytest.raises(InputError) as error:
            validate(kind, {**rest, key: value})
        assert str(error.value) == f"{key}: must be a mapping of keys (type, ...); got {value!r}"


def test_variants_are_found_by_tag():
    assert variants(Paint.model_fields["colour"].annotation) == {"named": Named, "mixed": Mixed}
    assert variants(DataSpec) == {"images": ImageDataSpec, "arrays": ArrayDataSpec}
    assert variants(NoiseSpec | None) == {"NoiseSpec": NoiseSpec}
    assert variants(int | None) == {}


@pytest.mark.parametrize(
    ("spec", "model", "whole"),
    [
        (AutoencoderSpec, INRAutoencoder, True),
        (DenoiserSpec, LatentDenoiser, True),
        (ClassifierArchitecture, ImageClassifier, False),
    ],
)
def test_a_spec_and_its_constructor_have_the_same_arguments_and_defaults(spec, model, whole):
    arguments = {
        name: argument.default
        for name, argument in inspect.signature(model.__init__).parameters.items()
        if name != "self"
    }
    fields = spec.model_fields
    assert fields.keys() == arguments.keys() if whole else fields.keys() < arguments.keys()
    both = [
        name for name in fields if not fields[name].is_required() and arguments[name] is not inspect.Parameter.empty
    ]
    assert len(both) >= 3
    assert {name: fields[name].default for name in both} == {name: arguments[name] for name in both}
    assert [name for name in fields if fields[name].is_required() != (arguments[name] is inspect.Parameter.empty)] == []


@pytest.mark.parametrize("spec", [AutoencoderSpec, DenoiserSpec, ClassifierArchitecture, ImageDataSpec])
def test_a_string_below_a_field_is_its_help(spec):
    """For the `type` tag, --help shows the docstring of the spec."""
    assert spec.__doc__
    assert [name for name, info in spec.model_fields.items() if not info.description and name != "type"] == []
