"""The step `as_type`: samples seen through a lens, of which no more is decoded than the lens needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from atdata.datasets.steps import Pick, Step, Take, ValueStep, only_fields
from atdata.errors import LensError, StepError
from atdata.lenses.fields import FieldsLens
from atdata.lenses.lens import Lens
from atdata.lenses.network import registered
from atdata.samples import codec
from atdata.samples.fields import Array
from atdata.samples.schema import Schema

__all__ = ["AsType", "lens_to", "type_to_read"]


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
