"""The ledger of an account on the network: versions, labels and schemas as its records.

Every change is one commit of the repository, made on the state that was looked at: where somebody else has changed the
repository meanwhile, it is looked at again. Keys follow from names and versions, so that what is done twice is there
once.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from atdata.atmosphere.client import Atmosphere, Write
from atdata.atmosphere.records import ENTRY, LABEL, LENS, SCHEMA, Label, entry_key, label_key
from atdata.atmosphere.storage import Blob
from atdata.atmosphere.syntax import AtUri
from atdata.cid import generate_cid
from atdata.errors import (
    CatalogBusyError,
    EntryExistsError,
    EntryFormError,
    EntryNotFoundError,
    RecordError,
    SwapError,
)
from atdata.index.backend import SchemaRow
from atdata.index.base import DatasetEntry
from atdata.index.details import Details, check_url
from atdata.index.names import Ref, check_name
from atdata.index.network_entry import AtmosphereEntry
from atdata.index.network_lenses import lens_record, lenses_in
from atdata.index.network_names import parse_network_schema
from atdata.index.network_repository import Published, PublishedSchema, Repository
from atdata.index.publishing import AccountBlobs, Place, check_place, entry_of, places_of
from atdata.index.schemas import Schemas, row_of
from atdata.index.versions import FIRST, Version, rank_of
from atdata.index.writing import Draft, Plan
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema
from atdata.shards.manifest import header_name
from atdata.stores.disk import LocalDiskStore
from atdata.stores.objects import ObjectStore
from atdata.stores.pins import File, Pins

__all__ = ["NetworkLedger", "check_version", "fitted"]

_TRIES = 20
_BATCH = 500  # entries that are looked up together
_PIECE = 4 << 20  # bytes of a commit record in one blob, at most
_MAX_VERSION = 50  # bytes, of labels
_MAX_DESCRIPTION = 5000  # bytes, of schemas


class NetworkLedger:
    """The account that is logged in; see `Ledger`.

    Args:
        client: of the network.
        repository: the same account, for reading.
        store: what shards are read with that lie in it.
    """

    def __init__(self, client: Atmosphere, repository: Repository, store: Any) -> None:
        self.client = client
        self.did = repository.did
        self._repository = repository
        self._store = store
        self.schemas = Schemas(repository, self._add_schema, self._schema_ref, _plain_name)

    # -- versions --------------------------------------------------------------------------------------------

    def latest(self, name: str) -> AtmosphereEntry | None:
        """See `Ledger.latest`. Entries of other tools have no versions, and count for none."""
        found = None
        label = self._repository.label(name, None)
        # Where its label is missing, a dataset is looked for only when there can be one.
        if label is not None or self._there(self._entry_uri(name, FIRST)) is not None:
            found = self._repository.find(Ref(name))
        return found if found is not None and self._is_ours(found) else None

    def has(self, name: str, version: str) -> bool:
        """See `Ledger.has`."""
        return self._there(self._entry_uri(name, version)) is not None

    def before(self, name: str, version: str) -> str | None:
        """See `Ledger.before`."""
        lower = [
            e for e in self._repository.versions(name) if self._is_ours(e) and Version(e.version) < Version(version)
        ]
        return max((entry.version for entry in lower), key=Version, default=None)

    def plan(self, schema: Schema | None) -> Plan:
        """See `Ledger.plan`."""
        if schema is None:
            raise EntryFormError(
                "an entry on the network names the type of its samples: these have none. Write them with a class "
                "(@atdata.packable) to publish them"
            )
        schema = fitted(schema)
        row = row_of(schema, schema.version)
        # Most often, the very same is there; else all versions are looked at.
        new = Version.valid(schema.version) and self._there(AtUri.parse(self._schema_ref(row))) is None
        if new or not Version.valid(schema.version):
            row, new = self.schemas.fitting(schema)
        return Plan(self._schema_ref(row), dataclasses.replace(schema, version=row.version), row if new else None)

    def asked_for(self, ref: str) -> Plan:
        """See `Ledger.asked_for`; the schema may be that of another account."""
        found = parse_network_schema(ref)
        if found.uri is not None:
            return Plan(str(found.uri), self._repository.schema(str(found.uri)))
        if found.actor is not None:
            did = self.client.resolve(found.actor).did
            if did != self.did:
                rows = Repository(self.client, did).schemas(found.name, found.version)
                if not rows:
                    raise EntryNotFoundError(f"there is no schema {ref}")
                return Plan(rows[-1].uri, self._repository.schema(rows[-1].uri))
        row, schema = self.schemas.get(ref if found.actor is None else ref.partition("/")[2])
        return Plan(self._schema_ref(row), schema)

    def check_store(self, store: Any) -> None:
        """See `Ledger.check_store`: others have to be able to read what lies there."""
        if isinstance(store, LocalDiskStore):
            raise EntryFormError(
                "what is published has to be written where others can read it: give AtmosphereIndex a store such as "
                "PDSBlobStore(client) or S3DataStore(…), and not a folder of this machine"
            )
        if isinstance(store, ObjectStore):
            place = Place(store.base, getattr(store, "endpoint", None), getattr(store, "region", None))
            check_place(place, allow_private=self.client.allow_private)

    def add(self, draft: Draft) -> AtmosphereEntry:
        """See `Ledger.add`."""
        created_at = _now()
        uri, value = self._entry_uri(draft.name, draft.version), self._value(draft, created_at)

        def write() -> list[Write] | None:
            there = self._there(uri)
            if there is not None:
                if there.value == value:
                    return None  # it was us: the answer was lost
                raise EntryExistsError(f"{draft.name}@{draft.version} is there already, and versions never change")
            made = [self._write("create", uri, value)]
            if draft.plan.new is not None:
                made[:0] = self._new_schema(draft.plan.new)
            return made + self._label_writes(draft.name, draft.version, uri, created_at)

        self._commit(write)
        found = self._repository.at(uri)
        if found is None:
            raise EntryNotFoundError(f"{draft.name}@{draft.version} was deleted as soon as it was published")
        return found

    def _value(self, draft: Draft, created_at: str) -> dict[str, Any]:
        """The record of a draft; its commit record is uploaded, when it is long."""
        check_version(draft.version)
        places = places_of(draft, allow_private=self.client.allow_private)
        try:
            entry = entry_of(draft, places, self.did, created_at, blobs=self._blobs, upload=self._upload)
            return entry.to_value()
        except RecordError as error:
            raise EntryFormError(f"the network does not take this: {error}") from None

    def _label_writes(self, name: str, version: str, uri: AtUri, created_at: str) -> list[Write]:
        """The label of a version, and what the name alone means, when that is this version now."""
        value = Label(name, uri, created_at, version).to_value()
        writes = [self._put(self._label_uri(name, version), value)]
        now = self._repository.label(name, None)
        latest = None if now is None or now.version is None or not Version.valid(now.version) else now.version
        if latest is None or rank_of(latest) < rank_of(version):
            action = "create" if now is None else "update"
            writes.append(self._write(action, self._label_uri(name, None), value))
        return writes

    def delete(self, name: str, version: str | None) -> None:
        """Remove one version, or with None a dataset with all versions and labels.

        Raises:
            EntryNotFoundError: it is not there.
            EntryExistsError: a label means this version.
        """

        def write() -> list[Write] | None:
            entries = [each for each in self._repository.published() if each.entry.name == name]
            gone = [each for each in entries if version is None or _version(each) == version]
            if not gone:
                raise EntryNotFoundError(f"there is no {name if version is None else f'{name}@{version}'}")
            uris = {str(each.record.uri) for each in gone}
            labels = [(found.uri, Label.of(found.value)) for found in self.client.list_records(self.did, LABEL)]
            labels = [(uri, label) for uri, label in labels if label.name == name]
            means = [(uri, label) for uri, label in labels if str(label.dataset) in uris or version is None]
            words = sorted(label.version or "" for _, label in means if _is_word(label))
            if words and version is not None:
                raise EntryExistsError(
                    f"{name}@{version} has labels: {', '.join(words)}; let them mean another version, or remove them"
                )
            writes = [self._write("delete", uri) for uri, _ in means]
            left = [each for each in entries if str(each.record.uri) not in uris and each.entry.commit is not None]
            current = self._label_uri(name, None)
            if version is not None and left and any(uri == current for uri, _ in means):
                best = max(left, key=lambda each: rank_of(_version(each) or FIRST))
                again = Label(name, best.record.uri, _now(), _version(best)).to_value()
                writes = [each for each in writes if each.rkey != current.rkey]
                writes.append(self._write("update", current, again))
            return writes + [self._write("delete", each.record.uri) for each in gone]

        self._commit(write)

    def take_over(self, entries: Iterable[DatasetEntry]) -> int:
        """See `AtmosphereIndex.add_entries`."""
        remaining, count = iter(entries), 0
        plans: dict[str, Plan] = {}
        while batch := list(itertools.islice(remaining, _BATCH)):
            drafts = [self._draft(entry, plans) for entry in batch]
            made = [(d, self._value(d, e.created_at.isoformat())) for d, e in zip(drafts, batch, strict=True)]
            count += self._take_over(made)
            plans = {cid: plan._replace(new=None) for cid, plan in plans.items()}
        return count

    def _draft(self, entry: DatasetEntry, plans: dict[str, Plan]) -> Draft:
        """An entry of another index, which may come from anywhere, checked."""
        schema = entry.schema
        cid = "" if schema is None else schema.cid
        if cid not in plans:
            plans[cid] = self.plan(schema)
        for ref in entry.shards:
            check_url(ref.url)
        return Draft(
            check_name(entry.name),
            Version(entry.version).text,
            None if entry.parent is None else Version(entry.parent).text,
            plans[cid],
            entry.shards,
            Details.checked(entry.description, entry.tags, entry.license, entry.metadata),
            entry.dataset(DictSample),
        )

    def _take_over(self, made: Sequence[tuple[Draft, dict[str, Any]]]) -> int:
        """Publish what is not there yet. Servers take it in several commits: what these leave out is completed here."""
        news: set[AtUri] = set()

        def write() -> list[Write]:
            there = {record.uri: record.value for record in self.client.list_records(self.did, ENTRY)}
            labels = {found.uri: found.value.get("version") for found in self.client.list_records(self.did, LABEL)}
            writes: dict[AtUri, Write] = {}
            schemas: set[str | None] = set()

            def put(uri: AtUri, value: Mapping[str, Any], known: Collection[AtUri]) -> None:
                writes[uri] = self._write("update" if uri in known else "create", uri, value)

            for draft, value in made:
                uri = self._entry_uri(draft.name, draft.version)
                if uri not in there:
                    news.add(uri)
                    if draft.plan.new is not None and draft.plan.ref not in schemas:
                        schemas.add(draft.plan.ref)
                        for schema in self._new_schema(draft.plan.new):
                            writes[AtUri(self.did, schema.collection, schema.rkey or "")] = schema
                    put(uri, value, there)
                elif _content(there[uri]) != _content(value):
                    raise EntryExistsError(f"{draft.name}@{draft.version} is there already, with another content")
                label = Label(draft.name, uri, value["createdAt"], draft.version).to_value()
                at, current = self._label_uri(draft.name, draft.version), self._label_uri(draft.name, None)
                if at not in labels:
                    put(at, label, labels)
                latest = (writes[current].value or {}).get("version") if current in writes else labels.get(current)
                if not isinstance(latest, str) or not Version.valid(latest) or rank_of(latest) < rank_of(draft.version):
                    put(current, label, labels)
            return list(writes.values())

        self._commit(write)
        return len(news)

    # -- labels ----------------------------------------------------------------------------------------------

    def set_label(self, name: str, label: str, version: str | None) -> None:
        """Let a label mean a version, by default the latest one.

        Raises:
            EntryNotFoundError: there is no such version.
            SwapError: somebody else set the label meanwhile.
        """
        entry = self._known(name, version)
        at = self._label_uri(name, label)
        value = Label(name, AtUri.parse(entry.uri), _now(), label).to_value()
        before = self._there(at)

        def write() -> list[Write] | None:
            now = self._there(at)
            if now is not None and now.value == value:
                return None
            if (now and now.cid) != (before and before.cid):
                raise SwapError(
                    f"somebody else has just set the label {label!r} of {name}: see what it means, and set it again",
                    nsid="com.atproto.repo.applyWrites",
                )
            return [self._write("create" if now is None else "update", at, value)]

        self._commit(write)

    def unset_label(self, name: str, label: str) -> None:
        """Remove a label.

        Raises:
            EntryNotFoundError: there is none.
        """
        at = self._label_uri(name, label)

        def write() -> list[Write]:
            if self._there(at) is None:
                raise EntryNotFoundError(f"{name} has no label {label!r}")
            return [self._write("delete", at)]

        self._commit(write)

    def _known(self, name: str, version: str | None) -> AtmosphereEntry:
        found = self._repository.find(Ref(name, version=version))
        if found is None:
            raise EntryNotFoundError(f"there is no {name if version is None else f'{name}@{version}'}")
        return found

    # -- schemas ---------------------------------------------------------------------------------------------

    def _schema_ref(self, row: SchemaRow) -> str:
        return row.uri if isinstance(row, PublishedSchema) else str(AtUri(self.did, SCHEMA, _schema_key(row)))

    def _add_schema(self, row: SchemaRow) -> None:
        self._commit(lambda: self._new_schema(row))

    def _new_schema(self, row: SchemaRow) -> list[Write]:
        """What adds a schema; nothing when the very same is there.

        Raises:
            EntryExistsError: this version is there with another content.
        """
        uri = AtUri(self.did, SCHEMA, _schema_key(row))
        there = self._repository.schemas(row.name, row.version)
        if any(each.uri == str(uri) for each in there):
            return []
        if there:
            raise EntryExistsError(f"there is a schema {row.name}@{row.version} already, with another content")
        schema = Schema.from_record(msgspec.json.decode(row.record))
        return [self._write("create", uri, schema.to_network_record(_now()))]

    # -- lenses ----------------------------------------------------------------------------------------------

    def add_lens(self, lens: Lens[Any, Any], source: str, view: str, code: CodeReference | None) -> str:
        """Publish a lens between two schemas, unless the same is there; returns its address.

        One that is there is dated anew where another of its name came later, as the newest is the one that is meant.
        """
        rkey, value = lens_record(lens, source, view, _now(), code)
        uri = AtUri(self.did, LENS, rkey)

        def writes() -> list[Write] | None:
            if self._there(uri) is None:
                return [self._write("create", uri, value)]
            named = [
                each for each in lenses_in(self._repository, self._repository.schema) if each.name == value["name"]
            ]
            newest = max(named, key=lambda each: each.created_at, default=None)
            return None if newest is None or newest.uri == str(uri) else [self._write("update", uri, value)]

        self._commit(writes)
        return str(uri)

    # -- blobs -----------------------------------------------------------------------------------------------

    def _blobs(self) -> AccountBlobs:
        """The blobs that the account's stores keep."""
        datasets: dict[tuple[str, str | None], dict[str, File]] = {}
        for pin in Pins(self.client, self.did).all():
            datasets.setdefault((pin.prefix, pin.series), {}).update((file.name, file) for file in pin.files)
        blobs: dict[str, Blob] = {}
        headers: dict[str, Blob] = {}
        for files in datasets.values():
            for name, file in files.items():
                blobs[file.sha256] = Blob.of(file.blob, "blob")
                if name.endswith(".tar") and (header := files.get(header_name(name))) is not None:
                    headers[file.sha256] = Blob.of(header.blob, "blob")
        return AccountBlobs(blobs, headers)

    def _upload(self, data: bytes) -> Sequence[Blob]:
        """Bytes as blobs, in as many as it takes."""
        piece = min(_PIECE, self.client.blob_limit)
        parts = [data[at : at + piece] for at in range(0, len(data), piece)]
        kind = "application/json" if len(parts) == 1 else "application/octet-stream"
        return [Blob.of(self.client.upload_blob(part, len(part), kind), "blob") for part in parts]

    # -- records ---------------------------------------------------------------------------------------------

    def _commit(self, make: Callable[[], list[Write] | None]) -> None:
        """Make changes on the state that was looked at; where it changed meanwhile, look at it again.

        Args:
            make: looks at the repository, and gives the changes; None or nothing when there are none to be made.
        """
        for attempt in range(_TRIES):
            latest = self.client.latest_commit()
            writes = make()
            if not writes:
                return
            try:
                self.client.apply_writes(writes, swap_commit=latest)
                return
            except SwapError:
                time.sleep(random.uniform(0, 0.05) * 2 ** min(attempt, 5))  # noqa: S311
        raise CatalogBusyError(
            f"the repository of {self.did} was changed by others each of the {_TRIES} times that a change was tried; "
            "try again"
        )

    def _write(self, action: Any, uri: AtUri, value: Any = None) -> Write:
        return Write(action, uri.collection, uri.rkey, value)

    def _put(self, uri: AtUri, value: Any) -> Write:
        return self._write("create" if self._there(uri) is None else "update", uri, value)

    def _there(self, uri: AtUri) -> Any:
        return self.client.get_record(uri, proof=False)

    def _entry_uri(self, name: str, version: str) -> AtUri:
        return AtUri(self.did, ENTRY, entry_key(name, version))

    def _label_uri(self, name: str, which: str | None) -> AtUri:
        return AtUri(self.did, LABEL, label_key(name, which))

    def _is_ours(self, entry: AtmosphereEntry) -> bool:
        return AtUri.parse(entry.uri) == self._entry_uri(entry.name, entry.version)


