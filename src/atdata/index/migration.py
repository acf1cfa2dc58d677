"""Which revision of the tables a database has, and how it comes to have the newest."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from atdata.errors import CatalogError, CatalogVersionError
from atdata.index.engine import Database

__all__ = ["REVISIONS", "REVISION_TABLE", "migrate", "prepare"]

REVISION_TABLE = "atdata_revision"
# Every revision there is, the oldest first: opening a database should not take the time to look through the files.
REVISIONS = ("0001", "0002")

_revision = sa.table(REVISION_TABLE, sa.column("version_num"))


def prepare(database: Database) -> None:
    """Make the tables in a database that has none, and let no other pass whose tables are not the newest.

    Raises:
        CatalogVersionError: the tables are older or newer; the message has the command to run.
        CatalogError: there are no tables, and they cannot be made.
    """
    current = database.read(_current)
    if current is None:
        if database.read_only:
            raise CatalogError("there is no index here, and you may not write one", url=database.url)
        migrate(database)
    elif current not in REVISIONS:
        raise CatalogVersionError(
            f"the index was made by a newer atdata (its tables have revision {current}, this one knows up to "
            f"{REVISIONS[-1]}); update with: pip install --upgrade atdata",
            url=database.url,
        )
    elif current != REVISIONS[-1]:
        raise CatalogVersionError(
            f"the index was made by an older atdata (revision {current} of its tables, not {REVISIONS[-1]}); bring it "
            f"up to date with: atdata index migrate {database.url}",
            url=database.url,
        )


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the tables to the newest revision; returns the one before, None where there were none, and the newest.

    Raises:
        CatalogVersionError: they are newer than this atdata.
    """

    def work(connection: sa.Connection, again: bool) -> str | None:
        if database.dialect == "postgresql":  # SQLite lets only one write anyway
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x617464617461)))
        current = _current(connection)
        if current is None or current in REVISIONS:
            _upgrade(connection)
        return current

    before = database.write(work)
    if before is not None and before not in REVISIONS:
        prepare(database)
    return before, REVISIONS[-1]


def _current(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(REVISION_TABLE):
        return None
    found: str | None = connection.execute(sa.select(_revision.c.version_num)).scalar()
    return found


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
