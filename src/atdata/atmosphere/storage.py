"""Where the shards of an entry lie: the five forms that records have, and the digests that go with them.

What is read may come from anyone. Text and numbers are checked for their form here; which URLs are opened, and how many
names a pattern means, is for those who open them to decide.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from atdata.atmosphere import lexicon
from atdata.atmosphere.datamodel import byte_length, is_cid
from atdata.atmosphere.syntax import shown
from atdata.cid import Link
from atdata.errors import RecordError

__all__ = [
    "Blob",
    "Checksum",
    "Folder",
    "Storage",
    "StorageBlobs",
    "StorageCommit",
    "StorageExternal",
    "StorageHttp",
    "StorageS3",
    "storage_of",
]

_NAMESPACE = "science.alt.dataset."
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,254}", re.ASCII)
_REGION = re.compile(r"[A-Za-z0-9-]{1,50}", re.ASCII)
_ENDPOINT = re.compile(
    r"https?://[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?/?|https?://\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?/?"
)
_NO_DIGEST = ("", "none")


class Checksum(NamedTuple):
    """A digest of a shard's bytes.

    Attributes:
        algorithm: `sha256`, or whatever else its writer used, in small letters.
        digest: in hexadecimal.
    """

    algorithm: str
    digest: str

    @property
    def sha256(self) -> str | None:
        """The digest, when it is a SHA-256."""
        return self.digest if self.algorithm == "sha256" else None

    def to_value(self) -> dict[str, str]:
        """As a record has it."""
        return {"algorithm": self.algorithm, "digest": self.digest}


class Blob(NamedTuple):
    """Bytes that lie on the account's server.

    Attributes:
        cid: what names them: the CID of plain bytes.
        mime: their kind, as the server found it.
        size: how many they are; None in records of an old form.
    """

    cid: str
    mime: str
    size: int | None

    @property
    def sha256(self) -> str:
        """The digest that is in the CID."""
        return Link.parse(self.cid).sha256

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        return {"$type": "blob", "ref": {"$link": self.cid}, "mimeType": self.mime, "size": self.size}

    @classmethod
    def of(cls, value: Any, path: str) -> Blob:
        """The blob in a record, in its present form or the one that has no size.

        Raises:
            RecordError: it is none.
        """
        if not isinstance(value, Mapping):
            raise RecordError("is no blob", field=path)
        if "ref" not in value and is_cid(value.get("cid")):
            value = {"$type": "blob", "ref": {"$link": value["cid"]}, "mimeType": value.get("mimeType"), "size": 0}
            lexicon.check_blob(value, path)
            return cls(value["ref"]["$link"], value["mimeType"], None)
        lexicon.check_blob(value, path)
        return cls(value["ref"]["$link"], value["mimeType"], value["size"])


class Folder(NamedTuple):
    """Neighbouring shards in one place; see `StorageCommit`."""

    url: str
    shards: int
    file: str | None = None
    region: str | None = None
    endpoint: str | None = None


@dataclasses.dataclass(frozen=True)
class StorageHttp:
    """Shards on web servers: address and digest of each."""

    nsid: ClassVar[str] = _NAMESPACE + "storageHttp"
    shards: tuple[tuple[str, Checksum | None], ...]

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        return {"$type": self.nsid, "shards": [{"url": u, "checksum": _written(c)} for u, c in self.shards]}


@dataclasses.dataclass(frozen=True)
class StorageS3:
    """Shards in a bucket: key and digest of each; the endpoint is None for Amazon's own."""

    nsid: ClassVar[str] = _NAMESPACE + "storageS3"
    bucket: str
    shards: tuple[tuple[str, Checksum | None], ...]
    region: str | None = None
    endpoint: str | None = None

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        place = {"bucket": self.bucket, "region": self.region, "endpoint": self.endpoint}
        return {
            "$type": self.nsid,
            **{name: text for name, text in place.items() if text is not None},
            "shards": [{"key": key, "checksum": _written(checksum)} for key, checksum in self.shards],
        }


