"""The steps of a dataset's plan, applied to samples in the order they were written.

There are two kinds. A `ValueStep` makes another sample of each one. A `NarrowingStep` leaves samples out or puts them
in another order; it can be applied to a stream of samples, and also to a `Selection`, before any sample is given out.
"""

from __future__ import annotations

import abc
import copyreg
import dataclasses
import functools
import hashlib
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atdata.errors import SampleIndexError, SchemaError, StepError
from atdata.forks import cached_property
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import keeps_values, packable

if TYPE_CHECKING:
    from atdata.datasets.resolving import View
    from atdata.datasets.selection import Selection
    from atdata.samples.schema import Schema

__all__ = [
    "Filter",
    "Map",
    "NarrowingStep",
    "Pick",
    "Select",
    "Step",
    "Take",
    "ValueStep",
    "apply",
    "only_fields",
    "passing_type",
    "selected_type",
]

Keyed = Iterator[tuple[str | None, Any]]


class Step(abc.ABC):
    """One step of a plan. Steps do not change, and can be pickled."""

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """What tells it from other steps of its kind, also in another process: a state is refused by other steps."""

    @abc.abstractmethod
    def type_after(self, before: type) -> type:
        """The class of the samples after it."""

    @abc.abstractmethod
    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""


class ValueStep(Step):
    """A step that makes another sample of each one."""

    @abc.abstractmethod
    def one(self, sample: Any, key: str | None) -> Any:
        """What it makes of a sample."""

    def maker(self, given: type) -> Callable[[Any], Any]:
        """What makes another sample of one of class `given`; its errors do not know the key."""
        return functools.partial(self.one, key=None)

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        for key, sample in samples:
            yield key, self.one(sample, key)


class NarrowingStep(Step):
    """A step that leaves samples out, or puts them in another order.

    Attributes:
        by_number: whether it goes by the samples' numbers, and not only by what they are.
    """

    by_number = False

    def type_after(self, before: type) -> type:
        """The class before."""
        return before

    @abc.abstractmethod
    def count_after(self, count: int) -> int | None:
        """How many of `count` samples there are after it; None where only reading them tells."""

    @abc.abstractmethod
    def narrow(self, selection: Selection, view: View) -> Selection:
        """The stored samples that are left of a selection.

        Args:
            selection: those there are before the step.
            view: how they look before the step.
        """


@dataclasses.dataclass(frozen=True)
class Map(ValueStep):
    """Every sample becomes what `function` gives for it."""

    function: Callable[[Any], Any]
    sample_type: type | None

    @property
    def identity(self) -> str:
        """The function's module and name."""
        return _name(self.function)

    def type_after(self, before: type) -> type:
        """The class named by the caller or by the function's return annotation, else the class before."""
        if self.sample_type is not None:
            return self.sample_type
        try:
            found = typing.get_type_hints(self.function).get("return")
        except (TypeError, NameError, AttributeError):  # builtins, callables without annotations, unknown names
            return before
        known = isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, DictSample))
        return typing.cast(type, found) if known else before

    def one(self, sample: Any, key: str | None) -> Any:
        """What the function gives for a sample."""
        try:
            return self.function(sample)
        except Exception as error:
            raise _failed("map", self.function, error, key) from error


@dataclasses.dataclass(frozen=True)
class Filter(NarrowingStep):
    """Only the samples for which `predicate` is true."""

    predicate: Callable[[Any], object]

    @property
    def identity(self) -> str:
        """The function's module and name."""
        return _name(self.predicate)

    def count_after(self, count: int) -> int | None:
        """Only reading tells, unless there is none to begin with."""
        return 0 if count == 0 else None

    def narrow(self, selection: Selection, view: View) -> Selection:
        """One reading of all samples of the selection."""
        mask = np.zeros(len(selection), bool)
        for position, (url, key, sample) in enumerate(view.placed(selection)):
            try:
                mask[position] = self._asked(key, sample)
            except StepError as error:
                error.at(url=url)
                raise
        return selection.keep(mask)

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        for key, sample in samples:
            if self._asked(key, sample):
                yield key, sample

    def _asked(self, key: str | None, sample: Any) -> bool:
        try:
            return bool(self.predicate(sample))  # which fails for an array: the user's error too
        except Exception as error:
            raise _failed("filter", self.predicate, error, key) from error


@dataclasses.dataclass(frozen=True)
class Take(NarrowingStep):
    """The first `count` samples."""

    count: int
    by_number = True

    @property
    def identity(self) -> str:
        """The count."""
        return str(self.count)

    def count_after(self, count: int) -> int | None:
        """At most its own."""
        return min(count, self.count)

    def narrow(self, selection: Selection, view: View) -> Selection:
        """The beginning of the selection."""
        return selection.take(self.count)

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        return itertools.islice(samples, self.count)


