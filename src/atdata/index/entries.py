"""From rows of a backend to entries, and what to say when there is none."""

from __future__ import annotations

import difflib
import functools
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from atdata.datasets.sources import Located
from atdata.errors import CatalogError, EntryNotFoundError
from atdata.index.backend import Backend, VersionRow
from atdata.index.base import DatasetEntry
from atdata.index.lenses import Lenses
from atdata.index.names import Ref, schema_ref
from atdata.index.schemas import Schemas
from atdata.index.survey import refs_in
from atdata.stores.record import CommitRecord

__all__ = ["Entries"]

_metadata_in = msgspec.json.Decoder(dict[str, Any]).decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LISTED = 10
_LOOKED_AT = 1000  # names among which a similar one is looked for


class Entries:
    """The entries in a backend.

    Args:
        backend: where they are.
        schemas: the schemas in it.
        lenses: the lenses in it.
        store: what shards are read with that lie in it.
    """

    def __init__(self, backend: Backend, schemas: Schemas, lenses: Lenses, store: Any) -> None:
        self._backend = backend
        self._schemas = schemas
        self._lenses = lenses
        self._store = store

    def entry(self, row: VersionRow) -> DatasetEntry:
        """A row as users see it.

        Raises:
            CatalogError: the row was altered, and cannot be read.
        """
        try:
            metadata = _metadata_in(row.metadata)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise CatalogError(
                f"the metadata of {row.name}@{row.version} in the index was altered, and cannot be read: {error}"
            ) from None
        return DatasetEntry(
            name=row.name,
            version=row.version,
            cid=row.cid,
            schema_ref=None if row.schema is None else schema_ref(*row.schema),
            parent=row.parent,
            description=row.description,
            tags=row.tags,
            license=row.license,
            metadata=metadata,
            created_at=_EPOCH + timedelta(microseconds=row.created_at),
            samples=row.samples,
            size=row.size,
            _locate=functools.partial(self._located, row),
            _store=self._store,
            _index=self._lenses,
        )

    def _located(self, row: VersionRow) -> Located:
        parts = row.parts or self._backend.parts(row.name, row.version)
        if parts is None:
            raise EntryNotFoundError(f"{row.name}@{row.version} was deleted or renamed since it was listed")
        refs = tuple(refs_in(parts))
        schema = None if row.schema is None else self._schemas.get(schema_ref(*row.schema))[1]
        record = CommitRecord(schema, tuple(ref.info for ref in refs if ref.info is not None))
        if record.cid != row.cid:
            raise CatalogError(
                f"the shards of {row.name}@{row.version} in the index do not have the identifier that was recorded: "
                "the database was altered"
            )
        return Located(refs, schema, record)

    def row(self, ref: Ref) -> VersionRow:
        """The row that a reference names.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
        """
        (found,) = self._backend.find([ref])
        if found is None:
            raise EntryNotFoundError(self._missing(ref))
        return found

    def _missing(self, ref: Ref) -> str:
        if ref.name is None:
            return f"no version in the index has the content {ref.cid}"
        known = self._backend.versions(ref.name, None, _LISTED + 1)
        if not known:
            near = self._near(ref.name)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            return f"the index has no dataset {ref.name!r}{hint}"
        if ref.label is not None:
            labels = ", ".join(f"{label} ({version})" for label, version in self._backend.labels(ref.name).items())
            return f"{ref.name} has no label {ref.label!r}; {f'there are {labels}' if labels else 'it has none'}"
        versions = [row.version for row in known]
        more = ", …" if len(versions) > _LISTED else ""
        return f"{ref.name} has no version {ref.version}; there are {', '.join(versions[:_LISTED])}{more}"

    def _near(self, name: str) -> list[str]:
        names = self._backend.names("", _LOOKED_AT)
        if len(names) == _LOOKED_AT:  # there may be many more: those that begin alike
            start = name[:2]
            after = self._backend.names(start[:-1] + chr(ord(start[-1]) - 1) + "~", _LOOKED_AT)
            names = list(itertools.takewhile(lambda other: other.startswith(start), after)) or names
        return difflib.get_close_matches(name, names, 3)
