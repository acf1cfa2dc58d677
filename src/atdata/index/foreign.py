"""Indexes that the public implementation wrote, in SQLite, PostgreSQL and Redis: read, never changed.

All three keep entries (name, schema reference, and as msgpack the shards' URLs and metadata), schemas as JSON, and
labels, which give a name, with or without a version, to an entry. Nothing is known there of sizes, digests or counts.
What is in them may come from anyone: sizes and nesting are bounded, and only URLs that a stranger may make us open are.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import sqlalchemy as sa

from atdata.datasets.sources import expand_braces
from atdata.errors import CatalogBusyError, CatalogError, DatasetNotFoundError, EntryFormError, SchemaError
from atdata.index.details import check_url
from atdata.index.engine import Database
from atdata.index.folders import is_archive
from atdata.index.migration import REVISION_TABLE
from atdata.index.versions import Version
from atdata.samples.schema import Schema

__all__ = ["Contents", "ForeignEntry", "ForeignIndex", "ForeignLabel", "ForeignSchema", "look", "shown"]

_MAX_URLS = 16 << 20  # bytes of msgpack
_MAX_METADATA = 1 << 20
_MAX_SCHEMA = 16 << 20
_MAX_SHARDS = 1_000_000
_BATCH = 500
# What may be opened because a stranger's entry says so; a path is another matter.
_SCHEMES = ("s3", "gs", "az", "http", "https")
_ENTRIES, _SCHEMAS, _LENSES, _LABELS = "dataset_entries", "schemas", "lenses", "labels"
_OWN_KEY = "atdata:format"  # which an index of atdata in Redis has


class ForeignEntry(NamedTuple):
    """A list of shards with a name; `cid` names it in labels, and is no digest of the data."""

    cid: str
    name: str
    schema_ref: str
    data_urls: bytes
    metadata: bytes | None
    created_at: datetime | None

    def urls(self) -> list[str]:
        """Where the shards lie.

        Raises:
            EntryFormError: the list cannot be read, or has something that no entry of an index may have opened.
            DatasetNotFoundError: a local file is not there.
        """
        if len(self.data_urls) > _MAX_URLS:
            raise EntryFormError(f"its list of shards takes more than {_MAX_URLS >> 20} MiB")
        try:
            listed = msgspec.msgpack.decode(self.data_urls, type=list[str])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise EntryFormError(f"its list of shards is damaged: {error}") from None
        found: list[str] = []
        for text in listed:
            found += expand_braces(text, _MAX_SHARDS) if "{" in text else [text]
            if len(found) > _MAX_SHARDS:
                raise EntryFormError(f"it has more than {_MAX_SHARDS:,} shards")
        if not found:
            raise EntryFormError("it has no shards")
        return [_openable(url) for url in found]

    def details(self) -> dict[str, Any]:
        """The metadata.

        Raises:
            EntryFormError: it cannot be read.
        """
        if self.metadata is None:
            return {}
        if len(self.metadata) > _MAX_METADATA:
            raise EntryFormError(f"its metadata takes more than {_MAX_METADATA >> 20} MiB")
        try:
            return msgspec.msgpack.decode(self.metadata, type=dict[str, Any] | None) or {}
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise EntryFormError(f"its metadata is damaged: {error}") from None


class ForeignSchema(NamedTuple):
    """A schema's record as JSON text; older names have the module in front."""

    name: str
    version: str
    json: str

    def schema(self) -> Schema:
        """The schema in it.

        Raises:
            SchemaError: it cannot be read.
            EntryFormError: its version is no `major.minor.patch`.
        """
        if len(self.json) > _MAX_SCHEMA:
            raise SchemaError(f"the schema takes more than {_MAX_SCHEMA >> 20} MiB")
        try:
            record = msgspec.json.decode(self.json, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise SchemaError(f"the schema is not readable JSON: {error}") from None
        return Schema.from_record(record | {"version": Version(self.version).text})


class ForeignLabel(NamedTuple):
    """A name for an entry; `version` is any text, and empty for what the name means without one."""

    name: str
    cid: str
    version: str
    description: str | None


class ForeignIndex(NamedTuple):
    """All that such an index has, as it was at one moment.

    Attributes:
        url: where it is; without a password.
        entries: in the order in which they were made, where that is known.
        schemas: every version.
        labels: in the order in which they were made, where that is known.
        lenses: how many lenses it has.
    """

    url: str
    entries: Sequence[ForeignEntry]
    schemas: Sequence[ForeignSchema]
    labels: Sequence[ForeignLabel]
    lenses: int


class Contents(NamedTuple):
    """What lies at a place: an index of the public implementation, one of atdata's own, both side by side, or none."""

    foreign: ForeignIndex | None = None
    own: bool = False


def look(url: str) -> Contents:
    """What index there is at a path or URL; nothing is made or changed.

    Raises:
        CatalogError: it cannot be opened or read.
        CatalogBusyError: its server does not answer.
    """
    scheme, colon, rest = url.partition("://")
    if not colon or scheme == "sqlite":
        return _in_file(Path(rest.removeprefix("/") if colon else url).expanduser().absolute())
    if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        return _on_postgres(url)
    if scheme in ("redis", "rediss"):
        return _on_redis(url)
    return Contents(own=True)  # whoever opens it knows what to say


def _openable(url: str) -> str:
    try:
        check_url(url)
    except EntryFormError as error:
        raise EntryFormError(f"a shard cannot be found by others: {error.message}") from None
    scheme, colon, _ = url.partition("://")
    if colon:
        if scheme not in _SCHEMES:
            raise EntryFormError(f"{scheme!r:.40} URLs of other people's entries are not opened", url=url)
    elif not is_archive(url):
        raise EntryFormError("the name of the file is not that of a tar archive, and it is not opened", url=url)
    elif not os.path.isfile(url):  # a pipe or a device could be read for ever
        raise DatasetNotFoundError("there is no such file", url=url)
    return url


# -- SQL ---------------------------------------------------------------------------------------------------------


def _statements(tables: Iterable[str], order: str, time: str) -> Iterator[tuple[str, str]]:
    """What reads each table that is there; of values that are too long, a little more than is allowed."""
    statements = {
        _ENTRIES: f"cid, name, schema_ref, substr(data_urls, 1, {_MAX_URLS + 1}), "
        f"substr(metadata, 1, {_MAX_METADATA + 1}), {time} FROM {_ENTRIES} ORDER BY created_at, {order}",
        _SCHEMAS: f"name, version, substr(schema_json, 1, {_MAX_SCHEMA + 1}) FROM {_SCHEMAS} ORDER BY name, version",
        _LABELS: f"name, cid, version, description FROM {_LABELS} ORDER BY created_at, {order}",
        _LENSES: f"count(*) FROM {_LENSES}",
    }
    return ((name, f"SELECT {text}") for name, text in statements.items() if name in tables)


def _from_rows(url: str, rows: Mapping[str, Sequence[Any]]) -> ForeignIndex:
    entries = [
        ForeignEntry(
            _text(cid),
            _text(name),
            _text(schema_ref),
            _bytes(urls),
            None if metadata is None else _bytes(metadata),
            _time(created_at),
        )
        for cid, name, schema_ref, urls, metadata, created_at in rows[_ENTRIES]
    ]
    schemas = [ForeignSchema(*map(_text, row)) for row in rows.get(_SCHEMAS, ())]
    labels = [
        ForeignLabel(_text(name), _text(cid), _text(version), None if description is None else _text(description))
        for name, cid, version, description in rows.get(_LABELS, ())
    ]
    lenses = rows.get(_LENSES) or [(0,)]
    return ForeignIndex(url, entries, schemas, labels, int(lenses[0][0]))


def _text(value: Any) -> str:
    """A column that should be text; SQLite lets everything be in it."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="replace")
    return "" if value is None else str(value)


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else _text(value).encode()


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def _in_file(path: Path) -> Contents:
    if not path.exists():
        return Contents()
    # Read like this, SQLite makes no files beside it; where a writer has left or keeps some, it has to look into them.
    alone = not path.with_name(path.name + "-wal").exists()
    options = "mode=ro&immutable=1" if alone else "mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True)) as connection:
            connection.text_factory = lambda data: data.decode(errors="replace")
            connection.execute("BEGIN")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            own = REVISION_TABLE in tables
            if _ENTRIES not in tables:
                return Contents(own=own)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != 0:
                raise CatalogError(
                    f"the index was made by another implementation, in a form that is not known (user_version "
                    f"{version}; 0 is)",
                    url=str(path),
                )
            statements = _statements(tables, "rowid", "created_at")
            rows = {name: connection.execute(text).fetchall() for name, text in statements}
    except sqlite3.Error as error:
        raise CatalogError(f"the file cannot be read as an index: {error}", url=str(path)) from None
    return Contents(_from_rows(str(path), rows), own)


def _on_postgres(url: str) -> Contents:
    try:
        database = Database(sa.make_url(url))
    except (sa.exc.ArgumentError, ValueError):
        raise CatalogError("the URL of the index cannot be read; write postgresql://user@host:port/database") from None

    def work(connection: sa.Connection) -> Contents:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tables = sa.inspect(connection).get_table_names()
        own = REVISION_TABLE in tables
        if _ENTRIES not in tables:
            return Contents(own=own)
        # As text, because PostgreSQL has times that Python has not.
        statements = _statements(tables, "name", "(created_at AT TIME ZONE 'UTC')::text")
        rows = {name: connection.exec_driver_sql(text).all() for name, text in statements}
        return Contents(_from_rows(database.url, rows), own)

    try:
        return database.read(work)
    finally:
        database.close()


# -- Redis -------------------------------------------------------------------------------------------------------


def _on_redis(url: str) -> Contents:
    try:
        import redis
    except ImportError:
        raise CatalogError("an index in Redis needs a driver: pip install 'atdata[redis]'") from None
    place = shown(url)
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=10, socket_timeout=60) as client:
            found = _Keys(client)
            entries = [
                ForeignEntry(
                    _text(cid), _text(name), _text(ref), _bytes(urls), None if more is None else _bytes(more), None
                )
                for cid, name, ref, urls, more in found.hashes(
                    "LocalDatasetEntry:", ("cid", "name", "schema_ref", "data_urls", "metadata")
                )
            ]
            labels = [
                ForeignLabel(_text(name), _text(cid), _text(version), None if about is None else _text(about))
                for name, cid, version, about in found.hashes("Label:", ("name", "cid", "version", "description"))
            ]
            schemas = [
                ForeignSchema(*_text(key).removeprefix("LocalSchema:").rpartition("@")[::2], _text(text))
                for key, text in found.texts("LocalSchema:")
            ]
            lenses = len(found.keys("LocalLens:"))
            own = bool(client.exists(_OWN_KEY))
    except redis.ConnectionError as error:
        raise CatalogBusyError(f"the server cannot be reached: {error}", url=place) from None
    except (redis.RedisError, ValueError) as error:
        raise CatalogError(f"the index in Redis cannot be read: {error}", url=place) from None
    if not (entries or labels or schemas or lenses):
        return Contents(own=own)
    index = ForeignIndex(place, sorted(entries, key=_key), sorted(schemas), sorted(labels, key=_key), lenses)
    return Contents(index, own)


def _key(row: ForeignEntry | ForeignLabel) -> tuple[str, str]:
    return row.name, row.cid


def shown(url: str) -> str:
    """The URL of a server for messages, without user, password and options; a path as it is.

    Example:
        >>> shown("redis://me:secret@host:6379/0?timeout=1")
        'redis://host:6379/0'
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    place, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


class _Keys:
    """The keys of a Redis database by how they begin, some hundred asked for at once."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def keys(self, start: str) -> list[bytes]:
        return sorted(set(self._client.scan_iter(match=f"{start}*", count=1000)))

    def hashes(self, start: str, fields: tuple[str, ...]) -> Iterator[list[bytes | None]]:
        """The fields of each; those of a key that is no hash, or of values that are too long, are missing or cut."""
        for some in _chunks(self.keys(start)):
            sizes = self._ask([("HSTRLEN", key, field) for key in some for field in fields])
            asked = [(key, field) for key in some for field in fields]
            short = [n if isinstance(n, int) and n <= _MAX_URLS else None for n in sizes]
            values = iter(self._ask([("HGET", *at) for at, n in zip(asked, short, strict=True) if n is not None]))
            flat = [None if n is None else next(values) for n in short]
            for i in range(0, len(flat), len(fields)):
                yield [None if isinstance(v, Exception) else v for v in flat[i : i + len(fields)]]

    def texts(self, start: str) -> Iterator[tuple[bytes, bytes | None]]:
        for some in _chunks(self.keys(start)):
            texts = self._ask([("GETRANGE", key, 0, _MAX_SCHEMA) for key in some])
            yield from ((k, None if isinstance(v, Exception) else v) for k, v in zip(some, texts, strict=True))

    def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers


def _chunks(keys: list[bytes]) -> Iterator[list[bytes]]:
    return (keys[i : i + _BATCH] for i in range(0, len(keys), _BATCH))
