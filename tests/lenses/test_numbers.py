"""Numbers as other numbers: exact or refused, in Python's own numbers and in arrays alike."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atdata.errors import LensValueError
from atdata.lenses.numbers import array_numbers, scalar_numbers

FACTORS = st.builds(
    Fraction, st.integers(-1000, 1000).filter(bool), st.sampled_from([1, 2, 3, 10, 100, 254, 1000, 3048, 2**20])
)
INTS = st.integers(-(2**63), 2**64 - 1) | st.integers(-1000, 1000)
DTYPES = [np.dtype(t) for t in "?bBhHiIqQefdg"]


@given(INTS, FACTORS)
@example(2**64 - 1, Fraction(1))
@example(-(2**63), Fraction(-1))
def test_whole_numbers_are_exact(value: int, factor: Fraction) -> None:
    convert = scalar_numbers(int, int, factor)
    assert convert is not None
    exact = value * factor
    if exact.denominator == 1 and -(2**63) <= exact < 2**64:
        assert convert(value) == exact
        assert type(convert(value)) is int
    else:
        with pytest.raises(LensValueError):
            convert(value)


@given(INTS, FACTORS)
@example(2**53 + 1, Fraction(1))
def test_a_whole_number_is_a_float_only_if_it_comes_back(value: int, factor: Fraction) -> None:
    there, back = scalar_numbers(int, float, factor), scalar_numbers(float, int, 1 / factor)
    assert there is not None
    assert back is not None
    try:
        made = there(value)
    except LensValueError:
        assert abs(value) > 2**50 or factor == 1
        return
    assert made == float(value * factor)  # correctly rounded
    assert back(made) == value


@given(st.floats(), FACTORS)
@example(math.inf, Fraction(2))
@example(-0.0, Fraction(1))
@example(1e308, Fraction(1000))
def test_a_float_is_a_whole_number_only_if_it_comes_back(value: float, factor: Fraction) -> None:
    there, back = scalar_numbers(float, int, factor), scalar_numbers(int, float, 1 / factor)
    assert there is not None
    assert back is not None
    try:
        made = there(value)
    except LensValueError:
        return
    assert type(made) is int
    assert back(made) == value


@given(st.floats(), FACTORS)
def test_floats_are_rounded_and_never_become_infinite(value: float, factor: Fraction) -> None:
    convert = scalar_numbers(float, float, factor)
    assert convert is not None
    try:
        made = convert(value)
    except LensValueError:
        assert abs(value) > 1e300
        return
    assert math.isnan(made) == math.isnan(value)
    assert math.isinf(made) == math.isinf(value)
    if math.isfinite(value) and abs(value) > 1e-300:
        assert math.isclose(made, float(Fraction(value) * factor), rel_tol=1e-15)


def python(value: Any) -> Any:
    return float(value) if value.dtype.kind == "f" else value.item()  # also of long doubles


def test_centimetres() -> None:
    """Each of these is one that binary floats get wrong when multiplied by 0.01."""
    metres = scalar_numbers(int, float, Fraction("0.01"))
    assert metres is not None
    assert [metres(n) for n in (7, 29, 57, 58, 113)] == [0.07, 0.29, 0.57, 0.58, 1.13]


@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(DTYPES), FACTORS | st.just(Fraction(1)))
def test_arrays_are_as_their_elements(data: Any, old: np.dtype[Any], new: np.dtype[Any], factor: Fraction) -> None:
    convert = array_numbers(old, new, factor)
    kinds = {old.kind, new.kind}
    if convert is None:
        assert "b" in kinds
        assert factor != 1 or "f" in kinds
        return
    array = data.draw(hnp.arrays(data.draw(st.sampled_from([old, old.newbyteorder()])), hnp.array_shapes(min_dims=0)))
    before = array.copy()
    try:
        made = convert(array)
    except LensValueError:
        assert array.size
        return
    assert np.array_equal(array, before, equal_nan=array.dtype.kind == "f")
    assert made.shape == array.shape
    assert made.dtype.newbyteorder("=") == new
    assert made.dtype.isnative == array.dtype.isnative or 1 in (old.itemsize, new.itemsize)
    for was, now in zip(map(python, array.reshape(-1)), map(python, made.reshape(-1)), strict=True):
        if new.kind in "biu" and old.kind in "biu":
            assert now == was * factor
        elif new.kind in "iu":
            assert abs(now - Fraction(was) * factor) <= Fraction(abs(now)) / 2**10 + 1
        elif math.isfinite(was):
            exact = float(Fraction(was) * factor)
            assert math.isclose(now, exact, rel_tol=2.0**-9, abs_tol=1e-7)
        else:
            assert math.isinf(was) == math.isinf(now)
            assert math.isnan(was) == math.isnan(now)


@pytest.mark.parametrize(
    ("values", "old", "new", "message"),
    [
        ([1, 300], "i8", "u1", r"300 at \[1\] cannot be made uint8 without losing something"),
        ([-1], "i1", "u8", r"-1 at \[0\] cannot be made uint64"),
        ([2**64 - 1], "u8", "i8", r"18446744073709551615 at \[0\] cannot be made int64"),
        ([2**53 + 1], "i8", "f8", r"9007199254740993 at \[0\] cannot be made float64"),
        ([2**63], "u8", "f4", None),
        ([2**64 - 1], "u8", "f8", "cannot be made uint64"),
        ([70000], "i4", "f2", r"inf at \[0\] cannot be made int32|70000 at \[0\] cannot be made float16"),
        ([1.5], "f8", "i4", r"1\.5 at \[0\] cannot be made int32"),
        ([np.nan], "f8", "i4", r"nan at \[0\] cannot be made int32"),
        ([2.0**31], "f8", "i4", r"2147483648\.0 at \[0\] cannot be made int32"),
        ([2.0**63], "f8", "i8", r"9\.22\d+e\+18 at \[0\] cannot be made int64"),
        ([1e39], "f8", "f4", r"1e\+39 at \[0\] cannot be made float32"),
        ([np.inf, np.nan, -np.inf], "f8", "f2", None),
        ([2], "u1", "?", r"2 at \[0\] cannot be made bool"),
    ],
)
def test_elements_that_do_not_fit(values: list[Any], old: str, new: str, message: str | None) -> None:
    convert = array_numbers(np.dtype(old), np.dtype(new), Fraction(1))
    assert convert is not None
    array = np.array(values, old)
    if message is None:
        assert convert(array).astype(old).tolist() == pytest.approx(array.tolist(), nan_ok=True)
        return
    with pytest.raises(LensValueError, match=message):
        convert(array)
