"""An index in Redis: what only a server can do wrong, and what only this one has."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.errors import CatalogBusyError, CatalogError, CatalogVersionError, StoreError
from atdata.index import redis_backend
from atdata.index import redis_server as engine
from atdata.testing.probes import Probe, keyed, probes
from servers.redis import DATABASES, PASSWORD, RedisServer


@pytest.fixture
def store(tmp_path: Path) -> atdata.LocalDiskStore:
    return atdata.LocalDiskStore(tmp_path / "store")


@pytest.fixture
def index(redis_url: str, store: atdata.LocalDiskStore) -> Iterator[atdata.LocalIndex]:
    with atdata.LocalIndex(redis_url, store=store) as index:
        yield index


def database_of(url: str) -> int:
    return int(url.rpartition("/")[2])


class Line:
    """A network between an index and its server; bytes go through as they are until it is told otherwise."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.on_answer: Callable[[bytes], bool] = lambda data: True
        self.on_request: Callable[[bytes], bytes] = lambda data: data
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def __enter__(self) -> Line:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _start(self, work: Callable[..., None], *given: Any) -> None:
        thread = threading.Thread(target=work, args=given)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listening], [], [], 0.05)[0]:
                self._start(self._carry, self._listening.accept()[0])

    def _carry(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._port)) as server,
        ):
            while not self._ended.is_set():
                for side in select.select([client, server], [], [], 0.05)[0]:
                    data = side.recv(65536)
                    if not data:
                        return
                    if side is client:
                        server.sendall(self.on_request(data))
                    elif self.on_answer(data):
                        client.sendall(data)
                    else:
                        return


@pytest.fixture
def line(redis_server: RedisServer) -> Iterator[Line]:
    with Line(redis_server.port) as line:
        yield line


def through(line: Line, url: str) -> str:
    before, _, rest = url.rpartition(":")
    return f"{before}:{line.port}/{rest.partition('/')[2]}"


# -- secrets and addresses ---------------------------------------------------------------------------------------------


def test_the_password_is_in_no_message(index: atdata.LocalIndex, redis_server: RedisServer, redis_url: str) -> None:
    assert PASSWORD not in repr(index)
    assert "s3cret" not in repr(index)
    assert index.url == f"redis://atdata:***@127.0.0.1:{redis_server.port}/{database_of(redis_url)}"
    with pytest.raises(CatalogError, match="refused the user or the password") as caught:
        atdata.LocalIndex(redis_url.replace("s3cret", "wr0ng"))
    error: BaseException | None = caught.value
    while error is not None:
        assert "wr0ng" not in str(error)
        assert "wr0ng" not in repr(error)
        error = error.__cause__
    assert b"wr0ng" not in pickle.dumps(caught.value)
    with pytest.raises(CatalogError, match="refused the user or the password"):
        atdata.LocalIndex(f"redis://127.0.0.1:{redis_server.port}/0")


