"""Numbers of one type as numbers of another, times a factor: exact, or refused, or (floats) rounded once.

An integer becomes a float, or a float an integer, only where the way back gives the same number again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atdata.errors import LensValueError

__all__ = ["array_numbers", "scalar_numbers"]

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
Number = Callable[[Any], Any]


# -- one number ----------------------------------------------------------------------------------------------


def scalar_numbers(old: type, new: type, factor: Fraction) -> Number | None:
    """A function from `old` (int, float or bool) to `new`, times the factor; None where there is none.

    Example:
        >>> to_metres = scalar_numbers(int, float, Fraction(1, 100))
        >>> to_metres(7)
        0.07
    """
    p, q = factor.numerator, factor.denominator
    match old.__name__, new.__name__:
        case "int", "int":
            return lambda value: _exact(_plain(value), p, q)
        case "int", "float":
            return lambda value: _kept(value, _ratio(_plain(value), p, q), lambda made: _round(made, q, p))
        case "float", "int":
            return lambda value: _kept(value, _round(_plain(value), p, q), lambda made: _ratio(made, q, p))
        case "float", "float":
            return lambda value: _float(_plain(value), p, q)
        case ("bool", "int") if factor == 1:
            return int
        case ("int", "bool") if factor == 1:
            return lambda value: _kept(value, bool(value), int)
    return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value  # whose arithmetic would be NumPy's


def _exact(value: int, p: int, q: int) -> int:
    made, rest = divmod(value * p, q)
    if rest:
        raise LensValueError(f"{value} times {Fraction(p, q)} is no whole number")
    return _in_range(made)


def _in_range(value: int) -> int:
    if not _INT_MIN <= value <= _INT_MAX:
        raise LensValueError(f"{value} does not fit into 64 bits")
    return value


def _kept(value: Any, made: Any, back: Number) -> Any:
    if back(made) != value:
        raise LensValueError(f"{value!r} cannot be made {type(made).__name__} without losing something")
    return made


def _ratio(value: int, p: int, q: int) -> float:
    try:
        return value * p / q  # of whole numbers, so rounded once
    except OverflowError:
        raise LensValueError(f"{value} times {Fraction(p, q)} is too large for a float") from None


def _round(value: float, p: int, q: int) -> int:
    made = _float(value, p, q)
    if not math.isfinite(made):
        raise LensValueError(f"{value} is no whole number")
    return _in_range(round(made))


def _float(value: float, p: int, q: int) -> float:
    made = value * p / q
    if math.isinf(made) and not math.isinf(value):
        raise LensValueError(f"{value} times {Fraction(p, q)} is too large for a float")
    return made


# -- arrays of numbers ---------------------------------------------------------------------------------------


def array_numbers(old: np.dtype[Any], new: np.dtype[Any], factor: Fraction) -> Number | None:
    """A function from arrays of `old` to arrays of `new`, times the factor, of any shape; None where there is none.

    The byte order stays that of the array.
    """
    kinds = old.kind + new.kind
    if not (set(kinds) <= set("iuf") or kinds == "cc" or (factor == 1 and set(kinds) <= set("biu"))):
        return None
    p, q = factor.numerator, factor.denominator
    return lambda array: _cast(array, new if array.dtype.isnative else new.newbyteorder(), p, q)


def _cast(array: NDArray[Any], dtype: np.dtype[Any], p: int, q: int) -> NDArray[Any]:
    with np.errstate(all="ignore"):  # what overflows is found afterwards
        made = _times(array, dtype, p, q)
        if array.dtype.kind in "fc" and dtype.kind in "fc":
            _refuse(array, np.isfinite(made) | ~np.isfinite(array), dtype)
        elif "f" in (array.dtype.kind, dtype.kind):
            _refuse(array, _times(made, array.dtype, q, p) == array, dtype)
    return made


def _times(array: NDArray[Any], dtype: np.dtype[Any], p: int, q: int) -> NDArray[Any]:
    if array.dtype.kind in "biu" and dtype.kind in "biu":
        return _whole_times(array, dtype, p, q)
    work = np.promote_types(np.promote_types(array.dtype, dtype), np.float64)
    wide: NDArray[Any] = array.astype(work)
    if p != 1:
        wide *= p  # in place, or a 0-d array would become a scalar
    if q != 1:
        wide /= q
    if dtype.kind not in "iu":
        return wide.astype(dtype)
    np.rint(wide, out=wide)
    info = np.iinfo(dtype)
    # Powers of two, which every float type here has exactly.
    top = work.type(math.ldexp(1.0, info.bits - (dtype.kind == "i")))
    _refuse(array, (wide >= (-top if dtype.kind == "i" else 0)) & (wide < top), dtype)
    return wide.astype(dtype)


def _whole_times(array: NDArray[Any], dtype: np.dtype[Any], p: int, q: int) -> NDArray[Any]:
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if p == q == 1:
        if array.dtype.kind != "b":
            _refuse(array, (array >= max(low, _least(array))) & (array <= min(high, _most(array))), dtype)
        return array.astype(dtype)
    # Python's integers cannot overflow; scaled counts are rarely large.
    values = [divmod(value * p, q) for value in array.reshape(-1).tolist()]
    good = [rest == 0 and low <= made <= high for made, rest in values]
    _refuse(array, np.array(good, bool).reshape(array.shape), dtype)
    return np.array([made for made, _ in values], dtype).reshape(array.shape)


def _least(array: NDArray[Any]) -> int:
    return int(np.iinfo(array.dtype).min)


def _most(array: NDArray[Any]) -> int:
    return int(np.iinfo(array.dtype).max)


def _refuse(array: NDArray[Any], good: NDArray[np.bool_] | np.bool_, dtype: np.dtype[Any]) -> None:
    if not np.all(good):
        at = tuple(map(int, np.argwhere(~np.asarray(good))[0]))
        where = f" at {list(at)}" if at else ""
        raise LensValueError(
            f"{array[at]!s}{where} cannot be made {dtype.newbyteorder('=').name} without losing something"
        )
