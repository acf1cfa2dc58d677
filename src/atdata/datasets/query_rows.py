"""The samples that a predicate is true for: told by the columns of a manifest, or by the samples themselves."""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atdata.datasets.query import column_type, has_several_types, near, optional
from atdata.datasets.query_tree import Instant, Predicate, Test, fold
from atdata.errors import QueryError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.encode import kind_of
from atdata.samples.fields import Array, OptionalOf
from atdata.samples.packable import keeps_values
from atdata.shards.manifest_columns import ManifestColumns

__all__ = ["Candidates", "Mask", "column_kind", "column_matcher", "matcher"]

Mask = NDArray[np.bool_]


class Candidates(NamedTuple):
    """Rows of one shard that may match.

    Attributes:
        mask: of shape (samples of the shard,): False for rows for which the predicate is not true.
        certain: whether it is true for all others.
    """

    mask: Mask
    certain: bool


class _Columns(NamedTuple):
    """The columns of a manifest that a predicate asks about, None for those it does not have; and its length."""

    arrays: dict[str, pa.Array | None]
    length: int


_Mask = Callable[[_Columns], Mask]


def column_matcher(predicate: Predicate, sample_type: type) -> Callable[[ManifestColumns], Candidates]:
    """A function that gives the rows of a shard that match, as far as its manifest can tell.

    It raises `QueryError` where a time with a zone would have to be compared with one without.

    Args:
        predicate: checked to be one about `sample_type`.
        sample_type: the class that the samples are read as.
    """
    mask = fold(predicate, _test_mask, _all_masks, _any_mask)

    def match(manifest: ManifestColumns) -> Candidates:
        arrays = {name: _column(manifest, sample_type, name) for name in predicate.fields}
        return Candidates(mask(_Columns(arrays, len(manifest))), None not in arrays.values())

    return match


def _all_masks(parts: list[_Mask]) -> _Mask:
    return lambda columns: reduce(np.logical_and, (part(columns) for part in parts))


def _any_mask(parts: list[_Mask]) -> _Mask:
    return lambda columns: reduce(np.logical_or, (part(columns) for part in parts))


_ARROW: dict[type, tuple[pa.DataType, ...]] = {
    str: (pa.string(),),
    int: (pa.int64(), pa.uint64()),
    float: (pa.float64(),),
    bool: (pa.bool_(),),
    datetime: (pa.timestamp("us"), pa.timestamp("us", "UTC")),
}


def column_kind(sample_type: type, name: str) -> type | None:
    """What a manifest can say of a field: `Array` where its elements lie, or values of that type; None: nothing.

    Nothing either where reading gives other values than are stored, or may do so.
    """
    if issubclass(sample_type, DictSample) or not keeps_values(sample_type):
        return None
    node = codec.plan(sample_type).nodes[name]
    if isinstance(node.inner if isinstance(node, OptionalOf) else node, Array):
        return Array
    return column_type(node)


def _column(manifest: ManifestColumns, sample_type: type, name: str) -> pa.Array | None:
    """The column to ask about a field: of its values, or for arrays of where they lie. None where there is none."""
    kind = column_kind(sample_type, name)
    if kind is None:
        return None
    plan = codec.plan(sample_type)
    if not plan.ignore_unknown and not {*manifest.array_fields, *manifest.scalar_fields} <= plan.nodes.keys():
        return None  # decoding says that it is another type
    if name not in (manifest.array_fields if kind is Array else manifest.scalar_fields):
        return None
    column = manifest.table[f"__offset__{name}" if kind is Array else name]
    if (kind is not Array and column.type not in _ARROW[kind]) or (
        column.null_count and not optional(plan.nodes[name])
    ):
        return None
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])


# -- by columns ------------------------------------------------------------------------------------------------------


def _test_mask(one: Test, want: bool) -> _Mask:
    """Where a test is `want`: nowhere that there is no value, unless that is asked; everywhere without a column."""
    prepared: dict[pa.DataType, Callable[[pa.Array], Any] | bool] = {}

    def mask(columns: _Columns) -> Mask:
        column = columns.arrays[one.field]
        if column is None:
            return np.ones(columns.length, bool)
        valid = _bits(column.is_valid())
        if one.operator == "is_null":
            return ~valid if want else valid
        if not valid.any():
            return valid
        compare = prepared.get(column.type)
        if compare is None:
            compare = prepared[column.type] = _comparison(one, column.type)
        if isinstance(compare, bool):
            return valid if compare is want else np.zeros(len(column), bool)
        found = _bits(compare(column))
        return valid & (found if want else ~found)

    return mask


