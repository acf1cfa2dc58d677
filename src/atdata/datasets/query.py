"""`fields(Photo)`: the fields of a sample type, whose comparisons are the predicates that `Dataset.where` takes.

A comparison is checked against the field's type when it is written, not when samples are read. What a predicate says of
None, NaN and times is told in `atdata.datasets.query_tree`.
"""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np

from atdata.datasets.query_tree import And, Operator, Predicate, Test, Value, canonical, field_name, fold
from atdata.errors import QueryError, SchemaError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import AnyValue, DateTime, EnumOf, FieldType, LiteralOf, OptionalOf, Primitive

__all__ = [
    "Field",
    "Fields",
    "UnknownFieldError",
    "as_predicate",
    "check",
    "column_type",
    "fields",
    "has_several_types",
    "near",
    "optional",
]

_ORDER = ("<", "<=", ">", ">=")
_TEXT = ("contains", "startswith")


def fields(of: Any) -> Fields:
    """The fields of a sample type, to write predicates with.

    Args:
        of: a sample type, or a dataset, whose sample type is meant.

    Raises:
        SchemaError: it is no sample type.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Photo:
        ...     hour: int
        ...     label: str
        >>> F = fields(Photo)
        >>> (F.hour >= 22) & F.label.isin(["owl", "bat"])
        (F.hour >= 22) & F.label.isin(['owl', 'bat'])
    """
    sample_type = of if isinstance(of, type) else getattr(of, "sample_type", None)
    if not isinstance(sample_type, type):
        raise TypeError(f"fields are those of a sample type or of a dataset, not of {of!r:.100}")
    return Fields(sample_type)


class UnknownFieldError(SchemaError, AttributeError):
    """The sample type has no such field; `hasattr` and `getattr` with a default understand it too."""


class Fields:
    """One `Field` for each field of a sample type: `F.hour`, `F["hour"]`. A `DictSample` may have any."""

    def __init__(self, sample_type: type) -> None:
        self._type = sample_type
        self._nodes = _nodes(sample_type)

    def __getitem__(self, name: str) -> Field:
        return Field(name, _node(self._type, self._nodes, name), self._type.__name__)

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):  # copy and pickle look for hooks before there is anything
            raise AttributeError(name)
        return self[name]

    def __dir__(self) -> list[str]:
        return list(self._nodes or ())

    def __iter__(self) -> Iterator[Field]:
        return iter([self[name] for name in self._nodes or ()])

    def __repr__(self) -> str:
        return f"fields({self._type.__name__})"


class Field:
    """One field of a sample type. Its operators and methods give predicates.

    Raises:
        QueryError: at once, where the field's type does not allow the comparison.
    """

    __slots__ = ("_node", "_owner", "name")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, node: FieldType | None, owner: str) -> None:
        self.name = name
        self._node = node
        self._owner = owner

    def __eq__(self, other: object) -> Predicate:  # type: ignore[override]
        return self._test("==", other)

    def __ne__(self, other: object) -> Predicate:  # type: ignore[override]
        return self._test("!=", other)

    def __lt__(self, other: object) -> Predicate:
        return self._test("<", other)

    def __le__(self, other: object) -> Predicate:
        return self._test("<=", other)

    def __gt__(self, other: object) -> Predicate:
        return self._test(">", other)

    def __ge__(self, other: object) -> Predicate:
        return self._test(">=", other)

    def isin(self, values: Iterable[Any]) -> Predicate:
        """The value is one of `values`."""
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise QueryError(f"isin takes a list of values, not {values!r:.100}", field=self._path)
        found: dict[str, Value] = {}
        for given in values:
            value = _checked(self._node, "isin", given, self._path)
            found.setdefault(canonical(value), value)
        return Test(self.name, "isin", tuple(found.values()))

    def between(self, low: Any, high: Any) -> Predicate:
        """The value is not less than `low` and not more than `high`."""
        return And((self >= low, self <= high))

    def is_null(self) -> Predicate:
        """The value is None."""
        return Test(self.name, "is_null", None)

    def contains(self, text: str | bytes) -> Predicate:
        """`text` stands somewhere in the value, letter by letter."""
        return self._test("contains", text)

    def startswith(self, text: str | bytes) -> Predicate:
        """The value begins with `text`."""
        return self._test("startswith", text)

    def __and__(self, other: object) -> Predicate:
        return as_predicate(self) & as_predicate(other)

    def __or__(self, other: object) -> Predicate:
        return as_predicate(self) | as_predicate(other)

    __rand__ = __and__  # in either order the same
    __ror__ = __or__

    def __invert__(self) -> Predicate:
        return ~as_predicate(self)

    def __bool__(self) -> bool:
        raise TypeError(f"the field {self.name} is not true or false by itself: compare it, and combine with & | ~")

    def __contains__(self, item: object) -> bool:
        raise TypeError(f"`in` cannot ask a field: write {self!r}.contains(…) for text in it")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"the field {self.name} has one value for each sample, and cannot be iterated")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"{self._path}: a field has the operators == != < <= > >= and the methods isin, between, is_null, "
            f"contains, startswith, but no {name!r}; what lies inside a value is for Dataset.filter"
        )

    def __repr__(self) -> str:
        return field_name(self.name)

    @property
    def _path(self) -> str:
        return f"{self._owner}.{self.name}"

    def _test(self, operator: Operator, given: object) -> Predicate:
        return Test(self.name, operator, _checked(self._node, operator, given, self._path))


