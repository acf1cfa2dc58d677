"""Lenses in accounts of the network: declared ones whole, those of code as references. Nothing is imported or run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from atdata.atmosphere.client import Record
from atdata.atmosphere.records import LENS, lens_of
from atdata.atmosphere.syntax import AtUri, tid_of
from atdata.errors import EntryNotFoundError, LensRecordError, RecordError
from atdata.index.lenses import StoredLens
from atdata.index.network_repository import Repository, time_of
from atdata.index.schemas import schema_of
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference
from atdata.samples.schema import Schema

__all__ = ["lens_record", "lenses_in", "proved"]

_MOST = 10_000  # schemas of one listing, which a stranger's server may go on with for ever


def stored_lens(record: Record, schema: Callable[[str], Schema]) -> StoredLens:
    """The lens in a record of anyone.

    Args:
        record: as it was read.
        schema: gives the schema at an address.

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
        found.value,
        schema,
    )


def lenses_in(place: Repository, schema: Callable[[str], Schema]) -> Iterator[StoredLens]:
    """The lenses of an account that can be read, as its server lists them; others are noted in `left_out`.

    Args:
        place: the account.
        schema: gives the schema at an address, proved; what the account's server lists of the account's own is not.
    """
    listed = functools.cache(lambda: {row.uri: schema_of(row) for row in islice(place.listed_schemas(), _MOST)})

    def known(address: str) -> Schema:
        own = listed().get(address) if address.startswith(f"at://{place.did}/") else None
        return schema(address) if own is None else own

    for record in place.client.list_records(place.did, LENS):
        try:
            yield stored_lens(record, known)
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


def proved(place: Repository, uri: AtUri, schema: Callable[[str], Schema]) -> StoredLens:
    """The lens at an address, proved to be what the account signed.

    Raises:
        EntryNotFoundError: there is none.
    """
    record = place.client.get_record(uri) if uri.collection == LENS else None
    if record is None:
        raise EntryNotFoundError(f"there is no lens at {uri}")
    try:
        return stored_lens(record, schema)
    except RecordError as error:
        raise LensRecordError(error.message, url=error.url, field=error.field) from None
