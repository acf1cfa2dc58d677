"""Lenses one after another, and the lens that changes nothing."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from atdata.errors import LensDefinitionError
from atdata.lenses.columns import field_names, wanted
from atdata.lenses.lens import Lens
from atdata.lenses.passing import Passing
from atdata.lenses.signatures import check_sample_type
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import only_keeps

__all__ = ["Composed", "Identity", "compose"]

S = TypeVar("S")
V = TypeVar("V")
T = TypeVar("T")
M = TypeVar("M")


class Identity(Lens[T, T]):
    """Every sample of a class as it is."""

    def __init__(self, sample_type: type[T]) -> None:
        self.source = self.view = cast(type[T], check_sample_type(sample_type, "an identity lens is of no sample type"))
        self.__name__ = self.__qualname__ = f"identity({self.source.__name__})"
        self.__doc__ = type(self).__doc__

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """None: it is not made of functions itself."""
        return ()

    @property
    def editable(self) -> bool:
        """Whether `put` is possible: it is."""
        return True

    def reads_for(self, fields: Collection[str] | None) -> frozenset[str] | None:
        """The same fields."""
        if fields is None and issubclass(self.source, DictSample):
            return None
        return frozenset(field_names(self.source) if fields is None else fields)

    @property
    def passing(self) -> Passing | None:
        """Every field, where the class has fields and does no more than keep them."""
        if issubclass(self.source, DictSample) or not only_keeps(self.source):
            return None
        return Passing(self.source, self.view, {name: name for name in field_names(self.source)})

    @property
    def by_columns(self) -> bool:
        """Whether `get_columns` is possible: it is."""
        return True

    def _columns(self, columns: Mapping[str, Any], size: int, fields: Collection[str] | None) -> dict[str, Any]:
        if issubclass(self.view, DictSample):
            return {name: columns[name] for name in (columns if fields is None else fields)}
        return {name: columns[name] for name in wanted(self.view, fields)}

    def _see(self, source: Any) -> T:
        return cast(T, source)

    def _change(self, view: T, source: T) -> T:
        return view

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.source is self.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __reduce__(self) -> Any:
        return (Identity, (self.source,))


class Composed(Lens[S, V]):
    """Two or more lenses, each of which reads what the one before gives."""

    def __init__(self, parts: tuple[Lens[Any, Any], ...]) -> None:
        self._parts = parts
        self.source, self.view = parts[0].source, parts[-1].view
        self.__name__ = self.__qualname__ = " | ".join(part.name for part in parts)
        self.__doc__ = type(self).__doc__

    @property
    def parts(self) -> tuple[Lens[Any, Any], ...]:
        """The lenses that it is composed of, in the order of reading."""
        return self._parts

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """None: it is not made of functions itself."""
        return ()

    @property
    def editable(self) -> bool:
        """Whether `put` is possible: every part has a putter."""
        return all(part.editable for part in self._parts)

    def reads_for(self, fields: Collection[str] | None) -> frozenset[str] | None:
        """The fields of the source that only these fields of the view need (None: all of them); as `reads`."""
        return self._parts[0].reads_for(self._asked(fields)[0])

    @property
    def passing(self) -> Passing | None:
        """What all of its parts pass on, when none does anything else."""
        found = self._parts[0].passing
        for part in self._parts[1:]:
            after = None if found is None else part.passing
            found = None if found is None or after is None else found.then(after)
        return found

    @property
    def by_columns(self) -> bool:
        """Whether `get_columns` is possible: it is where it is for every part."""
        return all(part.by_columns for part in self._parts)

    def _columns(self, columns: Mapping[str, Any], size: int, fields: Collection[str] | None) -> dict[str, Any]:
        found = columns
        for part, asked in zip(self._parts, self._asked(fields), strict=True):
            found = part._columns(found, size, asked)
        return dict(found)

    def _asked(self, fields: Collection[str] | None) -> list[Collection[str] | None]:
        """For each part, the fields of its view that are needed in the end."""
        asked = [fields]
        for part in reversed(self._parts[1:]):
            asked.append(part.reads_for(asked[-1]))
        return asked[::-1]

    def reader(self, *, partial: bool = False) -> Callable[[Any], Any]:
        """A function like `get`, or `get_partial`, for many samples: it has less to do for each."""
        if not partial:
            return self.get
        first, *others = (
            part.reader(partial=True) if asked is None else functools.partial(part.see_only, fields=asked)
            for part, asked in zip(self._parts, self._asked(None), strict=True)
        )

        def read(sample: Any) -> Any:
            found = first(sample)
            for other in others:
                found = other(found)
            return found

        return read

    def _see(self, source: Any) -> V:
        return cast(V, self.see_only(source, None))

    def see_only(self, source: Any, fields: Collection[str] | None) -> Any:
        """The view, or an object with no more than these fields of it."""
        found = source
        for part, asked in zip(self._parts, self._asked(fields), strict=True):
            found = part.see_only(found, asked)
        return found

    def _change(self, view: V, source: S) -> S:
        before: list[Any] = [source]
        for part in self._parts[:-1]:
            before.append(part.get(before[-1]))
        changed: Any = view
        for part, was in zip(reversed(self._parts), reversed(before), strict=True):
            changed = part.put(changed, was)
        return cast(S, changed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composed) and other._parts == self._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __reduce__(self) -> Any:
        return (compose, self._parts)


def compose(*lenses: Lens[Any, Any]) -> Lens[Any, Any]:
    """The lens that is each of these after the one before.

    Raises:
        LensDefinitionError: one does not read what the one before gives.
    """
    parts: list[Lens[Any, Any]] = [part for lens in lenses for part in lens.parts]
    for before, after in itertools.pairwise(parts):
        if before.view is not after.source:
            raise LensDefinitionError(
                f"{before.name} gives {before.view.__name__}, but {after.name} reads {after.source.__name__}"
                + (", another class of that name" if before.view.__name__ == after.source.__name__ else "")
            )
    kept = [part for part in parts if not isinstance(part, Identity)] or parts[:1]
    return kept[0] if len(kept) == 1 else Composed(tuple(kept))
