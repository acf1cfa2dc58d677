"""What a declared lens says, as plain data, and what it comes to between two classes: one rule for each field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any

from atdata.errors import LensDefinitionError, SchemaError
from atdata.lenses.conversion import Conversion, conversion
from atdata.lenses.names import near
from atdata.samples import codec
from atdata.samples.build import decode_default, encode_default
from atdata.samples.fields import FieldType, Nested, OptionalOf

__all__ = ["Amount", "Declaration", "Rule", "resolve"]

# What a field is scaled by.
Amount = int | float | Fraction

_MAX_DEPTH = 32
# Floats have every whole number up to this exactly.
_MAX_TERM = 2**53


@dataclasses.dataclass(frozen=True)
class Declaration:
    """The parts of a declared lens; see `Lens.fields`. Paths are field names joined by dots.

    Attributes:
        rename: source paths to view paths.
        drop: source paths.
        default: view paths to the msgpack bytes of values.
        cast: view paths.
        nest: view paths of nested samples to the source's fields that go into them.
        unnest: source paths of nested samples.
        scale: view paths to factors.
    """

    rename: Mapping[str, str]
    drop: frozenset[str]
    default: Mapping[str, bytes]
    cast: frozenset[str]
    nest: Mapping[str, frozenset[str]]
    unnest: frozenset[str]
    scale: Mapping[str, Fraction]

    @classmethod
    def of(
        cls,
        view: type,
        *,
        rename: Mapping[str, str] | None = None,
        drop: Collection[str] = (),
        default: Mapping[str, Any] | None = None,
        cast: Collection[str] = (),
        nest: Mapping[str, Collection[str]] | None = None,
        unnest: Collection[str] = (),
        scale: Mapping[str, Amount] | None = None,
    ) -> Declaration:
        """The declaration in a caller's words; values are made bytes and factors fractions.

        Raises:
            LensDefinitionError: a part is no mapping or collection of names, or a value does not fit the view's field.
        """
        values = {}
        for path, value in _mapping(default, "default").items():
            where = f"{view.__name__}.{path}"
            try:
                values[path] = encode_default(_node(view, path), value, where)
            except SchemaError as error:
                raise LensDefinitionError(error.message, field=where) from None
        return cls(
            rename=_mapping(rename, "rename"),
            drop=_names(drop, "drop"),
            default=values,
            cast=_names(cast, "cast"),
            nest={path: _names(names, f"nest[{path!r}]") for path, names in _mapping(nest, "nest").items()},
            unnest=_names(unnest, "unnest"),
            scale={path: factor_of(amount, path) for path, amount in _mapping(scale, "scale").items()},
        )

    def __hash__(self) -> int:
        return hash((self.drop, self.cast, self.unnest, *map(frozenset, (self.rename, self.default, self.scale))))


def factor_of(amount: Any, path: str) -> Fraction:
    """The factor that somebody wrote; `0.001` means one thousandth, not the float nearest to it.

    Raises:
        LensDefinitionError: it is no finite number but 0, or not a ratio of whole numbers that floats have exactly.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float | Fraction):
        raise LensDefinitionError(f"a factor is a number, not {amount!r:.60}", field=path)
    if isinstance(amount, float) and not math.isfinite(amount):
        raise LensDefinitionError(f"{amount} is no factor", field=path)
    factor = Fraction(float.__repr__(amount)) if isinstance(amount, float) else Fraction(amount)
    if factor == 0:
        raise LensDefinitionError("a factor of 0 would lose every value", field=path)
    if abs(factor.numerator) > _MAX_TERM or factor.denominator > _MAX_TERM:
        raise LensDefinitionError(
            f"a factor is a ratio of whole numbers up to 2**53, and {amount!r:.60} is not", field=path
        )
    return factor


def _mapping(given: Any, what: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise LensDefinitionError(f"{what} is a dict with names of fields as keys, not {given!r:.80}")
    return dict(given)


def _names(given: Any, what: str) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, Collection) or not all(isinstance(name, str) for name in given):
        raise LensDefinitionError(f"{what} is a list of names of fields, not {given!r:.80}")
    return frozenset(given)


