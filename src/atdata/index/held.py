"""The lenses that an index holds, as a search for ways from type to type takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from atdata.errors import (
    AtdataError,
    AtmosphereError,
    EntryNotFoundError,
    LensNotFoundError,
    LensRecordError,
    RateLimitError,
    SchemaError,
    UnreachableError,
)
from atdata.index.lenses import StoredLens
from atdata.lenses.lens import Lens
from atdata.lenses.network import registered
from atdata.lenses.paths import Step
from atdata.lenses.references import LensReference, schema_cid
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema

__all__ = ["HeldLenses"]

_PLACE = "the index"  # what messages say in the place of a module
_LISTED = 3
_MOST = 500  # lenses that are searched through; far more than anybody has, and few enough to be searched
_LISTED_MOST = 10_000  # that are looked at: a stranger's server may list without an end
_INSTEAD = "read the data as it is stored, without a class, and see it through the lens that you mean, with as_type"
# What makes one lens unusable, and says nothing of the others: it, or an account that it names, is gone or malformed.
_UNUSABLE = (EntryNotFoundError, SchemaError, LensRecordError, AtmosphereError)
_PASSING = (UnreachableError, RateLimitError)  # but then nobody knows what the lens would have said
_Key = tuple[str, str]  # name and identifier of a schema
_Found = tuple[StoredLens, tuple[Schema, Schema]]


class _Node(NamedTuple):
    """A type, as far as it takes to see that it has nothing to do with another."""

    name: str
    fields: frozenset[str]

    def meets(self, other: _Node) -> bool:
        """Whether one may follow from the other, or be another version of it."""
        return self.fields <= other.fields or other.fields <= self.fields or self.name == other.name


class _Elsewhere(Lens[Any, Any]):
    """Stands for a lens that is code: a way that needs it is known, and cannot be gone."""

    def __init__(self, name: str, source: type, view: type, reference: LensReference) -> None:
        self.source, self.view = source, view
        self.__name__ = self.__qualname__ = name
        self.reference = reference


class HeldLenses:
    """What an index has for a way between two classes.

    Of lenses of one name between the same schemas the newest counts; those between types that a lens of this process
    is between are left to that one. Lenses that cannot be read are passed over, and named when no way is found.

    Args:
        index: with `list_lenses` and `get_lens`; one without, or None, holds none.
        stored: the class of the data.
        wanted: the class to be seen.

    Raises:
        SchemaError: there are more lenses than can be searched.
    """

    def __init__(self, index: Any, stored: type, wanted: type) -> None:
        self._index = index
        self._classes = {key: cls for cls in (stored, wanted) if (key := _key(cls)) is not None}
        self._held: dict[int, StoredLens] = {}  # by the lens's id
        self._unusable: list[str] = []
        self.lenses: list[Lens[Any, Any]] = []
        self.called: dict[type, str] = {}
        found = self._newest()
        here = {(_key(lens.source), _key(lens.view)) for lens in registered.lenses} if found else set()
        for each, (source, view) in _useful(found, stored, wanted):
            if ((source.name, source.cid), (view.name, view.cid)) not in here:
                self._add(each, source, view)

    def _newest(self) -> list[_Found]:
        listing = getattr(self._index, "list_lenses", None)
        newest: dict[tuple[str, ...], _Found] = {}
        for number, each in enumerate(listing() if callable(listing) else ()):
            if number == _LISTED_MOST:
                raise SchemaError(f"the index has more than {_LISTED_MOST:,} lenses, too many to search: {_INSTEAD}")
            try:
                source, view = each.schemas
            except _PASSING as error:
                error.add_note(f"a schema of the lens {each.name} ({each.uri}) is there; to do without: {_INSTEAD}")
                raise
            except _UNUSABLE as error:
                self._pass_over(each, error)
                continue
            # Of the index, or of one of its accounts; versions of a schema that differ in words only are one.
            key = each.uri.rpartition("/")[0], each.name, source.name, source.cid, view.name, view.cid
            if key not in newest or newest[key][0].created_at < each.created_at:
                newest[key] = each, (source, view)
        return list(newest.values())

    def _add(self, each: StoredLens, *schemas: Schema) -> None:
        try:
            source, view = map(self._class, schemas)
            lens = each.load(source, view)
        except _UNUSABLE as error:
            self._pass_over(each, error)
            return
        if isinstance(lens, LensReference):
            lens = _Elsewhere(each.name, source, view, lens)
        else:
            lens.__name__ = each.name
        lens.__module__ = _PLACE
        self.lenses.append(lens)
        self._held[id(lens)] = each

    def _class(self, schema: Schema) -> type:
        key = schema.name, schema.cid
        if key not in self._classes:
            self._classes[key] = schema.sample_type()
            self.called[self._classes[key]] = f"{schema.name} {schema.version}"
        return self._classes[key]

    def _pass_over(self, each: StoredLens, error: AtdataError) -> None:
        self._unusable.append(f"{each.name}: {error}")

    def code_in(self, steps: Iterable[Step]) -> str | None:
        """What has to be done for a way that takes code of others; None where it takes none."""
        for step in steps:
            if isinstance(step.lens, _Elsewhere):
                return f"{step.lens.reference} (get_lens({self._held[id(step.lens)].uri!r}).load() gives it)"
        return None

    def prove(self, steps: Iterable[Step]) -> None:
        """Whether the lenses of a way are what the index gives when it is asked for each of them, which is proved.

        Raises:
            LensRecordError: one is another.
        """
        for step in steps:
            listed = self._held.get(id(step.lens))
            if listed is None:
                continue
            lens = step.lens
            given = self._index.get_lens(listed.uri)
            ends = [schema.cid for schema in given.schemas]
            if ends != [schema_cid(lens.source), schema_cid(lens.view)] or given.load(lens.source, lens.view) != lens:
                raise LensRecordError(
                    "the lens is not what was listed of it: it was changed, or altered", url=listed.uri
                )

    def explained(self, error: LensNotFoundError) -> LensNotFoundError:
        """An error that says which lenses could not be used."""
        if not self._unusable:
            return error
        more = f", and {len(self._unusable) - _LISTED} more" if len(self._unusable) > _LISTED else ""
        return LensNotFoundError(
            f"{error.message}. The index has lenses that cannot be used: {'; '.join(self._unusable[:_LISTED])}{more}"
        )


def _key(cls: type) -> _Key | None:
    """What a schema's class is known by; None for one that has no schema."""
    if issubclass(cls, DictSample):
        return None
    try:
        return cls.__name__, schema_cid(cls) or ""
    except LensRecordError:
        return None


