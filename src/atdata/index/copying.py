"""From one index to another: schemas, lenses, datasets with all versions, labels; shards stay where they are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import AtdataError, EntryFormError, EntryNotFoundError, IntegrityError
from atdata.index.base import DatasetEntry
from atdata.index.changes import change_between
from atdata.index.details import Details
from atdata.index.foreign import ForeignEntry, ForeignIndex
from atdata.index.local import LocalIndex
from atdata.index.names import check_name, schema_ref
from atdata.index.routing import store_for
from atdata.index.survey import survey
from atdata.index.versions import FIRST, Version
from atdata.samples.schema import Schema
from atdata.stores.record import CommitRecord

__all__ = ["IndexCopy", "LeftOut", "copy_index", "has_dataset"]

_BATCH = 500
_REFS = ("atdata://local/schema/", "atdata://local/sampleSchema/", "local://schemas/")


class LeftOut(NamedTuple):
    """What was not copied, and why."""

    what: str
    why: str


@dataclasses.dataclass
class IndexCopy:
    """What came of a copy.

    Attributes:
        schemas: what was added, as `Name@1.0.0`.
        versions: what was added, as `name@1.0.0`; in a dry run without the version where only the data tells it.
        labels: what was set, as `name@label`.
        lenses: what was added, as `Old_to_New (Old@1.0.0 -> New@1.0.0)`.
        present: how many versions were there already.
        left_out: what was not copied.
        notes: what is not quite as it was.
    """

    schemas: list[str] = dataclasses.field(default_factory=list)
    versions: list[str] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    lenses: list[str] = dataclasses.field(default_factory=list)
    present: int = 0
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def copy_index(
    source: LocalIndex | ForeignIndex,
    target: LocalIndex,
    *,
    rename: Mapping[str, str] | None = None,
    dry_run: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> IndexCopy:
    """Copy what `target` does not have yet; run again, it goes on where it was interrupted.

    Nothing in `target` is replaced: a version, schema or label that is there with another meaning stays, and is listed.
    Lenses come with the time at which they were published, by which the newest of a name is the one that is meant.

    An index of the public implementation knows no versions, only labels; its shards are read once for their digests.
    Every name that its entries and labels have becomes a dataset. A label with a version number gives that version;
    what has none is numbered in the order of its making, with what the name means there as the latest: a patch when
    the shards are the same, a minor version when others were added, else a major one. Other labels stay labels.

    Args:
        source: one of atdata's indexes, or what `atdata.index.foreign.look` found.
        target: what is copied to. Its store reads the shards that lie in it.
        rename: new names of datasets, by the old ones.
        dry_run: only tell; no shard is read.
        advance: called after each shard that was read.

    Returns:
        What was copied, and what was left out.

    Raises:
        EntryFormError: `rename` names what is not there, or gives two datasets one name.
        CatalogError: one of the indexes cannot be read or written.
    """
    names = {old: check_name(new) for old, new in (rename or {}).items()}
    if isinstance(source, ForeignIndex):
        return _Foreign(source, target, names, dry_run, advance).run()
    return _Own(source, target, names, dry_run).run()


def has_dataset(source: LocalIndex | ForeignIndex, name: str) -> bool:
    """Whether an index has a dataset of that name, in a foreign one also by a label."""
    if isinstance(source, ForeignIndex):
        return any(row.name == name for rows in (source.entries, source.labels) for row in rows)
    try:
        source.get_dataset(check_name(name))
    except (EntryNotFoundError, EntryFormError):
        return False
    return True


class _Copy:
    """What both kinds of copies do."""

    def __init__(self, target: LocalIndex, names: Mapping[str, str], dry_run: bool) -> None:
        self._target = target
        self._names = names
        self._dry_run = dry_run
        self._bad_schemas: set[tuple[str, str]] = set()
        self.done = IndexCopy()

    def check_names(self, known: Callable[[str], bool]) -> None:
        """Whether the datasets that get new names are there, and each name is given once."""
        for old, new in self._names.items():
            if not known(old):
                raise EntryFormError(f"there is no dataset {old!r:.120} to be renamed")
            if (new not in self._names and known(new)) or list(self._names.values()).count(new) > 1:
                raise EntryFormError(f"two datasets would be named {new!r:.120}")

    def add_schemas(self, schemas: Iterable[Schema]) -> None:
        """Add those that are not there."""
        known = {(schema.name, Version(schema.version).text): schema for schema in self._target.list_schemas()}
        for schema in schemas:
            key = schema.name, Version(schema.version).text
            text = f"{key[0]}@{key[1]}"
            if key not in known:
                known[key] = schema
                if not self._dry_run:
                    self._target.add_schemas([schema])
                self.done.schemas.append(text)
            elif known[key] != schema:
                self._bad_schemas.add(key)
                self.leave_out(f"schema {text}", "this version is there with another content")

    def usable(self, schema: Schema | None) -> None:
        """Whether the target has just this schema, or will have it.

        Raises:
            EntryFormError: it has another one of that name and version.
        """
        if schema is not None and (schema.name, schema.version) in self._bad_schemas:
            raise EntryFormError(f"its schema {schema.name}@{schema.version} is there with another content")

    def versions(self, name: str) -> dict[str, DatasetEntry]:
        """What the target has of a dataset."""
        try:
            return {entry.version: entry for entry in self._target.list_versions(name)}
        except EntryNotFoundError:
            return {}

    def set_labels(self, name: str, labels: Mapping[str, str]) -> None:
        """Set those that are not there."""
        try:
            there = self._target.labels(name)
        except EntryNotFoundError:
            there = {}
        for label, version in labels.items():
            try:
                if label not in there:
                    if not self._dry_run:
                        self._target.label(name, label, version=version)
                    self.done.labels.append(f"{name}@{label}")
                elif there[label] != version:
                    raise EntryFormError(f"the label means {there[label]} there, and not {version}")
            except (EntryFormError, EntryNotFoundError) as error:
                self.leave_out(f"{name}@{label}", error.message)

    def leave_out(self, what: str, why: str) -> None:
        """Remember what is not copied."""
        self.done.left_out.append(LeftOut(what, why))


class _Own(_Copy):
    """A copy of one of atdata's indexes: entries as they are."""

    def __init__(self, source: LocalIndex, target: LocalIndex, names: Mapping[str, str], dry_run: bool) -> None:
        super().__init__(target, names, dry_run)
        self._source = source
        self._pending: list[DatasetEntry] = []
        self._labels: list[tuple[str, dict[str, str]]] = []

    def run(self) -> IndexCopy:
        """Copy."""
        self.check_names(lambda name: has_dataset(self._source, name))
        self.add_schemas(self._source.list_schemas())
        self._add_lenses()
        for latest in self._source.list_datasets():
            self._dataset(latest.name)
        self._flush()
        return self.done

    def _add_lenses(self) -> None:
        """Add those that are not there; the reference of a lens is the same in every local index."""
        known = {lens.uri for lens in self._target.list_lenses()}
        for lens in self._source.list_lenses():
            source, view = lens.schemas
            text = f"{lens.name} ({source.name}@{source.version} -> {view.name}@{view.version})"
            try:
                for schema in (source, view):
                    self.usable(schema)
            except EntryFormError as error:
                self.leave_out(f"lens {text}", error.message)
                continue
            if not self._dry_run:
                self._target.add_lenses([lens])
            if lens.uri not in known:
                self.done.lenses.append(text)

    def _dataset(self, old: str) -> None:
        name = self._names.get(old, old)
        there = self.versions(name)
        copied = set()
        # The oldest first, so that a copy which is interrupted has the beginning.
        for entry in reversed(list(self._source.list_versions(old))):
            try:
                self._version(dataclasses.replace(entry, name=name), there)
                copied.add(entry.version)
            except AtdataError as error:
                self.leave_out(f"{old}@{entry.version}", str(error))
        labels = {label: version for label, version in self._source.labels(old).items() if version in copied}
        if labels:
            self._labels.append((name, labels))
        if len(self._pending) >= _BATCH:
            self._flush()

    def _version(self, entry: DatasetEntry, there: Mapping[str, DatasetEntry]) -> None:
        same = there.get(entry.version)
        if same is None:
            self.usable(entry.schema)  # which fetches the shards, too
            self._pending.append(entry)
            self.done.versions.append(f"{entry.name}@{entry.version}")
        elif same.cid == entry.cid:
            self.done.present += 1
        else:
            raise EntryFormError("this version is there with another content")

    def _flush(self) -> None:
        if not self._dry_run:
            self._target.add_entries(self._pending)
        for name, labels in self._labels:
            self.set_labels(name, labels)
        self._pending, self._labels = [], []


