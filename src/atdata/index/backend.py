"""What a database has to do to hold an index. `LocalIndex` is the same over each; it checks what users give.

Rows are plain values, and every call takes as many as there are, so that a server is asked once. Each method is one
transaction: all of it happens, or nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from atdata.index.names import Ref
from atdata.index.versions import rank_of
from atdata.index.words import words_in

__all__ = ["Backend", "LensRow", "Part", "SchemaRow", "VersionRow"]


class SchemaRow(msgspec.Struct, frozen=True):
    """One version of a schema.

    Attributes:
        name: the sample type's name.
        version: `major.minor.patch`.
        cid: what decides how bytes are read.
        record: the schema's local record as JSON, in one form for equal schemas.
        created_at: microseconds since 1970, UTC.
    """

    name: str
    version: str
    cid: str
    record: str
    created_at: int

    @property
    def rank(self) -> str:
        """See `Version.rank`."""
        return rank_of(self.version)


class LensRow(msgspec.Struct, frozen=True):
    """A lens between two schemas.

    Attributes:
        cid: the identifier of all that follows but `created_at`; of a schema, of its name and version.
        name: the lens's name, which others may have too.
        source: the schema of the type that it reads.
        view: the schema of the type that it gives.
        record: the lens's local record as JSON.
        created_at: microseconds since 1970, UTC.
    """

    cid: str
    name: str
    source: SchemaRow
    view: SchemaRow
    record: str
    created_at: int


class Part(msgspec.Struct, frozen=True, dict=True):
    """Shards that lie in one folder. Versions share it by its digest: what was appended to shares the old shards.

    Attributes:
        folder: path or URL, with the last slash.
        shards: a JSON list of `ShardInfo`, in order.
    """

    folder: str
    shards: str

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of both."""
        return hashlib.sha256(f"{self.folder}\0{self.shards}".encode()).digest()


class VersionRow(msgspec.Struct, frozen=True):
    """One version of a dataset; see `DatasetEntry`.

    Attributes:
        schema: name and version of the schema.
        metadata: JSON.
        created_at: microseconds since 1970, UTC.
        parts: where the shards lie, in order.
    """

    name: str
    version: str
    cid: str
    schema: tuple[str, str] | None
    parent: str | None
    description: str | None
    tags: tuple[str, ...]
    license: str | None
    metadata: str
    created_at: int
    samples: int
    size: int
    parts: tuple[Part, ...] = ()

    @property
    def rank(self) -> str:
        """See `Version.rank`."""
        return rank_of(self.version)

    def words(self) -> list[str]:
        """The words it is found by."""
        return words_in([self.name, self.description, *self.tags, self.schema[0] if self.schema else None])


class Backend(Protocol):
    """A database that holds an index.

    Errors are those of `atdata.errors`: EntryExistsError and EntryNotFoundError where a method says so,
    CatalogBusyError when others keep it locked or a server is away, CatalogError for the rest.
    """

    def add(self, versions: Sequence[VersionRow], schemas: Sequence[SchemaRow] = ()) -> None:
        """Add schemas and versions, whose names may be new.

        Raises:
            EntryExistsError: one of these versions, or schema versions, is there; nothing was added.
            EntryNotFoundError: a version names a schema that is not there.
        """

    def find(self, refs: Sequence[Ref]) -> list[VersionRow | None]:
        """The versions that are named, with their parts; None for each that is not there.

        A name alone means the version of the highest rank; a CID the version that was added last of those with it.
        """

    def parts(self, name: str, version: str) -> tuple[Part, ...] | None:
        """Where the shards of one version lie; None when it is not there."""

    def latest(
        self,
        after: str,
        limit: int,
        *,
        words: Sequence[str] = (),
        tags: Sequence[str] = (),
        schema: tuple[str, str | None] | None = None,
    ) -> list[VersionRow]:
        """The latest version of each dataset, by name, without parts.

        Args:
            after: only names that come after this one, byte by byte.
            limit: at most so many.
            words: each is the beginning of a word of the version (`VersionRow.words`).
            tags: the version has all of them.
            schema: the version has this schema, in that version or in any.
        """

    def versions(self, name: str, below: str | None, limit: int) -> list[VersionRow]:
        """The versions of one dataset, the highest rank first, without parts.

        Args:
            name: the dataset.
            below: only those of a lower rank.
            limit: at most so many.
        """

    def names(self, after: str, limit: int) -> list[str]:
        """Names of datasets that come after this one, byte by byte, in order."""

    def schemas(self, name: str, version: str | None = None) -> list[SchemaRow]:
        """All versions of a schema, the lowest rank first, or only one of them; none when it is not there."""

    def all_schemas(self, after: tuple[str, str], limit: int) -> list[SchemaRow]:
        """Schemas by name and rank, after this name and rank."""

    def add_lens(self, row: LensRow) -> None:
        """Add a lens; one that is there is dated anew, when this is later.

        Raises:
            EntryNotFoundError: one of its schemas, which are added before, is not there.
        """

    def lens(self, cid: str) -> LensRow | None:
        """The lens of that identifier, with its schemas; None when it is not there."""

    def lenses(self, after: tuple[str, str], limit: int, *, name: str | None = None) -> list[LensRow]:
        """Lenses by name and identifier, byte by byte, with their schemas.

        Args:
            after: only those that come after this name and identifier.
            limit: at most so many.
            name: only those of this name.
        """

    def set_label(self, name: str, label: str, version: str | None) -> None:
        """Let a label mean a version, or nothing any more.

        Raises:
            EntryNotFoundError: there is no such version, or no such label to remove.
        """

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a dataset and the versions they mean, the one that was set last at the end."""

    def delete(self, name: str, version: str | None) -> None:
        """Remove one version, or with None a dataset with all versions and labels.

        Raises:
            EntryNotFoundError: it is not there.
            EntryExistsError: a label means this version.
        """

    def rename(self, old: str, new: str) -> None:
        """Give a dataset another name.

        Raises:
            EntryNotFoundError: there is none of the old name.
            EntryExistsError: there is one of the new name.
        """

    def all_parts(self, start: str) -> Iterator[Part]:
        """Every part that a version has and whose folder begins with `start`, in any order."""

    def close(self) -> None:
        """Let go of connections."""
