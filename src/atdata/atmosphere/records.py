"""The records of datasets, typed: entries, labels, schemas, lenses; from values of the network and back.

What is written passes its own lexicon. What is read may come from anyone, in every form that is found in the wild:
metadata as bytes or as an object, blobs bare or wrapped, digests that are placeholders, fields that are missing. It is
brought into one form here, or refused with the path of what is wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec

from atdata.atmosphere import lexicon
from atdata.atmosphere.datamodel import bytes_in, bytes_value
from atdata.atmosphere.storage import Blob, Storage, storage_of
from atdata.atmosphere.syntax import AtUri, shown
from atdata.errors import AddressError, RecordError

__all__ = [
    "ENTRY",
    "LABEL",
    "LENS",
    "PIN",
    "SCHEMA",
    "Commit",
    "Entry",
    "Label",
    "LensRecord",
    "ManifestBlobs",
    "entry_key",
    "label_key",
    "lens_of",
    "schema_of",
]

_NAMESPACE = "science.alt.dataset."
ENTRY = _NAMESPACE + "entry"
LABEL = _NAMESPACE + "label"
LENS = _NAMESPACE + "lens"
PIN = _NAMESPACE + "pin"
SCHEMA = _NAMESPACE + "schema"

_TID_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
_MAX_METADATA = 100_000  # bytes of msgpack
_MAX_DEPTH = 32
# Metadata as an object, in the public implementation: its keys, and what they are called otherwise.
_KEYS = {
    "sourceUri": "source_uri",
    "createdBy": "created_by",
    "version": "version",
    "processingSteps": "processing_steps",
    "split": "split",
}


def entry_key(name: str, version: str) -> str:
    """The record key of one version of a dataset: always the same, so that publishing again makes no second record.

    It has the form of a TID, as the lexicon asks for. The first half is a digest of the name, the second one of the
    version, so that the versions of a dataset are neighbours in a listing.

    Example:
        >>> entry_key("digits", "1.0.0"), entry_key("digits", "1.1.0")
        ('aghhpuvvxnstq', 'aghhpuvrgoo45')
    """
    first, second = (hashlib.sha256(text.encode()).digest()[:4] for text in (name, f"{name}@{version}"))
    number = int.from_bytes(first, "big") << 31 | int.from_bytes(second, "big") >> 1
    return "".join(_TID_DIGITS[number >> shift & 31] for shift in range(60, -1, -5))


def label_key(name: str, which: str | None = None) -> str:
    """The record key of a label: for a version, for another word, or with None for what the name alone means."""
    return entry_key(name, which or "")


class ManifestBlobs(NamedTuple):
    """The manifest of one shard as blobs: its summary, and the table of samples."""

    header: Blob
    samples: Blob | None

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        blobs = {"header": self.header, "samples": self.samples}
        return {name: blob.to_value() for name, blob in blobs.items() if blob is not None}


@dataclasses.dataclass(frozen=True)
class Commit:
    """What exactly an entry of atdata consists of.

    Attributes:
        version: `major.minor.patch`.
        cid: the identifier of the content.
        sha256: of the commit record, the document `atdata.json`.
        parent: the version this one was made from; None for the first.
        schema: the schema's name and version, as `Name@1.0.0`.
        record: the commit record, when it is short.
        blobs: the commit record in pieces, when it is not.
    """

    version: str
    cid: str
    sha256: str
    parent: str | None = None
    schema: str | None = None
    record: bytes | None = None
    blobs: tuple[Blob, ...] = ()

    def to_value(self) -> dict[str, Any]:
        """As a record has it."""
        names = ("version", "parent", "schema", "cid", "sha256")
        value = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.record is not None:
            value["record"] = bytes_value(self.record)
        if self.blobs:
            value["recordBlobs"] = [blob.to_value() for blob in self.blobs]
        return value

    @classmethod
    def of(cls, value: Any, path: str) -> Commit:
        """The commit in a record that was checked.

        Raises:
            RecordError: it has its commit record twice, or not at all.
        """
        if ("record" in value) == ("recordBlobs" in value):
            raise RecordError("has its commit record either here or in blobs", field=path)
        blobs = tuple(Blob.of(b, f"{path}.recordBlobs[{n}]") for n, b in enumerate(value.get("recordBlobs", ())))
        record = bytes_in(value["record"], path) if "record" in value else None
        texts = {name: value.get(name) for name in ("version", "cid", "sha256", "parent", "schema")}
        return cls(record=record, blobs=blobs, **texts)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One version of a dataset.

    Attributes:
        name: the dataset's name.
        schema_ref: the schema's address; in foreign records any text.
        storage: where the shards lie.
        created_at: an RFC 3339 time.
        description: free text.
        tags: words to find it by.
        license: the licence's SPDX identifier or name.
        metadata: JSON values by name.
        samples: number of samples; None where the record does not say.
        size: bytes of all shards; None where the record does not say.
        shards: number of shards; None where the record does not say.
        commit: what exactly it consists of; None in records of others.
        manifests: the manifest of each shard, where these are blobs.
    """

    nsid: ClassVar[str] = ENTRY
    name: str
    schema_ref: str
    storage: Storage
    created_at: str
    description: str | None = None
    tags: tuple[str, ...] = ()
    license: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples: int | None = None
    size: int | None = None
    shards: int | None = None
    commit: Commit | None = None
    manifests: tuple[ManifestBlobs, ...] = ()

    def to_value(self) -> dict[str, Any]:
        """The record, checked against its lexicon.

        Raises:
            RecordError: something is longer than the network allows; the message says what.
        """
        value: dict[str, Any] = {"$type": ENTRY, "name": self.name, "schemaRef": self.schema_ref}
        value["storage"] = self.storage.to_value()
        value |= {k: v for k, v in (("description", self.description), ("license", self.license)) if v is not None}
        if self.metadata:
            value["metadata"] = bytes_value(msgspec.msgpack.encode(dict(self.metadata)))
        value["tags"] = list(self.tags)
        size = {"samples": self.samples, "bytes": self.size, "shards": self.shards}
        if size := {name: number for name, number in size.items() if number is not None}:
            value["size"] = size
        if self.commit is not None:
            value["commit"] = self.commit.to_value()
        if self.manifests:
            value["manifests"] = [manifest.to_value() for manifest in self.manifests]
        value["createdAt"] = self.created_at
        lexicon.check(ENTRY, value)
        return value

    @classmethod
    def of(cls, value: Any) -> Entry:
        """The entry in a record of anyone.

        Raises:
            RecordError: it is none, or something in it is malformed.
        """
        value = _typed(value, ENTRY, ("storage", "metadata", "schemaRef", "manifests"))
        ref = value.get("schemaRef")
        if not isinstance(ref, str) or not 0 < len(ref.encode()) <= 500 or not ref.isprintable():
            raise RecordError("is no address of a schema", field="entry.schemaRef")
        if not value["name"] or not value["name"].isprintable():
            raise RecordError(f"{shown(value['name'])} is no name that can be shown", field="entry.name")
        size = value.get("size", {})
        commit = value.get("commit")
        return cls(
            name=value["name"],
            schema_ref=ref,
            storage=storage_of(value.get("storage"), "entry.storage"),
            created_at=value["createdAt"],
            description=value.get("description"),
            tags=tuple(value.get("tags") or ()),
            license=value.get("license"),
            metadata=_metadata(value.get("metadata"), "entry.metadata"),
            samples=size.get("samples"),
            size=size.get("bytes"),
            shards=size.get("shards"),
            commit=None if commit is None else Commit.of(commit, "entry.commit"),
            manifests=_manifests(value.get("manifests"), "entry.manifests"),
        )


