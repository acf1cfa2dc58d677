"""Lenses that are declared: data, not code, so that they can be compared, stored and published."""

from __future__ import annotations

import dataclasses
import operator
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar, cast

from atdata.cid import generate_cid
from atdata.errors import LensDefinitionError, LensValueError
from atdata.lenses.columns import field_names, parts_of, rows, stack, wanted
from atdata.lenses.conversion import checked_bytes
from atdata.lenses.declaration import Declaration, Rule, resolve
from atdata.lenses.lens import Lens
from atdata.lenses.passing import Passing
from atdata.lenses.signatures import check_sample_type
from atdata.samples import codec
from atdata.samples.build import decode_default
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import FieldType, Nested, Primitive
from atdata.samples.packable import keeps_values, only_keeps

__all__ = ["FieldsLens"]

S = TypeVar("S")
V = TypeVar("V")

# What a value of another type than its class says makes a conversion raise.
_UNFIT = (TypeError, ValueError, AttributeError, ArithmeticError)


class FieldsLens(Lens[S, V]):
    """A lens that says where each field of the view comes from; made by `Lens.fields`.

    Attributes:
        declared: what was declared.
        rules: what it comes to: where each field of the view comes from.
    """

    def __init__(self, source: type[S], view: type[V], declared: Declaration) -> None:
        self.source = cast(type[S], _with_fields(source, "source"))
        self.view = cast(type[V], _with_fields(view, "view"))
        self.declared = declared
        self.__name__ = self.__qualname__ = f"fields({self.source.__name__} -> {self.view.__name__})"
        self.__doc__ = type(self).__doc__
        self.rules = resolve(source, view, declared)
        self._by_path = {rule.path: rule for rule in self.rules}
        self._constants = {r.path: _Constant(view, r) for r in self.rules if r.constant is not None}
        self._keeps = keeps_values(source), all(map(keeps_values, self._made()))
        self._all = _Reader(self, None)
        self._some: dict[frozenset[str], _Reader] = {}
        self._writes = _tree([rule.source for rule in self.rules if rule.source is not None])

    def _made(self) -> list[type]:
        """The classes of which `get` makes samples: the view's, and those of nested samples given by their parts."""
        found, around = [self.view], {path[:i] for path in self._by_path for i, c in enumerate(path) if c == "."}
        for path in around:
            cls: type = self.view
            for part in path.split("."):
                cls = cast(Nested, codec.plan(cls).nodes[part]).cls
            found.append(cls)
        return cast(list[type], found)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """None: it is not made of functions itself."""
        return ()

    @property
    def editable(self) -> bool:
        """Whether `put` is possible: it is; what cannot be written back is refused value by value."""
        return True

    @property
    def cid(self) -> str:
        """The content identifier of what is declared, and between which schemas."""
        from atdata.lenses.records import declared_json
        from atdata.lenses.references import schema_cid

        parts = {"source": schema_cid(self.source), "view": schema_cid(self.view)}
        return generate_cid({**parts, "declared": declared_json(self.declared)})

    def reads_for(self, fields: Collection[str] | None) -> frozenset[str]:
        """The fields of the source that only these fields of the view need (None: all of them)."""
        if not self._keeps[0]:
            return frozenset(field_names(self.source))
        return frozenset(rule.source.partition(".")[0] for rule in self._rules_of(fields) if rule.source is not None)

    @property
    def passing(self) -> Passing | None:
        """What the lens passes on, when it does nothing else: no cast, no scale, no part of a nested sample."""
        moved = {rule.path: rule.source for rule in self.rules if rule.source is not None}
        whole = not any("." in path for path in (*self._by_path, *moved.values()))
        converts = any(rule.conversion is not None for rule in self.rules)
        if not whole or converts or not only_keeps(self.source) or not only_keeps(self.view):
            return None
        return Passing(self.source, self.view, moved, dict(self._constants))

    def _rules_of(self, fields: Collection[str] | None) -> list[Rule]:
        if fields is None or not self._keeps[1]:
            return list(self.rules)
        return [rule for rule in self.rules if rule.path.partition(".")[0] in fields]

    # -- sample by sample ------------------------------------------------------------------------------------

    def _see(self, source: Any) -> V:
        return cast(V, self._all(source))

    def reader(self, *, partial: bool = False) -> Callable[[Any], Any]:
        """A function like `get`, or `get_partial`, for many samples: it has less to do for each."""
        return self._all if partial else self.get

    def see_only(self, source: Any, fields: Collection[str] | None) -> Any:
        """The view, or an object with no more than these fields of it: a part of a composed lens's reading."""
        if fields is None or not self._keeps[1]:
            return self._all(source)
        key = frozenset(fields)
        if key not in self._some:
            self._some[key] = _Reader(self, key)
        return self._some[key](source)

    def _change(self, view: V, source: S) -> S:
        values: dict[str, Any] = {}
        for rule in self.rules:
            try:
                value = operator.attrgetter(rule.path)(view)
                if rule.source is None:
                    self._constants[rule.path].check(value)
                    continue
                if rule.conversion is not None:
                    value = rule.conversion.back(value, operator.attrgetter(rule.source)(source))
            except _UNFIT as error:
                _refuse(self.view, rule, error)
            values[rule.source] = value
        return cast(S, _replaced(source, self._writes, values))

    # -- column by column ------------------------------------------------------------------------------------

    @property
    def by_columns(self) -> bool:
        """Whether `get_columns` is possible: it is."""
        return True

    def _columns(self, columns: Mapping[str, Any], size: int, fields: Collection[str] | None) -> dict[str, Any]:
        names = wanted(self.view, fields)
        if not self._keeps[1]:
            origins = {rule.source.partition(".")[0] for rule in self.rules if rule.source is not None}
            views = [self.get_partial(types.SimpleNamespace(**part)) for part in parts_of(columns, origins, size)]
            return {name: stack([getattr(view, name) for view in views]) for name in names}
        nodes = codec.plan(self.view).nodes
        return {name: self._column(name, nodes[name], columns, size) for name in names}

    def _column(self, path: str, node: FieldType, columns: Mapping[str, Any], size: int) -> Any:
        rule = self._by_path.get(path)
        if rule is None:
            cls = cast(Nested, node).cls
            parts = {n: rows(self._column(f"{path}.{n}", t, columns, size)) for n, t in codec.plan(cls).nodes.items()}
            return [cls(**dict(zip(parts, values, strict=True))) for values in zip(*parts.values(), strict=True)]
        if rule.source is None:
            return stack([self._constants[path]() for _ in range(size)])
        top, _, inner = rule.source.partition(".")
        column = columns[top]
        if inner:
            column = stack([operator.attrgetter(inner)(value) for value in column])
        if rule.conversion is None:
            return column
        try:
            return rule.conversion.column(column)
        except _UNFIT:
            for row, value in enumerate(rows(column)):
                try:
                    rule.conversion.there(value)
                except _UNFIT as error:
                    _refuse(self.view, rule, error, row)
            raise

    # -- as data ---------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FieldsLens):
            return NotImplemented
        return (self.source, self.view, self.declared) == (other.source, other.view, other.declared)

    def __hash__(self) -> int:
        return hash((self.source, self.view, self.declared))

    def __reduce__(self) -> Any:
        return (FieldsLens, (self.source, self.view, self.declared))


