"""What an entry of the network says of a dataset; and what must not be said there.

Others can do nothing with a path of this machine, a server in its network or a URL that expires, and should not learn
of them. Small datasets list their shards in the form of the public lexicons; of large ones the commit record has the
list, in blobs, and the entry says where the shards lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from atdata.atmosphere.guard import is_public
from atdata.atmosphere.records import Commit, Entry, ManifestBlobs
from atdata.atmosphere.storage import (
    Blob,
    Checksum,
    Folder,
    Storage,
    StorageBlobs,
    StorageCommit,
    StorageHttp,
    StorageS3,
)
from atdata.atmosphere.syntax import is_did, shown
from atdata.cid import Link
from atdata.datasets.sources import ShardRef
from atdata.errors import EntryFormError
from atdata.index.network_places import file_name
from atdata.index.routing import owner
from atdata.index.writing import Draft
from atdata.stores.record import CommitRecord, ShardInfo

__all__ = ["AccountBlobs", "Place", "check_place", "entry_of", "places_of"]

_INLINE = 40_000  # bytes of a commit record in the entry itself
_ROOM = 100_000  # bytes of JSON of an entry; some servers take no larger records than 150 KB
_MOST = 150_000
_FOLDERS = 1000
_TAR_KIND = "application/x-tar"
_LARGEST = 52_428_800  # bytes of a blob in storageBlobs
_TAR = re.compile(r"[^/\\\0]{1,240}\.tar")
_NUMBERED = re.compile(r".*~[0-9]+\.tar", re.DOTALL)
_SECRET = re.compile(
    r"signature|credential|token|secret|password|passwd|\bsig=|\bkey=|api_?key|expires=", re.IGNORECASE
)
# Names that mean something in one network only.
_PRIVATE = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "test", "invalid", "onion")
_REMEDY = (
    "`atdata cp` copies the dataset to where others can read it (a bucket, a PDSBlobStore, a web server's folder), and "
    "that copy can be published"
)


class AccountBlobs(NamedTuple):
    """The blobs of an account that its records name.

    Attributes:
        blobs: by their SHA-256.
        headers: the manifests' summaries, by the SHA-256 of their shards.
    """

    blobs: Mapping[str, Blob]
    headers: Mapping[str, Blob]


class Place(NamedTuple):
    """Where one shard lies.

    Attributes:
        url: its URL.
        endpoint: of its bucket's service; None for Amazon's own, and for what is in no bucket.
        region: of its bucket.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None


def places_of(draft: Draft, *, allow_private: bool) -> list[Place]:
    """Where the shards of a draft lie, as others find them.

    Raises:
        EntryFormError: others cannot read a shard, or its URL tells what they should not know.
    """
    found = []
    for ref in draft.refs:
        place = Place(ref.url)
        if ref.url.startswith("s3://"):
            store = owner(draft.source.opening, ref.url)
            place = Place(ref.url, getattr(store, "endpoint", None), getattr(store, "region", None))
        found.append(place)
    for place in dict.fromkeys(place._replace(url=_folder(place.url)) for place in found):
        check_place(place, allow_private=allow_private)
    return found


def check_place(place: Place, *, allow_private: bool) -> None:
    """Whether everybody may know and can reach a place.

    Raises:
        EntryFormError: it is on this machine or in its network, is signed or names a user, or is of a kind that entries
            on the network do not name.
    """
    url = place.url
    scheme, colon, rest = url.partition("://")
    if not colon or scheme == "file":
        raise EntryFormError(f"{shown(url)} is a place on this machine, which others cannot read: {_REMEDY}")
    if scheme == "at":
        did, _, kind = rest.partition("/")
        if not is_did(did) or not kind.startswith("blob/"):
            raise EntryFormError(f"{shown(url)} is no place of blobs, at://DID/blob/…")
        return
    if scheme == "s3":
        if place.endpoint is not None:
            _check_web(place.endpoint, f"the bucket of {shown(url)} is at {place.endpoint}", allow_private)
        return
    if scheme not in ("http", "https"):
        raise EntryFormError(
            f"{shown(url)} cannot be published: entries on the network name https, s3 and at:// only. Use its https "
            f"address, if everybody may read it; or {_REMEDY}"
        )
    _check_web(url, shown(url.partition("?")[0]), allow_private)


