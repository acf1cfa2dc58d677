"""Which lenses there are, and which of them lead from one type to another."""

from __future__ import annotations

import collections
import itertools
import sys
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from atdata.errors import AmbiguousLensError, LensDefinitionError, LensError, LensNotFoundError
from atdata.forks import shared_rlock
from atdata.lenses.composition import Identity, compose
from atdata.lenses.lens import Lens
from atdata.lenses.paths import Search, Step
from atdata.lenses.signatures import check_sample_type, local_names

__all__ = ["LensNetwork", "lens", "registered"]

S = TypeVar("S")
V = TypeVar("V")


# Of all networks: workers are forked while other threads import modules with lenses.
_lock = shared_rlock()


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

    def register(self, lens: Lens[Any, Any]) -> None:
        """Make a lens known, in place of one of the same name."""
        if not isinstance(lens, Lens):
            raise LensDefinitionError(f"{lens!r:.80} is not a lens")
        key = _key(lens)
        gone = (lens.name, lens.source.__name__, lens.view.__name__)

        def forget(ref: weakref.ref[Lens[Any, Any]]) -> None:
            with _lock:
                if self._known.get(key) is ref:
                    del self._known[key]
                    self._gone.append(gone)

        with _lock:
            self._known.pop(key, None)
            self._known[key] = weakref.ref(lens, forget)

    @property
    def lenses(self) -> list[Lens[Any, Any]]:
        """The lenses that are known, in the order they were registered."""
        with _lock:
            return [found for ref in self._known.values() if (found := ref()) is not None]

    def find(self, source: type[S], view: type[V]) -> Lens[S, V]:
        """The lens from one type to another.

        It is the one registered; or, where none is, the one that follows from the fields (see
        `atdata.lenses.derived`), unless lenses between versions are registered, which say more than fields do; or the
        shortest path of registered ones. Between two of them, before and after, classes may be different ones where
        the fields of one follow from those of the other: a class defined anew or built from a stored schema, or a later
        version with a new field that has a default. See `atdata.lenses.paths`.

        Raises:
            LensNotFoundError: there is none; the message names the step that is missing, and why no fields lead there.
            AmbiguousLensError: several are equally near; the message shows them.
        """
        return compose(Identity(source), *(step.lens for step in self.way(source, view)))

    def way(
        self,
        source: type,
        view: type,
        also: Iterable[Lens[Any, Any]] = (),
        versions: Iterable[type] = (),
        called: Mapping[type, str] | None = None,
    ) -> list[Step]:
        """The steps of `find`, each with what it was made of.

        Args:
            source: where they begin.
            view: where they end.
            also: lenses that are not known here.
            versions: see `Search`, as is the next.
            called: how messages call a class, where not by its name.
        """
        check_sample_type(source, "a lens is looked for from no sample type")
        check_sample_type(view, "a lens is looked for to no sample type")
        try:
            return Search([*self.lenses, *also], versions, called).find(source, view)
        except LensNotFoundError as error:
            names = source.__name__, view.__name__
            gone = next((name for name, *between in reversed(self._gone) if tuple(between) == names), None)
            if gone is None:
                raise
            raise LensNotFoundError(
                f"{error.message}. {gone} was registered, but nothing holds it any more: keep it in a variable"
            ) from None

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


def _key(lens: Lens[Any, Any]) -> Hashable:
    if type(lens) is Lens and "<locals>" not in lens.__qualname__:
        return lens.__module__, lens.__qualname__
    return lens.place, id(lens.source), id(lens.view)


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
