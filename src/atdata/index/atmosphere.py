"""`AtmosphereIndex`: the datasets of accounts on the AT Protocol network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from atdata.atmosphere.client import Atmosphere
from atdata.atmosphere.records import ENTRY, Entry
from atdata.atmosphere.storage import StorageExternal
from atdata.atmosphere.syntax import AtUri
from atdata.datasets.dataset import Dataset
from atdata.errors import EntryFormError, EntryNotFoundError, LoginError, RecordError, StoreError
from atdata.index.base import DatasetEntry
from atdata.index.details import Details
from atdata.index.diff import DatasetDiff, diff
from atdata.index.lenses import StoredLens, check_lens, check_lens_schema, fitting_schema, missing_lens
from atdata.index.names import check_label, check_name, parse_schema_ref
from atdata.index.network_accounts import Accounts
from atdata.index.network_entry import AtmosphereEntry
from atdata.index.network_ledger import NetworkLedger, check_version, fitted
from atdata.index.network_lenses import lenses_in, proved
from atdata.index.network_names import parse_network_ref, parse_network_schema, split_actor
from atdata.index.network_repository import LeftOut
from atdata.index.schemas import Schemas
from atdata.index.versions import Version
from atdata.index.words import words_in
from atdata.index.writing import Writing
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference
from atdata.samples.schema import Schema

__all__ = ["AtmosphereIndex"]


class AtmosphereIndex:
    """Datasets found by name, version and content in accounts of the AT Protocol network.

    Reading needs no account. What is written goes to the account that is logged in, and to no other: an entry is a
    record that the account signs, and is proved to be that when it is loaded. Shards stay where they are.

    Args:
        client: an `Atmosphere`, logged in to publish; by default an anonymous one.
        repo: the accounts (handle or DID, or several; `@me` for the one that is logged in, or whose login is saved)
            whose datasets are listed, searched and found by their names alone; by default the one that is logged in.
        store: where `write_samples` puts shards (`PDSBlobStore(client)`, `S3DataStore(…)`); what its own credentials
            can read is read by it.

    Example:
        >>> from atdata.atmosphere import Atmosphere
        >>> client = Atmosphere.login("alice.example.org", "app-password")  # doctest: +SKIP
        >>> index = AtmosphereIndex(client)  # doctest: +SKIP
        >>> entry = index.insert_dataset(atdata.load_dataset("digits"), name="digits")  # doctest: +SKIP
        >>> AtmosphereIndex().get_dataset("@alice.example.org/digits").version  # doctest: +SKIP
        '1.0.0'
    """

    def __init__(
        self, client: Atmosphere | None = None, *, repo: str | Iterable[str] | None = None, store: Any = None
    ) -> None:
        self._own_client = client is None
        self.client = Atmosphere() if client is None else client
        self._store = store
        self._accounts = Accounts(self.client, [repo] if isinstance(repo, str) else repo or (), store)
        self._own: NetworkLedger | None = None

    def __repr__(self) -> str:
        actors = self._accounts.actors
        repo = f", repo={actors!r}" if actors else ""
        store = f", store={self._store!r}" if self._store is not None else ""
        return f"AtmosphereIndex({self.client!r}{repo}{store})"

    def __enter__(self) -> AtmosphereIndex:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of a client that the index has made itself; another use opens them again."""
        if self._own_client:
            self.client.close()

    @property
    def store(self) -> Any:
        """Where `write_samples` puts shards; None when none was given."""
        return self._store

    @property
    def left_out(self) -> list[LeftOut]:
        """The records that listings came by and that cannot be read, each with the reason."""
        return [each for place in self._accounts.seen for each in place.left_out]

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
    ) -> AtmosphereEntry:
        """Write samples into the index's store and publish them as a new version of `name`.

        Everything but the samples is checked before the first is written; see `LocalIndex.write_samples`.

        Args:
            samples: any iterable, taken once; or a `Dataset`, whose keys are kept.
            name: ASCII letters, digits, `_`, `-`, `.`, with `/` between parts; also with the own handle, `@me/name`.
            sample_type: the class of the samples; by default that of the dataset or of the first sample.
            version: `major.minor.patch`; by default the next one, as `insert_dataset` counts.
            description: free text, at most 5000 bytes.
            tags: words to find it by; at most 30.
            license: an SPDX identifier or a name.
            metadata: JSON values by name, at most 100 kB of msgpack.
            options: passed to the store's `write_shards`: `maxcount`, `maxsize`, `manifest`, `progress`.

        Raises:
            LoginError: nobody is logged in.
            EntryExistsError: the version is there already.
            EntryFormError: a name, version or detail cannot be used, or others could not read the store.
            StoreError: there is no store, or the shards could not be written.
        """
        name = self._own_name(name)
        details = _details(name, version, description, tags, license, metadata)
        if self._store is None:
            raise StoreError("this index has no store to write to: AtmosphereIndex(client, store=PDSBlobStore(client))")
        found = self._writing.write(samples, self._store, name, sample_type, _version(version), details, options)
        assert isinstance(found, AtmosphereEntry)
        return found

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
    ) -> AtmosphereEntry:
        """Publish a dataset whose shards lie somewhere already, as a new version of `name`; nothing is copied.

        Entry, schema and labels are written in one commit. Shards that others cannot read, or should not know of, are
        refused: paths of this machine, servers of its network, URLs that are signed. Versions are counted as
        `LocalIndex.insert_dataset` counts them.

        Args:
            ds: shards as they are: without steps, and not in memory.
            name: ASCII letters, digits, `_`, `-`, `.`, with `/` between parts; also with the own handle, `@me/name`.
            version: `major.minor.patch`.
            schema_ref: a published schema to read the samples with, of whatever account; by default the stored one.
            description: free text, at most 5000 bytes.
            tags: words to find it by; at most 30.
            license: an SPDX identifier or a name.
            metadata: JSON values by name, at most 100 kB of msgpack.

        Raises:
            LoginError: nobody is logged in.
            EntryExistsError: the version is there already.
            EntryFormError: a name, version, detail or URL cannot be used; the message says how to go on.
            EntryNotFoundError: there is no schema `schema_ref`.
            DatasetError: the samples are in memory, or the dataset has steps.
            SchemaError: the samples are of another type than `schema_ref`, or than the dataset's class.
        """
        name = self._own_name(name)
        details = _details(name, version, description, tags, license, metadata)
        found = self._writing.insert(ds, name, _version(version), schema_ref, details)
        assert isinstance(found, AtmosphereEntry)
        return found

    def add_entries(self, entries: Iterable[DatasetEntry]) -> int:
        """Publish entries of another index, some dozens in each commit; returns how many were added.

        Names, versions, times and details are theirs; shards stay where they are, and have to be where others can read
        them. Entries that are there already, with the same content, are passed over, so that what was interrupted can
        be run again.

        Raises:
            LoginError: nobody is logged in.
            EntryExistsError: a version is there with another content.
            EntryFormError: an entry cannot be published; those of the commits before it were.

        Example:
            >>> index.add_entries(atdata.LocalIndex().list_datasets())  # doctest: +SKIP
            112
        """
        return self._ledger.take_over(entries)

    @property
    def _ledger(self) -> NetworkLedger:
        if self.client.did is None:
            raise LoginError(
                "nobody is logged in, and only an account can publish: AtmosphereIndex(Atmosphere.login(…))"
            )
        if self._own is None or self._own.did != self.client.did:
            self._own = NetworkLedger(self.client, self._accounts.repository(self.client.did), self._store)
        return self._own

    @property
    def _writing(self) -> Writing:
        return Writing(self._ledger, self._store)

    def _own_name(self, name: str) -> str:
        """A name to write under, which may have the own account in front.

        Raises:
            EntryFormError: it has another account in front, or cannot name a dataset.
        """
        ledger = self._ledger
        actor, rest = split_actor(name) if isinstance(name, str) else (None, check_name(name))
        if actor is not None and self.client.resolve(actor).did != ledger.did:
            raise EntryFormError(
                f"{name!r} is a name of the account {actor}, and {self.client.handle or ledger.did} is logged in: an "
                "index writes to the account that is logged in only"
            )
        return check_name(rest)

    # -- finding ---------------------------------------------------------------------------------------------

    def get_dataset(self, ref: str) -> AtmosphereEntry:
        """The version that a reference names; its record is proved to be what the account signed.

        Args:
            ref: `@handle/name` (the latest version), `@handle/name@1.2.0`, `@handle/name@label`, with `@me` for the
                handle that is logged in; `at://…` of an entry or a label; or, in the accounts of the index, the same
                without the handle, or a content identifier.

        Raises:
            LoginError: it is of `@me`, and nobody is logged in.
            EntryNotFoundError: there is none; the message lists those that exist.
            EntryFormError: it is no reference.
            RecordError: the entry is malformed.
            ProofError: it is not what the account signed.
        """
        return self._accounts.find(parse_network_ref(ref))

    def list_datasets(self) -> Iterator[AtmosphereEntry]:
        """The latest version of every dataset, account by account; fetched page by page as it is iterated.

        Records that cannot be read are passed over, and noted in `left_out`.
        """
        places = self._accounts.all
        return (entry for place in places for entry in place.latest())

    def list_versions(self, name: str) -> Iterator[AtmosphereEntry]:
        """Every version of a dataset, the highest first.

        Args:
            name: as for `get_dataset`, without a version.

        Raises:
            EntryNotFoundError: there is no such dataset.
        """
        place, plain = self._accounts.holding(name)
        return iter(place.versions(plain))

    def search(
        self, text: str = "", *, tags: Iterable[str] = (), schema: str | None = None
    ) -> Iterator[AtmosphereEntry]:
        """The latest versions that match, account by account; fetched page by page as it is iterated.

        Args:
            text: words, or beginnings of words, that name, description, tags or the schema's name have; all of them,
                without regard to case and accents.
            tags: tags that it has; all of them, exactly.
            schema: a schema's name, or its address.
        """
        if isinstance(tags, str):
            raise EntryFormError(f"tags are given as a list: tags=[{tags!r:.60}]")
        words = words_in([text])
        of = None if schema is None else parse_network_schema(schema)
        if text.strip() and not words:
            return iter(())  # no letter and no digit: nothing is found by that
        return self._accounts.search(words, list(tags), of)

    def diff(self, old: str, new: str) -> DatasetDiff:
        """Which samples were added, removed and changed from one version to another; see `LocalIndex.diff`."""
        return diff(self.get_dataset(old).dataset(), self.get_dataset(new).dataset())

    # -- changing --------------------------------------------------------------------------------------------

    def label(self, name: str, label: str, *, version: str | None = None) -> None:
        """Let `name@label` mean a version, until the label is set to another.

        Args:
            name: the dataset, of the own account.
            label: a letter, then letters, digits, `.`, `_`, `-`; at most 50.
            version: by default the latest.

        Raises:
            EntryNotFoundError: there is no such version.
            SwapError: somebody else has set it at the same time.
        """
        name = self._own_name(name)
        self._ledger.set_label(name, check_version(check_label(label)), _version(version))

    def unlabel(self, name: str, label: str) -> None:
        """Remove a label; the version it meant stays.

        Raises:
            EntryNotFoundError: there is no such label.
        """
        name = self._own_name(name)
        self._ledger.unset_label(name, check_label(label))

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a dataset and the versions they mean, the one that was set last at the end.

        Raises:
            EntryNotFoundError: there is no such dataset.
        """
        place, plain = self._accounts.holding(name)
        return place.words(plain)

    def delete_dataset(self, ref: str) -> None:
        """Remove a dataset of the own account with all versions and labels (`name`), or one version (`name@1.0.0`).

        The shards stay in their store; of those that are blobs, those do that a store keeps.

        Raises:
            EntryNotFoundError: it is not there.
            EntryExistsError: a label means this version.
            EntryFormError: the reference is a label or a content identifier, or of another account.
        """
        ledger = self._ledger
        parsed = parse_network_ref(ref)
        found = self.get_dataset(ref)
        if not found.uri.startswith(f"at://{ledger.did}/"):
            raise EntryFormError(
                f"{ref} is of another account: an index changes the account that is logged in only ({self.client!r})"
            )
        plain = parsed.ref
        if plain is None or plain.cid is not None or plain.label is not None or ref.endswith("@latest"):
            raise EntryFormError(f"say which version is to be deleted: {found.name}@{found.version}")
        assert plain.name is not None
        ledger.delete(plain.name, plain.version)

    # -- schemas ---------------------------------------------------------------------------------------------

    def publish_schema(self, sample_type: type, *, version: str | None = None) -> str:
        """Publish a sample type's schema, unless the same is there; returns its address, `at://…`.

        Args:
            sample_type: a packable class.
            version: by default the next one; see `LocalIndex.publish_schema`.

        Raises:
            LoginError: nobody is logged in.
            EntryExistsError: the version is there with another content.
            SchemaError: the version says less than what changed, or the class cannot be stored.
        """
        return self._ledger.schemas.publish(fitted(Schema.of(sample_type)), _version(version))

    def get_schema(self, ref: str) -> Schema:
        """The schema that a reference names; nothing in it is executed.

        Args:
            ref: `at://…`, `@handle/Digit@1.0.0`, `@handle/Digit` for the highest version; or, in the accounts of the
                index, the same without the handle.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
            SchemaError: it cannot be read.
        """
        parsed = parse_network_schema(ref)
        if parsed.uri is not None:
            return self._accounts.of(parsed.uri.authority).schema(str(parsed.uri))
        places = self._accounts.places(parsed.actor)
        plain = parsed.name if parsed.version is None else f"{parsed.name}@{parsed.version}"
        for last, place in enumerate(places, 1):
            try:
                row, _ = Schemas(place, _refuse, parse=parse_schema_ref).get(plain)
            except EntryNotFoundError:
                if last == len(places):
                    raise
            else:
                return place.schema(getattr(row, "uri", ""))
        raise AssertionError

    def list_schemas(self) -> Iterator[Schema]:
        """Every version of every schema, account by account, by name."""
        return (schema for place in self._accounts.all for schema in place.every_schema())

    def decode_schema(self, ref: str) -> type:
        """A sample type built in memory from a published schema; no code is executed.

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
        """Publish a lens, with the schemas of its types; returns its address, `at://…`.

        A declared lens (`Lens.fields`) is in the record whole. Of one that is code the record says where the code is,
        and its hash.

        Args:
            lens: declared, or made of functions.
            code: the repository, commit and file where others find the functions.
            source_schema: the address of a published schema of the type that it reads; by default that type's is
                published.
            view_schema: the same of the type that it gives.

        Raises:
            LoginError: nobody is logged in.
            LensError: it is code, and `code` is missing; or it is composed of several.
            EntryNotFoundError: there is no such schema.
            SchemaError: the schema is not that of the lens's type.
        """
        check_lens(lens)
        ledger = self._ledger
        lens.to_network_record("", "", "", code)  # which says what is wrong before anything is published
        source, view = (
            self._address(ref, cls, what)
            for ref, cls, what in ((source_schema, lens.source, "reads"), (view_schema, lens.view, "gives"))
        )
        return ledger.add_lens(lens, source, view, code)

    def _address(self, ref: str | None, cls: type, what: str) -> str:
        """The schema of one of a lens's types, published."""
        if ref is None:
            return fitting_schema(self._ledger.schemas, fitted(Schema.of(cls)))
        found = self._ledger.asked_for(ref)
        assert found.ref is not None
        assert found.schema is not None
        check_lens_schema(cls, found.schema, what)
        return found.ref

    def get_lens(self, ref: str) -> StoredLens:
        """The lens that a reference names; its record is proved to be what the account signed.

        Args:
            ref: `at://…`, `@handle/name`, or a name in the accounts of the index; of several of that name, the newest.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
            LensRecordError: the record is malformed.
        """
        if ref.startswith("at://"):
            uri = parse_network_schema(ref).uri
            assert uri is not None
            place = self._accounts.of(uri.authority)
            return proved(place, uri._replace(authority=place.did), self.get_schema)
        actor, name = split_actor(ref)
        places = self._accounts.places(actor)
        known = [(place, each) for place in places for each in lenses_in(place, self.get_schema)]
        found = [(place, each) for place, each in known if each.name == name]
        if not found:
            raise missing_lens(name, (each.name for _, each in known))
        place, newest = max(found, key=lambda pair: pair[1].created_at)
        return proved(place, AtUri.parse(newest.uri), self.get_schema)

    def list_lenses(self, *, source: str | None = None, view: str | None = None) -> Iterator[StoredLens]:
        """The lenses of the accounts, as their servers list them; fetched page by page as it is iterated.

        Args:
            source: only those that read the schema at this address.
            view: only those that give it.
        """
        found = (each for place in self._accounts.all for each in lenses_in(place, self.get_schema))
        return (each for each in found if source in (None, each.source) and view in (None, each.view))

    # -- accounts --------------------------------------------------------------------------------------------

    def of_account(self, actor: str) -> AtmosphereIndex:
        """This index, for one account alone."""
        return AtmosphereIndex(self.client, repo=actor, store=self._store)


def _refuse(row: object) -> None:
    raise AssertionError("a schema is read, not added")


def _version(version: str | None) -> str | None:
    return None if version is None else check_version(Version(version).text)


def _details(
    name: str,
    version: str | None,
    description: str | None,
    tags: Iterable[str],
    license: str | None,
    metadata: Mapping[str, Any] | None,
) -> Details:
    """What a user gives, as the network takes it.

    Raises:
        EntryFormError: it is something else, or more than that.
    """
    import msgspec

    details = Details.checked(description, tags, license, metadata)
    try:  # an entry of it, whatever its shards are
        Entry(
            name,
            f"at://did:plc:x/{ENTRY}/x",
            StorageExternal(("https://example.org",)),
            "2000-01-01T00:00:00Z",
            description=details.description,
            tags=details.tags,
            license=details.license,
            metadata=msgspec.json.decode(details.metadata),
        ).to_value()
    except RecordError as error:
        raise EntryFormError(f"the network does not take this: {error}") from None
    return details
