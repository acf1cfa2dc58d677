"""Indexes as the public implementation writes them, in SQLite, PostgreSQL and Redis, and shards by webdataset."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import psycopg
import redis
import webdataset

from atdata import generate_cid

SCHEMA = {
    "name": "Digit",
    "version": "1.0.0",
    "fields": [
        {"name": "image", "fieldType": {"$type": "local#ndarray", "dtype": "float32"}, "optional": False},
        {"name": "label", "fieldType": {"$type": "local#primitive", "primitive": "int"}, "optional": False},
    ],
    "description": "A digit.",
    "createdAt": "2026-01-01T00:00:00+00:00",
}
REF = "atdata://local/schema/Digit@1.0.0"


class Entry(NamedTuple):
    name: str
    urls: Any  # a list, or bytes as they are
    metadata: Any = None
    ref: str = REF
    created: str = "2026-01-01 00:00:00"

    @property
    def cid(self) -> str:
        return generate_cid({"schema_ref": self.ref, "data_urls": self.urls if isinstance(self.urls, list) else []})

    @property
    def packed(self) -> bytes:
        return self.urls if isinstance(self.urls, bytes) else msgpack.packb(self.urls)

    @property
    def packed_metadata(self) -> bytes | None:
        if self.metadata is None or isinstance(self.metadata, bytes):
            return self.metadata
        return msgpack.packb(self.metadata)


class Layout(NamedTuple):
    """Labels are name, entry, version ("" for none), description; schemas name, version, record."""

    entries: Sequence[Entry]
    labels: Sequence[tuple[str, Entry, str, str | None]] = ()
    schemas: Sequence[tuple[str, str, Any]] = (("Digit", "1.0.0", SCHEMA),)
    lenses: int = 0


def shard(path: Path, *labels: int) -> str:
    """A shard of digits, by the real webdataset package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as sink:
        for i, label in enumerate(labels):
            image = b"\x03|u1\x02" + struct.pack("<qq", 2, 2) + bytes([label]) * 4  # uint8, two by two
            sink.write({"__key__": f"{path.stem}_{i}", "msgpack": msgpack.packb({"image": image, "label": label})})
    return str(path)


_TABLES = """
CREATE TABLE dataset_entries (cid TEXT PRIMARY KEY, name TEXT NOT NULL, schema_ref TEXT NOT NULL,
    data_urls {blob} NOT NULL, metadata {blob}, legacy_uuid TEXT, created_at {time});
CREATE INDEX idx_entries_name ON dataset_entries(name);
CREATE TABLE schemas (name TEXT NOT NULL, version TEXT NOT NULL, schema_json TEXT NOT NULL, created_at {time},
    PRIMARY KEY (name, version));
CREATE TABLE lenses (name TEXT NOT NULL, version TEXT NOT NULL, lens_json TEXT NOT NULL, created_at {time},
    PRIMARY KEY (name, version));
CREATE TABLE labels (name TEXT NOT NULL, cid TEXT NOT NULL, version TEXT NOT NULL DEFAULT '', description TEXT,
    created_at {time}, PRIMARY KEY (name, version));
CREATE INDEX idx_labels_cid ON labels(cid);
"""


def _fill(execute: Any, layout: Layout) -> None:
    for e in layout.entries:
        execute(
            "INSERT INTO dataset_entries (cid, name, schema_ref, data_urls, metadata, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (e.cid, e.name, e.ref, e.packed, e.packed_metadata, e.created),
        )
    for name, version, record in layout.schemas:
        execute("INSERT INTO schemas (name, version, schema_json) VALUES (?, ?, ?)", (name, version, _json(record)))
    for name, entry, version, description in layout.labels:
        execute(
            "INSERT INTO labels (name, cid, version, description) VALUES (?, ?, ?, ?)",
            (name, entry.cid, version, description),
        )
    for i in range(layout.lenses):
        execute("INSERT INTO lenses (name, version, lens_json) VALUES (?, ?, ?)", (f"lens{i}", "1.0.0", "{}"))


def _json(record: Any) -> str:
    return record if isinstance(record, str) else json.dumps(record)


def in_sqlite(path: Path, layout: Layout) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_TABLES.format(blob="BLOB", time="TEXT DEFAULT (datetime('now'))"))
        _fill(connection.execute, layout)
        connection.commit()
    return str(path)


def in_postgres(url: str, layout: Layout) -> str:
    with contextlib.closing(psycopg.connect(url)) as connection:
        connection.execute("SET timezone = 'Asia/Tokyo'")
        connection.execute(_TABLES.format(blob="BYTEA", time="TIMESTAMPTZ DEFAULT now()"))
        connection.execute("SET timezone = 'UTC'")
        _fill(lambda text, values: connection.execute(text.replace("?", "%s"), values), layout)
        connection.commit()
    return url


def in_redis(url: str, layout: Layout) -> str:
    with redis.Redis.from_url(url) as client:
        for e in layout.entries:
            fields = {"name": e.name, "schema_ref": e.ref, "cid": e.cid, "data_urls": e.packed}
            if e.packed_metadata is not None:
                fields["metadata"] = e.packed_metadata
            client.hset(f"LocalDatasetEntry:{e.cid}", mapping=fields)
        for name, version, record in layout.schemas:
            client.set(f"LocalSchema:{name}@{version}", _json(record))
        for name, entry, version, description in layout.labels:
            label = {"name": name, "cid": entry.cid, "version": version}
            client.hset(
                f"Label:{name}@{version}", mapping=label | ({"description": description} if description else {})
            )
        for i in range(layout.lenses):
            client.set(f"LocalLens:lens{i}@1.0.0", "{}")
    return url
