"""An index in a file: where it lies, and its bad days."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

import atdata
from atdata.errors import CatalogBusyError, CatalogError, CatalogVersionError, EntryNotFoundError
from atdata.index import engine, migration
from atdata.testing.probes import probes

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def store(tmp_path: Path) -> atdata.LocalDiskStore:
    return atdata.LocalDiskStore(tmp_path / "store")


def execute(path: Path, *statements: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def filled(path: Path, store: atdata.LocalDiskStore) -> None:
    with atdata.LocalIndex(path, store=store) as index:
        index.write_samples(probes(3), name="d", tags=["t"])


# -- where it lies -----------------------------------------------------------------------------------------------------


def test_the_default_file_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ATDATA_INDEX", raising=False)
    with atdata.LocalIndex() as index:
        assert index.url == str(tmp_path / ".atdata" / "index.db")
        assert index.store == atdata.LocalDiskStore(tmp_path / ".atdata" / "data")
    assert os.listdir(tmp_path / ".atdata") == ["index.db"]


def test_the_environment_names_another(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATDATA_INDEX", f"sqlite:///{path}")
    with atdata.LocalIndex() as index:
        assert index.url == str(path)
    assert path.exists()
    assert not (tmp_path / "home").exists()


def test_a_path_is_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, made in {
        "one.db": "one.db",
        "new/folder/two.db": "new/folder/two.db",
        "sqlite:///three.db": "three.db",
        f"sqlite:///{tmp_path}/four.db": "four.db",
        "~/five.db": "home/five.db",
        "odd name?#%20&mode=ro.db": "odd name?#%20&mode=ro.db",
    }.items():
        with atdata.LocalIndex(given) as index:
            assert index.url == str(tmp_path / made)
        assert (tmp_path / made).is_file()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (":memory:", "kept in a file"),
        ("sqlite://", "kept in a file"),
        ("sqlite:///:memory:", "kept in a file"),
        ("mysql://host/db", "no index is known for mysql://"),
        ("https://user:secret@host/db", "no index is known for https://"),
    ],
)
def test_what_is_no_index_is_refused(url: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        atdata.LocalIndex(url)
    assert "secret" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="folder"):
        atdata.LocalIndex(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="cannot be made"):
        atdata.LocalIndex(tmp_path / "file" / "index.db")


# -- versions of the tables --------------------------------------------------------------------------------------------


def test_a_newer_database_is_refused_with_the_command_to_run(path: Path, store: atdata.LocalDiskStore) -> None:
    filled(path, store)
    execute(path, "UPDATE atdata_revision SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(CatalogVersionError, match="pip install --upgrade atdata"):
        atdata.LocalIndex(path)
    with pytest.raises(CatalogVersionError, match="newer"):
        migration.migrate(engine.Database(path))
    assert path.read_bytes() == before


def test_an_older_database_is_refused_with_the_command_to_run(
    path: Path, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, store)
    monkeypatch.setattr(migration, "REVISIONS", (*migration.REVISIONS, "9999"))
    with pytest.raises(CatalogVersionError, match=f"atdata index migrate {path}"):
        atdata.LocalIndex(path)


def test_many_processes_make_one_index(path: Path) -> None:
    program = "import sys, atdata; sys.stdin.readline(); atdata.LocalIndex(sys.argv[1]).close(); print('made')"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    assert [process.communicate("go\n")[0] for process in running] == ["made\n"] * 6
    assert execute(path, "SELECT count(*) FROM atdata_revision") == [(1,)]


def test_the_tables_of_another_program_in_the_same_file_stay(path: Path, store: atdata.LocalDiskStore) -> None:
    execute(
        path,
        "CREATE TABLE schemas (name TEXT, version TEXT, schema_json TEXT)",
        "CREATE TABLE labels (name TEXT, cid TEXT)",
        "INSERT INTO labels VALUES ('mnist', 'bafy')",
    )
    filled(path, store)
    assert execute(path, "SELECT * FROM labels") == [("mnist", "bafy")]
    with atdata.LocalIndex(path) as index:
        assert index.get_dataset("d").samples == 3


# -- bad days ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"not a database at all, but a long text" * 100)
    with pytest.raises(CatalogError, match="damaged or no index"):
        atdata.LocalIndex(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_damaged_database(path: Path, store: atdata.LocalDiskStore) -> None:
    filled(path, store)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(CatalogError, match="damaged"), atdata.LocalIndex(path) as index:
        index.get_dataset("d")


def test_altered_rows_are_noticed(path: Path, store: atdata.LocalDiskStore) -> None:
    filled(path, store)
    execute(path, 'UPDATE atdata_parts SET shards = replace(shards, \'"sha256":"\', \'"sha256":"0\')')
    execute(path, "UPDATE atdata_schemas SET record = replace(record, 'label', 'laber')")
    with atdata.LocalIndex(path, store=store) as index:
        entry = index.get_dataset("d")
        with pytest.raises(CatalogError, match="not what was published"):
            index.get_schema("Probe")
        with pytest.raises(atdata.AtdataError):
            entry.dataset()


@pytest.mark.parametrize("column", ["metadata", "tags"])
@pytest.mark.parametrize("text", ["no JSON", "7", "[" * 100_000], ids=["text", "number", "deep"])
def test_altered_details_are_noticed(path: Path, store: atdata.LocalDiskStore, column: str, text: str) -> None:
    filled(path, store)
    execute(path, f"UPDATE atdata_versions SET {column} = '{text}'")
    with atdata.LocalIndex(path, store=store) as index:
        for use in (lambda: index.get_dataset("d"), lambda: next(index.list_datasets()), lambda: index.append("d", [])):
            with pytest.raises(CatalogError, match=rf"{column} of d@1\.0\.0 .* altered"):
                use()


INT = {"$type": "local#primitive", "primitive": "int"}


def record_of(*fields: tuple[str, object]) -> str:
    listed = [{"name": name, "fieldType": kind, "optional": False} for name, kind in fields]
    return json.dumps({"name": "A", "version": "1.0.0", "fields": listed, "description": None})


@pytest.mark.parametrize(
    "record",
    [
        record_of(("class", INT)),
        record_of(("__class__", INT)),
        record_of(("__import__('pathlib').Path('ran').touch()", INT)),
        record_of(("x", {"$type": "local#primitive", "primitive": "__import__('pathlib').Path('ran').touch()"})),
        record_of(("x", {"$type": "local#recursive", "up": 3})),
        record_of(*((f"x{n}", INT) for n in range(10_001))),
        record_of(*((f"x{n}", INT) for n in range(10_000))),  # could be one, but has another identifier
        '{"name": "A", "fields": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "[]",
        "no JSON",
        "",
    ],
    ids=["keyword", "dunder", "code", "kind", "reference", "10,001", "10,000", "deep", "list", "text", "empty"],
)
def test_a_schema_that_a_stranger_put_into_the_tables(
    path: Path, store: atdata.LocalDiskStore, record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, no code of it runs, and what else is in the index can be used."""
    monkeypatch.chdir(tmp_path)
    filled(path, store)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO atdata_schemas (name, version, rank, cid, record, created_at) "
            "SELECT 'A', version, rank, cid, ?, created_at FROM atdata_schemas",
            (record,),
        )
    with atdata.LocalIndex(path, store=store) as index:
        for use in (index.decode_schema, index.get_schema, lambda _: list(index.list_schemas())):
            with pytest.raises(CatalogError, match=r"cannot be read|not what was published"):
                use("A@1.0.0")
        assert len(list(index.get_dataset("d").dataset())) == 3
        assert index.decode_schema("Probe").__name__ == "Probe"
    assert not (tmp_path / "ran").exists()


