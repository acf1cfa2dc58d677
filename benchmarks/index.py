"""The index: finding by name as it grows, pages against bare SQL, and inserting, in SQLite, PostgreSQL and Redis."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import Bar, Context, Result, Row, Table

import atdata
from atdata.datasets.sources import Located, ShardRef
from atdata.index.base import DatasetEntry
from atdata.samples.schema import Schema
from atdata.stores.base import WrittenShards
from atdata.stores.record import CommitRecord, ShardInfo

TITLE = "Index"
SMALL = 1000
PAGE = 100
WORDS = ("images", "texts", "faces", "digits", "street", "speech", "birds", "cells", "galaxies", "letters")


@atdata.packable
class Picture:
    """What the datasets hold."""

    pixels: bytes
    label: int


def entries(versions: int, names: int, *, prefix: str = "d") -> Iterator[DatasetEntry]:
    """Entries as an index gives them, all versions of a name one after the other."""
    schema = Schema.of(Picture)
    each = max(1, versions // names)
    for n in range(versions):
        name, version = divmod(n, each)
        digest = hashlib.sha256(b"%d" % n).hexdigest()
        shard = ShardRef(f"s3://bucket/{prefix}/{n}/shard-000000.tar", ShardInfo("shard-000000.tar", 4096, 10, digest))
        located = Located((shard,), schema)
        yield DatasetEntry(
            name=f"{prefix}{name:07d}",
            version=f"1.{version}.0",
            cid=CommitRecord(schema, (shard.info,)).cid,
            schema_ref="atdata://local/schema/Picture@1.0.0",
            parent=f"1.{version - 1}.0" if version else None,
            description=f"many {WORDS[name % 10]} and some {WORDS[name // 10 % 10]}, number {name}",
            tags=(WORDS[name % 10], "benchmark"),
            license="CC-BY-4.0",
            metadata={"number": n},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            samples=10,
            size=4096,
            _locate=lambda located=located: located,
        )


@dataclass
class Engine:
    """One database: how an index in it is opened, and bare connections to it.

    Attributes:
        new: the URL of an empty one.
        bare: runs a statement in the driver itself and gives all rows; None where there is no SQL.
        matching: the condition of its own full-text search, with the word to be filled in.
    """

    name: str
    new: Callable[[str], str]
    bare: Callable[[str], contextlib.AbstractContextManager[Callable[[str], list[Any]]]] | None = None
    matching: str = ""


@contextlib.contextmanager
def bare_sqlite(url: str) -> Iterator[Callable[[str], list[Any]]]:
    with contextlib.closing(sqlite3.connect(url)) as connection:
        yield lambda statement: connection.execute(statement).fetchall()


@contextlib.contextmanager
def bare_postgres(url: str) -> Iterator[Callable[[str], list[Any]]]:
    import psycopg

    with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
        yield lambda statement: connection.execute(statement).fetchall()


def _say(text: str) -> None:
    """How far it is, for who waits."""
    print(f"{time.strftime('%H:%M:%S')} {text} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run(ctx: Context) -> Result:
    """Fill a small and a large index in each engine, and look and add in both, turn by turn."""
    result = Result()
    with TemporaryDirectory(dir=ctx.data) as folder, contextlib.ExitStack() as stack:
        engines = _engines(Path(folder), stack, result)
        for engine in engines:
            _measure(ctx, engine, result)
        _single(ctx, engines[0], result)
    return result


def _engines(folder: Path, stack: contextlib.ExitStack, result: Result) -> list[Engine]:
    """SQLite, and the servers that are installed; each is durable when it says so."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from servers import postgres, redis

    engines = [
        Engine(
            "SQLite",
            lambda name: str(folder / f"{name}.db"),
            bare_sqlite,
            "SELECT rowid FROM atdata_words WHERE atdata_words MATCH '\"%s\"*'",
        )
    ]
    try:
        database = stack.enter_context(postgres.Postgres(fsync=True))
    except postgres.ServerError:
        result.missing.append("PostgreSQL")
    else:
        engines.append(
            Engine(
                "PostgreSQL",
                lambda name: database.make_database(),
                bare_postgres,
                "SELECT dataset_id FROM atdata_words WHERE words @@ '''%s'':*'::tsquery",
            )
        )
    try:
        keys = stack.enter_context(redis.RedisServer(fsync=True))
    except redis.ServerError:
        result.missing.append("Redis")
    else:
        engines.append(Engine("Redis", lambda name: keys.make_database()))
    return engines


