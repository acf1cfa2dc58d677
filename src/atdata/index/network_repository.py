"""The datasets, labels and schemas of one account on the network, as anybody reads them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from atdata.atmosphere.client import Atmosphere, Record
from atdata.atmosphere.records import ENTRY, LABEL, SCHEMA, Commit, Entry, Label, entry_key, label_key
from atdata.atmosphere.records import schema_of as schema_value
from atdata.atmosphere.syntax import AtUri, shown
from atdata.errors import AddressError, AtdataError, EntryNotFoundError, RecordError, SchemaError
from atdata.index.backend import SchemaRow
from atdata.index.names import Ref
from atdata.index.network_entry import AtmosphereEntry, entry_with
from atdata.index.network_places import Found, find, read_commit
from atdata.index.schemas import row_of, schema_of
from atdata.index.versions import Version, rank_of
from atdata.samples.schema import Schema
from atdata.stores.record import CommitRecord

__all__ = ["LeftOut", "Published", "PublishedSchema", "Repository", "time_of"]

_UNVERSIONED = "0.0.0"  # of entries of which nobody says a version
_KEPT_SCHEMAS = 256
_PAGE = 100  # records, as servers list them


class LeftOut(NamedTuple):
    """A record that no entry can be made of, and why."""

    uri: str
    why: str


class Published(NamedTuple):
    """An entry as it was read, and the record it is in."""

    record: Record
    entry: Entry


class PublishedSchema(SchemaRow, frozen=True):
    """One version of a schema in an account.

    Attributes:
        uri: its record.
    """

    uri: str = ""


class Repository:
    """One account, for reading.

    Args:
        client: who asks.
        did: the account.
        store: what shards are read with that lie in it; None for none.
    """

    def __init__(self, client: Atmosphere, did: str, store: Any = None) -> None:
        self.client = client
        self.did = did
        self._store = store
        self._left_out: dict[str, LeftOut] = {}
        self._schemas: dict[str, Schema] = {}  # by the identifiers of their records
        self._schema_names: dict[str, tuple[str | None, str | None]] = {}  # by their addresses

    @property
    def left_out(self) -> list[LeftOut]:
        """The records that were seen and could not be read."""
        return list(self._left_out.values())

    def leave_out(self, uri: AtUri, error: Exception) -> None:
        """Note a record that cannot be read."""
        self._left_out[str(uri)] = LeftOut(str(uri), str(error))

    # -- single entries --------------------------------------------------------------------------------------

    def find(self, ref: Ref) -> AtmosphereEntry | None:
        """The version that a reference names, proved; None where there is none."""
        if ref.name is None:
            return self._by_content(ref.cid or "")
        if ref.version is not None:
            found = self._at(AtUri(self.did, ENTRY, entry_key(ref.name, ref.version)))
            if found is not None and (found.name, found.version) == (ref.name, ref.version):
                return found
        label = self.label(ref.name, ref.version or ref.label)
        found = None if label is None else self._labelled(label)
        return self._among_all(ref.name, ref.version or ref.label) if found is None else found

    def at(self, uri: AtUri) -> AtmosphereEntry | None:
        """The entry at an address, or the one that the label there means, proved; None where there is none.

        Raises:
            EntryNotFoundError: a record of another kind is there.
        """
        if uri.collection == LABEL:
            found = self.client.get_record(uri)
            return None if found is None else self._labelled(Label.of(found.value))
        if uri.collection != ENTRY:
            raise EntryNotFoundError(f"{uri} is no dataset: those are {ENTRY} and {LABEL}")
        return self._at(uri)

    def label(self, name: str, which: str | None) -> Label | None:
        """The label of a version or word, or with None of what the name alone means; None where there is none."""
        found = self.client.get_record(AtUri(self.did, LABEL, label_key(name, which)))
        if found is None:
            return None
        label = Label.of(found.value)
        if label.name != name or (which is not None and label.version != which):
            raise RecordError(f"the label at {found.uri} is of {shown(label.name)}, and its key of {shown(name)}")
        return label

    def _labelled(self, label: Label) -> AtmosphereEntry | None:
        uri = label.dataset
        if uri.authority == self.did:
            return self._at(uri, label.version)
        there = Repository(self.client, self.client.resolve(uri.authority).did, self._store)
        return there._at(uri._replace(authority=there.did), label.version) if uri.collection == ENTRY else None

    def _at(self, uri: AtUri, version: str | None = None) -> AtmosphereEntry | None:
        if uri.collection != ENTRY:
            return None
        record = self.client.get_record(uri)
        if record is None:
            return None
        published = self._parsed(record)
        if published.entry.commit is None and (version is None or not Version.valid(version)):
            version = self.versions_by_label().get(str(record.uri))
        return self.entry(published, version, proved=True)

    def _by_content(self, cid: str) -> AtmosphereEntry | None:
        """The version of that content which was made last."""
        found = [each for each in self.published() if cid in (each.record.cid, _cid(each))]
        if not found:
            return None
        return self._at(max(found, key=lambda each: time_of(each.entry.created_at)).record.uri)

    def _among_all(self, name: str, which: str | None) -> AtmosphereEntry | None:
        """A version that no key leads to, as other tools write them: the highest, the one labelled last, the newest."""
        entries = [each for each in self.published() if each.entry.name == name]
        if which is not None:
            entries = [e for e in entries if which == (e.entry.commit.version if e.entry.commit else _UNVERSIONED)]
        best = max(entries, key=_order, default=None)
        if best is None or best.entry.commit is None:
            labels = [each for each in self.labels() if each.name == name and which in (None, each.version)]
            for label in sorted(labels, key=lambda each: time_of(each.created_at), reverse=True):
                found = self._labelled(label)
                if found is not None:
                    return found
        return None if best is None else self._at(best.record.uri)

    # -- all of them -----------------------------------------------------------------------------------------

    def published(self) -> Iterator[Published]:
        """Every entry that can be read, as the server lists them; others are noted in `left_out`."""
        for record in _ahead(self.client.list_records(self.did, ENTRY)):
            try:
                yield self._parsed(record)
            except RecordError as error:
                self.leave_out(record.uri, error)

    def labels(self) -> Iterator[Label]:
        """Every label that can be read, as the server lists them; others are noted in `left_out`."""
        for record in self.client.list_records(self.did, LABEL):
            try:
                yield Label.of(record.value)
            except RecordError as error:
                self.leave_out(record.uri, error)

    def latest(self) -> Iterator[AtmosphereEntry]:
        """The latest version of every dataset, as far as the server lists them; page by page as it is iterated."""
        by_label = functools.cache(self.versions_by_label)
        seen: set[str] = set()  # names of entries without a version: the newest comes first
        for group in _neighbours(self.published()):
            for published in group:
                name, commit = published.entry.name, published.entry.commit
                if commit is None:
                    if name in seen:
                        continue
                    seen.add(name)
                version = None if commit is not None else by_label().get(str(published.record.uri))
                yield self.entry(published, version)

    def versions(self, name: str) -> list[AtmosphereEntry]:
        """Every version of a dataset, the highest first."""
        found = [each for each in self.published() if each.entry.name == name]
        labels = {} if all(each.entry.commit for each in found) else self.versions_by_label()
        entries = [self.entry(each, labels.get(str(each.record.uri))) for each in found]
        return sorted(entries, key=lambda entry: (rank_of(entry.version), entry.created_at), reverse=True)

    def versions_by_label(self) -> dict[str, str]:
        """The version numbers that labels give to entries, by their addresses."""
        return {
            str(label.dataset): label.version
            for label in self.labels()
            if label.version is not None and Version.valid(label.version)
        }

    def words(self, name: str) -> dict[str, str]:
        """The labels of a dataset that are no version numbers, with the versions they mean, the last one at the end."""
        labels = [each for each in self.labels() if each.name == name]
        words = [each for each in labels if each.version is not None and not Version.valid(each.version)]
        found: dict[str, str] = {}
        for label in sorted(words, key=lambda each: time_of(each.created_at)):
            entry = self._labelled(label)
            if entry is not None and label.version is not None:
                found.pop(label.version, None)
                found[label.version] = entry.version
        return found

    # -- entries ---------------------------------------------------------------------------------------------

    def _parsed(self, record: Record) -> Published:
        try:
            entry = Entry.of(record.value)
            if entry.commit is not None and not Version.valid(entry.commit.version):
                raise RecordError(f"{shown(entry.commit.version)} is no version", field="entry.commit.version")
            return Published(record, entry)
        except RecordError as error:
            raise error.at(url=str(record.uri)) from None

    def entry(self, published: Published, version: str | None = None, *, proved: bool = False) -> AtmosphereEntry:
        """An entry as users see it.

        Args:
            published: as it was read.
            version: what a label says, for an entry that does not say it itself.
            proved: whether the record is proved already.
        """
        record, entry = published
        commit = entry.commit
        given = version if version is not None and Version.valid(version) else _UNVERSIONED
        plain = {
            "name": entry.name,
            "version": given if commit is None else commit.version,
            "cid": record.cid if commit is None else commit.cid,
            "schema_ref": entry.schema_ref,
            "parent": None if commit is None else commit.parent,
            "description": entry.description,
            "tags": entry.tags,
            "license": entry.license,
            "metadata": entry.metadata,
            "created_at": time_of(entry.created_at),
            "samples": entry.samples,
            "size": entry.size,
            "uri": str(record.uri),
            "record_cid": record.cid,
            "schema_name": None if commit is None else commit.schema,
        }
        where: Callable[[], Found] = functools.partial(self._found, entry if proved else None, record.uri, record.cid)
        return entry_with(plain, where, self.client, self._store)

    def _found(self, entry: Entry | None, uri: AtUri, cid: str) -> Found:
        """Where the shards of an entry lie; the record is proved unless it was."""
        if entry is None:
            record = self.client.get_record(uri)
            if record is None:
                raise EntryNotFoundError(f"{uri} was deleted since it was listed")
            if record.cid != cid:
                raise EntryNotFoundError(f"{uri} was changed since it was listed: list it again")
            entry = self._parsed(record).entry
        try:
            found = find(
                entry, self.did, allow_private=self.client.allow_private, record=functools.partial(self._commit, uri)
            )
        except RecordError as error:
            raise error.at(url=str(uri)) from None
        if found.located.schema is not None or not entry.schema_ref.startswith("at://"):
            return found
        schema = self.schema(entry.schema_ref)
        return found._replace(located=msgspec.structs.replace(found.located, schema=schema))

    def _commit(self, uri: AtUri, commit: Commit) -> CommitRecord:
        def blobs(cid: str, size: int) -> bytes:
            return b"".join(self.client.blob_chunks(self.did, cid, limit=size))

        return read_commit(commit, blobs, url=str(uri))

    # -- schemas ---------------------------------------------------------------------------------------------

    def schema(self, address: str) -> Schema:
        """The schema at an address, of whatever account, proved.

        Raises:
            EntryNotFoundError: there is none.
            SchemaError: it cannot be read.
        """
        try:
            uri = AtUri.parse(address)
        except AddressError as error:
            raise EntryNotFoundError(error.message) from None
        record = self.client.get_record(uri) if uri.collection == SCHEMA else None
        if record is None:
            raise EntryNotFoundError(f"there is no schema at {uri}")
        return self._schema_in(record)

    def schema_name(self, entry: AtmosphereEntry) -> tuple[str | None, str | None]:
        """Name and version of an entry's schema; None where nobody can say."""
        if entry.schema_name is not None:
            name, _, version = entry.schema_name.partition("@")
            return name, version
        ref = entry.schema_ref or ""
        if ref not in self._schema_names:
            try:
                schema = self.schema(ref)
            except AtdataError:
                self._schema_names[ref] = None, None
            else:
                self._schema_names[ref] = schema.name, schema.version
        return self._schema_names[ref]

    def every_schema(self) -> Iterator[Schema]:
        """Every version of every schema, by name and then by precedence."""
        for row in sorted(self.listed_schemas(), key=lambda row: (row.name, row.rank)):
            yield schema_of(row)

    def schemas(self, name: str, version: str | None = None) -> list[PublishedSchema]:
        """All versions of a schema, the lowest rank first, or only one of them; see `SchemaShelf`."""
        found = [row for row in self.listed_schemas(name) if version in (None, row.version)]
        return sorted(found, key=lambda row: row.rank)

    def all_schemas(self, after: tuple[str, str], limit: int) -> Sequence[SchemaRow]:
        """Schemas by name and rank, after this name and rank; see `SchemaShelf`."""
        rows = sorted(self.listed_schemas(), key=lambda row: (row.name, row.rank))
        return [row for row in rows if (row.name, row.rank) > after][:limit]

    def listed_schemas(self, name: str | None = None) -> Iterator[PublishedSchema]:
        """The schemas, or those of one name, as the account's server lists them; others are noted in `left_out`."""
        for record in self.client.list_records(self.did, SCHEMA):
            if name is not None and record.value.get("name") != name:
                continue
            try:
                schema = self._schema_in(record)
                row = row_of(schema, Version(schema.version).text)
            except (SchemaError, RecordError, ValueError) as error:
                self.leave_out(record.uri, error)
                continue
            yield PublishedSchema(**msgspec.structs.asdict(row), uri=str(record.uri))

    def _schema_in(self, record: Record) -> Schema:
        """The schema in a record; one that was seen before is not read again."""
        found = self._schemas.get(record.cid)
        if found is None:
            try:
                found = Schema.from_record(schema_value(record.value))
            except (RecordError, SchemaError) as error:
                raise SchemaError(f"the schema at {record.uri} cannot be read: {error}") from None
            if len(self._schemas) >= _KEPT_SCHEMAS:
                self._schemas.clear()
            self._schemas[record.cid] = found
        return found