def test_urls_that_lead_nowhere(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WAIT", 0.3)
    with pytest.raises(CatalogError, match="no database of this number"):
        atdata.LocalIndex(redis_server.url(DATABASES))
    with pytest.raises(CatalogBusyError, match="cannot be reached"):
        atdata.LocalIndex("redis://user:s3cret@127.0.0.1:1/0")
    for malformed in (
        "redis://user:s3cret@host:port/0", "redis://[", "redis://a:s3cret@b:99999999/0", "redis://a:s3cret@b/name",
        "redis://a:s3cret@b/0/1", "redis://", "redis://b/0?password=s3cret", "redis://b/0?db=3", "redis://u:s3cret/@b/0",
    ):  # fmt: skip
        with pytest.raises(CatalogError, match="cannot be read; write redis://") as caught:
            atdata.LocalIndex(malformed)
        assert "s3cret" not in str(caught.value)


def test_a_server_that_speaks_no_tls(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ANSWER", 0.5)
    monkeypatch.setattr(engine, "WAIT", 0.5)
    with pytest.raises(CatalogBusyError, match="cannot be reached"):
        atdata.LocalIndex(redis_url.replace("redis://", "rediss://"))


def test_an_index_on_a_server_has_no_store_of_its_own(redis_url: str) -> None:
    with atdata.LocalIndex(redis_url) as index:
        assert index.store is None
        with pytest.raises(StoreError, match="store="):
            index.write_samples(probes(1), name="d")


def test_a_driver_that_is_not_installed() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "import atdata\n"
        "try: atdata.LocalIndex('redis://user:s3cret@host/0')\n"
        "except atdata.AtdataError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'atdata[redis]'" in said
    assert "s3cret" not in said


# -- other users of the server -----------------------------------------------------------------------------------------


def test_keys_of_other_programs_stay(redis_server: RedisServer, index: atdata.LocalIndex, redis_url: str) -> None:
    number = database_of(redis_url)
    redis_server.execute("SET", "names", "theirs", database=number)
    index.write_samples(probes(1), name="d")
    index.delete_dataset("d")
    keys = redis_server.execute("KEYS", "*", database=number)
    assert {key for key in keys if not key.startswith("atdata:")} == {"names"}
    redis_server.execute("SET", "atdata:names", "theirs", database=number)
    with pytest.raises(CatalogError, match="another program"):
        list(index.list_datasets())


def test_a_newer_index_is_refused_with_the_command_to_run(
    index: atdata.LocalIndex, redis_server: RedisServer, redis_url: str
) -> None:
    redis_server.execute("SET", "atdata:format", "2", database=database_of(redis_url))
    with pytest.raises(CatalogVersionError, match="pip install --upgrade atdata"):
        atdata.LocalIndex(redis_url)


def test_a_user_who_may_only_read(index: atdata.LocalIndex, redis_server: RedisServer, redis_url: str) -> None:
    index.write_samples(probes(2), name="d")
    redis_server.execute("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@scripting", "+@connection")
    with atdata.LocalIndex(f"redis://reader:pw@127.0.0.1:{redis_server.port}/{database_of(redis_url)}") as reader:
        assert reader.get_dataset("d").samples == 2
        assert [entry.name for entry in reader.search("d")] == ["d"]
        with pytest.raises(CatalogError, match="does not let this user"):
            reader.delete_dataset("d")
        with pytest.raises(CatalogError, match="does not let this user"):
            reader.label("d", "stable")
    assert index.get_dataset("d").samples == 2


def test_a_read_only_replica(own_redis: RedisServer, store: atdata.LocalDiskStore) -> None:
    with atdata.LocalIndex(own_redis.url(), store=store) as index:
        entry = index.write_samples(probes(1), name="d")
        own_redis.execute("REPLICAOF", "127.0.0.1", "1")
        with atdata.LocalIndex(own_redis.url()) as reader:
            assert reader.get_dataset("d") == entry
            for work in (lambda: reader.rename("d", "e"), lambda: reader.delete_dataset("d")):
                with pytest.raises(CatalogError, match="read-only replica"):
                    work()
        own_redis.execute("REPLICAOF", "NO", "ONE")
        index.rename("d", "e")


def test_a_server_without_memory(own_redis: RedisServer, store: atdata.LocalDiskStore) -> None:
    """Refuses to add, lets read and delete, and nothing is there by halves."""
    with atdata.LocalIndex(own_redis.url(), store=store) as index:
        entry = index.write_samples(probes(1), name="d")
        own_redis.execute("CONFIG", "SET", "maxmemory", "1")
        copies = [dataclasses.replace(entry, name=f"c{n}") for n in range(50)]
        for work in (lambda: index.add_entries(copies), lambda: index.label("d", "stable")):
            with pytest.raises(CatalogError, match="no memory left"):
                work()
        assert [found.name for found in index.list_datasets()] == ["d"]
        index.delete_dataset("d")
        assert list(index.list_datasets()) == []
        own_redis.execute("CONFIG", "SET", "maxmemory", "0")
        assert index.add_entries(copies) == 50


def test_a_server_that_forgets_gets_no_index(own_redis: RedisServer) -> None:
    own_redis.execute("CONFIG", "SET", "maxmemory", "100mb")
    own_redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(CatalogError, match="maxmemory-policy allkeys-lru"):
        atdata.LocalIndex(own_redis.url())
    own_redis.execute("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    atdata.LocalIndex(own_redis.url()).close()


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_name_is_one_question(index: atdata.LocalIndex, redis_server: RedisServer, redis_url: str) -> None:
    """However many datasets there are; so is a page, and a batch is a few."""
    entry = pickle.loads(pickle.dumps(index.write_samples(probes(1), name="d")))

    def asked(work: Callable[[], object]) -> int:
        def calls() -> int:
            return int(redis_server.execute("INFO", "commandstats")["cmdstat_evalsha"]["calls"])

        before = calls()
        work()
        return calls() - before

    assert asked(lambda: index.add_entries(dataclasses.replace(entry, name=f"c{n}") for n in range(400))) <= 3
    for ref in ("c7", "c7@1.0.0", "d"):
        assert asked(lambda ref=ref: index.get_dataset(ref)) == 1
    assert asked(lambda: next(index.search("c"))) <= 2
    assert asked(lambda: list(index.list_datasets())) <= 6


def test_connections_that_the_server_ended_are_replaced(index: atdata.LocalIndex, redis_server: RedisServer) -> None:
    index.write_samples(probes(1), name="d")
    for turn in range(3):
        redis_server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        redis_server.execute("SCRIPT", "FLUSH")
        assert index.append("d", probes(1, first=1 + turn)).version == f"1.{turn + 1}.0"


def test_a_server_that_restarts_in_the_middle_of_work(own_redis: RedisServer, store: atdata.LocalDiskStore) -> None:
    """Nobody is told of it: what was added is there once, in order, and reading goes on."""
    url = own_redis.make_database()
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
            own_redis.stop()
        else:
            own_redis.kill()
        own_redis.resume()
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    with atdata.LocalIndex(url) as index:
        for number, count in enumerate(counts):
            versions = [entry.version for entry in index.list_versions(f"w{number}")]
            assert versions == [f"1.{n}.0" for n in range(count - 1, -1, -1)]


def test_a_server_that_stays_away(
    own_redis: RedisServer, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WAIT", 0.5)
    with atdata.LocalIndex(own_redis.url(), store=store) as index:
        index.write_samples(probes(1), name="d")
        own_redis.kill()
        for work in (lambda: index.get_dataset("d"), lambda: index.label("d", "stable")):
            with pytest.raises(CatalogBusyError, match="cannot be reached"):
                work()
        own_redis.resume()
        index.label("d", "stable")


def test_a_server_that_does_not_answer(
    redis_url: str, line: Line, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_ANSWER", 0.5)
    with atdata.LocalIndex(through(line, redis_url), store=store) as index:
        index.write_samples(probes(1), name="d")
        line.on_request = lambda data: b""
        with pytest.raises(CatalogBusyError, match=r"did not answer within 0\.5 s; try again"):
            index.get_dataset("d")
        line.on_request = lambda data: data
        assert index.get_dataset("d").samples == 1


def test_a_change_whose_answer_was_lost_counts(redis_url: str, line: Line, store: atdata.LocalDiskStore) -> None:
    """The connection breaks right after each change, before the server's word of it is here."""
    lost: list[str] = []

    def lose(data: bytes) -> bool:
        if lost and lost[-1] == "armed" and data == b"*1\r\n$2\r\nok\r\n":
            lost[-1] = "lost"
            return False
        return True

    line.on_answer = lose
    with atdata.LocalIndex(through(line, redis_url), store=store) as index:
        entry = index.write_samples(probes(2), name="d")
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
        assert [found.name for found in index.list_datasets()] == ["d"]
        assert sorted(schema.name for schema in index.list_schemas()) == ["Other", "Probe"]


_BATCHES = """
import dataclasses, sys
import atdata
with atdata.LocalIndex(sys.argv[1]) as index:
    entry = index.get_dataset("template")
    index.add_entries(dataclasses.replace(entry, name=f"c{n:04d}", tags=(f"t{n % 7}",)) for n in range(2500))
"""


def test_a_process_killed_in_the_middle_of_a_batch(
    index: atdata.LocalIndex, redis_server: RedisServer, redis_url: str, line: Line
) -> None:
    """Leaves whole batches; a second run completes; and deleting everything leaves no key behind."""
    entry = index.write_samples(probes(1), name="template")
    process = subprocess.Popen([sys.executable, "-c", _BATCHES, through(line, redis_url)])
    carried = 0

    def carry(data: bytes) -> bytes:
        nonlocal carried
        carried += len(data)
        if carried < 800_000:
            return data
        process.send_signal(signal.SIGKILL)
        return data[: len(data) // 2]

    line.on_request = carry
    assert process.wait() == -signal.SIGKILL
    names = [found.name for found in index.list_datasets()]
    assert names[:-1] == [f"c{n:04d}" for n in range(len(names) - 1)]
    assert 0 < len(names) - 1 < 2500
    assert (len(names) - 1) % 500 == 0
    line.on_request = lambda data: data
    subprocess.run([sys.executable, "-c", _BATCHES, redis_url], check=True)
    found = list(index.list_datasets())
    assert [one.name for one in found] == [*(f"c{n:04d}" for n in range(2500)), "template"]
    assert all(one.data_urls == entry.data_urls for one in found[::500])
    assert [one.name for one in index.search(tags=["t3"])] == [f"c{n:04d}" for n in range(2500) if n % 7 == 3]
    for one in found:
        index.delete_dataset(one.name)
    left = redis_server.execute("KEYS", "*", database=database_of(redis_url))
    assert sorted(left) == ["atdata:format", "atdata:schema", "atdata:schemas", "atdata:sequence"]


# -- the same as in SQL ------------------------------------------------------------------------------------------------


def test_what_is_found_is_what_sqlite_finds(
    index: atdata.LocalIndex, tmp_path: Path, store: atdata.LocalDiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many changes, with words, beginnings, tags and schemas together, however far one answer looks."""
    monkeypatch.setattr(redis_backend, "_STEPS", 7)
    rng = random.Random(5)
    words = ["alpha", "alphabet", "beta", "Café", "cat", "catalogue", "delta-1", "Ärger", "日本語", "x_y"]
    template = index.write_samples(probes(1), name="template")
    other = index.write_samples([Other("x")], name="other")
    index.publish_schema(Other, version="1.1.0")
    with atdata.LocalIndex(tmp_path / "index.db", store=store) as sql:
        sql.add_entries([template, other])
        for turn in range(250):
            name = f"{rng.choice(['a', 'b/cat', 'Z', 'alpha'])}-{rng.randrange(40)}"
            kind = rng.choice(["add", "add", "add", "delete", "rename", "label", "version"])
            if kind == "add":
                new = dataclasses.replace(
                    rng.choice([template, other]), name=name, version=f"{rng.randrange(3)}.{turn}.0",
                    description=" ".join(rng.sample(words, 3)), tags=tuple(rng.sample(words, 2)), parent=None,
                )  # fmt: skip
                work: Callable[[atdata.LocalIndex], object] = lambda i, new=new: i.add_entries([new])  # noqa: E731
            elif kind == "delete":
                work = lambda i, name=name: i.delete_dataset(name)  # noqa: E731
            elif kind == "version":
                work = lambda i, name=name: i.delete_dataset(f"{name}@{i.get_dataset(name).version}")  # noqa: E731
            elif kind == "label":
                label = rng.choice(["x", "y"])
                work = lambda i, name=name, label=label: i.label(name, label)  # noqa: E731
            else:
                to = f"new-{rng.randrange(20)}"
                work = lambda i, name=name, to=to: i.rename(name, to)  # noqa: E731
            assert outcome(work, index) == outcome(work, sql)
        for _ in range(150):
            text = " ".join(rng.choice(words)[: rng.randrange(1, 9)] for _ in range(rng.randrange(3)))
            tags = rng.sample(words, rng.choice([0, 0, 1, 2]))
            schema = rng.choice([None, None, "Probe", "Other@1.0.0", "Other@1.1.0", "Missing"])
            found = list(index.search(text, tags=tags, schema=schema))
            assert found == list(sql.search(text, tags=tags, schema=schema)), (text, tags, schema)
        for entry in sql.list_datasets():
            assert list(index.list_versions(entry.name)) == list(sql.list_versions(entry.name))
            assert list(index.labels(entry.name).items()) == list(sql.labels(entry.name).items())
            assert index.get_dataset(entry.cid) == sql.get_dataset(entry.cid)


def test_a_beginning_that_hundreds_of_words_have(index: atdata.LocalIndex) -> None:
    """Finds each dataset once, in order, page by page; also when few datasets have the rest."""
    entry = pickle.loads(pickle.dumps(index.write_samples(probes(1), name="template")))
    index.add_entries(
        dataclasses.replace(
            entry, name=f"c{n:04d}", description=f"u{n} u{n + 1} x{n % 9}", tags=("rare",) if n % 211 == 3 else ()
        )
        for n in range(700)
    )
    assert [found.name for found in index.search("u")] == [f"c{n:04d}" for n in range(700)]
    assert [found.name for found in index.search("u x4")] == [f"c{n:04d}" for n in range(4, 700, 9)]
    assert [found.name for found in index.search("u", tags=["rare"])] == ["c0003", "c0214", "c0425", "c0636"]
    assert [found.name for found in index.search("u69 u7")] == ["c0069", "c0699"]


def outcome(work: Callable[[atdata.LocalIndex], object], index: atdata.LocalIndex) -> object:
    """What it gives, or says."""
    try:
        return work(index)
    except atdata.AtdataError as error:
        return type(error), str(error).partition(" [")[0]


@atdata.packable
class Other:
    text: str
