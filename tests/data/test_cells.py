"""A cell says one thing, whatever program wrote it; what may mean two things is refused."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.data.cells import (
    integer_of,
    matched,
    near_equal,
    number_of,
    positive,
    same_folder,
    text_of,
)
from ufm_jax.errors import DataError

E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("p0", "p0"),
        ("  p0\t", "p0"),
        ("\u00a0p0\u2009", "p0"),
        ("\ufeffp0", "p0"),
        ("\u200b p0 \u200b", "p0"),
        ("1.0", "1"),
        ("01.00", "01"),
        ("-2.000", "-2"),
        ("1.50", "1.50"),
        ("1.0.0", "1.0.0"),
        (unicodedata.normalize("NFD", f"caf{E_ACUTE}"), f"caf{E_ACUTE}"),
        ("none", "none"),
        ("Nan Li", "Nan Li"),
    ],
)
def test_a_text_is_one_name_however_it_was_written(cell, text):
    assert text_of(cell) == text


@pytest.mark.parametrize(
    "cell", ["", "  ", "nan", " NaN", "N/A", "NA ", "null", "None", "#N/A", "<NA>", "\ufeff"]
)
def test_what_stands_for_a_missing_value_is_empty_and_no_number(cell):
    assert text_of(cell) == ""
    assert math.isnan(number_of(cell))
    assert integer_of(cell) is None


@given(st.text())
def test_reading_a_text_again_changes_nothing(text):
    assert text_of(text_of(text)) == text_of(text)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("0.25", 0.25),
        ("0,25", 0.25),
        (" 0,25 ", 0.25),
        ("0,250", 0.25),
        (",5", 0.5),
        (".5", 0.5),
        ("44,3", 44.3),
        ("-1,5", -1.5),
        ("1.024", 1.024),
        ("1,024.5", 1024.5),
        ("1.024,5", 1024.5),
        ("1,024,000", 1024000),
        ("1.024.000", 1024000),
        ("1,0240", 1.024),
        ("1e-3", 0.001),
        ("512.0", 512),
    ],
)
def test_numbers_are_read_as_spreadsheets_write_them(cell, number):
    assert number_of(cell) == number


@pytest.mark.parametrize(
    "cell",
    [
        *("1,024", "12,345", "-1,024", "0.25 mm", "0,25mm", "inf", "-inf", "1e999", "1,2,3"),
        *("1.2.3", "10,00,000", "1,02.5", "--1", "1_000", "0x10", "about 1", "1 024", ","),
    ],
)
def test_what_is_no_number_or_may_mean_two_is_refused(cell):
    with pytest.raises(ValueError, match=r"may mean|is not a number"):
        number_of(cell)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_is_read_back_to_the_last_bit(number):
    assert number_of(repr(number)) == number


@pytest.mark.parametrize("begin", ["1", "1,", "1.", "-0", "1e"])
def test_a_long_cell_that_is_no_number_is_refused_at_once(begin):
    with pytest.raises(ValueError, match="is not a number"):
        number_of(begin + "1" * 100_000 + "x")


@pytest.mark.parametrize(("cell", "number"), [("512", 512), ("512.0", 512), ("1,024", 1024)])
def test_whole_numbers_may_be_grouped(cell, number):
    assert integer_of(cell) == number


@pytest.mark.parametrize("cell", ["1.024", "0,5", "1,5", "512 px", "1,024.5"])
def test_what_is_not_whole_is_refused_as_an_integer(cell):
    with pytest.raises(ValueError, match="is not a"):
        integer_of(cell)


@pytest.mark.parametrize("cell", ["0", "-0,25", "-1"])
def test_what_is_not_above_0_is_refused_as_a_length(cell):
    with pytest.raises(ValueError, match="not above 0"):
        positive(cell)


def test_names_that_only_a_person_can_tell_apart_are_named_together():
    nfd = unicodedata.normalize("NFD", E_ACUTE)
    names = ["p1", "P1", "p01", "p 1", "p10", "p100", "1.5", "1.05", E_ACUTE, nfd, "x"]
    assert near_equal(names) == [("P1", "p 1", "p01", "p1"), (nfd, E_ACUTE)]
    assert near_equal(["p1", "p1"]) == []


def test_settings_mean_names_as_cells_are_read():
    there = ("a", "b", "1", "b,c")
    assert matched("key", (" a", "1.0"), there) == ("a", "1")
    assert matched("key", ("b,c",), there) == ("b,c",)
    assert matched("key", ("usual", "a"), there, default=("usual",)) == ("a",)
    assert matched("key", ("MASK",), ("Mask", "mask"), meets=same_folder) == ("Mask", "mask")


@pytest.mark.parametrize("asked", [("c",), ("a", "A"), ("a,b",), ("",), ("mask", "c")])
def test_a_setting_that_matches_nothing_lists_what_there_is(asked):
    with pytest.raises(DataError, match=r"key: .* matches nothing; there is 'a', 'b'"):
        matched("key", asked, ("b", "a"), default=("mask",))


def test_of_many_names_the_first_are_listed():
    with pytest.raises(DataError, match=r"'00', '01', .*'19' and 30 more$"):
        matched("key", ("x",), [f"{number:02d}" for number in range(50)])
