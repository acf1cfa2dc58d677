"""Which lenses there are, and which of them lead from one type to another."""

from __future__ import annotations

import collections
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Any, TypeVar

from atdata.errors import AmbiguousLensError, LensDefinitionError, LensError, LensNotFoundError, SchemaError
from atdata.lenses.composition import compose
from atdata.lenses.derived import derive
from atdata.lenses.lens import Lens
from atdata.lenses.signatures import check_sample_type, local_names
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema

__all__ = ["LensNetwork", "lens", "registered"]

S = TypeVar("S")
V = TypeVar("V")

_SHOWN = 5
Path = list[Lens[Any, Any]]


class LensNetwork:
    """Lenses that can be found by the types they lead from and to.

    A lens is known for as long as something holds it (the name of its function, a variable); the network itself keeps
    neither lenses nor classes alive. Of two lenses of one name in one module the later counts, so that a module can be
    reloaded and a notebook's cell run again; so does the later of two declared lenses between the same classes.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Photo:
        ...     label: str
        ...     iso: int
        >>> @atdata.packable
        ... class Named:
        ...     name: str
        >>> network = LensNetwork()
        >>> naming = atdata.Lens.fields(Photo, Named, rename={"label": "name"}, drop=["iso"])
        >>> network.register(naming)
        >>> network.find(Photo, Named).get(Photo("cat", 100))
        Named(name='cat')
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, weakref.ref[Lens[Any, Any]]] = {}
        # What was registered and is gone, for messages: the one reason that nobody would think of.
        self._gone: collections.deque[tuple[str, str, str]] = collections.deque(maxlen=50)
        self._cids: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def register(self, lens: Lens[Any, Any]) -> None:
        """Make a lens known, in place of one of the same name."""
        if not isinstance(lens, Lens):
            raise LensDefinitionError(f"{lens!r:.80} is not a lens")
        key = _key(lens)
        gone = (lens.name, lens.source.__name__, lens.view.__name__)

        def forget(ref: weakref.ref[Lens[Any, Any]]) -> None:
            with self._lock:
                if self._known.get(key) is ref:
                    del self._known[key]
                    self._gone.append(gone)

        with self._lock:
            self._known.pop(key, None)
            self._known[key] = weakref.ref(lens, forget)

    @property
    def lenses(self) -> list[Lens[Any, Any]]:
        """The lenses that are known, in the order they were registered."""
        with self._lock:
            return [found for ref in self._known.values() if (found := ref()) is not None]

    def find(self, source: type[S], view: type[V]) -> Lens[S, V]:
        """The lens from one type to another.

        It is the one registered; or, where none is, the one that follows from the fields (see
        `atdata.lenses.derived`); or the shortest path of registered ones. A class of the same name and fields will do
        for `source` and `view`: one defined anew, or built from a stored schema.

        Raises:
            LensNotFoundError: there is none; the message says why no fields lead there.
            AmbiguousLensError: several are equally near; the message shows them.
        """
        check_sample_type(source, "a lens is looked for from no sample type")
        check_sample_type(view, "a lens is looked for to no sample type")
        lenses = self.lenses
        paths = _shortest(lenses, {source}, {view})
        if not paths:
            starts = {source, *self._alike(source, (lens.source for lens in lenses))}
            ends = {view, *self._alike(view, (lens.view for lens in lenses))}
            paths = _shortest(lenses, starts, ends)
        why: LensNotFoundError | None = None
        if not paths or len(paths[0]) > 1:
            try:
                return derive(source, view)
            except LensNotFoundError as error:
                why = error
        if not paths:
            raise self._not_found(source, view, lenses, why)
        if len(paths) > 1:
            raise _ambiguous(source, view, paths)
        return compose(derive(source, paths[0][0].source), *paths[0], derive(paths[0][-1].view, view))

    def along(self, types: Collection[type]) -> Lens[Any, Any]:
        """The lens through all of these types, in this order: the versions of a schema, from old to new.

        Raises:
            LensNotFoundError: between two neighbours there is none; the message says which.
            AmbiguousLensError: between two neighbours there are several.
        """
        steps = list(types)
        if not steps:
            raise LensError("a lens goes along one type at least")
        found: Lens[Any, Any] = Lens.identity(steps[0])
        for i, (before, after) in enumerate(itertools.pairwise(steps), 1):
            try:
                found = found | self.find(before, after)
            except (LensNotFoundError, AmbiguousLensError) as error:
                raise type(error)(f"step {i} of {len(steps) - 1}: {error.message}") from None
        return found

    def _alike(self, cls: type, known: Iterable[type]) -> Iterator[type]:
        """Classes of the same name whose samples have the same bytes."""
        for other in known:
            if other is not cls and other.__name__ == cls.__name__:
                cid = self._cid(cls)
                if cid is not None and cid == self._cid(other):
                    yield other

    def _cid(self, cls: type) -> str | None:
        if cls not in self._cids:
            try:
                self._cids[cls] = None if issubclass(cls, DictSample) else Schema.of(cls).cid
            except SchemaError:
                self._cids[cls] = None
        return self._cids[cls]

    def _not_found(
        self, source: type, view: type, lenses: list[Lens[Any, Any]], why: LensNotFoundError | None
    ) -> LensNotFoundError:
        a, b = source.__name__, view.__name__
        text = f"no lens leads from {a} to {b}, and none follows from their fields"
        if why is not None:
            text += f": {why.message}"
        if any(gone[1:] == (a, b) for gone in self._gone):
            name = next(gone[0] for gone in reversed(self._gone) if gone[1:] == (a, b))
            text += f". {name} was registered, but nothing holds it any more: keep it in a variable"
        elif near := [x.name for x in lenses if x.source.__name__ == a and x.view.__name__ == b]:
            text += f". {near[0]} is between other classes of these names"
        elif near := [f"{x.name} ({a} -> {x.view.__name__})" for x in lenses if x.source is source]:
            text += f". From {a} there are {', '.join(near[:_SHOWN])}"
        return LensNotFoundError(text)


def _key(lens: Lens[Any, Any]) -> Hashable:
    if type(lens) is Lens and "<locals>" not in lens.__qualname__:
        return lens.__module__, lens.__qualname__
    return lens.place, id(lens.source), id(lens.view)


def _shortest(lenses: list[Lens[Any, Any]], starts: set[type], ends: set[type]) -> list[Path]:
    """The shortest paths from one of `starts` to one of `ends`, but no more than are worth showing."""
    # Breadth first; `into` has, for each class, the lenses by which it was reached first.
    into: dict[type, Path] = {}
    reached = set(starts)
    while reached:
        step = [lens for lens in lenses if lens.source in reached and lens.view not in starts and lens.view not in into]
        for lens in step:
            into.setdefault(lens.view, []).append(lens)
        reached = {lens.view for lens in step}
        if at := [cls for cls in into if cls in ends]:
            return list(itertools.islice((path for cls in at for path in _back(cls, starts, into)), _SHOWN + 1))
    return []


def _back(cls: type, starts: set[type], into: dict[type, Path]) -> Iterator[Path]:
    if cls in starts:
        yield []
        return
    for lens in into[cls]:
        for path in _back(lens.source, starts, into):
            yield [*path, lens]


def _ambiguous(source: type, view: type, paths: list[Path]) -> AmbiguousLensError:
    names = [" | ".join(f"{lens.name} ({lens.__module__})" for lens in path) for path in paths[:_SHOWN]]
    more = "; and more" if len(paths) > _SHOWN else ""
    what = "lenses lead" if len(paths[0]) == 1 else f"paths of {len(paths[0])} lenses lead"
    return AmbiguousLensError(
        f"several {what} from {source.__name__} to {view.__name__}: {'; '.join(names)}{more}. Use the one you mean"
    )


registered = LensNetwork()
"""The lenses that `atdata.lens` makes known."""


def lens(getter: Callable[[S], V]) -> Lens[S, V]:
    """Make a lens of a function, and make it known, so that datasets find it; a decorator.

    Given a lens, such as `Lens.fields` makes, it makes that known.

    Args:
        getter: a function of one parameter, with annotations: `def simplify(src: Photo) -> Labelled`.

    Raises:
        LensDefinitionError: the function does not have such a parameter and annotations.
    """
    made = getter if isinstance(getter, Lens) else Lens.of_function(getter, local_names(sys._getframe(1)))
    registered.register(made)
    return made
