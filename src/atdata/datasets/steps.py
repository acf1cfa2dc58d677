"""The steps of a dataset's plan, applied to samples in the order they were written."""

from __future__ import annotations

import copyreg
import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from atdata.errors import SchemaError, StepError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import packable

__all__ = ["Filter", "Map", "Select", "Step", "Take", "apply", "selected_type"]

Keyed = Iterator[tuple[str | None, Any]]


@dataclasses.dataclass(frozen=True)
class Map:
    """Every sample becomes what `function` gives for it."""

    function: Callable[[Any], Any]
    sample_type: type | None

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

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        for key, sample in samples:
            yield key, _call("map", self.function, sample, key)


@dataclasses.dataclass(frozen=True)
class Filter:
    """Only the samples for which `predicate` is true."""

    predicate: Callable[[Any], object]

    def type_after(self, before: type) -> type:
        """The class before."""
        return before

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        for key, sample in samples:
            if _call("filter", self._keeps, sample, key):
                yield key, sample

    def _keeps(self, sample: Any) -> bool:
        return bool(self.predicate(sample))  # which fails for an array: the user's error, as those of the predicate


@dataclasses.dataclass(frozen=True)
class Take:
    """The first `count` samples."""

    count: int

    def type_after(self, before: type) -> type:
        """The class before."""
        return before

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        return itertools.islice(samples, self.count)


@dataclasses.dataclass(frozen=True)
class Select:
    """Only some fields of every sample."""

    fields: tuple[str, ...]

    def type_after(self, before: type) -> type:
        """A class with only these fields."""
        return selected_type(before, self.fields)

    def __call__(self, sample: Any) -> Any:
        """The sample with only these fields."""
        if isinstance(sample, Mapping):
            return DictSample({name: sample[name] for name in self.fields})
        cls = selected_type(type(sample), self.fields)
        return cls(**{name: getattr(sample, name) for name in self.fields})

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        for key, sample in samples:
            yield key, _call("select_fields", self, sample, key)


Step = Map | Filter | Take | Select


def apply(steps: tuple[Step, ...], samples: Keyed) -> Keyed:
    """The samples after all steps."""
    for step in steps:
        samples = step.run(samples)
    return samples


def _call(name: str, function: Callable[[Any], Any], sample: Any, key: str | None = None) -> Any:
    try:
        return function(sample)
    except Exception as error:
        raise StepError(f"the function of a {name} step raised {type(error).__name__}: {error}", key=key) from error


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
    if found is not None:
        return found
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
    return _selected.setdefault((cls, fields), made)


def _like(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    return dataclasses.field(default=field.default)


def _reduce(cls: type) -> Any:
    found = vars(cls).get("__atdata_selected__")
    return cls.__qualname__ if found is None else (selected_type, found)


copyreg.pickle(_SelectedType, _reduce)