def as_predicate(given: object) -> Predicate:
    """A predicate as it is; a field of bool as the predicate that it is true.

    Raises:
        QueryError: it is a field of another type.
        TypeError: it is neither.
    """
    if isinstance(given, Predicate):
        return given
    if isinstance(given, Field):
        if given._node is None or _domain(given._node).type in (bool, object):
            return given._test("==", True)
        raise QueryError(
            f"{given._node.name} is not yes or no: compare the field with something, each comparison in brackets",
            field=given._path,
        )
    hint = "; a function goes to Dataset.filter" if callable(given) else ""
    if isinstance(given, bool | int | float):
        hint = "; comparisons need brackets: (F.a > 1) & (F.b < 2)"
    raise TypeError(f"expected a predicate made with atdata.fields, such as F.label == 3, not {given!r:.100}{hint}")


def check(predicate: Predicate, sample_type: type) -> None:
    """Make sure that a predicate can be asked of samples of a type, whichever type it was made from.

    Raises:
        SchemaError: the type has no such field.
        QueryError: the field is of a type that does not allow the comparison.
    """
    nodes = _nodes(sample_type)

    def test(one: Test, _: bool) -> None:
        node = _node(sample_type, nodes, one.field)
        if one.operator != "is_null":
            for value in one.value if one.operator == "isin" else (one.value,):
                _checked(node, one.operator, value, f"{sample_type.__name__}.{one.field}")

    fold(predicate, test, lambda _: None, lambda _: None)


def _nodes(sample_type: type) -> dict[str, FieldType] | None:
    """The fields of a sample type; None for `DictSample`, whose fields are not known."""
    return None if issubclass(sample_type, DictSample) else codec.plan(sample_type).nodes


def _node(sample_type: type, nodes: dict[str, FieldType] | None, name: str) -> FieldType | None:
    if nodes is None:
        return None
    if name not in nodes:
        raise UnknownFieldError(
            f"{sample_type.__name__} has no field {name!r}{near(name, nodes)}; it has {_some(nodes)}"
        )
    return nodes[name]