@dataclasses.dataclass(frozen=True)
class Label:
    """A name for one version of a dataset.

    Attributes:
        name: the dataset's name.
        dataset: the entry that is meant.
        created_at: an RFC 3339 time.
        version: its version, or another word; None for what the name alone means.
        description: free text.
    """

    nsid: ClassVar[str] = LABEL
    name: str
    dataset: AtUri
    created_at: str
    version: str | None = None
    description: str | None = None

    def to_value(self) -> dict[str, Any]:
        """The record, checked against its lexicon.

        Raises:
            RecordError: something is longer than the network allows.
        """
        value = {"$type": LABEL, "name": self.name, "datasetUri": str(self.dataset), "createdAt": self.created_at}
        more = {"version": self.version, "description": self.description}
        value |= {name: text for name, text in more.items() if text is not None}
        lexicon.check(LABEL, value)
        return value

    @classmethod
    def of(cls, value: Any) -> Label:
        """The label in a record of anyone.

        Raises:
            RecordError: it is none, or something in it is malformed.
        """
        value = _typed(value, LABEL, ())
        try:
            dataset = AtUri.parse(value["datasetUri"])
        except AddressError:
            raise RecordError(
                f"{shown(value['datasetUri'])} is no address of an entry", field="label.datasetUri"
            ) from None
        return cls(value["name"], dataset, value["createdAt"], value.get("version"), value.get("description"))