def _with_fields(cls: Any, what: str) -> type:
    found = check_sample_type(cls, f"the {what} of the lens is no sample type")
    if issubclass(found, DictSample):
        raise LensDefinitionError(f"the {what} of a declared lens has declared fields, which DictSample has not")
    return found


def _refuse(view: type, rule: Rule, error: Exception, row: int | None = None) -> NoReturn:
    message = error.message if isinstance(error, LensValueError) else f"{type(error).__name__}: {error}"
    if row is not None:
        message = f"{message} (sample {row} of the batch)"
    raise LensValueError(message, field=f"{view.__name__}.{rule.path}") from None


class _Constant:
    """A value that is the same in every view, made anew where it can be changed."""

    def __init__(self, view: type, rule: Rule) -> None:
        assert rule.constant is not None
        node: FieldType = Nested(view)
        for part in rule.path.split("."):
            node = codec.plan(cast(Nested, node).cls).nodes[part]
        self._node, self._data, self._path = node, rule.constant, f"{view.__name__}.{rule.path}"
        self._bytes = checked_bytes(node)
        self._value = self._make()
        self._fixed = isinstance(node, Primitive)

    def __call__(self) -> Any:
        return self._value if self._fixed else self._make()

    def _make(self) -> Any:
        return decode_default(self._node, self._data, self._path)

    def check(self, value: Any) -> None:
        """Refuse another value: the source has no place for it."""
        if self._bytes(value) != self._data:
            raise LensValueError(f"is always {self._value!r:.60}: the source has no field for {value!r:.60}")


