"""The steps of a dataset's plan, applied to samples in the order they were written."""

from __future__ import annotations

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
            if _call("filter", self.predicate, sample, key):
                yield key, sample


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
    hints = typing.get_type_hints(cls, localns=vars(cls).get("__atdata_names__"), include_extras=True)
    by_name = {f.name: f for f in dataclasses.fields(cls)}
    made = dataclasses.make_dataclass(
        cls.__name__,
        [(n, hints[n], _like(by_name[n])) for n in fields],
        namespace={"__reduce__": lambda self: (_rebuild, (cls, fields, [getattr(self, n) for n in fields]))},
        kw_only=True,
        eq=False,
    )
    made.__doc__ = f"{', '.join(fields)} of {cls.__name__}."
    made.__module__ = cls.__module__
    made = packable(made)
    codec.plan(made).ignore_unknown = True
    _selected[cls, fields] = made
    return made


def _like(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    return dataclasses.field(default=field.default)


def _rebuild(cls: type, fields: tuple[str, ...], values: list[Any]) -> Any:
    return selected_type(cls, fields)(**dict(zip(fields, values, strict=True)))
