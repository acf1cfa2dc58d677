"""Columns and samples: many values of one field, and one sample of many columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from atdata.errors import LensError
from atdata.lenses.names import near
from atdata.samples import codec

__all__ = ["count", "field_names", "parts_of", "rows", "stack", "wanted"]


def stack(values: list[Any]) -> Any:
    """One array of shape (len(values), …) where all values are arrays of one dtype and shape, else the list.

    Example:
        >>> stack([np.zeros(3), np.ones(3)]).shape
        (2, 3)
        >>> stack([1, 2])
        [1, 2]
    """
    first = values[0] if values else None
    if not isinstance(first, np.ndarray):
        return values
    if not all(isinstance(v, np.ndarray) and v.dtype == first.dtype and v.shape == first.shape for v in values):
        return values
    # Not `np.stack`, which makes native what is big-endian.
    out: Any = np.ndarray((len(values), *first.shape), first.dtype)
    for i, value in enumerate(values):
        out[i] = value
    return out


def rows(column: Any) -> list[Any]:
    """The values of a column, one for each sample; those of an array are views of it, and arrays also when 0-d."""
    return [column[i, ...] for i in range(len(column))] if isinstance(column, np.ndarray) else list(column)


def field_names(sample_type: type) -> list[str]:
    """The names of the fields of a packable class."""
    return [f.name for f in codec.plan(sample_type).fields]


def wanted(view: type, fields: Iterable[str] | None) -> list[str]:
    """`fields`, or all there are.

    Raises:
        LensError: the class has no such field.
    """
    names = field_names(view)
    if fields is None:
        return names
    chosen = list(fields)
    for name in chosen:
        if name not in names:
            raise LensError(f"{view.__name__} has no field {name!r}{near(name, names)}")
    return chosen


def count(columns: Mapping[str, Any], names: Iterable[str]) -> int:
    """The number of samples in columns, taken from one of `names` where there are any.

    Raises:
        LensError: there is no column.
    """
    name = next(iter(names), None) or next(iter(columns), None)
    if name is None:
        raise LensError("there is no column, so the number of samples is not known: give one column at least")
    return len(columns[name])


def parts_of(columns: Mapping[str, Any], names: Iterable[str], size: int) -> list[dict[str, Any]]:
    """For each of `size` samples, the values of the fields `names`."""
    chosen = list(names)
    if not chosen:
        return [{} for _ in range(size)]
    each = [rows(columns[name]) for name in chosen]
    return [dict(zip(chosen, values, strict=True)) for values in zip(*each, strict=True)]
