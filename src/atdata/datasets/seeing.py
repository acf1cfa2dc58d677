"""The step `as_type`: samples seen through a lens, of which no more is decoded than the lens needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atdata.datasets.columns import Lying
from atdata.datasets.steps import Pick, Step, Take, ValueStep, only_fields
from atdata.errors import LensError, StepError
from atdata.lenses.composition import compose
from atdata.lenses.fields import FieldsLens
from atdata.lenses.lens import Lens
from atdata.lenses.network import registered
from atdata.samples import codec
from atdata.samples.fields import Array
from atdata.samples.schema import Schema

__all__ = ["AsType", "Seen", "column_lens", "lens_to", "type_to_read"]


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
            chosen = vars(type(sample)).get("__atdata_selected__")
            if chosen is not None and chosen[0] is self.lens.source:
                return self.lens.get_partial(sample)
            return self.lens.get(sample)
        except Exception as error:
            raise StepError(
                f"the lens {self.lens.name} of an as_type step raised {type(error).__name__}: {error}", key=key
            ) from error


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
    if view.source is not sample_type:
        same = view.source.__name__ == sample_type.__name__
        raise LensError(
            f"{view.name} reads {view.source.__name__}, and the samples are of "
            f"{'another class of that name' if same else sample_type.__name__}: read them as the lens's class, with "
            f"Dataset[{view.source.__name__}](…), or with as_type before"
        )
    return view


def type_to_read(stored_type: type, steps: Sequence[Step], schema: Schema | None) -> type:
    """What stored samples are decoded as when these steps follow: no more than the lens of the first needs.

    Args:
        stored_type: the class they are read as.
        steps: what happens to each; those that only count samples change nothing.
        schema: that of what is stored, where known.
    """
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

    def column(self, sample_type: type, field: str) -> Any:
        """One field of all views, new and the caller's own; None where only looking at each can tell."""
        if field not in {f.name for f in codec.plan(self._lens.view).fields}:
            return None
        stored = [f.name for f in codec.plan(self._stored_type).fields]
        reads = self._lens.reads_for([field]) or stored[:1]  # a column at least, which says how many there are
        columns = {name: self._lying.column(self._stored_type, name) for name in reads}
        if any(column is None for column in columns.values()):
            return None
        try:
            return self._lens.get_columns(columns, [field])[field]
        except LensError:
            return None  # going through the samples names the one that it is
