"""The schemas of an index: published once, never changed, compared when a new version comes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from atdata.errors import CatalogError, EntryExistsError, EntryNotFoundError, SchemaError
from atdata.index.backend import SchemaRow
from atdata.index.names import parse_schema_ref, schema_ref
from atdata.index.versions import FIRST, Version
from atdata.samples.evolution import compare
from atdata.samples.schema import Schema

__all__ = ["SchemaShelf", "Schemas", "now", "row_of", "schema_of"]

_PAGE = 100


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class SchemaShelf(Protocol):
    """Where schemas are: a `Backend`, or the records of an account."""

    def schemas(self, name: str, version: str | None = None) -> Sequence[SchemaRow]:
        """All versions of a schema, the lowest rank first, or only one of them; none when it is not there."""

    def all_schemas(self, after: tuple[str, str], limit: int) -> Sequence[SchemaRow]:
        """Schemas by name and rank, after this name and rank."""


def _local_ref(row: SchemaRow) -> str:
    return schema_ref(row.name, row.version)


class Schemas:
    """The schemas on a shelf.

    Args:
        shelf: where they are.
        add: adds one; an EntryExistsError where this version is there.
        ref: the reference to a schema.
        parse: name and version in a reference; the version is None for the latest.
    """

    def __init__(
        self,
        shelf: SchemaShelf,
        add: Callable[[SchemaRow], None],
        ref: Callable[[SchemaRow], str] = _local_ref,
        parse: Callable[[str], tuple[str, str | None]] = parse_schema_ref,
    ) -> None:
        self._shelf = shelf
        self._add = add
        self.ref = ref
        self._parse = parse

    def publish(self, schema: Schema, version: str | None) -> str:
        """Add a schema, unless the same is there; returns its reference.

        Raises:
            EntryExistsError: this version is there with another content.
            SchemaError: the version says less than what changed.
        """
        while True:
            rows = self._shelf.schemas(schema.name)
            same = next((row for row in reversed(rows) if _equal(row, schema)), None)
            if same is not None and version in (None, same.version):
                return self.ref(same)
            new = _next(rows, schema) if version is None else Version(version).text
            if version is not None:
                _check_version(rows, schema, Version(version))
            row = row_of(schema, new)
            try:
                self._add(row)
            except EntryExistsError:  # another process was quicker: see what it added
                if version is not None and not _equal(self._shelf.schemas(schema.name, new)[0], schema):
                    raise
                continue
            return self.ref(row)

    def fitting(self, schema: Schema) -> tuple[SchemaRow, bool]:
        """The version for data of that schema, and whether it is new, as none that is there reads bytes the same."""
        rows = self._shelf.schemas(schema.name)
        for row in reversed(rows):
            if row.cid == schema.cid:
                return row, False
        return row_of(schema, _next(rows, schema)), True

    def take_over(self, schema: Schema) -> tuple[str, str]:
        """Add a schema of another index under its own version, unless it is there; returns name and version.

        Raises:
            EntryExistsError: the version is there with another content.
        """
        key = schema.name, Version(schema.version).text
        try:
            self._add(row_of(schema, schema.version))
        except EntryExistsError:
            if not _equal(self._shelf.schemas(*key)[0], schema):
                raise
        return key

    def get(self, ref: str) -> tuple[SchemaRow, Schema]:
        """The schema that a reference names, with its row.

        Raises:
            EntryNotFoundError: there is none; the message lists what there is.
        """
        name, version = self._parse(ref)
        rows = self._shelf.schemas(name, version)
        if rows:
            return rows[-1], schema_of(rows[-1])
        others = [row.version for row in self._shelf.schemas(name)]
        if others:
            raise EntryNotFoundError(f"the schema {name} has no version {version}; there are {', '.join(others[-10:])}")
        known = list(dict.fromkeys(row.name for row in self._shelf.all_schemas(("", ""), 1000)))
        near = difflib.get_close_matches(name, known, 3) or known[:5]
        hint = f"; there are {', '.join(near)}" if near else ", and no other"
        raise EntryNotFoundError(f"the index has no schema {name}{hint}")

    def all(self) -> Iterator[Schema]:
        """Every version of every schema, by name and then by precedence."""
        page = self._shelf.all_schemas(("", ""), _PAGE)
        while page:
            for row in page:
                yield schema_of(row)
            page = self._shelf.all_schemas((page[-1].name, page[-1].rank), _PAGE)


def schema_of(row: SchemaRow) -> Schema:
    """The schema in a row.

    Raises:
        CatalogError: the row was altered.
    """
    schema = _parsed(row.record)
    if schema.cid != row.cid:
        raise CatalogError(
            f"the schema {row.name}@{row.version} in the index is not what was published: it was altered"
        )
    return schema


@functools.lru_cache(256)
def _parsed(record: str) -> Schema:
    try:
        return Schema.from_record(msgspec.json.decode(record, type=dict))
    except (SchemaError, msgspec.MsgspecError, RecursionError) as error:
        raise CatalogError(f"a schema in the index cannot be read: {error}") from None


def row_of(schema: Schema, version: str) -> SchemaRow:
    """A schema as a row, under this version."""
    record = dataclasses.replace(schema, version=version).to_record()
    return SchemaRow(schema.name, version, schema.cid, msgspec.json.encode(record).decode(), now())


def _equal(row: SchemaRow, schema: Schema) -> bool:
    return row.cid == schema.cid and dataclasses.replace(schema, version=row.version) == schema_of(row)


def _next(rows: Sequence[SchemaRow], schema: Schema) -> str:
    if not rows:
        return schema.version if Version.valid(schema.version) else FIRST
    change = compare(schema_of(rows[-1]), schema).change
    return Version(rows[-1].version).after(change or "patch").text


def _check_version(rows: Sequence[SchemaRow], schema: Schema, version: Version) -> None:
    """Whether a version that was chosen tells readers what changed since the one before it."""
    if any(row.version == version.text for row in rows):
        raise EntryExistsError(
            f"the index has a schema {schema.name}@{version} already, with another content, and versions never change; "
            "choose another version, or give none to have the next one"
        )
    before = [row for row in rows if Version(row.version) < version]
    if not before:
        return
    last = max(before, key=lambda row: Version(row.version))
    evolution = compare(schema_of(last), schema)
    least = Version(last.version).after(evolution.change or "patch")
    if evolution.change is not None and version.core < least.core and version.core[0] > 0:
        wrong = "; ".join(str(d) for d in evolution.differences[:5])
        raise SchemaError(
            f"{schema.name}@{version} is too low after {last.version}: the change is a {evolution.change} one, which "
            f"makes it {least} at least ({wrong})"
        )
