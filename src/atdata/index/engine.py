"""A SQL database to work with: connections, transactions, what is tried again, and errors that say what to do."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from atdata.errors import AtdataError, CatalogBusyError, CatalogError

__all__ = ["Database"]

T = TypeVar("T")

# Connections of the process that this one was forked from.
_parents: list[Any] = []

WAIT = 30.0  # seconds that a lock, or a server that restarts, is waited for
_ANSWER = 120  # seconds that one statement may take on a server
_MIN_SQLITE = (3, 35)
_CACHE_KIB = 64 << 10  # of pages that a connection to a file may keep
_LOG_PAGES = 8000  # of 4 KiB, after which what was logged ahead goes to its places


class Database:
    """A SQLite file or a PostgreSQL database.

    Threads share it, each call with a connection of its own; a forked process makes its own connections.

    Args:
        target: the file, or the server's URL.

    Attributes:
        url: how messages call it; without a password.
        dialect: "sqlite" or "postgresql".
        read_only: whether it is a file that this user may not write.
    """

    def __init__(self, target: Path | sa.URL) -> None:
        self.read_only = False
        if isinstance(target, Path):
            self.dialect = "sqlite"
            self.url = str(target)
            self._engine = self._sqlite(target)
        else:
            self.dialect = "postgresql"
            self.url = target.set(drivername="postgresql").render_as_string(hide_password=True)
            self._engine = self._postgresql(target)
        self._process = os.getpid()

    # -- making connections ----------------------------------------------------------------------------------

    def _sqlite(self, path: Path) -> sa.Engine:
        if sqlite3.sqlite_version_info < _MIN_SQLITE:
            raise CatalogError(f"this Python has SQLite {sqlite3.sqlite_version}; an index needs 3.35 or newer")
        if path.is_dir():
            raise CatalogError("this is a folder; name a file for the index", url=self.url)
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CatalogError(f"the folder of the index cannot be made: {error.strerror}", url=self.url) from None
        self.read_only = path.exists() and not os.access(path, os.W_OK)
        pool: dict[str, Any] = {"poolclass": sa.QueuePool, "pool_timeout": WAIT}
        if self.read_only:
            pool = {"poolclass": sa.NullPool}  # to look each time whether there is a writer; see below
        engine = sa.create_engine("sqlite://", creator=lambda: self._open_file(path), **pool)
        # The driver would begin transactions late and by itself; see its note on "transaction control".
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _open_file(self, path: Path) -> sqlite3.Connection:
        options = ""
        if self.read_only:
            # Without a writer's files beside it, SQLite reads a file in a folder where it may not make any only as one
            # that does not change.
            alone = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
            options = "?mode=ro&immutable=1" if alone else "?mode=ro"
        connection = sqlite3.connect(
            f"file:{quote(str(path))}{options}", uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")  # what was added stays, also when the power fails
            # Digests fall everywhere into the tables of an index: with SQLite's own 2 MB and 1000 pages, adding to a
            # large one reads and writes the same pages again and again. What is not used is not taken.
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if not self.read_only:
                connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
                _log_ahead(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _postgresql(self, url: sa.URL) -> sa.Engine:
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise CatalogError(
                "an index in PostgreSQL needs a driver: pip install 'atdata[postgres]'", url=self.url
            ) from None
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=WAIT,
            connect_args={"connect_timeout": 10, **{k: v for k, v in alive.items() if k not in url.query}},
        )
        sa.event.listen(engine, "connect", _limit_waits)
        return engine

    # -- using them ------------------------------------------------------------------------------------------

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` gives for one state of the database."""
        return self._transaction(lambda connection, again: work(connection), write=False)

    def write(self, work: Callable[[sa.Connection, bool], T]) -> T:
        """Do `work` and commit it, or nothing of it.

        When a server goes away, it is done again with its second argument true: the first time may have been
        committed, with only the answer lost.
        """
        if self.read_only:
            raise CatalogError("you may read this index, not write it", url=self.url)
        return self._transaction(work, write=True)

    def _transaction(self, work: Callable[[sa.Connection, bool], T], *, write: bool) -> T:
        if self._process != os.getpid():
            _parents.append(self._engine.pool)  # whose connections must not be closed here, either
            self._engine.dispose(close=False)
            self._process = os.getpid()
        deadline = time.monotonic() + WAIT
        pause = 0.05
        again = False
        while True:
            try:
                with self._engine.connect() as connection:
                    connection = connection.execution_options(atdata_write=write)
                    with connection.begin():
                        return work(connection, again)
            except sa.exc.DBAPIError as error:
                if not _passing(error) or time.monotonic() > deadline:
                    raise self._explained(error) from error
            except sa.exc.TimeoutError:
                raise CatalogBusyError(
                    f"all connections of this process to the index were in use for {WAIT:.0f} s", url=self.url
                ) from None
            except sqlite3.Error as error:  # of SQLAlchemy's event handlers, which are not in its own hands
                raise self._explained(error) from error
            again = True
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, 2.0)

    def _explained(self, error: Exception) -> AtdataError:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        kind, message = (_sqlite_error if self.dialect == "sqlite" else _server_error)(cause)
        return kind(message, url=self.url)

    def close(self) -> None:
        """Close all connections; the next use makes new ones."""
        self._engine.dispose(close=self._process == os.getpid())


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes its lock at once: a transaction that reads first could not be let in later.
    kind = "IMMEDIATE" if connection.get_execution_options().get("atdata_write") else "DEFERRED"
    driver: Any = connection.connection.driver_connection
    driver.execute(f"BEGIN {kind}")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at the same time; the file remembers it."""
    deadline = time.monotonic() + WAIT
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:  # another process does the same, and this change does not wait for it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _limit_waits(connection: Any, _: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = '{_ANSWER}s'")
        cursor.execute(f"SET lock_timeout = '{WAIT:.0f}s'")
    connection.commit()


# What a server says when it stops, starts, or lets others go first.
_PASSING = ("57P01", "57P02", "57P03", "40001", "40P01", "53300")


def _passing(error: sa.exc.DBAPIError) -> bool:
    """Whether the same may succeed a little later."""
    if isinstance(error.orig, sqlite3.Error) or error.orig is None:
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state in _PASSING or (state is None and _unreachable(error.orig))


def _unreachable(error: BaseException) -> bool:
    text = str(error)
    return any(
        words in text
        for words in (
            "connection refused",
            "Connection refused",
            "the database system is",
            "server closed the connection",
        )
    )


def _sqlite_error(error: BaseException | None) -> tuple[type[CatalogError], str]:
    text = str(error)
    if "locked" in text:
        return CatalogBusyError, f"another process has kept the index locked for {WAIT:.0f} s; try again"
    if "disk is full" in text:
        return CatalogError, "the disk (or the quota) is full; nothing was changed. Free some space and run again"
    if "readonly" in text:
        return CatalogError, "you may read this index, not write it"
    if "unable to open" in text:
        return CatalogError, "the index cannot be opened: the folder does not let you make or read files there"
    if "not a database" in text or "malformed" in text:
        return CatalogError, f"the file is damaged or no index ({text}); restore it from a copy, or name another file"
    if "no such module: fts5" in text:
        return CatalogError, "this Python's SQLite was built without FTS5, which an index needs for its search"
    return CatalogError, f"the database failed: {text}"


def _server_error(error: BaseException | None) -> tuple[type[CatalogError], str]:
    state = getattr(error, "sqlstate", None) or ""
    text = str(error).strip().split("\n")[0][:300]
    if state == "55P03":
        return CatalogBusyError, f"others have kept what is needed locked for {WAIT:.0f} s; try again"
    if state == "57014":
        return CatalogBusyError, f"the server did not answer within {_ANSWER} s"
    if state in ("28P01", "28000") or "authentication failed" in text:
        return CatalogError, "the server refused the user or the password"
    if state == "3D000" or ("database" in text and "does not exist" in text):
        return CatalogError, "the server has no such database; make it first (createdb)"
    if state in ("42501", "25006"):
        return CatalogError, f"the server does not let this user do that: {text}"
    if state in ("53100", "53200"):
        return CatalogError, f"the server has no space left: {text}"
    if not state or state in _PASSING:
        return CatalogBusyError, f"the server cannot be reached: {text}"
    return CatalogError, f"the database failed: {text}"