@dataclasses.dataclass(frozen=True, eq=False)
class Pick(NarrowingStep):
    """The samples at some positions, in the order given; those from the end are negative.

    Attributes:
        positions: int64.
    """

    positions: NDArray[np.int64]
    by_number = True

    @cached_property
    def identity(self) -> str:
        """A digest of the positions."""
        return hashlib.sha256(self.positions.astype("<i8").tobytes()).hexdigest()[:16]

    def count_after(self, count: int) -> int | None:
        """As many as positions were given."""
        return len(self.positions)

    def narrow(self, selection: Selection, view: View) -> Selection:
        """Those of the selection."""
        return selection.pick(self._among(len(selection)))

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples: what is wanted is kept until it is its turn."""
        if len(self.positions) and self.positions.min() < 0:
            every = list(samples)
            yield from (every[at] for at in self._among(len(every)).tolist())
            return
        wanted = set(self.positions.tolist())
        last = max(wanted, default=-1)
        found = {at: pair for at, pair in zip(range(last + 1), samples, strict=False) if at in wanted}
        if last >= 0 and last not in found:
            raise SampleIndexError(f"there is no sample {last}: the dataset ends before")
        for at in self.positions.tolist():
            yield found[at]

    def _among(self, count: int) -> NDArray[np.int64]:
        wrong = self.positions[(self.positions < -count) | (self.positions >= count)]
        if len(wrong):
            raise SampleIndexError(f"there is no sample {wrong[0]}: the dataset has {count}")
        return np.where(self.positions < 0, self.positions + count, self.positions)


@dataclasses.dataclass(frozen=True)
class Select(ValueStep):
    """Only some fields of every sample."""

    fields: tuple[str, ...]

    @property
    def identity(self) -> str:
        """The fields."""
        return ",".join(self.fields)

    def type_after(self, before: type) -> type:
        """A class with only these fields."""
        return selected_type(before, self.fields)

    def one(self, sample: Any, key: str | None) -> Any:
        """The sample with only these fields."""
        try:
            if isinstance(sample, Mapping):
                return DictSample({name: sample[name] for name in self.fields})
            cls = selected_type(type(sample), self.fields)
            return cls(**{name: getattr(sample, name) for name in self.fields})
        except Exception as error:
            raise _failed("select_fields", None, error, key) from error


def apply(steps: tuple[Step, ...], samples: Keyed) -> Keyed:
    """The samples after all steps."""
    for step in steps:
        samples = step.run(samples)
    return samples


def _failed(step: str, function: object, error: Exception, key: str | None) -> StepError:
    what = "a" if function is None else f"the function {_name(function)} of a"
    return StepError(f"{what} {step} step raised {type(error).__name__}: {error}", key=key)


def _name(function: Any) -> str:
    """The name of a function, or of the class of what is called like one."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


class _SelectedType(type):
    """The type of classes made by `selected_type`; it exists so that they can be pickled."""


_selected: dict[tuple[type, tuple[str, ...]], type] = {}


def selected_type(cls: type, fields: tuple[str, ...]) -> type:
    """A sample class like `cls` with only `fields`; the same class for the same question.

    Raises:
        SchemaError: `cls` has no such field.
    """
    if issubclass(cls, DictSample):
        return cls
    found = _selected.get((cls, fields))
    return found if found is not None else _selected.setdefault((cls, fields), _selection(cls, fields))


def _selection(cls: type, fields: tuple[str, ...]) -> type:
    known = [f.name for f in codec.plan(cls).fields]
    for name in fields:
        if name not in known:
            raise SchemaError(f"{cls.__name__} has no field {name!r}; it has {', '.join(known)}")
    names = {n: t for base in reversed(cls.__mro__) for n, t in vars(base).get("__atdata_names__", {}).items()}
    hints = typing.get_type_hints(cls, localns=names or None, include_extras=True)
    by_name = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    namespace: dict[str, Any] = {name: _like(by_name[name]) for name in fields}
    namespace["__annotations__"] = {name: hints[name] for name in fields}
    namespace["__module__"] = cls.__module__
    namespace["__doc__"] = f"{', '.join(fields)} of {cls.__name__}."
    made: Any = dataclasses.dataclass(kw_only=True)(typing.cast(Any, _SelectedType(cls.__name__, (), namespace)))
    made.__atdata_selected__ = (cls, fields)
    made = packable(made)
    codec.plan(made).ignore_unknown = True
    return typing.cast(type, made)


def passing_type(stored_type: type, passes: codec.Passes, schema: Schema | None) -> type | None:
    """A class to read stored samples as, of which each is passed on at once: decoding gives what `passes` says.

    Args:
        stored_type: the class that stored samples are of.
        passes: what is passed on.
        schema: that of what is stored, where known.

    Returns:
        The class, new at each call; None where that would read other samples than `stored_type` does.
    """
    fields = tuple(sorted(set(passes.fields.values())))
    if not fields or only_fields(stored_type, fields, schema) is stored_type:
        return None
    made = _selection(stored_type, fields)
    # With every field of the class, what is not known is an error if it is for the class.
    whole = codec.plan(stored_type)
    codec.plan(made).ignore_unknown = whole.ignore_unknown or len(fields) < len(whole.fields)
    codec.pass_on(made, passes)
    return made


def only_fields(stored_type: type, fields: tuple[str, ...], schema: Schema | None) -> type:
    """A class of these fields alone, so that nothing else is decoded; the class itself where that tells something.

    Args:
        stored_type: the class that stored samples are read as.
        fields: some of its fields.
        schema: that of what is stored, where known.
    """
    if issubclass(stored_type, DictSample) or not keeps_values(stored_type):
        return stored_type
    plan = codec.plan(stored_type)
    if schema is not None and not plan.ignore_unknown and not {f.name for f in schema.fields} <= plan.nodes.keys():
        return stored_type  # which cannot read these samples, and says so
    return selected_type(stored_type, fields)


def _like(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    return dataclasses.field(default=field.default)


def _reduce(cls: type) -> Any:
    found = vars(cls).get("__atdata_selected__")
    return cls.__qualname__ if found is None else (selected_type, found)


copyreg.pickle(_SelectedType, _reduce)