@dataclasses.dataclass(frozen=True)
class LensRecord:
    """A stored lens, as far as it is the same for all kinds of lenses.

    Attributes:
        name: the lens's name.
        source: the address of the schema that it reads.
        view: the address of the schema that it gives.
        created_at: an RFC 3339 time.
        value: the whole record; `atdata.Lens.from_record` makes a lens of it, or a reference to its code.
        description: what it does.
        language: of its code.
    """

    name: str
    source: str
    view: str
    created_at: str
    value: Mapping[str, Any]
    description: str | None = None
    language: str | None = None


def lens_of(value: Any) -> LensRecord:
    """The lens in a record of anyone. Nothing in it is imported or run.

    Raises:
        RecordError: it is none, or something in it is malformed.
    """
    value = _typed(value, LENS, ())
    language = value["getterCode"].get("language") or value.get("language")
    return LensRecord(
        value["name"],
        value["sourceSchema"],
        value["targetSchema"],
        value["createdAt"],
        value,
        value.get("description"),
        language,
    )


def schema_of(value: Any) -> Mapping[str, Any]:
    """The record of a schema in the form that `atdata.Schema.from_record` reads, from one of anyone.

    Raises:
        RecordError: it is none, or something in it is malformed.
    """
    value = _typed(value, SCHEMA, ("schema", "schemaType"))
    kind = value.get("schemaType", "jsonSchema")
    if not isinstance(kind, str) or kind.rpartition("#")[2] != "jsonSchema":
        raise RecordError(f"is {shown(kind)}, and this atdata reads jsonSchema", field="schema.schemaType")
    inner = value.get("schema")
    if not isinstance(inner, Mapping):
        raise RecordError("is no object", field="schema.schema")
    if isinstance(inner.get("content"), Mapping):  # an envelope around the JSON Schema, in a later form
        inner = {**inner["content"], "$type": inner.get("$type", "")}
    return {**value, "schema": inner}


# -- forms in the wild -------------------------------------------------------------------------------------------


def _typed(value: Any, nsid: str, besides: tuple[str, ...]) -> Mapping[str, Any]:
    """A record whose kind may be missing, checked but for some fields."""
    if isinstance(value, Mapping) and value.get("$type") is None:
        value = {**value, "$type": nsid}
    if isinstance(value, Mapping) and isinstance(value.get("metadata"), bytes):
        value = {**value, "metadata": bytes_value(value["metadata"])}
    absent = {name for name in ("commit", "description", "license", "tags", "size", "version") if _is_null(value, name)}
    if absent:
        value = {name: item for name, item in value.items() if name not in absent}
    lexicon.check(nsid, value, besides=besides)
    found: Mapping[str, Any] = value
    return found


def _is_null(value: Any, name: str) -> bool:
    return isinstance(value, Mapping) and name in value and value[name] is None


def _metadata(value: Any, path: str) -> dict[str, Any]:
    """Metadata in any of its forms: msgpack as bytes, or an object whose known fields are spelled in two ways."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and "$bytes" not in value:
        found = {new: value[old] for old, new in _KEYS.items() if value.get(old) is not None}
        custom = value.get("custom")
        for extra in (custom if isinstance(custom, Mapping) else {}, value):
            for key, item in extra.items():
                if key not in _KEYS and not (extra is value and key == "custom"):
                    found.setdefault(key, item)
        return found
    data = bytes_in(value, path)
    if len(data) > _MAX_METADATA:
        raise RecordError(f"has {len(data)} bytes, and at most {_MAX_METADATA} are allowed", field=path)
    try:
        decoded = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise RecordError(f"is no msgpack: {error}", field=path) from None
    if not isinstance(decoded, dict):
        raise RecordError("is msgpack, but no map", field=path)
    plain: dict[str, Any] = _plain(decoded, path, 0)
    return plain


def _plain(value: Any, path: str, depth: int) -> Any:
    """A value of msgpack as JSON has it: keys are text, bytes are base64."""
    if depth > _MAX_DEPTH:
        raise RecordError(f"is nested more than {_MAX_DEPTH} deep", field=path)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(v, path, depth + 1) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(item, path, depth + 1) for item in value]
    if isinstance(value, bytes):
        return bytes_value(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise RecordError(f"has a value of the type {type(value).__name__}", field=path)


def _manifests(value: Any, path: str) -> tuple[ManifestBlobs, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RecordError("is no list", field=path)
    found = []
    for n, item in enumerate(value):
        where = f"{path}[{n}]"
        if not isinstance(item, Mapping):
            raise RecordError("is no object", field=where)
        samples = item.get("samples")
        found.append(
            ManifestBlobs(
                Blob.of(item.get("header"), f"{where}.header"),
                None if samples is None else Blob.of(samples, f"{where}.samples"),
            )
        )
    return tuple(found)
