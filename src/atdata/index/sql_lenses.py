"""The lenses of an index in SQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from atdata.errors import EntryNotFoundError
from atdata.index import tables
from atdata.index.backend import LensRow, SchemaRow
from atdata.index.engine import Database
from atdata.index.versions import rank_of

__all__ = ["LensTable"]

_lenses, _schemas = tables.lenses, tables.schemas
_source, _view = _schemas.alias("source"), _schemas.alias("view")
_PARTS = tuple(SchemaRow.__struct_fields__)
_ALL = (
    sa.select(
        _lenses.c.cid,
        _lenses.c.name,
        _lenses.c.record,
        _lenses.c.created_at,
        *(each.c[part] for each in (_source, _view) for part in _PARTS),
    )
    .select_from(_lenses)
    .join(_source, _source.c.id == _lenses.c.source_id)
    .join(_view, _view.c.id == _lenses.c.view_id)
)
_ONE = _ALL.where(_lenses.c.cid == sa.bindparam("cid"))


class LensTable:
    """The lenses in a database; see `Backend`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[database.dialect]
        adding = insert(_lenses)
        self._put = adding.on_conflict_do_update(
            index_elements=[_lenses.c.cid],
            set_={"created_at": adding.excluded.created_at},
            where=_lenses.c.created_at < adding.excluded.created_at,
        )

    def add(self, row: LensRow) -> None:
        """See `Backend.add_lens`."""

        def work(connection: sa.Connection, again: bool) -> None:
            values = {"cid": row.cid, "name": row.name, "record": row.record, "created_at": row.created_at}
            ends = {"source_id": _id_of(connection, row.source), "view_id": _id_of(connection, row.view)}
            connection.execute(self._put, values | ends)

        self._database.write(work)

    def one(self, cid: str) -> LensRow | None:
        """See `Backend.lens`."""
        found = self._database.read(lambda connection: connection.execute(_ONE, {"cid": cid}).first())
        return None if found is None else _row(found)

    def page(self, after: tuple[str, str], limit: int, name: str | None) -> list[LensRow]:
        """See `Backend.lenses`."""
        last, cid = after
        later = sa.or_(_lenses.c.name > last, sa.and_(_lenses.c.name == last, _lenses.c.cid > cid))
        query = _ALL.where(later).order_by(_lenses.c.name, _lenses.c.cid).limit(limit)
        if name is not None:
            query = query.where(_lenses.c.name == name)
        return self._database.read(lambda connection: [_row(row) for row in connection.execute(query)])


def _id_of(connection: sa.Connection, schema: SchemaRow) -> int:
    query = sa.select(_schemas.c.id).where(_schemas.c.name == schema.name, _schemas.c.rank == rank_of(schema.version))
    found: int | None = connection.execute(query).scalar()
    if found is None:
        raise EntryNotFoundError(f"the index has no schema {schema.name}@{schema.version}; publish it first")
    return found


def _row(row: Any) -> LensRow:
    cid, name, record, created_at, *ends = row
    source, view = SchemaRow(*ends[: len(_PARTS)]), SchemaRow(*ends[len(_PARTS) :])
    return LensRow(cid, name, source, view, record, created_at)
