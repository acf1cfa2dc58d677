"""Batches whose samples lie on servers: of each the fields that somebody asks for are fetched, and no others.

Where no fields were chosen, nothing is fetched of an iteration's first batch before it is asked for a column. What its
columns were is fetched ahead of the reader for the batches that follow, and whatever else turns out to be wanted of
later ones. A reader that has taken the second batch without having looked at the first wants something else of them,
and so gets all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from atdata.datasets.access import Access
from atdata.datasets.columns import Lying, joined, stack
from atdata.datasets.demand import Demand
from atdata.datasets.fetching import Fetching, Wanted
from atdata.datasets.remote import Fields
from atdata.datasets.selection import Places
from atdata.datasets.steps import only_fields
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.shards.extract import fields_of
from atdata.shards.reader import BufferShard

__all__ = ["Asked"]


class Asked(Lying):
    """Samples of one batch, which may lie on servers.

    Args:
        access: their shards.
        places: gives where they lie, in order.
        lying: the samples, as far as they were fetched.
        demand: is told what is asked for.
    """

    __slots__ = ("_access", "_demand", "_found", "_places")

    def __init__(self, access: Access, places: Callable[[], Places], lying: Lying, demand: Demand) -> None:
        self._access = access
        self._places = places
        self._found = [lying]
        self._demand = demand

    def __len__(self) -> int:
        return len(self._found[0])

    def shards(self) -> Iterable[BufferShard]:
        """What holds the samples, as far as they were fetched."""
        return self._found[-1].shards()

    def expect(self, sample_type: type, fields: Sequence[str]) -> None:
        """Take note that all these columns will be asked for, and fetch what it takes at once."""
        alone = all(self._alone(sample_type, field) is not None for field in fields)
        self._with(tuple(fields) if alone else fields_of(sample_type))

    def samples(self, sample_type: type) -> list[Any]:
        """The samples; arrays are read-only views."""
        return self._with(fields_of(sample_type)).samples(sample_type)

    def keyed(self, sample_type: type) -> Iterator[tuple[str, str, Any]]:
        """URL of the shard, key and sample."""
        return self._with(fields_of(sample_type)).keyed(sample_type)

    def column(self, sample_type: type, field: str) -> Any:
        """One field of all samples, new and the caller's own; None where only decoding whole samples can tell."""
        alone = self._alone(sample_type, field)
        if alone is None:
            return self._with(fields_of(sample_type)).column(sample_type, field)
        self._demand.ask((field,))
        for lying in self._found:  # of what stands in manifests nothing has to be fetched
            found = lying.column(sample_type, field)
            if found is not None:
                return found
        lying = self._with((field,))
        found = lying.column(sample_type, field)
        return stack([getattr(sample, field) for sample in lying.samples(alone)]) if found is None else found

    def _alone(self, sample_type: type, field: str) -> type | None:
        """A class of that field alone; None where it does not read the same."""
        if issubclass(sample_type, DictSample) or field not in codec.plan(sample_type).nodes:
            return None
        whole, _ = vars(sample_type).get("__atdata_selected__", (sample_type, ()))
        alone = only_fields(whole, (field,), self._access.schema)
        if fields_of(alone) is None:
            return None
        return alone if all(s.manifest is not None and s.fits(sample_type) for s in self._found[0].shards()) else None

    def _with(self, fields: Fields) -> Lying:
        """The samples with these fields, which are fetched if need be."""
        self._demand.ask(fields)
        for lying in self._found:
            if all(shard.offers(fields) for shard in lying.shards()):
                return lying
        wanted = Wanted(self._places(), len(self))
        reading = Fetching(self._access, iter([wanted]), Demand(fields)).read()
        stretches = list(reading)
        reading.close()
        parts = [stretch.part(0, len(stretch)) for stretch in stretches]
        self._found.append(parts[0] if len(parts) == 1 else joined(parts))
        return self._found[-1]