@dataclasses.dataclass(frozen=True)
class StorageBlobs:
    """Shards as blobs of the account whose record it is."""

    nsid: ClassVar[str] = _NAMESPACE + "storageBlobs"
    blobs: tuple[tuple[Blob, Checksum | None], ...]

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        return {
            "$type": self.nsid,
            "blobs": [
                {"blob": blob.to_value(), **({} if checksum is None else {"checksum": checksum.to_value()})}
                for blob, checksum in self.blobs
            ],
        }


@dataclasses.dataclass(frozen=True)
class StorageExternal:
    """Shards by URLs alone, in which braces may stand for several; read, but not written any more."""

    nsid: ClassVar[str] = _NAMESPACE + "storageExternal"
    urls: tuple[str, ...]

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        return {"$type": self.nsid, "urls": list(self.urls)}


@dataclasses.dataclass(frozen=True)
class StorageCommit:
    """Shards that only the entry's commit record lists, and the folders they lie in, in the same order.

    A shard's address is that of its folder and its name in the commit record, or `file` where a folder has that. In a
    folder `at://DID/blob/` it is the CID of the shard's SHA-256.
    """

    nsid: ClassVar[str] = _NAMESPACE + "storageCommit"
    folders: tuple[Folder, ...]

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        folders = [{k: v for k, v in folder._asdict().items() if v is not None} for folder in self.folders]
        return {"$type": self.nsid, "folders": folders}


Storage = StorageHttp | StorageS3 | StorageBlobs | StorageExternal | StorageCommit


def _written(checksum: Checksum | None) -> dict[str, str]:
    """A digest where the lexicon wants one."""
    return Checksum("none", "").to_value() if checksum is None else checksum.to_value()


# -- reading -----------------------------------------------------------------------------------------------------


def storage_of(value: Any, path: str = "storage") -> Storage:
    """The storage in a record, in every form that is found.

    Its `$type` may be missing; a blob may stand for itself, without `{"blob": …}` around it; digests may be missing or
    be placeholders.

    Raises:
        RecordError: it is none of the known forms, or something in it is malformed.
    """
    if not isinstance(value, Mapping):
        raise RecordError("is no object", field=path)
    kind = value.get("$type")
    if kind is None:
        kind = next((_NAMESPACE + name for key, name in _BY_KEY.items() if key in value), None)
    read = _READERS.get(kind.removesuffix("#main")) if isinstance(kind, str) else None
    if read is None:
        known = ", ".join(name.removeprefix(_NAMESPACE) for name in _READERS)
        raise RecordError(f"is of the kind {shown(kind)}, and this atdata knows {known}", field=path)
    return read(value, path)


def _http(value: Mapping[str, Any], path: str) -> StorageHttp:
    shards = _list(value, "shards", path)
    return StorageHttp(
        tuple(
            (_text(item, "url", 2000, where), _checksum(item.get("checksum"), f"{where}.checksum"))
            for item, where in shards
        )
    )


def _s3(value: Mapping[str, Any], path: str) -> StorageS3:
    bucket = _text(value, "bucket", 255, path)
    if not _BUCKET.fullmatch(bucket):
        raise RecordError(f"{shown(bucket)} is no name of a bucket", field=f"{path}.bucket")
    shards = []
    for item, where in _list(value, "shards", path):
        shards.append((_text(item, "key", 1024, where), _checksum(item.get("checksum"), f"{where}.checksum")))
    region, endpoint = _place(value, path)
    return StorageS3(bucket, tuple(shards), region, endpoint)


def _blobs(value: Mapping[str, Any], path: str) -> StorageBlobs:
    found = []
    for item, where in _list(value, "blobs", path):
        bare = "blob" not in item
        blob = Blob.of(item if bare else item["blob"], where if bare else f"{where}.blob")
        checksum = None if bare else _checksum(item.get("checksum"), f"{where}.checksum")
        if checksum is not None and checksum.sha256 not in (None, blob.sha256):
            raise RecordError("has another SHA-256 than its blob's link", field=f"{where}.checksum")
        found.append((blob, checksum))
    return StorageBlobs(tuple(found))


def _external(value: Mapping[str, Any], path: str) -> StorageExternal:
    urls = value.get("urls")
    if not isinstance(urls, list) or not urls:
        raise RecordError("is no list of URLs", field=f"{path}.urls")
    return StorageExternal(tuple(_checked(url, 1000, f"{path}.urls[{n}]") for n, url in enumerate(urls)))


