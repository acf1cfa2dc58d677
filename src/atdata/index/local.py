"""`LocalIndex`: the datasets of one person in a file, or of a team on a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from atdata.datasets.dataset import Dataset
from atdata.errors import EntryFormError, StoreError
from atdata.index.backend import VersionRow
from atdata.index.base import DatasetEntry
from atdata.index.details import Details
from atdata.index.diff import DatasetDiff, diff
from atdata.index.entries import Entries
from atdata.index.garbage import Garbage, collect
from atdata.index.ledger import LocalLedger
from atdata.index.lenses import Lenses, StoredLens
from atdata.index.names import check_label, check_name, parse_ref, parse_schema_ref
from atdata.index.opening import open_backend
from atdata.index.schemas import Schemas
from atdata.index.versions import Version
from atdata.index.words import words_in
from atdata.index.writing import Writing
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference
from atdata.samples.schema import Schema
from atdata.stores.disk import LocalDiskStore

__all__ = ["LocalIndex"]

_DEFAULT = "~/.atdata/index.db"
_PAGE = 100


class LocalIndex:
    """Datasets found by name, version and content: in a SQLite file, or in a team's PostgreSQL or Redis database.

    Threads and processes may use one index at the same time; every change happens as a whole or not at all.

    Args:
        url: a file, or a URL: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user@host/database`,
            `redis://user@host:6379/0` (`rediss://` with TLS). By default what `ATDATA_INDEX` names, else
            `~/.atdata/index.db`. The file is made when there is none. Redis keeps an index as safely as it is set to
            keep its data (`appendonly yes`).
        store: where `write_samples` puts shards; what its own credentials can read is read by it. An index in a file
            has `LocalDiskStore()` by default.

    Raises:
        CatalogError: the database cannot be opened, or its kind is not known.
        CatalogBusyError: it is locked, or its server does not answer.
        CatalogVersionError: it was made by another version of atdata.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Digit:
        ...     label: int
        >>> store = atdata.LocalDiskStore("data")
        >>> with atdata.LocalIndex("index.db", store=store) as index:
        ...     entry = index.write_samples([Digit(3), Digit(7)], name="digits", tags=["handwritten"])
        ...     print(entry.name, entry.version, entry.samples)
        ...     print([digit.label for digit in index.get_dataset("digits@1.0.0").dataset()])
        digits 1.0.0 2
        [3, 7]
    """

    def __init__(self, url: str | os.PathLike[str] | None = None, *, store: Any = None) -> None:
        if url is None:
            url = os.environ.get("ATDATA_INDEX") or _DEFAULT
        self._backend, self.url, in_file = open_backend(url)
        self._store = LocalDiskStore() if store is None and in_file else store
        self._schemas = Schemas(self._backend, lambda row: self._backend.add([], [row]))
        self._lenses = Lenses(self._backend, self._schemas)
        self._entries = Entries(self._backend, self._schemas, self._lenses, self._store)
        self._ledger = LocalLedger(self._backend, self._schemas, self._entries)
        self._writing = Writing(self._ledger, self._store)

    def __repr__(self) -> str:
        return f"LocalIndex({self.url!r}, store={self._store!r})"

    def __enter__(self) -> LocalIndex:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database; another use opens them again."""
        self._backend.close()

    @property
    def store(self) -> Any:
        """Where `write_samples` puts shards; None when none was given and there is no default."""
        return self._store

    # -- adding ----------------------------------------------------------------------------------------------

    def write_samples(
        self,
        samples: Iterable[Any],
        *,
        name: str,
        sample_type: type | None = None,
        version: str | None = None,
        description: str | None = None,
        tags: Iterable[str] = (),
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> DatasetEntry:
        """Write samples into the index's store and record them as a new version of `name`, in one pass.

        Everything but the samples is checked before the first is written. A process that is killed leaves the index as
        it was; running it again completes, and `gc` finds what was left in the store.

        Args:
            samples: any iterable, taken once; or a `Dataset`, whose keys are kept.
            name: ASCII letters, digits, `_`, `-`, `.`, with `/` between parts.
            sample_type: the class of the samples; by default that of the dataset or of the first sample.
            version: `major.minor.patch`; by default the next one, as `insert_dataset` counts.
            description: free text.
            tags: words to find it by.
            license: an SPDX identifier or a name.
            metadata: JSON values by name.
            options: passed to the store's `write_shards`: `maxcount`, `maxsize`, `manifest`, `progress`.

        Raises:
            EntryExistsError: the version is there already.
            EntryFormError: a name, version or detail cannot be used.
            EmptyDatasetError: there are no samples.
            StoreError: the shards could not be written.
        """
        details = Details.checked(description, tags, license, metadata)
        return self._writing.write(
            samples, self._needed_store(), check_name(name), sample_type, _version(version), details, options
        )

    def append(
        self,
        name: str,
        samples: Iterable[Any],
        *,
        sample_type: type | None = None,
        version: str | None = None,
        description: str | None = None,
        tags: Iterable[str] | None = None,
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> DatasetEntry:
        """Write more samples, and record a new version of `name` that has the old shards and the new ones.

        The old shards are shared, not copied. Samples without a key are numbered on from the old ones.

        Args:
            name: the dataset; its latest version is what is added to.
            samples: as for `write_samples`. Their type is that of the old samples, or one that reads those too.
            sample_type: as for `write_samples`.
            version: by default the next minor one.
            description: by default as before; so are `tags`, `license` and `metadata`.
            tags: words to find it by.
            license: an SPDX identifier or a name.
            metadata: JSON values by name.
            options: as for `write_samples`.

        Raises:
            EntryNotFoundError: there is no such dataset.
            EntryExistsError: the version is there already, or another process has added one meanwhile.
            SchemaError: the old samples cannot be read as the new type.
        """
        old = self._entries.entry(self._entries.row(parse_ref(check_name(name))))
        details = Details.checked(
            old.description if description is None else description,
            old.tags if tags is None else tags,
            old.license if license is None else license,
            old.metadata if metadata is None else metadata,
        )
        return self._writing.append(
            samples, self._needed_store(), old, sample_type, _version(version), details, options
        )

    def insert_dataset(
        self,
        ds: Dataset[Any],
        *,
        name: str,
        version: str | None = None,
        schema_ref: str | None = None,
        description: str | None = None,
        tags: Iterable[str] = (),
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> DatasetEntry:
        """Record a dataset whose shards lie somewhere already, as a new version of `name`; nothing is copied.

        Shards that no commit record tells of are read once for their digests. Without a version the next one is taken:
        a patch when the data is the same as in the latest version, a minor one when all of that is still there, else a
        major one. When not even the places of shards or the details differ, the latest version itself is returned.

        Args:
            ds: shards as they are: without steps, and not in memory.
            name: ASCII letters, digits, `_`, `-`, `.`, with `/` between parts.
            version: `major.minor.patch`.
            schema_ref: a published schema to read the samples with; by default the stored one, which is published when
                the index does not have it.
            description: free text.
            tags: words to find it by.
            license: an SPDX identifier or a name.
            metadata: JSON values by name.

        Raises:
            EntryExistsError: the version is there already.
            EntryFormError: a name, version, detail or URL cannot be used.
            EntryNotFoundError: there is no schema `schema_ref`.
            DatasetError: the samples are in memory, or the dataset has steps.
            SchemaError: the samples are of another type than `schema_ref`, or than the dataset's class.
        """
        details = Details.checked(description, tags, license, metadata)
        return self._writing.insert(ds, check_name(name), _version(version), schema_ref, details)

    def add_entries(self, entries: Iterable[DatasetEntry]) -> int:
        """Take over entries of another index, up to 1,000 in each transaction; returns how many were added.

        Entries that are here already, with the same content, are passed over, so that a copy that was interrupted can
        be run again.

        Raises:
            EntryExistsError: a version is here with another content.
            SchemaError: an entry's schema is here under the same version with another content.
        """
        return self._ledger.take_over(entries)

    def add_schemas(self, schemas: Iterable[Schema]) -> None:
        """Take over schemas of another index under their own versions; those that are here already are passed over.

        Raises:
            EntryExistsError: a version is here with another content; those before it were added.
        """
        for schema in schemas:
            self._schemas.take_over(schema)

    def _needed_store(self) -> Any:
        if self._store is None:
            raise StoreError(
                "this index has no store to write to: LocalIndex(url, store=…), one that all who use the index can read"
            )
        return self._store

    # -- finding ---------------------------------------------------------------------------------------------

    def get_dataset(self, ref: str) -> DatasetEntry:
        """The version that a reference names.

        Args:
            ref: `name` (the highest version, releases before pre-releases), `name@1.2.0`, `name@label`, or a CID.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
            EntryFormError: it is no reference.
        """
        return self._entries.entry(self._entries.row(parse_ref(ref)))

    def list_datasets(self) -> Iterator[DatasetEntry]:
        """The latest version of every dataset, by name; fetched page by page as it is iterated."""
        return self._pages(lambda after: self._backend.latest(after, _PAGE))

    def list_versions(self, name: str) -> Iterator[DatasetEntry]:
        """Every version of a dataset, the highest first; fetched page by page as it is iterated.

        Raises:
            EntryNotFoundError: there is no such dataset.
        """
        self._entries.row(parse_ref(check_name(name)))

        def pages() -> Iterator[DatasetEntry]:
            page = self._backend.versions(name, None, _PAGE)
            while page:
                yield from map(self._entries.entry, page)
                page = self._backend.versions(name, page[-1].rank, _PAGE)

        return pages()

    def search(self, text: str = "", *, tags: Iterable[str] = (), schema: str | None = None) -> Iterator[DatasetEntry]:
        """The latest versions that match, by name; fetched page by page as it is iterated.

        Args:
            text: words, or beginnings of words, that name, description, tags or the schema's name have; all of them,
                without regard to case and accents.
            tags: tags that it has; all of them, exactly.
            schema: a schema's name, or its reference with a version.
        """
        if isinstance(tags, str):
            raise EntryFormError(f"tags are given as a list: tags=[{tags!r:.60}]")
        words, tags = words_in([text]), list(tags)
        of = None if schema is None else parse_schema_ref(schema)
        if text.strip() and not words:
            return iter(())  # no letter and no digit: nothing is found by that
        return self._pages(lambda after: self._backend.latest(after, _PAGE, words=words, tags=tags, schema=of))

    def diff(self, old: str, new: str) -> DatasetDiff:
        """Which samples were added, removed and changed from one version to another, by key and digest.

        Manifests tell; only shards without one are read.

        Args:
            old: a reference, as for `get_dataset`.
            new: another one.

        Raises:
            EntryNotFoundError: one of them is not there.
        """
        return diff(self.get_dataset(old).dataset(), self.get_dataset(new).dataset())

    def _pages(self, following: Callable[[str], list[VersionRow]]) -> Iterator[DatasetEntry]:
        page = following("")
        while page:
            yield from map(self._entries.entry, page)
            page = following(page[-1].name) if len(page) == _PAGE else []

    # -- changing --------------------------------------------------------------------------------------------

    def label(self, name: str, label: str, *, version: str | None = None) -> None:
        """Let `name@label` mean a version, until the label is set to another.

        Args:
            name: the dataset.
            label: a letter, then letters, digits, `.`, `_`, `-`.
            version: by default the latest.

        Raises:
            EntryNotFoundError: there is no such version.
        """
        ref = parse_ref(check_name(name))
        row = self._entries.row(ref._replace(version=_version(version)))
        self._backend.set_label(name, check_label(label), row.version)

    def unlabel(self, name: str, label: str) -> None:
        """Remove a label; the version it meant stays.

        Raises:
            EntryNotFoundError: there is no such label.
        """
        self._backend.set_label(check_name(name), check_label(label), None)

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a dataset and the versions they mean, the one that was set last at the end."""
        self._entries.row(parse_ref(check_name(name)))
        return self._backend.labels(name)

    def rename(self, name: str, new: str) -> None:
        """Give a dataset, with all its versions and labels, another name; its shards stay where they are.

        Raises:
            EntryNotFoundError: there is no dataset `name`.
            EntryExistsError: there is a dataset `new`.
        """
        self._entries.row(parse_ref(check_name(name)))
        self._backend.rename(name, check_name(new))

    def delete_dataset(self, ref: str) -> None:
        """Forget a dataset with all its versions and labels (`name`), or one version (`name@1.0.0`).

        The shards stay in their store; `gc` removes those that nothing refers to any more.

        Raises:
            EntryNotFoundError: it is not there.
            EntryExistsError: a label means this version.
            EntryFormError: the reference is a label or a CID, which may mean another version than is thought.
        """
        found = parse_ref(ref)
        row = self._entries.row(found)
        if found.cid is not None or found.label is not None or ref.endswith("@latest"):
            raise EntryFormError(f"say which version is to be deleted: {row.name}@{row.version}")
        self._backend.delete(row.name, found.version)

    def gc(
        self, store: Any = None, *, prefix: str = "", grace: timedelta = timedelta(days=7), dry_run: bool = True
    ) -> list[Garbage]:
        """What lies in a store and no version of this index refers to; with `dry_run=False` it is removed.

        Looked at are datasets that atdata wrote (their commit record says what belongs to them) and writes that were
        never finished. A dataset stays while any of its shards is in any version. What is used by its path only, or by
        another index, is not known here: look at what a dry run gives, or name a prefix that only this index uses.

        Args:
            store: the store to look through; by default the index's own.
            prefix: only what lies under it.
            grace: what was changed less than this ago stays: it may be about to be recorded.
            dry_run: only tell.

        Returns:
            What was found, and with `dry_run=False` removed.

        Raises:
            StoreError: the store cannot be listed, or something cannot be removed.
        """
        return collect(self._backend, store or self._needed_store(), prefix, grace, dry_run=dry_run)

    # -- schemas ---------------------------------------------------------------------------------------------

    def publish_schema(self, sample_type: type, *, version: str | None = None) -> str:
        """Record a sample type's schema, unless the same is there; returns its reference.

        Args:
            sample_type: a packable class.
            version: by default the next one: a patch when only descriptions changed, a minor one when older data can
                be read with the new type, else a major one.

        Raises:
            EntryExistsError: the version is there with another content.
            SchemaError: the version says less than what changed, or the class cannot be stored.
        """
        return self._schemas.publish(Schema.of(sample_type), _version(version))

    def get_schema(self, ref: str) -> Schema:
        """The schema that a reference names.

        Args:
            ref: `atdata://local/schema/Digit@1.0.0`, `Digit@1.0.0`, or `Digit` for the highest version.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
        """
        return self._schemas.get(ref)[1]

    def list_schemas(self) -> Iterator[Schema]:
        """Every version of every schema, by name; fetched page by page as it is iterated."""
        return self._schemas.all()

    def decode_schema(self, ref: str) -> type:
        """A sample type built in memory from a stored schema; no code is executed.

        Args:
            ref: as for `get_schema`.
        """
        return self.get_schema(ref).sample_type()

    # -- lenses ----------------------------------------------------------------------------------------------

    def publish_lens(
        self,
        lens: Lens[Any, Any],
        *,
        code: CodeReference | None = None,
        source_schema: str | None = None,
        view_schema: str | None = None,
    ) -> str:
        """Record a lens, with the schemas of its types; returns its reference.

        A declared lens (`Lens.fields`) is recorded whole, and datasets of this index are seen through it by whoever
        asks for its type. Of one that is code, the index says where the code is, and its hash. Of several lenses of one
        name between the same types, the one that was published last counts.

        Args:
            lens: declared, or made of functions.
            code: the repository, commit and file where others find the functions.
            source_schema: the reference to a published schema of the type that it reads; by default that type's is
                published.
            view_schema: the same of the type that it gives.

        Raises:
            LensError: it is code, and `code` is missing; or it is composed of several.
            EntryNotFoundError: there is no such schema.
            SchemaError: the schema is not that of the lens's type.
        """
        return self._lenses.publish(lens, code, source_schema, view_schema)

    def add_lenses(self, lenses: Iterable[StoredLens]) -> None:
        """Take over lenses of another index, with their schemas; those that are here already are passed over.

        Raises:
            EntryExistsError: a version of a schema is here with another content; the lenses before were added.
        """
        for lens in lenses:
            self._lenses.take_over(lens)

    def get_lens(self, ref: str) -> StoredLens:
        """The lens that a reference names.

        Args:
            ref: `atdata://local/lens/…`, its identifier alone, or a name; of several of that name, the newest.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
        """
        return self._lenses.get_lens(ref)

    def list_lenses(self, *, source: str | None = None, view: str | None = None) -> Iterator[StoredLens]:
        """The lenses by name; fetched page by page as it is iterated.

        Args:
            source: only those that read this schema: a reference, or a name for any version.
            view: only those that give it.
        """
        return self._lenses.list_lenses(source, view)


def _version(version: str | None) -> str | None:
    return None if version is None else Version(version).text
