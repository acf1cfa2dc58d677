"""How versions come into an index: from samples, from shards that lie somewhere, from another index."""

from __future__ import annotations

import contextlib
import functools
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import AtdataError, EmptyDatasetError, EntryExistsError, SchemaError
from atdata.index.backend import Backend, Part, SchemaRow, VersionRow
from atdata.index.base import DatasetEntry
from atdata.index.changes import change_between
from atdata.index.details import Details, check_url
from atdata.index.entries import Entries
from atdata.index.names import Ref, check_name
from atdata.index.schemas import Schemas, now
from atdata.index.survey import parts_of, survey
from atdata.index.versions import FIRST, Version, rank_of
from atdata.samples.evolution import compare
from atdata.samples.schema import Schema
from atdata.shards.writer import default_key
from atdata.stores.base import DataStore, SampleSource
from atdata.stores.record import CommitRecord

__all__ = ["Writing"]

_BATCH = 500


class _Plan(NamedTuple):
    """Which schema a version will have; `row` is what has to be added for that."""

    key: tuple[str, str] | None = None
    schema: Schema | None = None
    row: SchemaRow | None = None


class Writing:
    """Adds versions to a backend; names, versions and details were checked.

    Args:
        backend: what they are added to.
        schemas: the schemas in it.
        entries: the entries in it.
        store: what shards are read with that lie in it.
    """

    def __init__(self, backend: Backend, schemas: Schemas, entries: Entries, store: Any) -> None:
        self._backend = backend
        self._schemas = schemas
        self._entries = entries
        self._store = store

    # -- samples ---------------------------------------------------------------------------------------------

    def write(
        self,
        samples: Iterable[Any],
        store: Any,
        name: str,
        sample_type: type | None,
        version: str | None,
        details: Details,
        options: Mapping[str, Any],
    ) -> DatasetEntry:
        """See `LocalIndex.write_samples`."""
        ds = _as_dataset(samples, sample_type)
        self._refuse_taken(name, version)
        self._plan(ds.schema)  # what cannot be published fails before anything is written
        add = functools.partial(self._add, name, version, lambda: self._plan(ds.schema), details)
        first = None if self._backend.find([Ref(name)])[0] else FIRST
        return self._written(ds, store, f"{name}/{version or first or _today()}", options, add)

    def append(
        self,
        samples: Iterable[Any],
        store: Any,
        old: VersionRow,
        sample_type: type | None,
        version: str | None,
        details: Details,
        options: Mapping[str, Any],
    ) -> DatasetEntry:
        """See `LocalIndex.append`."""
        ds = _as_dataset(samples, sample_type)
        before = self._entries.entry(old).located
        _check_appendable(old, before.schema, ds.schema)
        chosen = version or Version(old.version).after("minor").text
        self._refuse_taken(old.name, chosen)

        def add(refs: tuple[ShardRef, ...]) -> DatasetEntry:
            shards, parts = (*before.shards, *refs), (*old.parts, *parts_of(refs))
            while True:
                plan = self._plan(ds.schema)
                row = _row(old.name, chosen, old.version, plan, shards, parts, details)
                if self._recorded(row, plan, counted=False):
                    return self._entries.entry(row)

        return self._written(_Numbered(ds, old.samples), store, f"{old.name}/{chosen}", options, add)

    def _written(
        self,
        ds: SampleSource,
        store: Any,
        place: str,
        options: Mapping[str, Any],
        add: Callable[[tuple[ShardRef, ...]], DatasetEntry],
    ) -> DatasetEntry:
        """Write samples under a prefix that nobody else has, and record what came out."""
        prefix = f"{place}-{secrets.token_hex(4)}"
        urls = store.write_shards(ds, prefix=prefix, **options)
        refs = survey(Dataset(urls, sample_type=ds.sample_type, store=store))
        try:
            return add(refs)
        except EntryExistsError:
            # Nothing refers to the shards, for certain; after other errors the version may have been added.
            if isinstance(store, DataStore):
                with contextlib.suppress(AtdataError):
                    store.delete(prefix)
            raise

    def _refuse_taken(self, name: str, version: str | None) -> None:
        if version is not None and self._taken(name, version):
            raise EntryExistsError(
                f"the index has {name}@{version} already, and versions never change; choose another version, or give "
                "none to have the next one"
            )

    def _taken(self, name: str, version: str) -> bool:
        return self._backend.find([Ref(name, version=version)])[0] is not None

    # -- shards ----------------------------------------------------------------------------------------------

    def insert(
        self, ds: Dataset[Any], name: str, version: str | None, schema_ref: str | None, details: Details
    ) -> DatasetEntry:
        """See `LocalIndex.insert_dataset`."""
        self._refuse_taken(name, version)
        stored = None if ds.located is None else ds.located.schema
        if schema_ref is None:
            _check_class(stored, ds.schema)
        else:
            self._asked_for(schema_ref, stored)

        def plan() -> _Plan:
            return self._plan(stored or ds.schema) if schema_ref is None else self._asked_for(schema_ref, stored)

        return self._add(name, version, plan, details, survey(ds))

    def _asked_for(self, schema_ref: str, stored: Schema | None) -> _Plan:
        """A published schema, which has to fit the samples as far as these are known."""
        key, wanted = self._schemas.get(schema_ref)
        if stored is not None and not compare(stored, wanted).readable:
            raise SchemaError(f"the data cannot be read as {schema_ref}; {compare(stored, wanted)}")
        return _Plan(key, wanted)

    def _add(
        self,
        name: str,
        version: str | None,
        make_plan: Callable[[], _Plan],
        details: Details,
        refs: tuple[ShardRef, ...],
    ) -> DatasetEntry:
        """Add a version, together with its schema; counted from the latest when none is given."""
        parts = parts_of(refs)
        while True:
            latest = self._backend.find([Ref(name)])[0]
            plan = make_plan()
            if version is None and latest is not None:
                row = _row(name, latest.version, latest.version, plan, refs, parts, details)
                if _says_the_same(row, latest):
                    return self._entries.entry(latest)
                change = change_between(self._entries.entry(latest).located, Located(refs, plan.schema), self._store)
                row = msgspec.structs.replace(row, version=Version(latest.version).after(change).text)
            else:
                chosen = version or FIRST
                row = _row(name, chosen, self._before(latest, chosen), plan, refs, parts, details)
            if self._recorded(row, plan, counted=version is None):
                return self._entries.entry(row)

    def _recorded(self, row: VersionRow, plan: _Plan, *, counted: bool) -> bool:
        """Add a version; False when another process was quicker and it has to be made anew.

        Raises:
            EntryExistsError: the version was not counted but chosen, and is there.
        """
        try:
            self._backend.add([row], [] if plan.row is None else [plan.row])
        except EntryExistsError:
            if not counted and self._taken(row.name, row.version):
                raise
            return False
        return True

    def _plan(self, schema: Schema | None) -> _Plan:
        if schema is None:
            return _Plan()
        key, row = self._schemas.fitting(schema)
        return _Plan(key, schema, row)

    def _before(self, latest: VersionRow | None, version: str) -> str | None:
        """The version that one of this number comes after."""
        if latest is None or Version(latest.version) < Version(version):
            return None if latest is None else latest.version
        lower = self._backend.versions(latest.name, rank_of(version), 1)
        return lower[0].version if lower and Version(lower[0].version) < Version(version) else None

    # -- entries ---------------------------------------------------------------------------------------------

    def take_over(self, entries: Iterable[DatasetEntry]) -> int:
        """See `LocalIndex.add_entries`."""
        count = 0
        known: dict[tuple[str, str, str], tuple[str, str]] = {}
        remaining = iter(entries)
        while batch := list(itertools.islice(remaining, _BATCH)):
            rows = [self._row_of(entry, known) for entry in batch]
            try:
                self._backend.add(rows)
            except EntryExistsError:
                there = self._backend.find([Ref(row.name, version=row.version) for row in rows])
                if any(old is not None and old.cid != row.cid for row, old in zip(rows, there, strict=True)):
                    raise
                rows = [row for row, old in zip(rows, there, strict=True) if old is None]
                self._backend.add(rows)
            count += len(rows)
        return count

    def _row_of(self, entry: DatasetEntry, known: dict[tuple[str, str, str], tuple[str, str]]) -> VersionRow:
        """An entry that may come from anywhere, checked; its schema is published."""
        schema, refs = entry.schema, entry.shards
        for ref in refs:
            check_url(ref.url)
        plan = _Plan()
        if schema is not None:
            key = schema.name, schema.version, schema.cid
            if key not in known:
                known[key] = self._schemas.take_over(schema)
            plan = _Plan(known[key], schema)
        row = _row(
            check_name(entry.name),
            Version(entry.version).text,
            None if entry.parent is None else Version(entry.parent).text,
            plan,
            refs,
            parts_of(refs),
            Details.checked(entry.description, entry.tags, entry.license, entry.metadata),
        )
        return msgspec.structs.replace(row, created_at=round(entry.created_at.timestamp() * 1e6))