def _node(cls: type) -> _Node:
    return _Node(cls.__name__, frozenset(() if issubclass(cls, DictSample) else codec.plan(cls).nodes))


def _useful(found: Sequence[_Found], stored: type, wanted: type) -> list[_Found]:
    """Those that can be reached from the data, or lead to the class, before any class is made of a schema.

    Raises:
        SchemaError: they are too many.
    """
    if not found:
        return []
    ends = [tuple(_Node(s.name, frozenset(f.name for f in s.fields)) for s in schemas) for _, schemas in found]
    ends += [(_node(lens.source), _node(lens.view)) for lens in registered.lenses]
    reached = _spread(_node(stored), [(source, view) for source, view in ends])
    leading = _spread(_node(wanted), [(view, source) for source, view in ends])
    # Where nothing leads the whole way, messages tell how far it goes from both ends.
    useful = [found[n] for n in sorted(reached & leading or reached | leading) if n < len(found)]
    if len(useful) > _MOST:
        raise SchemaError(
            f"{len(useful):,} lenses of the index may lead from {stored.__name__} to {wanted.__name__}, too many to "
            f"search: {_INSTEAD}"
        )
    return useful


def _spread(start: _Node, edges: Sequence[tuple[_Node, _Node]]) -> set[int]:
    """The numbers of the edges that can be come by from a type."""
    left, found, waiting = dict(enumerate(edges)), set[int](), [start]
    for node in waiting:
        here = [number for number, (begin, _) in left.items() if node.meets(begin)]
        found.update(here)
        waiting += {left.pop(number)[1] for number in here}
    return found
