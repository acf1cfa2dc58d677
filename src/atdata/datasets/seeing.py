"""The step `as_type`: samples seen through a lens, of which no more is decoded than the lens needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from atdata.datasets.columns import Lying, stack
from atdata.datasets.steps import Pick, Select, Step, Take, ValueStep, only_fields, passing_type
from atdata.errors import LensError, StepError
from atdata.lenses.composition import compose
from atdata.lenses.derived import alike, derive
from atdata.lenses.fields import FieldsLens
from atdata.lenses.lens import Lens
from atdata.lenses.network import registered
from atdata.lenses.passing import Passing
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.fields import Array
from atdata.samples.packable import only_keeps
from atdata.samples.schema import Schema
from atdata.shards.reader import BufferShard

__all__ = ["AsType", "Decoded", "Passed", "Seen", "column_lens", "decoding", "lens_to"]


@dataclasses.dataclass(frozen=True)
class AsType(ValueStep):
    """Every sample is seen through a lens."""

    lens: Lens[Any, Any]

    @property
    def identity(self) -> str:
        """What declared lenses declare, and the names of others."""
        return " | ".join(part.cid if isinstance(part, FieldsLens) else part.place for part in self.lens.parts)

    def type_after(self, before: type) -> type:
        """The class that the lens gives."""
        return self.lens.view

    def one(self, sample: Any, key: str | None) -> Any:
        """The view of a sample, or of one of a class with only the fields that the lens reads."""
        try:
            if _selected_of(type(sample)) is self.lens.source:
                return self.lens.get_partial(sample)
            return self.lens.get(sample)
        except Exception as error:
            raise self._failed(error).at(key=key) from error

    def maker(self, given: type) -> Callable[[Any], Any]:
        """What makes the view of a sample of class `given`; its errors do not know the key."""
        read = self.lens.reader(partial=_selected_of(given) is self.lens.source)

        def see(sample: Any) -> Any:
            try:
                return read(sample)
            except Exception as error:
                raise self._failed(error) from error

        return see

    def _failed(self, error: Exception) -> StepError:
        return StepError(f"the lens {self.lens.name} of an as_type step raised {type(error).__name__}: {error}")


def _selected_of(cls: type) -> type | None:
    """The class of whose fields `cls` has only some; None when it is no such class."""
    chosen = vars(cls).get("__atdata_selected__")
    return None if chosen is None else chosen[0]


def lens_to(view: type | Lens[Any, Any], sample_type: type) -> Lens[Any, Any]:
    """The lens that is meant by a class, or by itself.

    Args:
        view: the class to see samples as, or a lens.
        sample_type: the class of the samples.

    Raises:
        LensError: the lens reads another class.
        LensNotFoundError: no lens leads to the class.
        AmbiguousLensError: several do.
    """
    if not isinstance(view, Lens):
        return registered.find(sample_type, view)
    source = view.source
    if source is sample_type:
        return view
    if _selected_of(sample_type) is source:
        missing = sorted((view.reads or frozenset()) - codec.plan(sample_type).nodes.keys())
        if not missing:
            return view
        raise LensError(
            f"{view.name} reads {', '.join(missing)} of {source.__name__}, which select_fields left out: select fields "
            "after as_type, or these fields as well"
        )
    if alike(sample_type, source):
        return derive(sample_type, source) | view
    another = source.__name__ == sample_type.__name__
    raise LensError(
        f"{view.name} reads {source.__name__}, and the samples are of "
        f"{'another class of that name, with other fields' if another else sample_type.__name__}: read them as the "
        f"lens's class, with Dataset[{source.__name__}](…), or with as_type before"
    )


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What stored samples are decoded as when steps follow, and what is left to do then.

    Attributes:
        stored_type: the class to decode; of an `as_type` step no more than the lens reads, or, where lenses only pass
            fields on, one whose decoding gives the views.
        left: the steps that are left.
        passing: what the lenses pass on that are in the decoding; None where none are.
        proofs: the lenses among them, with what each was found to pass on.
    """

    stored_type: type
    left: tuple[Step, ...]
    passing: Passing | None = None
    proofs: tuple[tuple[Lens[Any, Any], Passing | None], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the lenses still do what they did."""
        for lens, found in self.proofs:  # noqa: SIM110 - asked for every single sample, and twice as quick as all()
            if lens.passing is not found:
                return False
        return True


def decoding(stored_type: type, steps: Sequence[Step], schema: Schema | None) -> Decoded:
    """What stored samples are decoded as, and what is left to do.

    Args:
        stored_type: the class they are read as.
        steps: what happens to each; those that only count samples may be among them.
        schema: that of what is stored, where known.
    """
    taken: list[int] = []
    passing: Passing | None = None
    proofs: list[tuple[Lens[Any, Any], Passing | None]] = []
    for at, step in enumerate(steps):
        if isinstance(step, Take | Pick):
            continue
        before = stored_type if passing is None else passing.view
        found = _passing(step, before, proofs)
        if found is None:
            break
        passing = found if passing is None else passing.then(found)
        taken.append(at)
    if passing is not None and any(isinstance(steps[at], AsType) for at in taken):
        made = passing_type(stored_type, codec.Passes(passing.view, passing.fields, passing.made), schema)
        if made is not None:
            left = tuple(step for at, step in enumerate(steps) if at not in taken)
            return Decoded(made, left, passing, tuple(proofs))
    return Decoded(_only_read(stored_type, steps, schema), tuple(steps))


def _passing(step: Step, before: type, proofs: list[tuple[Lens[Any, Any], Passing | None]]) -> Passing | None:
    """What a step passes on of samples of the class `before`, when it does nothing else."""
    if isinstance(step, Select) and not issubclass(before, DictSample) and only_keeps(before):
        return Passing(before, step.type_after(before), {name: name for name in step.fields})
    if not isinstance(step, AsType) or (
        step.lens.source is not before and _selected_of(before) is not step.lens.source
    ):
        return None
    proofs += [(part, part.passing) for part in step.lens.parts if type(part) is Lens]
    found = step.lens.passing
    return None if found is None else dataclasses.replace(found, source=before)


def _only_read(stored_type: type, steps: Sequence[Step], schema: Schema | None) -> type:
    """The class with no more fields than the lens of the first step reads."""
    first = next((step for step in steps if not isinstance(step, Take | Pick)), None)
    if not isinstance(first, AsType) or first.lens.source is not stored_type:
        return stored_type
    reads = first.lens.reads
    if reads is None:
        return stored_type
    fields = codec.plan(stored_type).fields
    if not reads:  # a class has one field at least; arrays are large
        reads = frozenset([min(fields, key=lambda field: isinstance(field.type, Array)).name])
    return stored_type if len(reads) == len(fields) else only_fields(stored_type, tuple(sorted(reads)), schema)


def column_lens(stored_type: type, steps: Sequence[Step]) -> Lens[Any, Any] | None:
    """The lens that makes whole columns of those of stored samples, when the steps are declared lenses alone."""
    lenses = [step.lens for step in steps if isinstance(step, AsType)]
    if not lenses or len(lenses) < len(steps) or lenses[0].source is not stored_type:
        return None
    lens = compose(*lenses)
    # What is code would run once for each column.
    return lens if lens.by_columns and all(isinstance(part, FieldsLens) for part in lens.parts) else None


class Passed(Lying):
    """Samples that nobody has decoded yet, and of which lenses only pass fields on.

    Args:
        lying: the stored samples.
        stored_type: the class whose decoding gives the views.
        passing: what is passed on.
    """

    __slots__ = ("_lying", "_passing", "_stored_type")

    def __init__(self, lying: Lying, stored_type: type, passing: Passing) -> None:
        self._lying = lying
        self._stored_type = stored_type
        self._passing = passing

    def __len__(self) -> int:
        return len(self._lying)

    def samples(self, sample_type: type) -> list[Any]:
        """The views; arrays are read-only."""
        return self._lying.samples(self._stored_type)

    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and view."""
        return self._lying.keyed(self._stored_type)

    def column(self, sample_type: type, field: str) -> Any:
        """One field of all views, new and the caller's own; None where only decoding can tell."""
        origin = self._passing.fields.get(field)
        if origin is not None:
            return self._lying.column(self._stored_type, origin)
        make = self._passing.made.get(field)
        return None if make is None else stack([make() for _ in range(len(self._lying))])

    def shards(self) -> Iterable[BufferShard]:
        """What holds the stored samples."""
        return self._lying.shards()

    def expect(self, sample_type: type, fields: Sequence[str]) -> None:
        """Take note that all these columns will be asked for."""
        origins = (self._passing.fields.get(field) for field in fields)
        self._lying.expect(self._stored_type, list({origin: None for origin in origins if origin is not None}))


class Seen(Lying):
    """Samples that nobody has decoded yet, seen through a lens.

    Args:
        lying: the stored samples.
        stored_type: the class that they are read as.
        lens: makes columns of theirs.
        one: makes a view of a shard's URL, a key and a sample.
    """

    __slots__ = ("_lens", "_lying", "_one", "_stored_type")

    def __init__(
        self, lying: Lying, stored_type: type, lens: Lens[Any, Any], one: Callable[[str, str, Any], Any]
    ) -> None:
        self._lying = lying
        self._stored_type = stored_type
        self._lens = lens
        self._one = one

    def __len__(self) -> int:
        return len(self._lying)

    def samples(self, sample_type: type) -> list[Any]:
        """The views; arrays may be read-only."""
        return [sample for _, _, sample in self.keyed(sample_type)]

    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and view."""
        for url, key, sample in self._lying.keyed(self._stored_type):
            yield url, key, self._one(url, key, sample)

    def shards(self) -> Iterable[BufferShard]:
        """What holds the stored samples."""
        return self._lying.shards()

    def expect(self, sample_type: type, fields: Sequence[str]) -> None:
        """Take note that all these columns will be asked for."""
        self._lying.expect(self._stored_type, self._reads(fields))

    def column(self, sample_type: type, field: str) -> Any:
        """One field of all views, new and the caller's own; None where only looking at each can tell."""
        if field not in {f.name for f in codec.plan(self._lens.view).fields}:
            return None
        columns = {name: self._lying.column(self._stored_type, name) for name in self._reads([field])}
        if any(column is None for column in columns.values()):
            return None
        try:
            return self._lens.get_columns(columns, [field])[field]
        except LensError:
            return None  # going through the samples names the one that it is

    def _reads(self, fields: Sequence[str]) -> list[str]:
        """The stored fields that some of the view need; one at least, which says how many samples there are."""
        stored = codec.plan(self._stored_type).fields
        reads = self._lens.reads_for(fields)
        small = min(stored, key=lambda field: isinstance(field.type, Array)).name
        return [f.name for f in stored if reads is None or f.name in (reads or {small})]