def _check_class(stored: Schema | None, opened: Schema | None) -> None:
    if stored is not None and opened is not None and opened.cid != stored.cid:
        raise SchemaError(
            f"the dataset is opened as {opened.name}, and its samples are stored as another type. To record the stored "
            f"one, open it without a class; to record {opened.name}, pass "
            f"schema_ref=index.publish_schema({opened.name})"
        )


def _check_appendable(old: VersionRow, before: Schema | None, new: Schema | None) -> None:
    if before is None or new is None:
        if before is not new:
            kinds = ["no schema" if schema is None else f"the schema {schema.name}" for schema in (before, new)]
            raise SchemaError(f"{old.name}@{old.version} has {kinds[0]}, and the new samples have {kinds[1]}")
        return
    evolution = compare(before, new)
    if not evolution.readable:
        raise SchemaError(f"the samples of {old.name}@{old.version} cannot be read as the new ones; {evolution}")


def _as_dataset(samples: Any, sample_type: type | None) -> Dataset[Any]:
    if isinstance(samples, Dataset):
        if sample_type is not None and samples.sample_type is not sample_type:
            raise SchemaError(
                f"the dataset has samples of {samples.sample_type.__name__}, not {sample_type.__name__}; "
                "`map` makes others of them"
            )
        return samples
    if sample_type is None:
        iterator = iter(samples)
        first = next(iterator, None)
        if first is None:
            raise EmptyDatasetError("there are no samples to write; nothing was changed")
        sample_type = type(first)
        samples = itertools.chain([first], iterator)
    return Dataset.from_samples(samples, sample_type)


