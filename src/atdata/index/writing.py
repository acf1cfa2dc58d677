"""How versions come into an index: from samples, or from shards that lie somewhere.

What kind of index it is, a `Ledger` says; how versions are counted and what may become one is the same for all.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import AtdataError, EmptyDatasetError, EntryExistsError, SchemaError
from atdata.index.base import DatasetEntry
from atdata.index.changes import change_between
from atdata.index.details import Details
from atdata.index.survey import survey
from atdata.index.versions import FIRST, Version, rank_of
from atdata.samples.evolution import compare
from atdata.samples.schema import Schema
from atdata.shards.writer import default_key
from atdata.stores.base import DataStore, SampleSource
from atdata.stores.record import CommitRecord

__all__ = ["Draft", "Ledger", "Plan", "Writing"]


class Plan(NamedTuple):
    """Which schema a version will have.

    Attributes:
        ref: its reference; None when there is no schema.
        schema: the schema.
        new: what has to be added for it; None when it is there.
    """

    ref: str | None = None
    schema: Schema | None = None
    new: Any = None


class Draft(NamedTuple):
    """A version that is to be added.

    Attributes:
        name: the dataset's name.
        version: `major.minor.patch`.
        parent: the version it comes after; None for the first.
        plan: its schema.
        refs: its shards; all is known of each.
        details: what else is said of it.
        source: the dataset it was made from.
    """

    name: str
    version: str
    parent: str | None
    plan: Plan
    refs: tuple[ShardRef, ...]
    details: Details
    source: Dataset[Any]

    @property
    def record(self) -> CommitRecord:
        """What it consists of."""
        return CommitRecord(self.plan.schema, tuple(ref.info for ref in self.refs if ref.info is not None))


class Ledger(Protocol):
    """Where versions are added: the database of an index, or an account on the network."""

    def latest(self, name: str) -> DatasetEntry | None:
        """The latest version of a dataset; None when there is no such dataset."""

    def has(self, name: str, version: str) -> bool:
        """Whether there is this version."""

    def before(self, name: str, version: str) -> str | None:
        """The highest version of a dataset below this one; None when there is none."""

    def plan(self, schema: Schema | None) -> Plan:
        """The schema for data that has this one: a version that is there and reads bytes the same, or a new one."""

    def asked_for(self, ref: str) -> Plan:
        """The schema that a reference names.

        Raises:
            EntryNotFoundError: there is none.
        """

    def check_store(self, store: Any) -> None:
        """Whether what is written into a store can be recorded here.

        Raises:
            EntryFormError: it cannot.
        """

    def add(self, draft: Draft) -> DatasetEntry:
        """Add a version, together with its schema when that is new; all of it happens, or nothing.

        Raises:
            EntryExistsError: the version, or a version of its schema, is there.
        """


class Writing:
    """Adds versions to a ledger; names, versions and details were checked.

    Args:
        ledger: what they are added to.
        store: what shards are read with that lie in it.
    """

    def __init__(self, ledger: Ledger, store: Any) -> None:
        self._ledger = ledger
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
        self._ledger.check_store(store)
        self._refuse_taken(name, version)
        self._ledger.plan(ds.schema)  # what cannot be published fails before anything is written
        add = functools.partial(self._add, name, version, lambda: self._ledger.plan(ds.schema), details)
        first = None if self._ledger.latest(name) else FIRST
        return self._written(ds, store, f"{name}/{version or first or _today()}", options, add)

    def append(
        self,
        samples: Iterable[Any],
        store: Any,
        old: DatasetEntry,
        sample_type: type | None,
        version: str | None,
        details: Details,
        options: Mapping[str, Any],
    ) -> DatasetEntry:
        """See `LocalIndex.append`."""
        ds = _as_dataset(samples, sample_type)
        self._ledger.check_store(store)
        before = old.located
        _check_appendable(old, before.schema, ds.schema)
        chosen = version or Version(old.version).after("minor").text
        self._refuse_taken(old.name, chosen)

        def add(written: Dataset[Any], refs: tuple[ShardRef, ...]) -> DatasetEntry:
            shards = (*before.shards, *refs)
            while True:
                plan = self._ledger.plan(ds.schema)
                found = self._recorded(Draft(old.name, chosen, old.version, plan, shards, details, written), False)
                if found is not None:
                    return found

        count = sum(ref.info.samples for ref in before.shards if ref.info is not None)
        return self._written(_Numbered(ds, count), store, f"{old.name}/{chosen}", options, add)

    def _written(
        self,
        ds: SampleSource,
        store: Any,
        place: str,
        options: Mapping[str, Any],
        add: Callable[[Dataset[Any], tuple[ShardRef, ...]], DatasetEntry],
    ) -> DatasetEntry:
        """Write samples under a prefix that nobody else has, and record what came out."""
        prefix = f"{place}-{secrets.token_hex(4)}"
        urls = store.write_shards(ds, prefix=prefix, **options)
        written: Dataset[Any] = Dataset(urls, sample_type=ds.sample_type, store=store)
        refs = survey(written)
        try:
            return add(written, refs)
        except EntryExistsError:
            # Nothing refers to the shards, for certain; after other errors the version may have been added.
            if isinstance(store, DataStore):
                with contextlib.suppress(AtdataError):
                    store.delete(prefix)
            raise

    def _refuse_taken(self, name: str, version: str | None) -> None:
        if version is not None and self._ledger.has(name, version):
            raise EntryExistsError(
                f"the index has {name}@{version} already, and versions never change; choose another version, or give "
                "none to have the next one"
            )

    # -- shards ----------------------------------------------------------------------------------------------

    def insert(
        self, ds: Dataset[Any], name: str, version: str | None, schema_ref: str | None, details: Details
    ) -> DatasetEntry:
        """See `LocalIndex.insert_dataset`."""
        if ds.located is None or any(ref.info is None for ref in ds.located.shards):
            self._refuse_taken(name, version)  # before shards are read for it, which can take long
        stored = None if ds.located is None else ds.located.schema
        if schema_ref is None:
            _check_class(stored, ds.schema)
        else:
            self._asked_for(schema_ref, stored)

        def plan() -> Plan:
            return self._ledger.plan(stored or ds.schema) if schema_ref is None else self._asked_for(schema_ref, stored)

        return self._add(name, version, plan, details, ds, survey(ds))

    def _asked_for(self, schema_ref: str, stored: Schema | None) -> Plan:
        """A published schema, which has to fit the samples as far as these are known."""
        plan = self._ledger.asked_for(schema_ref)
        assert plan.schema is not None
        if stored is not None and not compare(stored, plan.schema).readable:
            raise SchemaError(f"the data cannot be read as {schema_ref}; {compare(stored, plan.schema)}")
        return plan

    def _add(
        self,
        name: str,
        version: str | None,
        make_plan: Callable[[], Plan],
        details: Details,
        ds: Dataset[Any],
        refs: tuple[ShardRef, ...],
    ) -> DatasetEntry:
        """Add a version, together with its schema; counted from the latest when none is given."""
        while True:
            latest = self._ledger.latest(name)
            if version is not None and latest is not None and rank_of(version) <= rank_of(latest.version):
                self._refuse_taken(name, version)
            plan = make_plan()
            if version is None and latest is not None:
                draft = Draft(name, latest.version, latest.version, plan, refs, details, ds)
                if _says_the_same(draft, latest):
                    return latest
                change = change_between(latest.located, Located(refs, plan.schema), self._store)
                draft = draft._replace(version=Version(latest.version).after(change).text)
            else:
                chosen = version or FIRST
                draft = Draft(name, chosen, self._before(latest, chosen), plan, refs, details, ds)
            found = self._recorded(draft, version is None)
            if found is not None:
                return found

    def _recorded(self, draft: Draft, counted: bool) -> DatasetEntry | None:
        """Add a version; None when another process was quicker and it has to be made anew.

        Raises:
            EntryExistsError: the version was not counted but chosen, and is there.
        """
        try:
            return self._ledger.add(draft)
        except EntryExistsError:
            if not counted and self._ledger.has(draft.name, draft.version):
                raise
            return None

    def _before(self, latest: DatasetEntry | None, version: str) -> str | None:
        """The version that one of this number comes after."""
        if latest is None or Version(latest.version) < Version(version):
            return None if latest is None else latest.version
        return self._ledger.before(latest.name, version)


def _says_the_same(draft: Draft, latest: DatasetEntry) -> bool:
    """Whether nothing but the time of its making tells a new version from the latest."""
    if (draft.record.cid, draft.plan.ref) != (latest.cid, latest.schema_ref):
        return False
    said = Details.checked(latest.description, latest.tags, latest.license, latest.metadata)
    return said == draft.details and [*map(_place, draft.refs)] == [*map(_place, latest.shards)]


def _place(ref: ShardRef) -> tuple[str, Any]:
    """Where a shard lies and all that is known of it but its name, which its URL says as well."""
    return ref.url, None if ref.info is None else msgspec.structs.replace(ref.info, name="")


def _check_class(stored: Schema | None, opened: Schema | None) -> None:
    if stored is not None and opened is not None and opened.cid != stored.cid:
        raise SchemaError(
            f"the dataset is opened as {opened.name}, and its samples are stored as another type. To record the stored "
            f"one, open it without a class; to record {opened.name}, pass "
            f"schema_ref=index.publish_schema({opened.name})"
        )


def _check_appendable(old: DatasetEntry, before: Schema | None, new: Schema | None) -> None:
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