def _ahead(records: Iterator[Record]) -> Iterator[Record]:
    """Records, of which the next page is on its way while one is looked at."""
    with ThreadPoolExecutor(1, thread_name_prefix="atdata-listing") as pool:
        coming = pool.submit(lambda: list(itertools.islice(records, _PAGE)))
        while page := coming.result():
            coming = pool.submit(lambda: list(itertools.islice(records, _PAGE)))
            yield from page


def _neighbours(entries: Iterable[Published]) -> Iterator[list[Published]]:
    """Of entries whose keys begin alike, the highest version of each name; all entries without a version.

    Those of one dataset are neighbours (`entry_key`), so that few of them have to be held at a time.
    """
    held: dict[str, Published] = {}
    start = ""
    for each in entries:
        if each.entry.commit is None:
            yield [each]
            continue
        if each.record.uri.rkey[:6] != start:
            yield list(held.values())
            held, start = {}, each.record.uri.rkey[:6]
        before = held.get(each.entry.name)
        if before is None or _order(before) < _order(each):
            held[each.entry.name] = each
    yield list(held.values())


def _order(each: Published) -> tuple[bool, str, datetime]:
    commit = each.entry.commit
    return commit is not None, "" if commit is None else rank_of(commit.version), time_of(each.entry.created_at)


def _cid(each: Published) -> str | None:
    return None if each.entry.commit is None else each.entry.commit.cid


def time_of(text: str) -> datetime:
    """The time that a record says, in UTC; the beginning of 1970 for one that no calendar has."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(0, UTC)