def test_a_locked_index_is_waited_for_and_then_told(
    path: Path, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, store)
    monkeypatch.setattr(engine, "WAIT", 0.2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, atdata.LocalIndex(path, store=store) as index:
        other.execute("BEGIN IMMEDIATE")
        assert index.get_dataset("d").samples == 3, "readers do not wait for a writer"
        with pytest.raises(CatalogBusyError, match="locked"):
            index.label("d", "stable")
        other.execute("ROLLBACK")
        index.label("d", "stable")


@pytest.fixture
def pages() -> Iterator[Callable[[int], None]]:
    """Limits what files of databases may hold, as a full disk does."""
    listeners = []

    def limit(count: int) -> None:
        def listen(connection: sqlite3.Connection, _: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {count}")

        listeners.append(listen)
        sa.event.listen(sa.Engine, "connect", listen)

    yield limit
    for listen in listeners:
        sa.event.remove(sa.Engine, "connect", listen)


def test_a_full_disk(path: Path, store: atdata.LocalDiskStore, pages: Callable[[int], None]) -> None:
    filled(path, store)
    size = path.stat().st_size // 4096
    pages(size + 8)
    with atdata.LocalIndex(path, store=store) as index:
        with pytest.raises(CatalogError, match="full"):
            index.write_samples(probes(3, first=5), name="e", description="much text " * 5000)
        assert [entry.name for entry in index.list_datasets()] == ["d"]
        assert index.write_samples(probes(3), name="f", version="1.0.0").samples == 3
        assert [entry.name for entry in index.list_datasets()] == ["d", "f"]


def test_a_full_disk_at_the_beginning(path: Path, pages: Callable[[int], None]) -> None:
    pages(4)
    with pytest.raises(CatalogError, match="full"):
        atdata.LocalIndex(path)


def as_nobody(work: Callable[[], None]) -> None:
    """Does `work` as a user who owns nothing, where the tests are root's."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("folder_too", [False, True])
def test_an_index_that_may_only_be_read(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, folder_too: bool
) -> None:
    path, store = tmp_path / "index.db", atdata.LocalDiskStore(tmp_path / "store")
    filled(path, store)
    for folder in (tmp_path, *tmp_path.parents[:3]):  # those of pytest are closed to others
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 1 and folder != Path("/"):
            folder.chmod(0o711)
    path.chmod(0o444)
    tmp_path.chmod(0o555 if folder_too else 0o777)

    def work() -> None:
        with atdata.LocalIndex(path, store=store) as index:
            assert index.get_dataset("d@1.0.0").samples == 3
            assert [entry.name for entry in index.search("d", tags=["t"])] == ["d"]
            for change in (
                lambda: index.label("d", "stable"),
                lambda: index.delete_dataset("d"),
                lambda: index.publish_schema(Other),
            ):
                with pytest.raises(CatalogError, match="read this index, not write it"):
                    change()
        with pytest.raises(CatalogError):
            atdata.LocalIndex(tmp_path / "closed" / "index.db")

    (tmp_path / "closed").mkdir(mode=0o555)
    as_nobody(work)
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0o755)


@atdata.packable
class Other:
    text: str


KILLED = """
import sys
import atdata
from atdata.testing.probes import Probe, probes
path, root = sys.argv[1:]
store = atdata.LocalDiskStore(root)
urls = store.write_shards(atdata.Dataset.from_samples(probes(3), Probe), prefix="p")
print("ready", flush=True)
with atdata.LocalIndex(path) as index:
    for n in range(100_000):
        index.insert_dataset(atdata.Dataset(urls), name=f"d{n}", version="1.0.0", tags=["t"], description="text")
        print(n, flush=True)
"""


@pytest.mark.parametrize("after", [5, 17, 40])
def test_a_process_killed_while_it_adds(path: Path, tmp_path: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(after):
        told = int(process.stdout.readline())
    time.sleep(0.001 * after % 0.013)  # somewhere within the next one
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    told = int(rest[-1]) if rest else told
    assert execute(path, "PRAGMA integrity_check") == [("ok",)]
    assert execute(path, "PRAGMA foreign_key_check") == []
    with atdata.LocalIndex(path) as index:
        entries = list(index.list_datasets())
        assert len(entries) in (told + 1, told + 2), "what was told is there"
        assert len(list(index.search("text", tags=["t"]))) == len(entries)
        assert all(entry.samples == 3 and len(entry.shards) == 1 for entry in entries[:3])
        with pytest.raises(EntryNotFoundError):
            index.get_dataset(f"d{told + 2}")