class _Numbered:
    """Samples to be appended: those without a key are numbered on from the ones that are there."""

    def __init__(self, ds: Dataset[Any], first: int) -> None:
        self._ds = ds
        self._first = first

    @property
    def sample_type(self) -> type:
        found: type = self._ds.sample_type
        return found

    def keyed(self) -> Iterator[tuple[str | None, Any]]:
        for number, (key, sample) in enumerate(self._ds.keyed(), self._first):
            yield default_key(number) if key is None else key, sample

    def known_length(self) -> int | None:
        return self._ds.known_length()


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _row(
    name: str,
    version: str,
    parent: str | None,
    plan: _Plan,
    refs: Sequence[ShardRef],
    parts: tuple[Part, ...],
    details: Details,
) -> VersionRow:
    record = CommitRecord(plan.schema, tuple(ref.info for ref in refs if ref.info is not None))
    return VersionRow(
        name=name,
        version=version,
        cid=record.cid,
        schema=plan.key,
        parent=parent,
        description=details.description,
        tags=details.tags,
        license=details.license,
        metadata=details.metadata,
        created_at=now(),
        samples=record.samples,
        size=record.size,
        parts=parts,
    )


def _says_the_same(row: VersionRow, latest: VersionRow) -> bool:
    """Whether nothing but the time of its making tells a new version from the latest."""
    return msgspec.structs.replace(row, parent=latest.parent, created_at=latest.created_at) == latest
