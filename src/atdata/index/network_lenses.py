"""Lenses in accounts of the network: declared ones whole, those of code as references. Nothing is imported or run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from atdata.atmosphere.client import Record
from atdata.atmosphere.records import LENS, LensRecord, lens_of
from atdata.atmosphere.syntax import AtUri, tid_of
from atdata.errors import EntryNotFoundError, LensRecordError, RecordError
from atdata.index.network_repository import Repository, time_of
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference, LensReference
from atdata.samples.dictsample import DictSample

__all__ = ["StoredLens", "lens_record", "lenses_in", "proved"]


@dataclasses.dataclass(frozen=True)
class StoredLens:
    """A lens that an account has published.

    Attributes:
        uri: the record, `at://did/science.alt.dataset.lens/…`.
        name: the lens's name.
        source: the address of the schema of the type that it reads.
        view: the address of the schema of the type that it gives.
        created_at: when it was published, in UTC.
        description: what it does.
        declared: whether the record has all of the lens; else its code is elsewhere.
    """

    uri: str
    name: str
    source: str
    view: str
    created_at: datetime
    description: str | None
    declared: bool
    _record: LensRecord = dataclasses.field(repr=False, compare=False)
    _type: Callable[[str], type] = dataclasses.field(repr=False, compare=False)

    def load(self, source: type | None = None, view: type | None = None) -> Lens[Any, Any] | LensReference:
        """The lens; of one that is code a reference, which says where the code is, and what to do with it.

        Args:
            source: the class that it reads; by default built from the schema.
            view: the class that it gives; likewise.

        Raises:
            LensRecordError: the record is malformed, or for other classes.
            EntryNotFoundError: a schema is not there.
        """
        types = [self._known(cls, address) for cls, address in ((source, self.source), (view, self.view))]
        return Lens.from_record(self._record.value, *types)

    def _known(self, cls: type | None, address: str) -> type:
        if cls is not None:
            return cls
        # What is not declared only tells where its code is: for that no type is needed.
        return self._type(address) if self.declared else DictSample


def stored_lens(record: Record, type_of: Callable[[str], type]) -> StoredLens:
    """The lens in a record of anyone.

    Args:
        record: as it was read.
        type_of: gives the class of the schema at an address.

    Raises:
        RecordError: it is none, or something in it is malformed.
    """
    try:
        found = lens_of(record.value)
    except RecordError as error:
        raise error.at(url=str(record.uri)) from None
    metadata = found.value.get("metadata", {})
    ours = metadata.get("atdataLens") if isinstance(metadata, dict) else None
    declared = isinstance(ours, dict) and "declared" in ours
    return StoredLens(
        str(record.uri),
        found.name,
        found.source,
        found.view,
        time_of(found.created_at),
        found.description,
        declared,
        found,
        type_of,
    )


def lenses_in(place: Repository, type_of: Callable[[str], type]) -> Iterator[StoredLens]:
    """The lenses of an account that can be read, as its server lists them; others are noted in `left_out`."""
    for record in place.client.list_records(place.did, LENS):
        try:
            yield stored_lens(record, type_of)
        except RecordError as error:
            place.leave_out(record.uri, error)


def lens_record(
    lens: Lens[Any, Any], source: str, view: str, created_at: str, code: CodeReference | None
) -> tuple[str, dict[str, Any]]:
    """The key and the record of a lens; the same lens has the same key, whenever it is published.

    Raises:
        LensError: it is code, and nobody says where; or it is made of several.
    """
    value = lens.to_network_record(source, view, created_at, code)
    lens_of(value)
    said = {name: item for name, item in value.items() if name != "createdAt"}
    return tid_of("lens\n" + json.dumps(said, sort_keys=True, ensure_ascii=False)), value


def proved(place: Repository, uri: AtUri, type_of: Callable[[str], type]) -> StoredLens:
    """The lens at an address, proved to be what the account signed.

    Raises:
        EntryNotFoundError: there is none.
    """
    record = place.client.get_record(uri) if uri.collection == LENS else None
    if record is None:
        raise EntryNotFoundError(f"there is no lens at {uri}")
    try:
        return stored_lens(record, type_of)
    except RecordError as error:
        raise LensRecordError(error.message, url=error.url, field=error.field) from None
