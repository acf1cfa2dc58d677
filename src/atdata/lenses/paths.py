"""The ways from one sample type to another: lenses one after another, and between them what follows from the fields.

What somebody wrote comes before what only follows from fields, since fields of the same names may mean something else
(metres that were centimetres). Where neither is clearly meant, nothing is assumed: that is an error.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from atdata.errors import AmbiguousLensError, LensNotFoundError, SchemaError
from atdata.lenses.derived import derive, relation
from atdata.lenses.lens import Lens
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema

__all__ = ["Search", "Step"]

_SHOWN = 5
_FIELDS = 10

# How one class can be seen as another without a lens: it has the same name and schema; the same fields; the same and
# more, or wider ones; or some of them.
Relation = Literal["alike", "same", "more", "part"]
_ITS_FIELDS: tuple[Relation, ...] = ("alike", "same")
Cost = tuple[int, ...]
_NONE: Cost = (0, 0, 0, 0, 0)
_LENS: Cost = (0, 0, 0, 0, 1)
# The less follows by itself, the cheaper; then the fewer lenses.
_DERIVED: Mapping[Relation, Cost] = {
    "part": (1, 0, 0, 0, 0),
    "more": (0, 1, 0, 0, 0),
    "same": (0, 0, 1, 0, 0),
    "alike": (0, 0, 0, 1, 0),
}


class Step(NamedTuple):
    """One step of a way.

    Attributes:
        lens: what takes it.
        relation: how the classes are related where nobody wrote the lens; None for a lens that somebody wrote.
    """

    lens: Lens[Any, Any]
    relation: Relation | None = None


class _Edge(NamedTuple):
    source: type
    view: type
    lens: Lens[Any, Any] | None  # None: the lens follows from the fields
    relation: Relation | None


Way = list[_Edge]
# A class, and whether it was reached by what follows from the fields: what follows twice follows at once.
_State = tuple[type, bool]


class Search:
    """Ways through some lenses.

    Args:
        lenses: those that somebody wrote.
        versions: classes of the versions of a schema, from old to new: each may follow from the one before, also where
            the last does not follow from the first.
        called: how messages call a class, where not by its name.
    """

    def __init__(
        self,
        lenses: Iterable[Lens[Any, Any]],
        versions: Iterable[type] = (),
        called: Mapping[type, str] | None = None,
    ) -> None:
        self._lenses = list(lenses)
        self._called = called or {}
        self._schemas: dict[type, Schema | None] = {}
        self._relations: dict[tuple[type, type], Relation | None] = {}
        self._between: dict[tuple[type, type, tuple[Relation, ...]], bool] = {}
        self._from: dict[type, list[_Edge]] = {}
        for lens in self._lenses:
            self._from.setdefault(lens.source, []).append(_Edge(lens.source, lens.view, lens, None))
        for before, after in itertools.pairwise(versions):
            if not any(self._is(x.source, before) and self._is(x.view, after) for x in self._lenses):
                related = self.relation(before, after)
                edges = [] if related is None else [_Edge(before, after, None, related)]
                self._from.setdefault(before, []).extend(edges)

    def find(self, source: type, view: type) -> list[Step]:
        """The way from one class to another.

        It is the lens that somebody wrote for that. Where there is none, and the fields of the one are also those of
        the other, it is what follows from that, unless lenses lead along types that all follow so: versions, of which
        somebody wrote how they differ. Else it is the way on which least follows by itself, of the fewest lenses.

        Raises:
            LensNotFoundError: there is none; the message names the step that is missing.
            AmbiguousLensError: there are several, none of which comes before the others.
        """
        if source is view:
            return []
        straight = [[edge] for edge in self._from.get(source, ()) if edge.view is view and edge.lens is not None]
        ways = straight or self._ways(source, view)
        if ways and not any(map(_assumed, ways[0])) and sum(edge.lens is not None for edge in ways[0]) == 1:
            return self._only(source, view, ways)
        try:
            plain = derive(source, view)
        except LensNotFoundError as error:
            if not ways:
                raise self._not_found(source, view, error) from None
            return self._only(source, view, ways)
        related = self.relation(source, view) or "part"
        if related in ("part", "alike") or not ways:
            return [Step(plain, related)]
        if self._written(source, view):
            return self._only(source, view, self._ways(source, view, within=partial(self._follows, source)))
        if maybe := self._ways(source, view, within=partial(self._follows, source)):
            first = maybe[0][0]
            if first.relation == "same" or first.view.__name__ == source.__name__:
                raise self._unclear(source, view, maybe[0])
        return [Step(plain, related)]

    # -- how classes are related -----------------------------------------------------------------------------

    def relation(self, source: type, view: type) -> Relation | None:
        """How one class can be seen as another without a lens; None when it cannot."""
        pair = source, view
        if pair not in self._relations:
            self._relations[pair] = self._relation(source, view)
        return self._relations[pair]

    def _relation(self, source: type, view: type) -> Relation | None:
        if issubclass(source, DictSample) or issubclass(view, DictSample):
            return None
        names, others = codec.plan(source).nodes.keys(), codec.plan(view).nodes.keys()
        if not (names <= others or others <= names):
            return None  # most are told apart by that
        old, new = self._schema(source), self._schema(view)
        if old is None or new is None:
            return None
        if source.__name__ == view.__name__ and old.cid == new.cid:
            return "alike"
        return relation(old, new)

    def _schema(self, cls: type) -> Schema | None:
        if cls not in self._schemas:
            try:
                self._schemas[cls] = None if issubclass(cls, DictSample) else Schema.of(cls)
            except SchemaError:
                self._schemas[cls] = None
        return self._schemas[cls]

    def _is(self, one: type, other: type) -> bool:
        return one is other or self.relation(one, other) in ("alike", "same")

    def _follows(self, source: type, cls: type) -> bool:
        """Whether all that is in `source` is in `cls`."""
        return cls is source or self.relation(source, cls) in ("alike", "same", "more")

    def _written(self, source: type, view: type, first: tuple[Relation, ...] = ("alike",)) -> bool:
        """Whether lenses lead from `source` to `view` along types that all follow from `source` by their fields.

        They are between versions then, and say more than the fields do.

        Args:
            source: where they begin.
            view: where they end.
            first: how the class that the first of them reads may be related to `source`.
        """
        pair = source, view, first
        if pair not in self._between:
            begin = (source, False, False)  # class, whether it was reached by its fields, and whether by a lens before
            waiting, seen = [begin], {begin}
            for cls, derived, led in waiting:
                for edge in self._edges(cls, derived, source, view):
                    if cls is source and edge.relation not in (None, *first):
                        continue
                    reached = (edge.view, edge.lens is None, led or edge.lens is not None)
                    back = edge.view is source or (reached[2] and self.relation(source, edge.view) == "alike")
                    if not back and reached not in seen and self._follows(source, edge.view):
                        seen.add(reached)
                        waiting.append(reached)
            self._between[pair] = any(cls is view and led for cls, _, led in seen)
        return self._between[pair]

    # -- the cheapest ways -----------------------------------------------------------------------------------

    def _ways(self, source: type, view: type, *, within: Callable[[type], bool] = lambda cls: True) -> list[Way]:
        """The cheapest ways with one lens at least, but no more of them than are worth showing.

        Args:
            source: where they begin.
            view: where they end.
            within: the classes that they may go through.
        """
        begin, end = (source, False), (view, True)
        costs: dict[_State, Cost] = {begin: _NONE}
        into: dict[_State, list[tuple[_State, _Edge]]] = {}
        waiting: list[tuple[Cost, int, _State]] = [(_NONE, 0, begin)]
        counter = itertools.count(1)
        done = set()
        while waiting:
            cost, _, state = heapq.heappop(waiting)
            if state == end:
                return list(itertools.islice(_back(end, begin, into), _SHOWN + 1))
            if state in done:
                continue
            done.add(state)
            for edge in self._edges(*state, source, view):
                if edge.view is source or not within(edge.view):
                    continue
                if edge.lens is None and edge.relation in ("same", "more") and self._written(*edge[:2], _ITS_FIELDS):
                    continue
                reached = end if edge.view is view else (edge.view, edge.lens is None)
                price = _LENS if edge.relation is None else _DERIVED[edge.relation]
                total = tuple(map(sum, zip(cost, price, strict=True)))
                if reached not in costs or total < costs[reached]:
                    costs[reached], into[reached] = total, [(state, edge)]
                    heapq.heappush(waiting, (total, next(counter), reached))
                elif total == costs[reached]:
                    into[reached].append((state, edge))
        return []

    def _edges(self, cls: type, derived: bool, source: type, view: type) -> Iterator[_Edge]:
        """The steps that can be taken from a class."""
        known = self._from.get(cls, ())
        yield from known
        if derived:
            return
        versions = [edge.view for edge in known if edge.lens is None]
        for target in dict.fromkeys([*self._from, view]):
            if target is cls or target in versions or (cls is source and target is view):
                continue
            found = self.relation(cls, target)
            # That some fields are all that is meant is clear at the end only, and between versions.
            if found not in (None, "part") or (found and (target is view or target.__name__ == cls.__name__)):
                yield _Edge(cls, target, None, found)

    def _only(self, source: type, view: type, ways: list[Way]) -> list[Step]:
        if len(ways) > 1:
            raise self._ambiguous(source, view, ways)
        return [
            Step(derive(edge.source, edge.view) if edge.lens is None else edge.lens, edge.relation) for edge in ways[0]
        ]

    # -- what is said ----------------------------------------------------------------------------------------

    def _name(self, cls: type) -> str:
        return self._called.get(cls, cls.__name__)

    def _shown(self, way: Way) -> str:
        return " | ".join(f"{edge.lens.name} ({edge.lens.__module__})" for edge in way if edge.lens is not None)

    def _ambiguous(self, source: type, view: type, ways: list[Way]) -> AmbiguousLensError:
        names = [self._shown(way) for way in ways[:_SHOWN]]
        more = "; and more" if len(ways) > _SHOWN else ""
        count = sum(edge.lens is not None for edge in ways[0])
        what = "lenses lead" if count == 1 else f"paths of {count} lenses lead"
        return AmbiguousLensError(
            f"several {what} from {self._name(source)} to {self._name(view)}: {'; '.join(names)}{more}. Use the one "
            "you mean"
        )

    def _unclear(self, source: type, view: type, way: Way) -> AmbiguousLensError:
        first = way[0].view.__name__
        return AmbiguousLensError(
            f"{self._name(view)} follows from the fields of {self._name(source)}, but it can also be seen first as "
            f"{first}, and then through {self._shown(way)}: see it as {first} and then as {view.__name__}, or give the "
            "lens that you mean"
        )

    def _not_found(self, source: type, view: type, why: LensNotFoundError) -> LensNotFoundError:
        """What is missing: the step from what can be reached to what leads on, where the classes differ least."""
        a, b = self._name(source), self._name(view)
        text = f"no lens leads from {a} to {b}, and none follows from their fields"
        before, after = self._reached(source), self._leading(view)
        gaps = [(old, new) for new in after for old in before]
        old, new = min(reversed(gaps), key=lambda gap: self._apart(*gap))
        if (old, new) == (source, view):
            return LensNotFoundError(f"{text}: {why.message}{self._beside(source, view)}. {self._remedy(old, new)}")
        if old is not source:
            text += f". From {a} lenses lead as far as {self._name(old)}"
        if new is not view:
            text += f"{' and to' if old is not source else '. To'} {b} they lead from {self._name(new)}"
        try:
            derive(old, new)
            reasons = ""
        except LensNotFoundError as error:
            reasons = f": {error.message}"
        step = f"the step from {self._name(old)} to {self._name(new)}"
        return LensNotFoundError(f"{text}. What is missing is {step}{reasons}. {self._remedy(old, new)}")

    def _reached(self, source: type) -> list[type]:
        """The classes that lenses lead to from `source`, nearest first."""
        found: dict[_State, None] = {(source, False): None}
        waiting = [(source, False)]
        for state in waiting:
            for edge in self._edges(*state, source, source):
                reached = edge.view, edge.lens is None
                if reached not in found:
                    found[reached] = None
                    waiting.append(reached)
        # What only follows from the fields of another is no place that a lens has led to.
        led = {edge.view for edges in self._from.values() for edge in edges}
        return [
            source,
            *dict.fromkeys(cls for cls, derived in found if not derived and cls in led and cls is not source),
        ]

    def _leading(self, view: type) -> list[type]:
        """The classes from which lenses lead to `view`, nearest first."""
        found = [view]
        for cls in found:
            for source, edges in self._from.items():
                if source not in found and any(
                    self._is(edge.view, cls) or self._part(edge.view, cls) for edge in edges
                ):
                    found.append(source)
        return found

    def _part(self, cls: type, view: type) -> bool:
        return self.relation(cls, view) is not None

    def _apart(self, old: type, new: type) -> int:
        """How many fields of `new` are not there, or of another type, in `old`."""
        one, other = self._schema(old), self._schema(new)
        if one is None or other is None:
            return 1 << 30
        before = {f.name: f.type for f in one.fields}
        return sum(before.get(f.name) != f.type for f in other.fields)

    def _beside(self, source: type, view: type) -> str:
        """Lenses that one may have thought of."""
        a, b = source.__name__, view.__name__
        if near := [x.name for x in self._lenses if x.source.__name__ == a and x.view.__name__ == b]:
            return f". {near[0]} is between other classes of these names"
        if near := [f"{x.name} ({a} -> {x.view.__name__})" for x in self._lenses if x.source is source]:
            return f". From {a} there are {', '.join(near[:_SHOWN])}"
        return ""

    def _remedy(self, old: type, new: type) -> str:
        """What to write."""
        a, b = old.__name__, new.__name__
        if a == b:
            a = f"Old{a}"
        text = f"Write it: @atdata.lens over `def to_{b.lower()}(src: {a}) -> {b}`"
        schema = self._schema(old)
        if schema is not None and self._schema(new) is not None:
            text += f", or atdata.lens(atdata.Lens.fields({a}, {b}, …)) where only names, types or units changed"
        if schema is not None and (old in self._called or a != old.__name__):
            fields = ", ".join(f"{f.name}: {f.type.name}" for f in schema.fields[:_FIELDS])
            text += f"; {a} is a class with {fields}{', …' if len(schema.fields) > _FIELDS else ''}"
        return text


def _assumed(edge: _Edge) -> int:
    """Whether a step is one that only follows from the fields, between classes that are not alike."""
    return edge.relation not in (None, "alike")


def _back(state: _State, begin: _State, into: Mapping[_State, list[tuple[_State, _Edge]]]) -> Iterator[Way]:
    """The ways that lead to a state, one after another; however long they are."""
    way: Way = []  # from the end
    choices = [iter(into[state])]
    while choices:
        before, edge = next(choices[-1], (None, None))
        if before is None or edge is None:
            choices.pop()
            if way:
                way.pop()
        elif before == begin:
            yield [edge, *reversed(way)]
        else:
            way.append(edge)
            choices.append(iter(into[before]))