def fitted(schema: Schema) -> Schema:
    """A schema with as much of its description as the network takes."""
    if schema.description is None or len(schema.description.encode()) <= _MAX_DESCRIPTION:
        return schema
    text = schema.description.encode()[:_MAX_DESCRIPTION].decode(errors="ignore")
    return dataclasses.replace(schema, description=text)


def check_version(version: str) -> str:
    """A version that the network takes.

    Raises:
        EntryFormError: it is too long for a label.
    """
    if len(version) > _MAX_VERSION:
        raise EntryFormError(f"a version on the network has at most {_MAX_VERSION} characters: {version!r}")
    return version


def _plain_name(ref: str) -> tuple[str, str | None]:
    found = parse_network_schema(ref)
    return found.name, found.version


def _schema_key(row: SchemaRow) -> str:
    """The record key of a schema: its content, so that the same is published once."""
    return generate_cid(msgspec.json.decode(row.record))


def _content(value: Mapping[str, Any]) -> Any:
    commit = value.get("commit")
    return commit.get("cid") if isinstance(commit, Mapping) else None


def _version(each: Published) -> str | None:
    return None if each.entry.commit is None else each.entry.commit.version


def _is_word(label: Label) -> bool:
    return label.version is not None and not Version.valid(label.version)


def _now() -> str:
    return datetime.now(UTC).isoformat()
