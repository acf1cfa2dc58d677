"""The accounts of an index of the network: where a reference leads, and what to say when it leads nowhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from atdata.atmosphere.client import Atmosphere
from atdata.atmosphere.syntax import is_did, is_handle, is_me, normal_handle
from atdata.errors import CatalogError, EntryFormError, EntryNotFoundError
from atdata.index.names import Ref
from atdata.index.network_entry import AtmosphereEntry
from atdata.index.network_names import NetworkRef, SchemaRef, parse_network_ref
from atdata.index.network_repository import Repository
from atdata.index.words import words_in

__all__ = ["Accounts"]

_LISTED = 10
_NEAR = 1000  # names among which a similar one is looked for


class Accounts:
    """Some accounts, for reading; and any other that a reference names.

    Args:
        client: of the network.
        actors: handles, DIDs or `@me`; none of them for the account that is logged in.
        store: what shards are read with that lie in it.
    """

    def __init__(self, client: Atmosphere, actors: Iterable[str], store: Any) -> None:
        self.client = client
        self.actors = [actor if is_did(actor) or is_me(actor) else normal_handle(actor) for actor in actors]
        self._store = store
        self._repositories: dict[str, Repository] = {}

    def repository(self, did: str) -> Repository:
        """The account of that DID."""
        if did not in self._repositories:
            self._repositories[did] = Repository(self.client, did, self._store)
        return self._repositories[did]

    def of(self, actor: str) -> Repository:
        """The account of a handle or DID."""
        return self.repository(self.client.resolve(actor).did)

    @property
    def seen(self) -> Sequence[Repository]:
        """The accounts that were read."""
        return list(self._repositories.values())

    @property
    def all(self) -> Sequence[Repository]:
        """The accounts themselves.

        Raises:
            CatalogError: none was named, and nobody is logged in.
        """
        if self.actors:
            return [self.of(actor) for actor in self.actors]
        if self.client.did is None:
            raise CatalogError(
                "whose datasets? Name them as @HANDLE/NAME, say AtmosphereIndex(repo=…), or log in for your own"
            )
        return [self.repository(self.client.did)]

    def places(self, actor: str | None) -> Sequence[Repository]:
        """The account of that handle or DID, or with None all of them."""
        return self.all if actor is None else [self.of(actor)]

    def find(self, parsed: NetworkRef) -> AtmosphereEntry:
        """The version that a reference names, proved.

        Raises:
            EntryNotFoundError: there is none; the message lists those that exist.
            EntryFormError: several accounts have one.
        """
        if parsed.uri is not None:
            place = self.of(parsed.uri.authority)
            found = place.at(parsed.uri._replace(authority=place.did))
            if found is None:
                raise EntryNotFoundError(f"there is no record at {parsed.uri}")
            return found
        ref = parsed.ref
        assert ref is not None
        places = self.places(parsed.actor)
        hits = [found for place in places if (found := place.find(ref)) is not None]
        if len(hits) > 1:
            raise EntryFormError(f"several accounts have {ref}: say which, {' or '.join(h.uri for h in hits[:3])}")
        if not hits:
            raise EntryNotFoundError(self._missing(ref, places, parsed.actor))
        return hits[0]

    def holding(self, name: str) -> tuple[Repository, str]:
        """The account that has a dataset, and the dataset's name there.

        Raises:
            EntryNotFoundError: none has it.
            EntryFormError: it is no name, or one with a version.
        """
        parsed = parse_network_ref(name)
        ref = parsed.ref
        if ref is None or ref.name is None or ref.version is not None or ref.label is not None:
            raise EntryFormError(f"{name!r:.200} is not the name of a dataset")
        found, places = self.find(parsed), self.places(parsed.actor)
        if len(places) == 1:  # where a label may lead to another account's entry
            return places[0], ref.name
        return next(place for place in places if place.find(ref) == found), ref.name

    def search(self, words: Sequence[str], tags: Iterable[str], schema: SchemaRef | None) -> Iterator[AtmosphereEntry]:
        """The latest versions that have all words (or words that begin so), all tags, and that schema."""
        wanted = set(tags)
        for place in self.all:
            for entry in place.latest():
                if wanted <= set(entry.tags) and _has_schema(place, entry, schema) and _has_words(place, entry, words):
                    yield entry

    def _missing(self, ref: Ref, places: Sequence[Repository], actor: str | None) -> str:
        named = actor is not None and not is_me(actor)
        where = f"@{actor}" if named else ", ".join(self._shown(place.did) for place in places)
        if ref.name is None:
            return f"no version in {where} has the content {ref.cid}"
        known = [entry for place in places for entry in place.versions(ref.name)]
        if not known:
            names = list(dict.fromkeys(e.entry.name for place in places for e in place.published()))[:_NEAR]
            near = difflib.get_close_matches(ref.name, names, 3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            return f"there is no dataset {ref.name!r} in {where}{hint}"
        if ref.label is not None:
            words = {word: version for place in places for word, version in place.words(ref.name).items()}
            labels = ", ".join(f"{label} ({version})" for label, version in words.items())
            return f"{ref.name} has no label {ref.label!r}; {f'there are {labels}' if labels else 'it has none'}"
        versions = [entry.version for entry in known]
        more = ", …" if len(versions) > _LISTED else ""
        return f"{ref.name} has no version {ref.version}; there are {', '.join(versions[:_LISTED])}{more}"

    def _shown(self, did: str) -> str:
        if did == self.client.did and self.client.handle is not None:
            return f"@{self.client.handle}"
        return next((f"@{a}" for a in self.actors if is_handle(a) and self.of(a).did == did), did)


def _has_schema(place: Repository, entry: AtmosphereEntry, schema: SchemaRef | None) -> bool:
    if schema is None:
        return True
    if schema.uri is not None:
        return entry.schema_ref == str(schema.uri)
    name, version = place.schema_name(entry)
    return name == schema.name and schema.version in (None, version)


def _has_words(place: Repository, entry: AtmosphereEntry, words: Sequence[str]) -> bool:
    there = words_in([entry.name, entry.description, *entry.tags])
    missing = [word for word in words if not any(each.startswith(word) for each in there)]
    if not missing:
        return True
    there = words_in([place.schema_name(entry)[0]])
    return all(any(each.startswith(word) for each in there) for word in missing)
