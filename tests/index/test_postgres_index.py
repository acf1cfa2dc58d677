"""An index in PostgreSQL: what only a server can do wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

import atdata
from atdata.errors import CatalogBusyError, CatalogError, CatalogVersionError, StoreError
from atdata.index import engine
from atdata.testing.probes import Probe, keyed, probes
from servers.postgres import PASSWORD, Postgres


@pytest.fixture
def store(tmp_path: Path) -> atdata.LocalDiskStore:
    return atdata.LocalDiskStore(tmp_path / "store")


@pytest.fixture
def index(postgres_url: str, store: atdata.LocalDiskStore) -> Iterator[atdata.LocalIndex]:
    with atdata.LocalIndex(postgres_url, store=store) as index:
        yield index


def database_of(url: str) -> str:
    return url.rpartition("/")[2]


# -- secrets and addresses ---------------------------------------------------------------------------------------------


def test_the_password_is_in_no_message(index: atdata.LocalIndex, postgres: Postgres, postgres_url: str) -> None:
    assert PASSWORD not in repr(index)
    assert "s3cret" not in repr(index)
    assert index.url == f"postgresql://atdata:***@127.0.0.1:{postgres.port}/{database_of(postgres_url)}"
    with pytest.raises(CatalogError, match="refused the user or the password") as caught:
        atdata.LocalIndex(postgres_url.replace("s3cret", "wr0ng"))
    error: BaseException | None = caught.value
    while error is not None:
        assert "wr0ng" not in str(error)
        assert "wr0ng" not in repr(error)
        error = error.__cause__
    assert b"wr0ng" not in pickle.dumps(caught.value)


def test_urls_that_lead_nowhere(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WAIT", 0.3)
    with pytest.raises(CatalogError, match="no such database"):
        atdata.LocalIndex(postgres.url("missing"))
    with pytest.raises(CatalogBusyError, match="cannot be reached"):
        atdata.LocalIndex("postgresql://user:s3cret@127.0.0.1:1/index")
    for malformed in ("postgresql://user:s3cret@host:port/x", "postgresql://[", "postgresql://a:s3cret@b:99999999/x"):
        with pytest.raises(CatalogError) as caught:
            atdata.LocalIndex(malformed)
        assert "s3cret" not in str(caught.value)


def test_an_index_on_a_server_has_no_store_of_its_own(postgres_url: str) -> None:
    with atdata.LocalIndex(postgres_url) as index:
        assert index.store is None
        with pytest.raises(StoreError, match="store="):
            index.write_samples(probes(1), name="d")
        with pytest.raises(StoreError, match="store="):
            index.gc()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+psycopg"])
def test_other_names_of_the_scheme(postgres_url: str, scheme: str) -> None:
    with atdata.LocalIndex(postgres_url.replace("postgresql", scheme, 1)) as index:
        assert list(index.list_datasets()) == []


# -- other users of the database ---------------------------------------------------------------------------------------


def test_the_tables_of_other_programs_stay(postgres: Postgres, postgres_url: str, store: atdata.LocalDiskStore) -> None:
    name = database_of(postgres_url)
    postgres.execute("CREATE TABLE schemas (name text, version text, schema_json text)", name)
    postgres.execute("CREATE TABLE labels (name text, cid text)", name)
    postgres.execute("CREATE TABLE alembic_version (version_num text)", name)
    postgres.execute("INSERT INTO alembic_version VALUES ('theirs')", name)
    with atdata.LocalIndex(postgres_url, store=store) as index:
        index.write_samples(probes(1), name="d")
    assert postgres.execute("SELECT * FROM alembic_version", name) == [("theirs",)]
    tables = postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name)
    assert {table for (table,) in tables if not str(table).startswith("atdata_")} == {
        "schemas", "labels", "alembic_version"
    }  # fmt: skip


def test_a_newer_database_is_refused_with_the_command_to_run(
    index: atdata.LocalIndex, postgres: Postgres, postgres_url: str
) -> None:
    postgres.execute("UPDATE atdata_revision SET version_num = '9999'", database_of(postgres_url))
    with pytest.raises(CatalogVersionError, match="pip install --upgrade atdata"):
        atdata.LocalIndex(postgres_url)


def test_many_processes_make_one_index(postgres_url: str, postgres: Postgres) -> None:
    program = "import sys, atdata; sys.stdin.readline(); atdata.LocalIndex(sys.argv[1]).close(); print('made')"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, postgres_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [process.communicate("go\n")[0] for process in running] == ["made\n"] * 4
    assert postgres.execute("SELECT count(*) FROM atdata_revision", database_of(postgres_url)) == [(1,)]


def test_a_user_who_may_only_read(index: atdata.LocalIndex, postgres: Postgres, postgres_url: str) -> None:
    index.write_samples(probes(2), name="d")
    name = database_of(postgres_url)
    postgres.execute(f"CREATE ROLE reader_{name} LOGIN PASSWORD 'pw'", name)
    postgres.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}", name)
    with atdata.LocalIndex(f"postgresql://reader_{name}:pw@127.0.0.1:{postgres.port}/{name}") as reader:
        assert reader.get_dataset("d").samples == 2
        assert [entry.name for entry in reader.search("d")] == ["d"]
        with pytest.raises(CatalogError, match="does not let this user"):
            reader.delete_dataset("d")
    postgres.execute(f"DROP OWNED BY reader_{name}", name)
    postgres.execute(f"DROP ROLE reader_{name}", name)


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_statement_that_fails_does_not_spoil_the_connection(
    index: atdata.LocalIndex, postgres: Postgres, postgres_url: str
) -> None:
    entry = index.write_samples(probes(1), name="d")
    for _ in range(30):
        with pytest.raises(atdata.AtdataError):
            index.insert_dataset(entry.dataset(), name="d", version="1.0.0")
        with pytest.raises(atdata.AtdataError):
            index.rename("d", "d")
    assert index.get_dataset("d") == entry
    sessions = (
        f"SELECT state FROM pg_stat_activity WHERE datname = '{database_of(postgres_url)}' AND pid != pg_backend_pid()"
    )
    states = {state for (state,) in postgres.execute(sessions, database_of(postgres_url))}
    assert states == {"idle"}, "nothing is left in a transaction"


def test_connections_that_the_server_ended_are_replaced(
    index: atdata.LocalIndex, postgres: Postgres, postgres_url: str
) -> None:
    index.write_samples(probes(1), name="d")
    name = database_of(postgres_url)
    for turn in range(3):
        postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        assert index.append("d", probes(1, first=1 + turn)).version == f"1.{turn + 1}.0"


def test_a_lock_is_waited_for_and_then_told(
    postgres_url: str, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WAIT", 1.0)
    with atdata.LocalIndex(postgres_url, store=store) as index, psycopg.connect(postgres_url) as other:
        index.write_samples(probes(1), name="d")
        other.execute("SELECT * FROM atdata_datasets FOR UPDATE")
        assert index.get_dataset("d").samples == 1
        with pytest.raises(CatalogBusyError, match="locked"):
            index.label("d", "stable")
        other.rollback()
        index.label("d", "stable")


def test_a_server_that_restarts_in_the_middle_of_work(own_postgres: Postgres, store: atdata.LocalDiskStore) -> None:
    """Nobody is told of it: what was added is there once, in order, and reading goes on."""
    url = own_postgres.make_database()
    urls = store.write_shards(keyed(probes(3)), prefix="p")
    failed: list[BaseException] = []
    stop = threading.Event()
    counts = [0, 0, 0]

    def add(number: int) -> None:
        try:
            with atdata.LocalIndex(url) as index:
                while not stop.is_set():
                    n = counts[number]
                    entry = index.insert_dataset(atdata.Dataset[Probe](urls), name=f"w{number}", version=f"1.{n}.0")
                    assert entry.parent == (f"1.{n - 1}.0" if n else None)
                    assert index.get_dataset(f"w{number}").version == f"1.{n}.0"
                    counts[number] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(len(counts))]
    for thread in threads:
        thread.start()
    for turn in range(6):
        reached = [count + 3 for count in counts]
        while not failed and any(count < wanted for count, wanted in zip(counts, reached, strict=True)):
            stop.wait(0.01)
        if turn % 2:
            own_postgres.stop()
        else:
            own_postgres.kill()
        own_postgres.resume()
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    with atdata.LocalIndex(url) as index:
        for number, count in enumerate(counts):
            versions = [entry.version for entry in index.list_versions(f"w{number}")]
            assert versions == [f"1.{n}.0" for n in range(count - 1, -1, -1)]


def test_a_server_that_stays_away(
    own_postgres: Postgres, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WAIT", 0.5)
    with atdata.LocalIndex(own_postgres.make_database(), store=store) as index:
        index.write_samples(probes(1), name="d")
        own_postgres.kill()
        for work in (lambda: index.get_dataset("d"), lambda: index.label("d", "stable")):
            with pytest.raises(CatalogBusyError, match="cannot be reached"):
                work()
        own_postgres.resume()
        index.label("d", "stable")


def test_a_commit_whose_answer_was_lost_counts(index: atdata.LocalIndex) -> None:
    """The server goes away right after each commit, before it says so."""
    entry = index.write_samples(probes(2), name="d")
    lost: list[str] = []

    def lose(connection: sa.Connection) -> None:
        if lost and lost[-1] == "armed":
            lost[-1] = "lost"
            driver = connection.connection.dbapi_connection
            assert driver is not None
            driver.commit()
            raise sa.exc.OperationalError(
                "COMMIT", None, psycopg.OperationalError("server closed the connection unexpectedly"),
                connection_invalidated=True,
            )  # fmt: skip

    sa.event.listen(sa.Engine, "commit", lose)
    try:
        for work in (
            lambda: index.insert_dataset(entry.dataset(), name="e", version="1.0.0"),
            lambda: index.append("e", probes(1, first=2)),
            lambda: index.label("e", "stable"),
            lambda: index.unlabel("e", "stable"),
            lambda: index.rename("e", "f"),
            lambda: index.delete_dataset("f@1.0.0"),
            lambda: index.publish_schema(Other, version="1.0.0"),
            lambda: index.delete_dataset("f"),
        ):
            lost.append("armed")
            work()
            assert lost[-1] == "lost"
    finally:
        sa.event.remove(sa.Engine, "commit", lose)
    assert [found.name for found in index.list_datasets()] == ["d"]
    assert sorted(schema.name for schema in index.list_schemas()) == ["Other", "Probe"]


@atdata.packable
class Other:
    text: str
