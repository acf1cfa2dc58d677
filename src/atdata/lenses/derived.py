"""Lenses that nobody has to write: to a class with some of the fields of another, or with new ones that have defaults.

Either nothing is left out or nothing is added: a field gone here and another one new there may be one field renamed,
and its values must not be lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar

from atdata.errors import LensNotFoundError, SchemaError
from atdata.lenses.columns import field_names
from atdata.lenses.composition import Identity
from atdata.lenses.declaration import Declaration
from atdata.lenses.fields import FieldsLens
from atdata.lenses.lens import Lens
from atdata.lenses.names import near
from atdata.samples.dictsample import DictSample
from atdata.samples.evolution import Evolution, FieldEvolution, compare
from atdata.samples.packable import equal_values, pack, unpack
from atdata.samples.schema import Schema

__all__ = ["FromDict", "alike", "derive", "relation"]

T = TypeVar("T")


def derive(source: type, view: type) -> Lens[Any, Any]:
    """The lens between two classes that follows from their fields alone.

    Fields are matched by name. Types may be wider in the view (`int | None` for `int`), not others.

    Raises:
        LensNotFoundError: none follows; the message says why, field by field.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Photo:
        ...     label: str
        ...     iso: int
        >>> @atdata.packable
        ... class Labelled:
        ...     label: str
        >>> derive(Photo, Labelled).get(Photo("cat", 100))
        Labelled(label='cat')
    """
    if source is view:
        return Identity(source)
    if issubclass(view, DictSample):
        raise LensNotFoundError("a DictSample has no declared fields that those of a class could be seen as")
    if issubclass(source, DictSample):
        return FromDict(view)
    try:
        evolution = compare(Schema.of(source), Schema.of(view))
    except SchemaError as error:
        raise LensNotFoundError(f"the classes cannot be compared: {error}") from None
    gone, new = _gone(evolution), _new(evolution)
    wrong = _wrong(evolution)
    if gone and new and not wrong:
        names = {f.name for f in new}
        pair = f"rename={{{gone[0]!r}: {new[0].name!r}}}"
        wrong = [
            f"{source.__name__} has {', '.join(gone)}, and {view.__name__} has {', '.join(sorted(names))} instead: say "
            f"which is which, with atdata.Lens.fields({source.__name__}, {view.__name__}, {pair}, ...)"
        ]
    if wrong:
        raise LensNotFoundError("; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
    defaults = {f.name: f.new.default for f in new if f.new is not None and f.new.default is not None}
    nothing: Any = {}
    declared = Declaration(
        rename=nothing, drop=frozenset(gone), default=defaults, cast=frozenset(), nest=nothing, unnest=frozenset(),
        scale=nothing,
    )  # fmt: skip
    return FieldsLens(source, view, declared)


def alike(one: type, other: type) -> bool:
    """Whether two classes have the same name and schema: one of them was defined anew, or built from what is stored."""
    if one is other or one.__name__ != other.__name__ or issubclass(one, DictSample) or issubclass(other, DictSample):
        return one is other
    try:
        return Schema.of(one).cid == Schema.of(other).cid
    except SchemaError:
        return False


def relation(old: Schema, new: Schema) -> Literal["same", "more", "part"] | None:
    """How the samples of one schema can be seen as those of another without a lens, as `derive` would have it.

    Returns:
        "same": all fields are, defaults apart; "more": all are there, some may be wider, some are new with a default;
        "part": some are left out; None: it takes a lens.
    """
    evolution = compare(old, new)
    gone = _gone(evolution)
    if _wrong(evolution) or (gone and _new(evolution)):
        return None
    if gone:
        return "part"
    return "same" if all(d.kind == "default" for d in evolution.differences) else "more"


def _gone(evolution: Evolution) -> list[str]:
    return [f.name for f in evolution.fields if f.new is None]


def _new(evolution: Evolution) -> list[FieldEvolution]:
    return [f for f in evolution.fields if f.old is None]


def _wrong(evolution: Evolution) -> list[str]:
    """Why fields cannot follow from the source, one text for each."""
    names, gone = (evolution.old.name, evolution.new.name), _gone(evolution)
    return [reason for f in evolution.fields if (reason := _unreadable(f, *names, gone)) is not None]


def _unreadable(field: FieldEvolution, source: str, view: str, gone: Collection[str]) -> str | None:
    """Why a field cannot follow from the source; None when it can."""
    name = f"{view}.{field.name}"
    if field.new is None:
        return None
    if field.old is None:
        if field.new.default is not None:
            return None
        return f"{name} is no field of {source}{near(field.name, gone) if gone else ''}"
    # A sample has a value for every field, whether or not its bytes may lack one.
    wrong = [d for d in field.differences if not d.readable and d.kind != "default"]
    if not wrong:
        return None
    d = wrong[0]
    if d.new is None:
        return f"{view}.{d.path} is not there, and {d.old} in {source}"
    if d.old is None:
        return f"{view}.{d.path} is not in {source}, and has no default"
    return f"{view}.{d.path} is {d.new}, and {d.old} in {source}{f' ({d.reason})' if d.reason else ''}"


class FromDict(Lens[DictSample, T]):
    """Samples without a class as samples of one that has some of their fields, read as their bytes would be."""

    def __init__(self, view: type[T]) -> None:
        self.source, self.view = DictSample, view
        self.__name__ = self.__qualname__ = f"fields(DictSample -> {view.__name__})"
        self.__doc__ = type(self).__doc__
        self._names = field_names(view)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """None: it is not made of functions itself."""
        return ()

    @property
    def editable(self) -> bool:
        """Whether `put` is possible: it is."""
        return True

    def reads_for(self, fields: Collection[str] | None) -> frozenset[str]:
        """The fields of the same names."""
        return frozenset(self._names)

    def _see(self, source: Any) -> T:
        return unpack(DictSample({name: source[name] for name in self._names if name in source}).packed, self.view)

    def _change(self, view: T, source: DictSample) -> DictSample:
        wire = DictSample.from_bytes(pack(view))
        if any(name not in source for name in self._names):
            # Defaults that the source lacks, and that nobody has changed, it lacks still.
            before = DictSample.from_bytes(pack(self._see(source)))
            wire = DictSample({n: v for n, v in wire.items() if n in source or not equal_values(v, before[n])})
        return DictSample({**source, **wire})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FromDict) and other.view is self.view

    def __hash__(self) -> int:
        return hash(self.view)

    def __reduce__(self) -> Any:
        return (FromDict, (self.view,))
