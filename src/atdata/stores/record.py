"""The commit record `atdata.json`: what makes a folder or prefix a dataset.

It is written last, so a prefix is a dataset exactly when the record is there. JSON, UTF-8:

```
{"atdata": 1,
 "cid": "bafy…",                         the content's identifier: DAG-CBOR of {schema, shards by digest}
 "schema": {…} or null,                  the sample type (`atdata.samples.schema`)
 "samples": 1797, "size": 1382400,       totals over the shards; size in bytes
 "shards": [{"name": "shard-000000.tar", "size": …, "samples": …, "sha256": "…",
             "manifest": {"size": …, "sha256": "…"},       of the .manifest.parquet; absent without one
             "stats": {"label": {"min": 0, "max": 9, "nulls": 0}}}],
 "digest": "…"}                          SHA-256 of this document without `digest`, keys sorted, no spaces
```

The file is exactly what `json.dumps(…, indent=1, ensure_ascii=False)` gives: any other byte means that it was altered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from atdata.cid import generate_cid
from atdata.errors import AtdataError, CommitRecordError
from atdata.samples.schema import Schema
from atdata.shards.manifest import header_name, manifest_name

__all__ = ["RECORD_NAME", "CommitRecord", "FieldStats", "ManifestInfo", "ShardInfo", "files_of"]

RECORD_NAME = "atdata.json"
FORMAT = 1
_SHARD_NAME = re.compile(r"[^/\\\0]{1,255}\.tar")


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ManifestInfo(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (hex) of a manifest file."""

    size: Count
    sha256: Sha256


class FieldStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one scalar field in one shard: smallest and largest value, and how many are None."""

    min: str | int | float | bool | None = None
    max: str | int | float | bool | None = None
    nulls: Count = 0


class ShardInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard of a dataset: file name, size in bytes, number of samples, SHA-256 in hex."""

    name: str
    size: Count
    samples: Count
    sha256: Sha256
    manifest: ManifestInfo | None = None
    stats: dict[str, FieldStats] = {}


# msgspec learns a class when it is first to read one, and crashes when two threads have it learn the same; modules are
# imported by one thread only.
_SHARDS = tuple[ShardInfo, ...]
msgspec.json.Decoder(_SHARDS)


class CommitRecord(msgspec.Struct, frozen=True):
    """What a dataset consists of."""

    schema: Schema | None
    shards: tuple[ShardInfo, ...]

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def size(self) -> int:
        """Size of all shards in bytes."""
        return sum(shard.size for shard in self.shards)

    @property
    def cid(self) -> str:
        """The content's CID: the same schema and shard contents give the same, wherever they lie."""
        schema = None if self.schema is None else self.schema.cid
        return generate_cid({"schema": schema, "shards": [shard.sha256 for shard in self.shards]})

    def to_bytes(self) -> bytes:
        """The JSON document."""
        document = {
            "atdata": FORMAT,
            "cid": self.cid,
            "schema": None if self.schema is None else self.schema.to_record(),
            "samples": self.samples,
            "size": self.size,
            "shards": msgspec.to_builtins(self.shards),
        }
        document["digest"] = _digest(document)
        return _encode(document)

    @classmethod
    def from_bytes(cls, data: bytes, *, url: str | None = None) -> CommitRecord:
        """The record in a JSON document, checked against its own digest.

        Raises:
            CommitRecordError: it is malformed, altered, or of a newer format.
        """
        try:
            document = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CommitRecordError(f"the commit record is not readable JSON: {error}", url=url) from None
        if document.get("atdata") != FORMAT:
            raise CommitRecordError(
                f"the commit record has format {document.get('atdata')!r}, this version reads {FORMAT}: update atdata",
                url=url,
            )
        # The same value can be written in several ways (1e5, 1E5): bytes that were altered without a change of meaning
        # were altered all the same.
        if _digest(document) != document.get("digest") or _encode(document) != data:
            raise CommitRecordError(
                "the commit record does not match its own digest: it was altered or damaged. Restore the file from a "
                "copy, or write the dataset again",
                url=url,
            )
        try:
            shards = msgspec.convert(document["shards"], _SHARDS)
            schema = None if document["schema"] is None else Schema.from_record(document["schema"])
        except (msgspec.MsgspecError, KeyError, AtdataError) as error:
            raise CommitRecordError(f"the commit record cannot be read: {error}", url=url) from None
        record = cls(schema, shards)
        for shard in shards:
            if not _SHARD_NAME.fullmatch(shard.name):
                raise CommitRecordError(f"the commit record names a shard {shard.name!r}", url=url)
        if len({shard.name for shard in shards}) != len(shards):
            raise CommitRecordError("the commit record names a shard twice", url=url)
        if (record.samples, record.size) != (document.get("samples"), document.get("size")):
            raise CommitRecordError("the commit record's shards do not add up to its totals", url=url)
        if record.cid != document.get("cid"):
            raise CommitRecordError("the commit record's content identifier is not that of its content", url=url)
        return record


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


def files_of(record: bytes, *, written: bool = False) -> list[str]:
    """The names of the files that a commit record speaks for, or that were `written` with it; none if unreadable."""
    try:
        shards = CommitRecord.from_bytes(record).shards
    except CommitRecordError:
        return []
    names = []
    for shard in shards:
        names.append(shard.name)
        if written and shard.manifest is None:
            continue
        names += [n for n in (manifest_name(shard.name), header_name(shard.name)) if n is not None]
    return names


def _digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