class _Named(NamedTuple):
    """What one name means in a foreign index, by the entries' identifiers."""

    versions: dict[str, str]  # by version number
    entries: dict[str, None]  # all, in the order of their making
    labels: dict[str, str]
    about: dict[tuple[str, str], str]  # descriptions, by identifier and version


class _Foreign(_Copy):
    """A copy of an index of the public implementation."""

    def __init__(
        self,
        source: ForeignIndex,
        target: LocalIndex,
        names: Mapping[str, str],
        dry_run: bool,
        advance: Callable[[], None],
    ) -> None:
        super().__init__(target, names, dry_run)
        self._source = source
        self._advance = advance
        self._entries = {entry.cid: entry for entry in source.entries}
        self._current: dict[str, str] = {}
        self._schemas: dict[tuple[str, str], Schema | str] = {}
        self._read: dict[str, tuple[ShardRef, ...] | AtdataError] = {}

    def run(self) -> IndexCopy:
        """Copy."""
        named = self._by_name()
        self.check_names(named.__contains__)
        self._decode()
        for name in sorted(named):
            self._dataset(name, named[name])
        if self._source.lenses:
            self.done.notes.append(
                f"{self._source.lenses} stored lenses stay behind: that index says neither what they do nor by what "
                "hash their code is known; publish them anew, with publish_lens"
            )
        return self.done

    def _by_name(self) -> dict[str, _Named]:
        named: dict[str, _Named] = {}
        for entry in self._source.entries:
            named.setdefault(entry.name, _Named({}, {}, {}, {})).entries[entry.cid] = None
        for label in self._source.labels:
            if label.cid not in self._entries:
                at = f"@{label.version}" if label.version else ""
                self.leave_out(f"label {label.name}{at}", f"there is no entry {label.cid!r:.80} that it could mean")
                continue
            of = named.setdefault(label.name, _Named({}, {}, {}, {}))
            of.entries[label.cid] = None
            if not label.version:
                self._current[label.name] = label.cid
            elif Version.valid(label.version):
                of.versions[label.version] = label.cid
            else:
                of.labels[label.version] = label.cid
            if label.description:
                of.about[label.cid, label.version] = label.description
        return named

    def _decode(self) -> None:
        """Read the schemas, and add those that can be read."""
        found = []
        for row in self._source.schemas:
            try:
                schema = self._schemas[row.name, row.version] = row.schema()
            except AtdataError as error:
                self._schemas[row.name, row.version] = str(error)
                self.leave_out(f"schema {row.name}@{row.version}", str(error))
            else:
                found.append(schema)
        self.add_schemas(found)

    def _schema(self, entry: ForeignEntry) -> Schema:
        rest = entry.schema_ref
        for start in _REFS:
            rest = rest.removeprefix(start)
        name, _, version = rest.rpartition("@")
        found = self._schemas.get((name, version)) or self._schemas.get((name.rpartition(".")[2], version))
        if isinstance(found, Schema):
            self.usable(found)
            return found
        why = "is not in that index" if found is None else f"cannot be read: {found}"
        raise EntryFormError(f"its schema {entry.schema_ref!r:.200} {why}")

    def _dataset(self, old: str, of: _Named) -> None:
        name = self._names.get(old, old)
        try:
            check_name(name)
        except EntryFormError as error:
            self.leave_out(old, f"{error.message}. To copy it, give it another name: --rename '{old}=NAME'")
            return
        there = self.versions(name)
        numbers: dict[str, str] = {}  # by the entries' identifiers
        for version in sorted(of.versions, key=Version):
            self._version(old, name, of, of.versions[version], version, there, numbers)
        current = self._current.get(old)
        # What the name means comes last, to be what it means here, too.
        for cid in sorted(set(of.entries) - set(of.versions.values()), key=lambda c: (c == current, self._order(c))):
            self._version(old, name, of, cid, None, there, numbers)
        self.set_labels(name, {label: numbers[cid] for label, cid in of.labels.items() if cid in numbers})
        if current in numbers and not self._dry_run and numbers[current] != (latest := _latest(there)):
            self.done.notes.append(
                f"{name} means {name}@{latest} here, the highest version; in that index it means what is "
                f"{name}@{numbers[current]} now"
            )

    def _order(self, cid: str) -> tuple[datetime, str]:
        return self._entries[cid].created_at or datetime.min.replace(tzinfo=UTC), cid

    def _version(
        self,
        old: str,
        name: str,
        of: _Named,
        cid: str,
        version: str | None,
        there: dict[str, DatasetEntry],
        numbers: dict[str, str],
    ) -> None:
        """Copy one entry, under a version that a label gives or the next one."""
        entry = self._entries[cid]
        try:
            schema, urls, metadata = self._schema(entry), entry.urls(), entry.details()
            about = of.about.get((cid, version or "")) or of.about.get((cid, ""))
            Details.checked(about, metadata=metadata)
            same = _same(there, version, schema, urls)
            if same is not None:
                numbers[cid] = same
                self.done.present += 1
                return
            if self._dry_run:
                numbers[cid] = version or ""  # which only the data tells
                self.done.versions.append(f"{name}@{version}" if version else name)
                return
            located = Located(self._survey(cid, urls, metadata), schema)
            number = version or _next(there, located)
            made = _entry(name, number, located, about, metadata, entry.created_at)
            self._target.add_entries([made])
        except (AtdataError, OSError, ImportError) as error:
            self.leave_out(f"{old}@{version}" if version else f"{old} ({cid:.80})", str(error))
            return
        there[number] = made
        numbers[cid] = number
        self.done.versions.append(f"{name}@{number}")

    def _survey(self, cid: str, urls: list[str], metadata: Mapping[str, Any]) -> tuple[ShardRef, ...]:
        """Read an entry's shards, once for all the names that it has."""
        if cid not in self._read:
            try:
                listed = Located(tuple(ShardRef(url) for url in urls))
                ds: Dataset[Any] = Dataset(listed, store=store_for(self._target.store, urls))
                refs = survey(ds, self._advance)
                _check(refs, metadata.get("checksums"))
                self._read[cid] = refs
            except AtdataError as error:
                self._read[cid] = error
        found = self._read[cid]
        if isinstance(found, AtdataError):
            raise found
        return found


