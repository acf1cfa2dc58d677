"""Pruning: which shards cannot have a sample that a predicate is true for, told by the statistics recorded of them."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from atdata.datasets.query import column_type, optional
from atdata.datasets.query_tree import Instant, Predicate, Test, fold
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import keeps_values
from atdata.samples.schema import Schema
from atdata.stores.record import FieldStats

__all__ = ["Bounds", "Pruner", "bounds_of", "pruner"]


class Bounds(NamedTuple):
    """What is known of one field in one shard.

    Attributes:
        low: the smallest value, NaN aside; None where it is not known. Times are `Instant`s.
        high: the largest value.
        nulls: how many values are None.
    """

    low: Any
    high: Any
    nulls: int = 0


# Whether a shard with these bounds of its fields, and that many samples, may have a sample that matches.
Pruner = Callable[[Mapping[str, Bounds], int], bool]


def pruner(predicate: Predicate) -> Pruner:
    """What tells, from the bounds of a shard's fields, whether it may have a sample that the predicate is true for.

    When it says no there is none. Fields without bounds may hold anything.

    Example:
        >>> from atdata.datasets.query import Fields
        >>> F = Fields(DictSample)
        >>> may_match = pruner((F.hour >= 22) & F.label.isin(["bat", "owl"]))
        >>> may_match({"hour": Bounds(0, 21)}, 100)
        False
        >>> may_match({"hour": Bounds(0, 23), "label": Bounds("cat", "dog")}, 100)
        False
        >>> may_match({"hour": Bounds(0, 23), "label": Bounds("ant", "cat")}, 100)
        True
    """
    return fold(predicate, _pruner, _every, _some)


def _every(parts: list[Pruner]) -> Pruner:
    return lambda bounds, samples: all(part(bounds, samples) for part in parts)


def _some(parts: list[Pruner]) -> Pruner:
    return lambda bounds, samples: any(part(bounds, samples) for part in parts)


def bounds_of(stats: Mapping[str, FieldStats], stored: Schema | None, sample_type: type) -> dict[str, Bounds]:
    """The bounds in a shard's statistics, of those fields whose values reading it as `sample_type` does not change.

    A class may change its values when it is made, and another type than the stored one may read the same bytes as other
    values: text as times, ints as floats.

    Args:
        stats: of one shard, from its commit record.
        stored: the schema in that record.
        sample_type: the class that the samples are read as.
    """
    if stored is None or issubclass(sample_type, DictSample) or not keeps_values(sample_type):
        return {}
    written = {field.name: column_type(field.type) for field in stored.fields}
    plan = codec.plan(sample_type)
    if not plan.ignore_unknown and not written.keys() <= plan.nodes.keys():
        return {}  # reading says that it is another type
    found = {}
    for name, node in plan.nodes.items():
        known, kind = stats.get(name), column_type(node)
        if known is None or kind is None or written.get(name) is not kind:
            continue
        if known.nulls and not optional(node):
            continue  # reading will say so
        low: Any = known.min
        high: Any = known.max
        if kind is datetime:
            low, high = _instant(low), _instant(high)
            if low is None or high is None or low.zoned is not high.zoned:
                low = high = None
        elif not type(low) is type(high) is kind:
            low = high = None
        found[name] = Bounds(low, high, known.nulls)
    return found


def _instant(text: object) -> Instant | None:
    try:
        return Instant.of(datetime.fromisoformat(text))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def _pruner(one: Test, want: bool) -> Pruner:
    if one.operator == "is_null":
        return lambda bounds, samples: (
            one.field not in bounds or (bounds[one.field].nulls > 0 if want else bounds[one.field].nulls < samples)
        )
    fits = _fits(one, want)

    def may_match(bounds: Mapping[str, Bounds], samples: int) -> bool:
        known = bounds.get(one.field)
        if known is None:
            return True
        if known.nulls >= samples:
            return False
        return known.low is None or known.high is None or fits(known.low, known.high)

    return may_match


def _fits(one: Test, want: bool) -> Callable[[Any, Any], bool]:
    """Whether the test may be `want` for a value that is not None, between two bounds."""
    if one.operator == "isin":
        return _fits_one_of(one.value, want)
    value = Instant.of(one.value) if isinstance(one.value, datetime) else one.value
    if one.operator == "contains":
        return lambda low, high: True
    if one.operator == "startswith":
        if want:
            return lambda low, high: low[: len(value)] <= value <= high
        return lambda low, high: not (low.startswith(value) and high.startswith(value))
    sign = one.operator if want else _OPPOSITE[one.operator]
    # What is not less than 3 may be NaN, which is in no bounds.
    or_nan = not want if one.operator != "!=" else want
    compare = _COMPARISONS[sign]

    def fits(low: Any, high: Any) -> bool:
        if isinstance(value, Instant) and low.zoned != value.zoned:
            return True  # whoever compares them says that it cannot be done
        return (or_nan and isinstance(low, float)) or compare(low, high, value)

    return fits


_COMPARISONS: dict[str, Callable[[Any, Any, Any], bool]] = {
    "==": lambda low, high, value: low <= value <= high,
    "!=": lambda low, high, value: not low == value == high,
    "<": lambda low, high, value: low < value,
    "<=": lambda low, high, value: low <= value,
    ">": lambda low, high, value: high > value,
    ">=": lambda low, high, value: high >= value,
}


def _fits_one_of(values: tuple[Any, ...], want: bool) -> Callable[[Any, Any], bool]:
    values = tuple(Instant.of(value) if isinstance(value, datetime) else value for value in values)
    if not want:
        among = frozenset(values)
        return lambda low, high: isinstance(low, float) or low != high or low not in among
    try:
        ascending = sorted(values)
    except TypeError:  # of several types, as only fields without a declared type have them
        return lambda low, high: True
    zones = {value.zoned for value in ascending if isinstance(value, Instant)}

    def fits(low: Any, high: Any) -> bool:
        if isinstance(low, Instant) and zones - {low.zoned}:
            return True
        at = bisect.bisect_left(ascending, low)
        return at < len(ascending) and ascending[at] <= high

    return fits
