"""Values as a line of text, as JSON, and as pictures."""

from __future__ import annotations

import io
import json
from datetime import datetime

import numpy as np
import pytest
from cli_process import Sign
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

import atdata
from atdata.cli.pictures import can_draw, picture
from atdata.cli.reporting import clean
from atdata.cli.values import fields_of, summary, to_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("short", "short"),
        (["a", "b'c"], "['a', \"b'c\"]"),
        (3, "3"),
        (0.1, "0.1"),
        (True, "True"),
        (b"12345", "5 B of bytes"),
        (np.zeros((3, 4), np.float32), "float32 3×4"),  # noqa: RUF001
        (np.arange(9), "int64 [9]"),
        (np.array([1.5, 2.25]), "float64 [1.5 2.25]"),
        (np.array(7, ">i2"), "int16 7"),
        (atdata.Image(b"\x89PNG\r\n\x1a\n"), "png, 8 B"),
        (datetime(2020, 1, 2, 3), "2020-01-02 03:00:00"),
        ([1, [2, 3], {"a": (4,)}], "[1, [2, 3], {a: (4)}]"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, … 1,000 in all]"),
        (Sign(np.zeros(2, np.uint8), 1), "Sign(image=uint8 [0 0], label=1, note=None)"),
    ],
)
def test_one_line(value, text):
    assert summary(value) == text


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
arrays = hnp.arrays(st.sampled_from(["u1", "<f4", ">i8", "?", "<U3", "<c8", "M8[s]"]), hnp.array_shapes(max_side=3))
values = st.recursive(leaves | arrays, lambda v: st.lists(v) | st.dictionaries(st.text(), v) | st.tuples(v, v))


@given(values)
def test_every_value_is_a_line_that_steers_nothing_and_strict_json(value):
    line = summary(value)
    assert "\x1b" not in line
    assert "\n" not in line
    assert len(line) < 500 or isinstance(value, list | dict | tuple)
    json.dumps(to_json(value), allow_nan=False).encode()


@given(st.text())
def test_clean_text_is_printable(text):
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in clean(text))


def test_fields_of_both_kinds_of_sample():
    assert list(fields_of(Sign(np.zeros(2, np.uint8), 1))) == ["image", "label", "note"]
    assert fields_of(atdata.DictSample(a=1)) == {"a": 1}


def console(**options):
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", **options)


def rows(text):
    return text.plain.split("\n")


def test_pictures_have_the_colours_of_their_pixels():
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = (255, 0, 10)
    drawn = picture(image, console())
    assert rows(drawn) == ["▀▀▀▀", "▀▀▀▀"]
    assert str(drawn.spans[0].style) == "rgb(255,0,10) on rgb(0,0,0)"


def test_gray_pictures_are_stretched():
    drawn = picture(np.arange(16.0).reshape(4, 4) / 1000, console())
    assert str(drawn.spans[0].style).startswith("rgb(0,0,0)")
    assert str(drawn.spans[-1].style).endswith("rgb(255,255,255)")


def test_large_pictures_are_averaged():
    image = np.zeros((1000, 500), np.float32)
    image[:, 250:] = 1
    drawn = rows(picture(image, console()))
    assert len(drawn) == 12
    assert {len(row) for row in drawn} == {12}


@pytest.mark.parametrize(
    "value",
    ["text", None, np.zeros(10), np.zeros((2, 50)), np.zeros((3, 3)), np.zeros((4, 4, 3), np.int32),
     np.zeros((4, 4), "<U3"), np.zeros((4, 4), complex), atdata.Image(b"no image")],
)  # fmt: skip
def test_what_is_no_picture(value):
    assert picture(value, console()) is None


@pytest.mark.parametrize("fill", [np.nan, np.inf, 1e308, -1e308])
def test_numbers_that_are_hard_to_draw(fill):
    image = np.random.default_rng(0).normal(size=(9, 7)) if fill else np.zeros((9, 7))
    image[2, 3] = fill
    assert len(rows(picture(image, console()))) == 5
    assert len(rows(picture(np.full((8, 8), fill), console()))) == 4


def test_encoded_images_are_drawn():
    image = atdata.Image.encode(np.full((8, 8, 3), 9, np.uint8))
    assert len(rows(picture(image, console()))) == 4


def test_where_pictures_can_be_drawn():
    assert not can_draw(Console(file=io.StringIO(), force_terminal=False))