# -- between two classes -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one field of the view, or one part of a nested one, comes from.

    Attributes:
        path: the field of the view.
        source: the field of the source; None where the value is always the same.
        conversion: how its value is seen; None where it stays as it is.
        constant: the msgpack bytes of the value that is always the same.
    """

    path: str
    source: str | None
    conversion: Conversion | None = None
    constant: bytes | None = None


def _node(cls: type, path: str) -> FieldType:
    """The type of a field of `cls`, or of a part of a nested one."""
    found: FieldType = Nested(cls)
    parts = path.split(".")
    if len(parts) > _MAX_DEPTH:
        raise LensDefinitionError(f"nested more than {_MAX_DEPTH} deep", field=cls.__name__)
    for i, part in enumerate(parts):
        if isinstance(found, Nested):
            nodes = codec.plan(found.cls).nodes
        else:
            above = ".".join(parts[:i])
            reason = " and may be None" if isinstance(found, OptionalOf) and isinstance(found.inner, Nested) else ""
            raise LensDefinitionError(
                f"{above} is {found.name}{reason}, so there is no field {part!r} in it", field=f"{cls.__name__}.{path}"
            )
        if part not in nodes:
            raise LensDefinitionError(
                f"{found.cls.__name__} has no field {part!r}{near(part, nodes)}", field=f"{cls.__name__}.{path}"
            )
        found = nodes[part]
    return found


def resolve(source: type, view: type, declared: Declaration) -> tuple[Rule, ...]:
    """One rule for each field of the view, in order; for each part of a nested one where its parts are named.

    Raises:
        LensDefinitionError: a field is not there, left over, taken twice, or of a type that does not fit.
    """
    moves = dict(_moves(source, view, declared))
    for path in sorted(declared.drop):
        _node(source, path)
    targets = {target: origin for origin, target in moves.items()}
    for path in sorted({*declared.default, *declared.cast, *declared.scale}):
        _node(view, path)
    named_source, named_view = [*moves, *sorted(declared.drop)], [*targets, *declared.default]
    # Where the parts of a nested sample are named in one class, those of its namesake stay where they are.
    opened_source, opened_view = _above(named_source), _above([*named_view, *sorted(declared.cast), *declared.scale])
    origins = set(_leaves(source, opened_source | (opened_view - {*named_source})))
    leaves = list(_leaves(view, opened_view | (opened_source - {*named_view})))
    _check_whole(source, origins, named_source)
    _check_whole(view, leaves, [*named_view, *sorted(declared.cast), *declared.scale])
    for path in moves:
        if path in declared.drop:
            raise LensDefinitionError(f"is both dropped and moved to {moves[path]}", field=f"{source.__name__}.{path}")
    rules = []
    for path in leaves:
        where = f"{view.__name__}.{path}"
        if path in targets and path in declared.default:
            raise LensDefinitionError("has both a default and a field that it comes from", field=where)
        origin = targets.get(path)
        if origin is None and path in origins and path not in moves and path not in declared.drop:
            if path in declared.default:
                raise LensDefinitionError(
                    f"has a default, but {source.__name__} has such a field: drop it, or leave out the default",
                    field=where,
                )
            origin = path
        if origin is None:
            if path not in declared.default:
                raise LensDefinitionError(_from_nowhere(source, path, origins, moves, declared), field=where)
            rules.append(Rule(path, None, constant=_constant(view, path, declared.default[path])))
        else:
            rules.append(Rule(path, origin, _convert(source, origin, view, path, declared)))
    left = origins - {rule.source for rule in rules} - declared.drop
    if left:
        name = min(left)
        raise LensDefinitionError(
            f"goes nowhere: drop it, or rename it to a field of {view.__name__}{near(name, leaves)}",
            field=f"{source.__name__}.{name}",
        )
    return tuple(rules)


def _moves(source: type, view: type, declared: Declaration) -> Iterator[tuple[str, str]]:
    """Every pair of source and view path that is declared, also by nesting and unnesting."""
    found: dict[str, str] = {}
    sources: dict[str, str] = {}

    def move(origin: str, target: str) -> tuple[str, str]:
        _node(source, origin)
        _node(view, target)
        if target in sources and sources[target] != origin:
            raise LensDefinitionError(
                f"comes from both {sources[target]} and {origin}", field=f"{view.__name__}.{target}"
            )
        if found.setdefault(origin, target) != target:
            raise LensDefinitionError(f"goes to both {found[origin]} and {target}", field=f"{source.__name__}.{origin}")
        sources[target] = origin
        return origin, target

    for origin, target in declared.rename.items():
        if not isinstance(target, str):
            raise LensDefinitionError(
                f"rename gives it no name, but {target!r:.60}", field=f"{source.__name__}.{origin}"
            )
        yield move(origin, target)
    for target, names in declared.nest.items():
        for name in sorted(names):
            yield move(name, f"{target}.{name.rpartition('.')[2]}")
    for outer in sorted(declared.unnest):
        node = _node(source, outer)
        if not isinstance(node, Nested):
            raise LensDefinitionError(
                f"is {node.name}, which has no fields to unnest", field=f"{source.__name__}.{outer}"
            )
        around = f"{outer.rpartition('.')[0]}." if "." in outer else ""
        for name in codec.plan(node.cls).nodes:
            inner = f"{outer}.{name}"
            if inner not in declared.rename and inner not in declared.drop:
                yield move(inner, f"{around}{name}")


def _above(paths: Collection[str]) -> frozenset[str]:
    """The nested samples whose parts are named: `a` and `a.b` for `a.b.c`."""
    return frozenset(path[:i] for path in paths for i, c in enumerate(path) if c == ".")


def _leaves(cls: type, opened: frozenset[str], before: str = "") -> Iterator[str]:
    """The paths of the fields, with the parts of those nested samples that are opened in place of them."""
    for name, node in codec.plan(cls).nodes.items():
        path = before + name
        if path in opened and isinstance(node, Nested):
            yield from _leaves(node.cls, opened, f"{path}.")
        else:
            yield path


def _check_whole(cls: type, leaves: Collection[str], paths: Collection[str]) -> None:
    for path in paths:
        if path not in leaves:
            raise LensDefinitionError("is named both whole and by its parts", field=f"{cls.__name__}.{path}")


def _constant(view: type, path: str, data: bytes) -> bytes:
    where = f"{view.__name__}.{path}"
    try:
        decode_default(_node(view, path), data, where)
    except SchemaError as error:
        raise LensDefinitionError(error.message, field=where) from None
    return data


def _convert(source: type, origin: str, view: type, path: str, declared: Declaration) -> Conversion | None:
    old, new = _node(source, origin), _node(view, path)
    where = f"{view.__name__}.{path}"
    asked, factor = path in declared.cast, declared.scale.get(path, Fraction(1))
    if old == new and factor == 1:
        if asked:
            raise LensDefinitionError(f"needs no cast: it is {new.name} in both classes", field=where)
        return None
    found = conversion(old, new, factor)
    if found is None:
        what = f"cannot be scaled: {source.__name__}.{origin} is {old.name}, and it is {new.name}"
        if factor == 1:
            what = f"is {new.name}, and no cast leads there from {source.__name__}.{origin}, which is {old.name}"
        raise LensDefinitionError(f"{what}; write the lens as a function", field=where)
    unscaled = conversion(old, new)
    if not asked and (unscaled is None or not unscaled.free):
        raise LensDefinitionError(
            f"is {new.name}, and {source.__name__}.{origin} is {old.name}: say cast=[{path!r}] if that is meant",
            field=where,
        )
    return found


def _from_nowhere(
    source: type, path: str, origins: Collection[str], moves: Mapping[str, str], declared: Declaration
) -> str:
    name = source.__name__
    if path in moves:
        return f"comes from nowhere: {name}.{path} is renamed to {moves[path]}"
    if path in declared.drop:
        return f"comes from nowhere: {name}.{path} is dropped"
    free = sorted({*origins} - {*moves} - declared.drop)
    return f"comes from nowhere: give it a default, or rename a field of {name} to it{near(path, free)}"