def _bits(array: pa.Array) -> Mask:
    """An array of bool; where it is null, anything."""
    if not len(array):
        return np.empty(0, bool)
    bits = np.unpackbits(np.frombuffer(array.buffers()[1], np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].view(bool)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values of one type as an array. Arrow's own ways to make one import pandas, which takes a second."""
    offsets = None
    if kind == pa.string():
        texts = [value.encode() for value in values]
        offsets = pa.py_buffer(np.cumsum([0, *map(len, texts)]).astype(np.int32))
        data = b"".join(texts)
    elif kind == pa.bool_():
        data = np.packbits(values, bitorder="little").tobytes()
    else:
        data = np.array(values, kind.to_pandas_dtype()).tobytes()
    buffers = [None, pa.py_buffer(data)] if offsets is None else [None, offsets, pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, len(values), buffers)


_ARROW_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def _comparison(one: Test, kind: pa.DataType) -> Callable[[pa.Array], Any] | bool:
    """A test of every row of a column of that type; a bool where it is the same for all values.

    What it gives where there is no value means nothing.
    """
    values = one.value if one.operator == "isin" else (one.value,)
    if pa.types.is_timestamp(kind):
        compare = _comparison(dataclasses.replace(one, value=_microseconds(one, values, kind)), pa.int64())
        return compare if isinstance(compare, bool) else lambda column: compare(column.view(pa.int64()))
    if one.operator == "contains":
        return lambda column: pc.match_substring(column, one.value)
    if one.operator == "startswith":
        return lambda column: pc.starts_with(column, one.value)
    if one.operator == "isin":
        exact = [_exact("==", value, kind) for value in values]
        fitting = [value[1] for value in exact if not isinstance(value, bool)]
        if not fitting:
            return False
        if pa.types.is_floating(kind) and 0.0 in fitting:
            fitting += [0.0, -0.0]  # equal, but not to Arrow's tables of hashes
        among = _array(fitting, kind)
        return lambda column: pc.is_in(column, among)
    found = _exact(one.operator, one.value, kind)
    if isinstance(found, bool):
        return found
    compare_with, value = _ARROW_COMPARISONS[found[0]], _array([found[1]], kind)[0]
    return lambda column: compare_with(column, value)


def _microseconds(one: Test, values: tuple[datetime, ...], kind: pa.DataType) -> Any:
    """The times that a test compares with, as a column of times has them."""
    zoned = kind.tz is not None
    fitting = tuple(when.microseconds for when in map(Instant.of, values) if when.zoned is zoned)
    if values and not fitting:
        raise _incomparable(one.field, _time_kind(zoned), [_time_kind(not zoned)])
    return fitting if one.operator == "isin" else fitting[0]


def _exact(sign: str, value: Any, kind: pa.DataType) -> tuple[str, Any] | bool:
    """The same comparison with a value of the column's type; a bool where it is the same for every value there is.

    NaN, of which only `!=` is true, is no exception to it.
    """
    if pa.types.is_integer(kind):
        if isinstance(value, float):
            if math.isinf(value):
                return _beyond(sign, value > 0)
            if not value.is_integer():
                if sign in ("==", "!="):
                    return sign == "!="
                sign, value = ("<=" if sign in ("<", "<=") else ">"), math.floor(value)
        value = int(value)
        low, high = (0, 2**64 - 1) if kind == pa.uint64() else (-(2**63), 2**63 - 1)
        if not low <= value <= high:
            return _beyond(sign, value > high)
        return sign, value
    if pa.types.is_floating(kind) and isinstance(value, int):
        try:
            near = float(value)
        except OverflowError:
            near = sys.float_info.max if value > 0 else -sys.float_info.max
        if near == value:
            return sign, near
        if sign in ("==", "!="):  # no float is this int
            return sign == "!="
        # No float lies between the int and the float next to it.
        below = near < value
        if sign in ("<", "<="):
            return ("<=" if below else "<"), near
        return (">" if below else ">="), near
    return sign, value


def _beyond(sign: str, above: bool) -> bool:
    """What a comparison gives with a value that is above (or below) all there are."""
    return sign in (("!=", "<", "<=") if above else ("!=", ">", ">="))


# -- sample by sample ------------------------------------------------------------------------------------------------


def matcher(predicate: Predicate, sample_type: type) -> Callable[[Any], bool]:
    """A function that says of a sample whether the predicate is true for it.

    Args:
        predicate: the predicate.
        sample_type: the class of the samples, as far as it is known; they may be mappings all the same.

    Example:
        >>> from atdata.datasets.query import Fields
        >>> is_owl = matcher(Fields(DictSample).label.startswith("owl"), DictSample)
        >>> [is_owl(DictSample(label=text)) for text in ("owlet", "bat")]
        [True, False]
    """

    def test(one: Test, want: bool) -> Callable[[Any], bool]:
        get = _getter(one.field, sample_type)
        if one.operator == "is_null":
            return lambda sample: (get(sample) is None) is want
        compare = _value_test(one, sample_type)

        def holds(sample: Any) -> bool:
            value = get(sample)
            return value is not None and compare(value) is want

        return holds

    return fold(predicate, test, _every, _some)


Matcher = Callable[[Any], bool]


def _every(parts: list[Matcher]) -> Matcher:
    return lambda sample: all(part(sample) for part in parts)


def _some(parts: list[Matcher]) -> Matcher:
    return lambda sample: any(part(sample) for part in parts)


def _getter(name: str, sample_type: type) -> Callable[[Any], Any]:
    quick: Callable[[Any], Any] = (
        operator.itemgetter(name) if issubclass(sample_type, Mapping) else operator.attrgetter(name)
    )

    def get(sample: Any) -> Any:
        try:
            return quick(sample)
        except (AttributeError, KeyError, TypeError):
            return _value(sample, name)

    return get


def _value(sample: Any, name: str) -> Any:
    there = list(sample) if isinstance(sample, Mapping) else list(getattr(sample, "__dict__", ()))
    if isinstance(sample, Mapping) and name in sample:
        return sample[name]
    if not isinstance(sample, Mapping) and hasattr(sample, name):
        return getattr(sample, name)
    raise QueryError(f"the sample has no field {name!r}{near(name, map(str, there))}", field=name)


_KINDS: dict[type, str] = {bool: "bool", int: "number", float: "number", str: "text", bytes: "bytes"}


def _comparable(value: Any) -> tuple[str, Any]:
    """What kind of value it is, and the value as it is compared: as it would be stored, times as instants."""
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind, value
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, datetime):
        instant = Instant.of(value)
        return _time_kind(instant.zoned), instant
    for known, kind in _KINDS.items():
        if isinstance(value, known):
            return kind, str.__str__(value) if known is str else value
    return kind_of(value), value


def _time_kind(zoned: bool) -> str:
    return "time with a zone" if zoned else "time without a zone"


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "contains": operator.contains,
    "startswith": lambda text, start: bool(text.startswith(start)),
    "isin": lambda value, among: value in among,
}


def _value_test(one: Test, sample_type: type) -> Callable[[Any], bool]:
    """The test of a value that is not None."""
    targets: dict[str, Any] = {}
    if one.operator == "isin":
        for kind, value in map(_comparable, one.value):
            targets.setdefault(kind, set()).add(value)
        if not targets:
            return lambda value: False
    else:
        kind, value = _comparable(one.value)
        targets[kind] = value
    compare = _COMPARISONS[one.operator]
    several_types = one.operator in ("==", "!=", "isin") and has_several_types(sample_type, one.field)

    def test(value: Any) -> bool:
        kind, bare = _comparable(value)
        if kind in targets:
            return compare(bare, targets[kind])
        if several_types:
            return one.operator == "!="
        raise _incomparable(one.field, kind, targets)

    return test


def _incomparable(field: str, there: str, given: Iterable[str]) -> QueryError:
    return QueryError(f"the value is a {there}, and cannot be compared with a {' or '.join(given)}", field=field)
