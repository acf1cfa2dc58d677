"""The migrations make just the tables that the statements use, and they come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import atdata.index
from atdata.index import migration, tables
from atdata.index.engine import Database

FOLDER = Path(atdata.index.__file__).parent / "migrations"


def test_the_list_of_revisions_is_that_of_the_files() -> None:
    scripts = ScriptDirectory(str(FOLDER))
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(migration.REVISIONS)


def differences(database: Database) -> list[object]:
    assert migration.migrate(database) == (None, migration.REVISIONS[-1])
    assert migration.migrate(database) == (migration.REVISIONS[-1], migration.REVISIONS[-1])

    def compare(connection: sa.Connection) -> list[object]:
        ours = {
            "include_name": lambda name, kind, parents: kind != "table" or name in tables.metadata.tables,
            "compare_server_default": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=ours), tables.metadata))

    try:
        return database.read(compare)
    finally:
        database.close()


def test_migrations_make_the_tables_in_sqlite(tmp_path: Path) -> None:
    assert differences(Database(tmp_path / "index.db")) == []


def test_migrations_make_the_tables_in_postgresql(postgres_url: str) -> None:
    assert differences(Database(sa.make_url(postgres_url))) == []


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InterruptError(Exception):
        pass

    def interrupt(connection: sa.Connection) -> None:
        migration_of(connection)
        raise InterruptError

    migration_of = migration._upgrade
    monkeypatch.setattr(migration, "_upgrade", interrupt)
    with pytest.raises(InterruptError):
        atdata.LocalIndex(tmp_path / "index.db")
    monkeypatch.undo()
    database = Database(tmp_path / "index.db")
    assert database.read(lambda connection: sa.inspect(connection).get_table_names()) == []
    database.close()
    atdata.LocalIndex(tmp_path / "index.db").close()