class _Reader:
    """Makes views, or objects with some of their fields, of objects with the fields of the source."""

    def __init__(self, lens: FieldsLens[Any, Any], fields: frozenset[str] | None) -> None:
        rules = lens.rules if fields is None else lens._rules_of(fields)
        moved = [rule for rule in rules if rule.source is not None]
        self._view = lens.view
        self._take = _taker([cast(str, rule.source) for rule in moved])
        self._convert = [(i, r, r.conversion.there) for i, r in enumerate(moved) if r.conversion is not None]
        fixed = [lens._constants[rule.path] for rule in rules if rule.source is None]
        self._fixed = fixed
        index = {rule.path: i for i, rule in enumerate([*moved, *(r for r in rules if r.source is None)])}
        self._make = _maker(lens.view, "", index, fields)

    def __call__(self, source: Any) -> Any:
        values = self._take(source)
        if self._convert or self._fixed:
            values = list(values)
            for i, rule, there in self._convert:
                try:
                    values[i] = there(values[i])
                except _UNFIT as error:
                    _refuse(self._view, rule, error)
            for constant in self._fixed:
                values.append(constant())
        return self._make(values)


def _taker(paths: list[str]) -> Callable[[Any], Any]:
    if len(paths) > 1:
        return operator.attrgetter(*paths)
    if not paths:
        return lambda source: ()
    get = operator.attrgetter(paths[0])
    return lambda source: (get(source),)


def _maker(cls: type, before: str, index: Mapping[str, int], fields: frozenset[str] | None) -> Callable[[Any], Any]:
    """A function from the values of the rules to a sample of `cls`, or to an object with some fields of it."""
    plan = codec.plan(cls)
    picks: dict[str, Any] = {}
    for f in plan.fields:
        path = before + f.name
        if fields is None or f.name in fields:
            picks[f.name] = index[path] if path in index else _maker(_class_of(f.type), f"{path}.", index, None)
    if fields is None and list(picks.values()) == list(range(len(index))) and not any(f.kw_only for f in plan.fields):
        return lambda values: cls(*values)
    made: Any = cls if fields is None else types.SimpleNamespace
    return lambda values: made(**{n: values[p] if type(p) is int else p(values) for n, p in picks.items()})


def _class_of(node: FieldType) -> type:
    return cast(Nested, node).cls


def _tree(paths: list[str]) -> dict[str, Any]:
    """Paths as nested dicts, with the path itself at each end."""
    tree: dict[str, Any] = {}
    for path in paths:
        *around, last = path.split(".")
        at = tree
        for part in around:
            at = at.setdefault(part, {})
        at[last] = path
    return tree


def _replaced(sample: Any, tree: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    changes = {
        name: values[below] if isinstance(below, str) else _replaced(getattr(sample, name), below, values)
        for name, below in tree.items()
    }
    return dataclasses.replace(sample, **changes)