def near(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'label'?)`, or nothing where no known name is like this one."""
    found = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _some(names: Iterable[object]) -> str:
    every = list(names)
    return ", ".join(map(str, every[:20])) + (", …" if len(every) > 20 else "")


# -- what may be compared --------------------------------------------------------------------------------------------


class Domain(NamedTuple):
    """What the values of a field are to a predicate.

    Attributes:
        type: their Python type (of an enum: of its values); `object` where they have several, None where all that can
            be asked is whether they are None.
        ordered: whether they have an order.
        text: whether they can contain something.
        members: the only values there are, where they are few.
    """

    type: type | None
    ordered: bool = False
    text: bool = False
    members: tuple[Any, ...] | None = None


_PRIMITIVES = {
    int: Domain(int, ordered=True),
    float: Domain(float, ordered=True),
    str: Domain(str, ordered=True, text=True),
    bytes: Domain(bytes, ordered=True, text=True),
    bool: Domain(bool),
}


def _domain(node: FieldType) -> Domain:
    inner = node.inner if isinstance(node, OptionalOf) else node
    match inner:
        case Primitive():
            return _PRIMITIVES.get(inner.type, Domain(None))
        case DateTime():
            return Domain(datetime, ordered=True)
        case AnyValue():
            return Domain(object, ordered=True, text=True)
        case EnumOf():
            members = tuple(member.value for member in inner.cls)
            natural = all(isinstance(member, int | str) for member in inner.cls)
        case LiteralOf():
            members = tuple(value for value in inner.values if value is not None)
            natural = True
        case _:
            return Domain(None)
    types = {type(member) for member in members}
    only = types.pop() if len(types) == 1 else object
    return Domain(only, natural and only in (int, str), natural and only is str, members)


def column_type(node: FieldType) -> type | None:
    """The one Python type that a field's values have in manifests and statistics; None for fields that have no column.

    For enums and literals it is the type of their values.
    """
    found = _domain(node).type
    return found if found in (str, int, float, bool, datetime) else None


def optional(node: FieldType) -> bool:
    """Whether a field may be None."""
    return isinstance(node, OptionalOf) or (isinstance(node, LiteralOf) and None in node.values)


def has_several_types(sample_type: type, name: str) -> bool:
    """Whether it is an enum or a literal with values of several types: they are just not equal, and no mistake."""
    node = (_nodes(sample_type) or {}).get(name)
    domain = None if node is None else _domain(node)
    return domain is not None and domain.type is object and domain.members is not None


def _checked(node: FieldType | None, operator: Operator, given: object, path: str) -> Value:
    """`given` as the plain value to compare with.

    Raises:
        QueryError: the field cannot be compared with it.
    """
    domain = Domain(object, ordered=True, text=True) if node is None else _domain(node)
    kind = "the field" if node is None else node.name
    if isinstance(given, Field | Predicate):
        raise QueryError("a field is compared with a value; two fields with each other: Dataset.filter", field=path)
    if given is None:
        raise QueryError("nothing is equal to None, as in SQL: is_null() finds it", field=path)
    if domain.type is None:
        raise QueryError(
            f"{kind} cannot be compared, only asked is_null(); what lies inside a value is for Dataset.filter",
            field=path,
        )
    if (operator in _ORDER and not domain.ordered) or (operator in _TEXT and not domain.text):
        raise QueryError(f"{operator} cannot be asked of {kind}", field=path)
    value = _plain(given, node, path)
    if domain.type in (int, float):
        fits = type(value) in (int, float)
    elif domain.type is object:
        fits = (operator not in _TEXT or isinstance(value, str | bytes)) and (
            operator not in _ORDER or not isinstance(value, bool)
        )
    else:
        fits = isinstance(value, datetime) if domain.type is datetime else type(value) is domain.type
    if not fits:
        raise QueryError(f"{kind} cannot be compared with {_type_name(value)} ({operator} {value!r:.60})", field=path)
    if domain.members is not None and operator in ("==", "!=", "isin"):
        _check_member(domain.members, value, path)
    return value


def _check_member(members: tuple[Any, ...], value: Any, path: str) -> None:
    if any(type(member) is type(value) and member == value for member in members):
        return
    hint = near(value, [m for m in members if isinstance(m, str)]) if isinstance(value, str) else ""
    raise QueryError(f"{value!r:.60} is none of the values it can have{hint}: {_some(map(repr, members))}", field=path)


def _plain(given: Any, node: FieldType | None, path: str) -> Value:
    """A value without its wrapping: members of enums, NumPy's scalars, subclasses."""
    if isinstance(given, enum.Enum):
        inner = node.inner if isinstance(node, OptionalOf) else node
        if isinstance(inner, EnumOf) and type(given).__name__ != inner.cls.__name__:
            raise QueryError(f"{inner.name} cannot be compared with a {type(given).__name__}", field=path)
        given = given.value
    if isinstance(given, np.datetime64):
        micro = given.astype("M8[us]")
        given = micro if micro == given else given
    if isinstance(given, np.generic):
        given = given.item()
    match given:
        case bool():
            return given
        case int():
            return int(given)
        case float() if math.isnan(given):
            raise QueryError(
                "NaN is equal to nothing, and neither less nor more than anything; ~F.x.between(-inf, inf) finds it",
                field=path,
            )
        case float():
            return float(given)
        case bytes():
            return bytes(given)
        case str():
            text = str.__str__(given)
            try:
                text.encode()
            except UnicodeEncodeError:
                raise QueryError("text with a lone surrogate is in no dataset", field=path) from None
            return text
        case datetime():
            try:
                return datetime.combine(given.date(), given.timetz())
            except (TypeError, ValueError):  # pandas' NaT calls itself one
                raise QueryError(f"{given!r} is no time", field=path) from None
        case date():
            raise QueryError("a date has no time of day: give a datetime", field=path)
    raise QueryError(f"a field cannot be compared with {_type_name(given)} {given!r:.60}", field=path)


def _type_name(value: object) -> str:
    return "ndarray" if isinstance(value, np.ndarray) else type(value).__name__