def _commit(value: Mapping[str, Any], path: str) -> StorageCommit:
    lexicon.check(StorageCommit.nsid, value)
    folders = []
    for item, where in _list(value, "folders", path):
        url, file = _text(item, "url", 2000, where), item.get("file")
        if not url.endswith("/"):
            raise RecordError("is no folder: it has no slash at its end", field=f"{where}.url")
        if file is not None:
            _checked(file, 1024, f"{where}.file")
            if item["shards"] != 1:
                raise RecordError("names one file for several shards", field=where)
        folders.append(Folder(url, item["shards"], file, *_place(item, where)))
    return StorageCommit(tuple(folders))


_READERS: dict[str, Callable[[Mapping[str, Any], str], Storage]] = {
    StorageHttp.nsid: _http,
    StorageS3.nsid: _s3,
    StorageBlobs.nsid: _blobs,
    StorageExternal.nsid: _external,
    StorageCommit.nsid: _commit,
}
# What tells a storage whose kind is missing, in this order.
_BY_KEY = {
    "bucket": "storageS3",
    "blobs": "storageBlobs",
    "folders": "storageCommit",
    "urls": "storageExternal",
    "shards": "storageHttp",
}


def _list(value: Mapping[str, Any], name: str, path: str) -> Sequence[tuple[Mapping[str, Any], str]]:
    """The objects in a list, each with its path."""
    items = value.get(name)
    if not isinstance(items, list) or not items:
        raise RecordError("is no list with anything in it", field=f"{path}.{name}")
    found = []
    for n, item in enumerate(items):
        where = f"{path}.{name}[{n}]"
        if not isinstance(item, Mapping):
            raise RecordError("is no object", field=where)
        found.append((item, where))
    return found


def _text(value: Mapping[str, Any], name: str, most: int, path: str) -> str:
    if name not in value:
        raise RecordError("is missing", field=f"{path}.{name}")
    return _checked(value[name], most, f"{path}.{name}")


def _checked(text: Any, most: int, path: str) -> str:
    """Text of a bounded length, without control characters."""
    if not isinstance(text, str) or not 0 < byte_length(text, path) <= most:
        raise RecordError(f"is no text of 1 to {most} bytes", field=path)
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise RecordError(f"{shown(text)} has control characters", field=path)
    return text


def _place(value: Mapping[str, Any], path: str) -> tuple[str | None, str | None]:
    """Region and endpoint of a bucket; empty ones are none."""
    region, endpoint = value.get("region") or None, value.get("endpoint") or None
    if region is not None and not (isinstance(region, str) and _REGION.fullmatch(region)):
        raise RecordError(f"{shown(region)} is no region", field=f"{path}.region")
    if endpoint is not None and not (isinstance(endpoint, str) and _ENDPOINT.fullmatch(endpoint)):
        raise RecordError(
            f"{shown(endpoint)} is no endpoint: one is https://host, without path, name or password",
            field=f"{path}.endpoint",
        )
    return region, None if endpoint is None else endpoint.rstrip("/")


def _checksum(value: Any, path: str) -> Checksum | None:
    """A digest; None where there is none or only a placeholder."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise RecordError("is no object", field=path)
    algorithm, digest = value.get("algorithm"), value.get("digest")
    if not isinstance(algorithm, str) or not isinstance(digest, str) or len(algorithm) > 20 or len(digest) > 128:
        raise RecordError("is no digest: that is an algorithm and hexadecimal digits", field=path)
    algorithm = algorithm.lower().replace("-", "") if algorithm.lower() in ("sha-256", "sha256") else algorithm.lower()
    if algorithm in _NO_DIGEST and not digest:
        return None
    if algorithm in _NO_DIGEST or not digest or not _HEX.fullmatch(digest):
        raise RecordError(f"{shown(digest)} is no digest by {shown(algorithm)}", field=path)
    if algorithm == "sha256" and not _SHA256.fullmatch(digest.lower()):
        raise RecordError(f"{shown(digest)} is no SHA-256: that is 64 hexadecimal digits", field=path)
    return Checksum(algorithm, digest.lower())
