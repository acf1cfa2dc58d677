"""Changes of many rows at a time, and looking for one, as each engine takes them quickest.

SQLite works in our own process, row by row. To a server each row of an `executemany` is a statement of its own, which
costs more than what it does; there all rows go as one JSON document, which PostgreSQL turns into a table.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from atdata.index import tables

__all__ = ["Changes", "InFile", "Look", "Many", "OnServer", "changes", "document"]

_BYTES = 4 << 20  # of one document; the server takes up to 1 GiB
_PLACE = "n"  # a row's place in its document


class Many(Protocol):
    """A change that is made for many rows."""

    def execute(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """Make it for these rows, which have the columns as keys; returns what the statement returns, in any order."""


class OnServer(NamedTuple):
    """In PostgreSQL.

    Attributes:
        one: the statement for one row.
        together: the statement for all rows of a `document`.
    """

    one: sa.Executable
    together: sa.Executable

    def execute(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """See `Many.execute`."""
        if not rows:
            return []
        found: list[Any] = []
        for some, text in _documents(rows):
            if len(some) == 1:  # also one of hundreds of MB, which would be far more of them as a document
                found += _all(connection.execute(self.one, some[0]))
            else:
                found += _all(connection.execute(self.together, {"rows": text}))
        return found


class InFile:
    """In SQLite, through its driver: SQLAlchemy would take several times as long as the row itself.

    Args:
        statement: the statement for one row.
    """

    def __init__(self, statement: sa.ClauseElement) -> None:
        self._text = str(statement.compile(dialect=sqlite.dialect(paramstyle="named")))
        self._returns = "RETURNING" in self._text

    def execute(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """See `Many.execute`."""
        driver: Any = connection.connection.driver_connection
        if self._returns:
            return [found for row in rows for found in driver.execute(self._text, row)]
        driver.executemany(self._text, rows)
        return []


class Look:
    """A query for rows by their names; for one name in a file through its driver, for the same reason.

    Args:
        dialect: "sqlite" or "postgresql".
        query: for rows of all names.
        name: the column to look in.
    """

    def __init__(self, dialect: str, query: sa.Select[Any], name: sa.ColumnElement[str]) -> None:
        self._one = query.where(name == sa.bindparam("name"))
        self._many = query.where(name.in_(sa.bindparam("names", expanding=True)))
        self._text = None
        if dialect == "sqlite":
            self._text = str(self._one.compile(dialect=sqlite.dialect(paramstyle="named")))
        self._row: Any = _row_of(tuple(column.name for column in query.selected_columns))

    def rows(self, connection: sa.Connection, names: Sequence[str]) -> Sequence[Any]:
        """The rows of these names, of which there are not more than one statement takes; columns are attributes."""
        if len(names) != 1:
            return connection.execute(self._many, {"names": names}).all()
        if self._text is None:
            return connection.execute(self._one, {"name": names[0]}).all()
        driver: Any = connection.connection.driver_connection
        return [self._row._make(row) for row in driver.execute(self._text, {"name": names[0]})]


def _row_of(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Row", names)


def _all(result: sa.CursorResult[Any]) -> Sequence[Any]:
    return result.all() if result.returns_rows else ()


def _documents(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Sequence[Mapping[str, Any]], str]]:
    """Rows with their JSON, in runs that are no larger than they should be."""
    start = size = 0
    texts: list[bytes] = []
    for at, row in enumerate(rows):
        text = msgspec.json.encode({**row, _PLACE: at})
        if texts and size + len(text) > _BYTES:
            yield rows[start:at], f"[{b','.join(texts).decode()}]"
            start, size, texts = at, 0, []
        texts.append(text)
        size += len(text)
    yield rows[start:], f"[{b','.join(texts).decode()}]"


def document(*columns: sa.Column[Any]) -> sa.Select[Any]:
    """In PostgreSQL: a query for the rows of a document (the parameter `rows`), in its order.

    Args:
        columns: what each row has, by these names and of these types.
    """
    # In JSON bytes are text, in base64.
    taken = [sa.column(c.name, sa.Text() if isinstance(c.type, sa.LargeBinary) else c.type) for c in columns]
    text = sa.cast(sa.bindparam("rows", type_=sa.Text), postgresql.JSON)
    rows = sa.func.json_to_recordset(text).table_valued(*taken, sa.column(_PLACE, sa.Integer))
    rows = rows.render_derived(name="document", with_types=True)
    given = [
        sa.func.decode(rows.c[c.name], "base64").label(c.name) if isinstance(c.type, sa.LargeBinary) else rows.c[c.name]
        for c in columns
    ]
    return sa.select(*given).order_by(rows.c[_PLACE])


class Changes(NamedTuple):
    """What is done to many rows of the tables at once; a row has the columns of its table.

    Attributes:
        datasets: adds names that are not there.
        versions: adds versions; returns `id`, `dataset_id` and `rank` of each.
        parts: adds parts that are not there.
        version_parts: says which parts versions have.
        latest: sets `latest` of the datasets whose ids are `of`.
        tags: adds tags.
    """

    datasets: Many
    versions: Many
    parts: Many
    version_parts: Many
    latest: Many
    tags: Many


@functools.cache
def changes(dialect: str) -> Changes:
    """The statements for an engine: "sqlite" or "postgresql"."""
    versions = tables.versions
    columns = [c for c in versions.c if c.name != "id"]
    return Changes(
        datasets=_adding(dialect, tables.datasets.c.name, missing=True),
        versions=_adding(dialect, *columns, returning=(versions.c.id, versions.c.dataset_id, versions.c.rank)),
        parts=_adding(dialect, *tables.parts.c, missing=True),
        version_parts=_adding(dialect, *tables.version_parts.c),
        latest=_setting_latest(dialect),
        tags=_adding(dialect, *tables.tags.c),
    )


def _adding(
    dialect: str, *columns: sa.Column[Any], missing: bool = False, returning: Sequence[sa.Column[Any]] = ()
) -> Many:
    """Rows of these columns into their table."""
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    adding = insert(columns[0].table)
    statements = [adding.values({c.name: sa.bindparam(c.name) for c in columns})]
    if dialect == "postgresql":
        statements.append(adding.from_select([c.name for c in columns], document(*columns)))
    if missing:
        statements = [statement.on_conflict_do_nothing() for statement in statements]
    if returning:
        statements = [statement.returning(*returning) for statement in statements]
    return InFile(statements[0]) if dialect == "sqlite" else OnServer(*statements)


def _setting_latest(dialect: str) -> Many:
    change = sa.update(tables.datasets)
    one = change.where(tables.datasets.c.id == sa.bindparam("of")).values(latest=sa.bindparam("latest"))
    if dialect == "sqlite":
        return InFile(one)
    new = document(sa.Column("of", sa.BigInteger), sa.Column("latest", sa.BigInteger)).subquery("new")
    return OnServer(one, change.where(tables.datasets.c.id == new.c.of).values(latest=new.c.latest))