def _check_web(url: str, what: str, allow_private: bool) -> None:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise EntryFormError("the URL of a shard carries a password, which does not belong into a public record")
    if _SECRET.search(parts.query):
        raise EntryFormError(f"{what} is signed, or carries a key: a public record is no place for it; {_REMEDY}")
    if allow_private:
        return
    if parts.scheme != "https":
        raise EntryFormError(f"{what}, by plain http: anyone on the way could change what others read. {_REMEDY}")
    host = parts.hostname or ""
    leads = _private_address(host)
    if leads is not None:
        raise EntryFormError(f"{what}, which {leads}: others cannot read it, and should not learn of it. {_REMEDY}")


def _private_address(host: str) -> str | None:
    """Why a host cannot be reached by everybody; None when it can, or nobody here knows."""
    try:
        return None if is_public(str(ipaddress.ip_address(host))) else "is a private address"
    except ValueError:
        pass
    if "." not in host or host.rpartition(".")[2].lower() in _PRIVATE:
        return "is a name of one network only"
    try:
        found = [str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        return None
    private = next((address for address in found if not is_public(address)), None)
    return None if private is None else f"leads to the private address {private}"


def _folder(url: str) -> str:
    """A URL without the file's name; what tells secrets stays."""
    return url if "?" in url or "@" in url else url[: url.rfind("/") + 1]


# -- the entry -----------------------------------------------------------------------------------------------------


def entry_of(
    draft: Draft,
    places: Sequence[Place],
    did: str,
    created_at: str,
    *,
    blobs: Callable[[], AccountBlobs],
    upload: Callable[[bytes], Sequence[Blob]],
) -> Entry:
    """The entry for a draft.

    Args:
        draft: what is to be published; it has a schema.
        places: where its shards lie.
        did: the account that publishes it.
        created_at: now, as an RFC 3339 time.
        blobs: gives the account's blobs that its records name.
        upload: puts bytes into the account, in as many blobs as it takes.

    Raises:
        EntryFormError: there is too much to say, or a blob is not to be had.
    """
    schema, schema_ref = draft.plan.schema, draft.plan.ref
    assert schema is not None
    assert schema_ref is not None
    names = _names(draft)
    infos = tuple(msgspec.structs.replace(_info(ref), name=name) for ref, name in zip(draft.refs, names, strict=True))
    record = CommitRecord(schema, infos)
    document = record.to_bytes()
    commit = Commit(
        draft.version,
        record.cid,
        hashlib.sha256(document).hexdigest(),
        draft.parent,
        f"{schema.name}@{schema.version}",
    )
    known = blobs() if all(place.url.startswith(f"at://{did}/blob/") for place in places) else None
    listed = _listed(draft.refs, places, known)
    entry = Entry(
        name=draft.name,
        schema_ref=schema_ref,
        storage=_in_folders(draft.refs, places, names) if listed is None else listed,
        created_at=created_at,
        description=draft.details.description,
        tags=draft.details.tags,
        license=draft.details.license,
        metadata=msgspec.json.decode(draft.details.metadata),
        samples=record.samples,
        size=record.size,
        shards=len(infos),
        manifests=() if known is None else _manifests(infos, known),
        commit=dataclasses.replace(commit, record=document),
    )
    size = _ROOM + 1 if len(document) > _INLINE else _size(entry)
    if size > _ROOM:
        entry = dataclasses.replace(entry, commit=dataclasses.replace(commit, blobs=tuple(upload(document))))
        size = _size(entry)
    if size > _ROOM:
        entry = dataclasses.replace(entry, storage=_in_folders(draft.refs, places, names), manifests=())
        size = _size(entry)
    if size > _MOST:
        raise EntryFormError(
            f"the entry has {size:,} bytes of JSON, and some servers take no more than {_MOST:,}: shorten its "
            f"metadata ({len(draft.details.metadata):,} characters), or write its shards into fewer folders"
        )
    return entry


def _size(entry: Entry) -> int:
    return len(json.dumps(entry.to_value(), ensure_ascii=False, separators=(",", ":")).encode())


def _info(ref: ShardRef) -> ShardInfo:
    if ref.info is None:
        raise EntryFormError(f"nothing is known of the shard {shown(ref.url)}")
    return ref.info


def _names(draft: Draft) -> list[str]:
    """What the shards are called in the commit record: as their files, or as before they were blobs."""
    before = {} if draft.source.located is None else {ref.url: ref.info for ref in draft.source.located.shards}
    names = []
    for n, ref in enumerate(draft.refs):
        told = before.get(ref.url) or _info(ref)
        tail = told.name if ref.url.startswith("at://") else ref.url.rpartition("/")[2]
        names.append(tail if _TAR.fullmatch(tail) else f"shard-{n:06d}.tar")
    if len(set(names)) == len(names) and not any(map(_NUMBERED.fullmatch, names)):
        return names
    return [f"{name.removesuffix('.tar')}~{n}.tar" for n, name in enumerate(names)]


def _listed(refs: Sequence[ShardRef], places: Sequence[Place], known: AccountBlobs | None) -> Storage | None:
    """The shards in the form of a public lexicon; None where they lie in several kinds of places."""
    sums = [Checksum("sha256", _info(ref).sha256) for ref in refs]
    if known is not None:
        missing = next((ref for ref, each in zip(refs, sums, strict=True) if each.digest not in known.blobs), None)
        if missing is not None:
            raise EntryFormError(
                f"no record of the account names the blob {shown(missing.url)}, so its server may have forgotten it: "
                "write the dataset with PDSBlobStore.write_shards"
            )
        found = [known.blobs[each.digest] for each in sums]
        if any(blob.mime != _TAR_KIND or (blob.size or 0) > _LARGEST for blob in found):
            return None  # compressed, or larger than the lexicon of blobs allows
        return StorageBlobs(tuple(zip(found, sums, strict=True)))
    if all(place.url.startswith(("https://", "http://")) for place in places):
        return StorageHttp(tuple((place.url, each) for place, each in zip(places, sums, strict=True)))
    buckets = {(place.url[5:].partition("/")[0], place.endpoint, place.region) for place in places}
    if all(place.url.startswith("s3://") for place in places) and len(buckets) == 1:
        ((bucket, endpoint, region),) = buckets
        keys = [place.url[5:].partition("/")[2] for place in places]
        return StorageS3(bucket, tuple(zip(keys, sums, strict=True)), region, endpoint)
    return None


def _in_folders(refs: Sequence[ShardRef], places: Sequence[Place], names: Sequence[str]) -> StorageCommit:
    """The folders that the shards of a commit record lie in."""
    folders: list[Folder] = []
    services: dict[str, Place] = {}
    for ref, place, name in zip(refs, places, names, strict=True):
        url, _, file = place.url.rpartition("/")
        other = services.setdefault(url[: url.find("/", 5)] if url.startswith("s3://") else url, place)
        if (other.endpoint, other.region) != (place.endpoint, place.region):
            raise EntryFormError(
                f"two services have a bucket of the name of that of {shown(place.url)}: copy one of them"
            )
        is_blob = place.url.startswith("at://")
        odd = None if is_blob or file_name(name) == file else file
        made = Folder(url + "/", 1, odd, place.region, place.endpoint)
        if folders and odd is None and folders[-1]._replace(shards=1) == made:
            folders[-1] = made._replace(shards=folders[-1].shards + 1)
        else:
            folders.append(made)
        if is_blob and str(Link.to_sha256(_info(ref).sha256)) != file:
            raise EntryFormError(f"the blob {shown(place.url)} is not the shard that was recorded")
    if len(folders) > _FOLDERS:
        raise EntryFormError(
            f"{len(folders)} places are too many for one entry: write its shards into fewer folders, in their order"
        )
    return StorageCommit(tuple(folders))


def _manifests(infos: Sequence[ShardInfo], known: AccountBlobs) -> tuple[ManifestBlobs, ...]:
    """The manifests of the shards as blobs, for readers that do not know the commit record; all of them, or none."""
    found = []
    for info in infos:
        samples = None if info.manifest is None else known.blobs.get(info.manifest.sha256)
        header = known.headers.get(info.sha256)
        if samples is None or header is None or header.mime != "application/json":
            return ()
        found.append(ManifestBlobs(header, samples))
    return tuple(found)
