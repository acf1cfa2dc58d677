"""The ledger of a local index: versions as rows of a backend; and entries taken over from another index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from atdata.datasets.sources import ShardRef
from atdata.errors import EntryExistsError
from atdata.index.backend import Backend, Part, VersionRow
from atdata.index.base import DatasetEntry
from atdata.index.details import Details, check_url
from atdata.index.entries import Entries
from atdata.index.names import Ref, check_name, parse_schema_ref
from atdata.index.schemas import Schemas, now
from atdata.index.survey import parts_of
from atdata.index.versions import Version, rank_of
from atdata.index.writing import Draft, Plan
from atdata.samples.schema import Schema
from atdata.stores.record import CommitRecord

__all__ = ["LocalLedger"]

_BATCH = 1000  # entries of one transaction,
_CHARACTERS = 16 << 20  # and of what is told of their shards, as far as more than one entry is in it


class LocalLedger:
    """Versions in a backend; see `Ledger`.

    Args:
        backend: where they are.
        schemas: the schemas in it.
        entries: the entries in it.
    """

    def __init__(self, backend: Backend, schemas: Schemas, entries: Entries) -> None:
        self._backend = backend
        self._schemas = schemas
        self._entries = entries

    def latest(self, name: str) -> DatasetEntry | None:
        """See `Ledger.latest`."""
        row = self._backend.find([Ref(name)])[0]
        return None if row is None else self._entries.entry(row)

    def has(self, name: str, version: str) -> bool:
        """See `Ledger.has`."""
        return self._backend.find([Ref(name, version=version)])[0] is not None

    def before(self, name: str, version: str) -> str | None:
        """See `Ledger.before`."""
        lower = self._backend.versions(name, rank_of(version), 1)
        return lower[0].version if lower and Version(lower[0].version) < Version(version) else None

    def plan(self, schema: Schema | None) -> Plan:
        """See `Ledger.plan`."""
        if schema is None:
            return Plan()
        row, new = self._schemas.fitting(schema)
        return Plan(self._schemas.ref(row), schema, row if new else None)

    def asked_for(self, ref: str) -> Plan:
        """See `Ledger.asked_for`."""
        row, schema = self._schemas.get(ref)
        return Plan(self._schemas.ref(row), schema)

    def check_store(self, store: Any) -> None:
        """See `Ledger.check_store`; whoever uses the index sees to it that they can read what lies there."""

    def add(self, draft: Draft) -> DatasetEntry:
        """See `Ledger.add`."""
        record, plan, details = draft.record, draft.plan, draft.details
        key = None if plan.ref is None else _key(plan.ref)
        row = _row(draft.name, draft.version, draft.parent, key, record, parts_of(draft.refs), details)
        self._backend.add([row], [] if plan.new is None else [plan.new])
        return self._entries.entry(row)

    # -- entries of another index ----------------------------------------------------------------------------

    def take_over(self, entries: Iterable[DatasetEntry]) -> int:
        """See `LocalIndex.add_entries`."""
        count = 0
        for rows in self._batches(entries):
            missing: Sequence[VersionRow] = rows
            while missing:
                try:
                    self._backend.add(missing)
                    count += len(missing)
                    break
                except EntryExistsError:
                    there = self._backend.find([Ref(row.name, version=row.version) for row in missing])
                    pairs = list(zip(missing, there, strict=True))
                    if not any(there) or any(old is not None and old.cid != row.cid for row, old in pairs):
                        raise
                    missing = [row for row, old in pairs if old is None]
        return count

    def _batches(self, entries: Iterable[DatasetEntry]) -> Iterator[list[VersionRow]]:
        known: dict[tuple[str, str, str], tuple[str, str]] = {}
        rows: list[VersionRow] = []
        size = 0
        for entry in entries:
            row = self._row_of(entry, known)
            more = sum(len(part.shards) for part in row.parts)
            if rows and (len(rows) == _BATCH or size + more > _CHARACTERS):
                yield rows
                rows, size = [], 0
            rows.append(row)
            size += more
        if rows:
            yield rows

    def _row_of(self, entry: DatasetEntry, known: dict[tuple[str, str, str], tuple[str, str]]) -> VersionRow:
        """An entry that may come from anywhere, checked; its schema is published."""
        schema, refs = entry.schema, entry.shards
        for ref in refs:
            check_url(ref.url)
        taken = None
        if schema is not None:
            key = schema.name, schema.version, schema.cid
            if key not in known:
                known[key] = self._schemas.take_over(schema)
            taken = known[key]
        row = _row(
            check_name(entry.name),
            Version(entry.version).text,
            None if entry.parent is None else Version(entry.parent).text,
            taken,
            _record(schema, refs),
            parts_of(refs),
            Details.checked(entry.description, entry.tags, entry.license, entry.metadata),
        )
        return msgspec.structs.replace(row, created_at=round(entry.created_at.timestamp() * 1e6))


def _record(schema: Schema | None, refs: Sequence[ShardRef]) -> CommitRecord:
    return CommitRecord(schema, tuple(ref.info for ref in refs if ref.info is not None))


def _key(ref: str) -> tuple[str, str]:
    name, version = parse_schema_ref(ref)
    assert version is not None
    return name, version


def _row(
    name: str,
    version: str,
    parent: str | None,
    schema: tuple[str, str] | None,
    record: CommitRecord,
    parts: tuple[Part, ...],
    details: Details,
) -> VersionRow:
    return VersionRow(
        name=name,
        version=version,
        cid=record.cid,
        schema=schema,
        parent=parent,
        description=details.description,
        tags=details.tags,
        license=details.license,
        metadata=details.metadata,
        created_at=now(),
        samples=record.samples,
        size=record.size,
        parts=parts,
    )
