"""Options that scripts share: how they are parsed, and messages for invalid ones."""

import argparse

import pytest

from genrep.devices import DTYPES
from genrep.errors import InputError
from genrep.options import add_device_options, parse_classes, parse_region, parse_size

ANIMALS = {0: "cat", 1: "dog", 2: "sea lion", 3: "4-5"}
DIGITS = {label: str(label) for label in range(10)}


# classes


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0-9", list(range(10))),
        ("3,5,7", [3, 5, 7]),
        ("7, 3 ,3", [7, 3, 3]),
        ("1-3,9,2-2", [1, 2, 3, 9, 2]),
    ],
)
def test_labels_and_ranges_in_the_order_given(text, labels):
    assert parse_classes(text, DIGITS) == labels


def test_names_of_classes():
    assert parse_classes("dog,cat,sea lion,2,0-1", ANIMALS) == [1, 0, 2, 2, 0, 1]
    assert parse_classes("4-5", ANIMALS) == [3]  # a name that looks like a range
    assert parse_classes("1", {0: "1", 1: "0"}) == [1]  # a number is a label, whatever the names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "--classes must be in 0 to 9, the classes of this model; got 10"),
        ("8-12", "--classes must be in 0 to 9, the classes of this model; got 10"),
        ("5-3", "--classes must be labels, ranges or names, as in 0-9 or 3,5; got '5-3'"),
        ("-1", "--classes must be labels, .*; got '-1'"),
        ("", "--classes must be labels, .*; got ''"),
        ("1,,2", "--classes must be labels, .*; got ''"),
        ("1.5", "--classes must be labels, .*; got '1.5'"),
    ],
)
def test_unknown_classes_are_refused(text, message):
    with pytest.raises(InputError, match=f"^{message}"):
        parse_classes(text, DIGITS)


def test_a_misspelt_class_suggests_the_closest_name():
    with pytest.raises(
        InputError, match=r"; got 'sea loin'; did you mean 'sea lion'\?. The names are cat, dog, sea lion, 4-5$"
    ):
        parse_classes("sea loin", ANIMALS)


def test_a_model_without_classes_takes_none():
    with pytest.raises(
        InputError, match=r"^--classes '3': this model was trained without classes; leave it out and give --num-images$"
    ):
        parse_classes("3", {})


def test_a_superscript_is_not_a_label():
    with pytest.raises(InputError, match="got '²'"):
        parse_classes("²", DIGITS)


# sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [(None, None), ("64", 64), ("48x64", (48, 64)), ("48×64", (48, 64)), ("48,64", (48, 64)), ("8x16x12", (8, 16, 12))],
)
def test_a_size_is_one_number_or_one_per_axis(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0x8", "8x0", "-8", "8x", "x8", "8x8x0", "8.5", "big", "8 x 8"])
def test_other_sizes_are_refused(text):
    with pytest.raises(
        InputError,
        match=rf"^--size must be a positive integer, or one per axis as in 48x64 \(height × width\); got '{text}'$",
    ):
        parse_size(text)


# regions


def test_a_region_is_starts_then_ends():
    assert parse_region(None) is None
    assert parse_region("-1,0,0.5,1") == (-1, 0, 0.5, 1)
    assert parse_region("0,1") == (0, 1) and parse_region("0,0,0,1,1,1", num_axes=3) == (0, 0, 0, 1, 1, 1)


@pytest.mark.parametrize("text", ["0,0,1", "0,0,1,x", "", "0", "0;0;1;1"])
def test_other_regions_are_refused(text):
    any_axes = r"the starts, then the ends, of all axes, separated by commas \(for an image -1,-1,0,0\)"
    for num_axes, required in ((None, any_axes), (2, "4 numbers separated by commas")):
        with pytest.raises(InputError, match=f"^--region must be {required}; got '{text}'$"):
            parse_region(text, num_axes)


def test_a_region_must_have_the_number_of_axes():
    with pytest.raises(InputError, match="^--region must be 6 numbers separated by commas; got '0,0,1,1'$"):
        parse_region("0,0,1,1", num_axes=3)


# devices


def test_number_types_have_the_names_of_devices():
    parser = argparse.ArgumentParser()
    add_device_options(parser)
    assert parser.parse_args([]).dtype == "fp32"
    for name in DTYPES:
        assert parser.parse_args(["--dtype", name]).dtype == name
    with pytest.raises(SystemExit):
        parser.parse_args(["--dtype", "fp8"])