def _check(refs: Iterable[ShardRef], checksums: Any) -> None:
    """Whether shards are what an entry says they were when it was made; some have no digests."""
    known = checksums if isinstance(checksums, Mapping) else {}
    for ref in refs:
        wanted = known.get(ref.url)
        if isinstance(wanted, str) and ref.info is not None and wanted.lower() != ref.info.sha256:
            raise IntegrityError(
                "the shard is not what it was when the entry was made: its SHA-256 differs", url=ref.url
            )


def _same(there: Mapping[str, DatasetEntry], version: str | None, schema: Schema, urls: list[str]) -> str | None:
    """The version that has this entry already.

    Raises:
        EntryFormError: the version is there, and has something else.
    """
    for number, entry in there.items() if version is None else [(version, there.get(version))]:
        if entry is None:
            return None
        if entry.schema is not None and entry.schema.cid == schema.cid and entry.data_urls == urls:
            return number
    if version is not None:
        raise EntryFormError("this version is there with another content")
    return None


def _latest(there: Mapping[str, DatasetEntry]) -> str:
    return max((Version(number) for number in there), key=lambda version: version.rank).text


def _next(there: Mapping[str, DatasetEntry], located: Located) -> str:
    """The number after those that are there, as far as the shards' digests tell what changed."""
    if not there:
        return FIRST
    latest = there[_latest(there)]
    before, after = (Counter(ref.info.sha256 for ref in at.shards if ref.info) for at in (latest.located, located))
    change = "major" if before - after else change_between(latest.located, located, None)
    return Version(latest.version).after(change).text


def _entry(
    name: str,
    version: str,
    located: Located,
    description: str | None,
    metadata: Mapping[str, Any],
    created_at: datetime | None,
) -> DatasetEntry:
    record = CommitRecord(located.schema, tuple(ref.info for ref in located.shards if ref.info is not None))
    schema = located.schema
    return DatasetEntry(
        name=name,
        version=version,
        cid=record.cid,
        schema_ref=None if schema is None else schema_ref(schema.name, schema.version),
        parent=None,
        description=description,
        tags=(),
        license=None,
        metadata=metadata,
        created_at=created_at or datetime.now(UTC),  # where it is not known, it begins to be here
        samples=record.samples,
        size=record.size,
        _locate=lambda: located,
    )