def _measure(ctx: Context, engine: Engine, result: Result) -> None:
    versions, names = ctx.count(1_000_000, 2000), ctx.count(100_000, 200)
    large_url, small_url = engine.new("large"), engine.new("small")
    with atdata.LocalIndex(large_url) as large, atdata.LocalIndex(small_url) as small:
        small.add_entries(entries(SMALL, SMALL // 10))
        rates = []
        coming = entries(versions, names)
        step = max(1000, versions // 20)
        for start in range(0, versions, step):
            some = list(itertools.islice(coming, step))
            processor = time.process_time()
            rates.append(len(some) / seconds(lambda some=some: large.add_entries(some)))
            processor = (time.process_time() - processor) / len(some)
            _say(
                f"{engine.name}: {start + len(some):,} of {versions:,} versions, {rates[-1]:,.0f}/s, "
                f"{1e6 * processor:.0f} µs of this process for each"
            )
        _batches(result, engine, rates, versions)
        result.bars.append(
            Bar(
                f"{engine.name}: batch insert",
                5000,
                statistics.median(rates),
                min(rates),
                max(rates),
                unit=" entries/s",
            )
        )
        _finding(ctx, engine, result, [(small, SMALL // 10), (large, names)])
        if engine.bare is not None:
            with engine.bare(large_url) as bare:
                _pages(ctx, engine, result, large, bare)


def _finding(ctx: Context, engine: Engine, result: Result, indexes: Sequence[tuple[Any, int]]) -> None:
    chosen = random.Random(7)
    times: list[list[list[float]]] = [[], []]
    for turn in range(ctx.rounds + 1):
        for which, (index, names) in enumerate(indexes):
            some = [f"d{chosen.randrange(names):07d}" for _ in range(100)]
            found = [seconds(functools.partial(index.get_dataset, name)) for name in some]
            if turn:
                times[which].append(found)
    medians = [statistics.median(itertools.chain.from_iterable(each)) for each in times]
    by_turn = [statistics.median(b) / statistics.median(a) for a, b in zip(*times, strict=True)]
    rows = [
        Row(f"atdata, {label}", 1e3 * m, 1e3 * min(map(min, each)), 1e3 * max(map(max, each)), None)
        for label, m, each in zip(("1,000 versions", "all versions"), medians, times, strict=True)
    ]
    result.tables.append(Table(f"Index in {engine.name}: get_dataset(name)", "ms", rows, "Random names; medians."))
    result.bars.append(
        Bar(
            f"{engine.name}: get_dataset(name) in the large index, of the time in one of 1,000 versions",
            2,
            medians[1] / medians[0],
            min(by_turn),
            max(by_turn),
            at_least=False,
        )
    )


def _pages(ctx: Context, engine: Engine, result: Result, index: Any, bare: Callable[[str], list[Any]]) -> None:
    select = (
        "SELECT d.name, v.*, s.name, s.version FROM atdata_datasets d JOIN atdata_versions v ON v.id = d.latest "
        "LEFT JOIN atdata_schemas s ON s.id = v.schema_id WHERE d.name > '' %s ORDER BY d.name LIMIT 100"
    )
    matching = f"AND d.id IN ({engine.matching % 'galax'})"
    tagged = "AND d.id IN (SELECT dataset_id FROM atdata_tags WHERE tag = 'birds')"
    for what, ours, theirs in (
        ("list", index.list_datasets, select % ""),
        ("search by word", lambda: index.search("galax"), select % matching),
        ("search by tag", lambda: index.search(tags=["birds"]), select % tagged),
    ):
        times: list[list[float]] = [[], []]
        assert [e.name for e in itertools.islice(ours(), PAGE)] == [row[0] for row in bare(theirs)]
        for turn in range(10 * ctx.rounds + 1):
            for which, work in enumerate(
                (lambda ours=ours: list(itertools.islice(ours(), PAGE)), lambda theirs=theirs: bare(theirs))
            ):
                found = seconds(work)
                if turn:
                    times[which].append(found)
        medians = [statistics.median(each) for each in times]
        rows = [
            Row(name, 1e3 * m, 1e3 * min(each), 1e3 * max(each), m / medians[0] if name != "atdata" else None)
            for name, m, each in zip(("atdata", "bare SQL"), medians, times, strict=True)
        ]
        result.tables.append(Table(f"Index in {engine.name}: a page of {PAGE}, {what}", "ms", rows))
        ratios = [a / b for a, b in zip(*times, strict=True)]
        result.bars.append(
            Bar(
                f"{engine.name}: a page, {what}, of the time of bare SQL",
                10,
                medians[0] / medians[1],
                min(ratios),
                max(ratios),
                at_least=False,
            )
        )


def _single(ctx: Context, engine: Engine, result: Result) -> None:
    """One dataset at a time, each durable when the call returns, against the same rows in one bare transaction."""
    url, other = engine.new("single"), engine.new("single-bare")
    with atdata.LocalIndex(url) as index:
        atdata.LocalIndex(other).close()
        index.publish_schema(Picture)
        times: list[list[float]] = [[], []]
        copied = contextlib.closing(sqlite3.connect(other, isolation_level=None))
        with copied as connection, contextlib.closing(sqlite3.connect(url)) as reading:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            schema = reading.execute("SELECT * FROM atdata_schemas").fetchall()
            connection.executemany("INSERT INTO atdata_schemas VALUES (?,?,?,?,?,?,?)", schema)
            for turn, entry in enumerate(entries(20 * ctx.rounds + 5, 20 * ctx.rounds + 5, prefix="single")):
                record = CommitRecord(entry.schema, tuple(ref.info for ref in entry.shards if ref.info))
                store = atdata.S3DataStore({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, bucket="bucket")
                ds = atdata.Dataset(WrittenShards(entry.data_urls, record), store=store)
                details = {"description": entry.description, "tags": entry.tags, "license": entry.license}
                ours = seconds(
                    lambda ds=ds, entry=entry, details=details: index.insert_dataset(
                        ds, name=entry.name, version="1.0.0", metadata=entry.metadata, **details
                    )
                )
                rows = _rows_of(reading, turn + 1)
                theirs = seconds(lambda rows=rows: _insert(connection, rows))
                if turn >= 5:
                    times[0].append(ours)
                    times[1].append(theirs)
    medians = [statistics.median(each) for each in times]
    rows = [
        Row(name, 1 / m, 1 / max(each), 1 / min(each), None if which == 0 else m / medians[0])
        for which, (name, m, each) in enumerate(zip(("atdata", "bare sqlite3"), medians, times, strict=True))
    ]
    result.tables.append(Table("Index in SQLite: one dataset at a time", "inserts/s", rows, "Durable on return."))
    ratios = [b / a for a, b in zip(*times, strict=True)]
    result.bars.append(
        Bar("SQLite: insert_dataset against a bare transaction of the same rows", 0.3, medians[1] / medians[0],
            min(ratios), max(ratios))
    )  # fmt: skip


def _rows_of(connection: sqlite3.Connection, dataset: int) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """The rows that one insert made, with the statements to make them."""
    found = []
    for table, where in (
        ("atdata_datasets", "id = ?"),
        ("atdata_versions", "dataset_id = ?"),
        ("atdata_parts", "digest IN (SELECT digest FROM atdata_version_parts WHERE version_id = ?)"),
        ("atdata_version_parts", "version_id = ?"),
        ("atdata_tags", "dataset_id = ?"),
    ):
        rows = connection.execute(f"SELECT * FROM {table} WHERE {where}", (dataset,)).fetchall()
        marks = ",".join("?" * len(rows[0]))
        found.append((f"INSERT INTO {table} VALUES ({marks})", rows))
    words = connection.execute("SELECT rowid, words FROM atdata_words WHERE rowid = ?", (dataset,)).fetchall()
    found.append(("INSERT INTO atdata_words (rowid, words) VALUES (?, ?)", words))
    return found


def _insert(connection: sqlite3.Connection, statements: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement, rows in statements:
        connection.executemany(statement, rows)
    connection.execute("COMMIT")


def _batches(result: Result, engine: Engine, rates: list[float], versions: int) -> None:
    tenth = max(1, len(rates) // 10)
    rows = [
        Row(f"atdata, {label}", statistics.median(some), min(some), max(some))
        for label, some in (("all", rates), ("the first tenth", rates[:tenth]), ("the last tenth", rates[-tenth:]))
    ]
    note = f"From an empty index to {versions:,} versions, 1,000 in a transaction; medians of twentieths."
    result.tables.append(Table(f"Index in {engine.name}: entries added in batches", "entries/s", rows, note))
