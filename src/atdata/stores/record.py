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
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from atdata.cid import generate_cid
from atdata.errors import AtdataError, CommitRecordError
from atdata.samples.schema import Schema

__all__ = ["RECORD_NAME", "CommitRecord", "FieldStats", "ManifestInfo", "ShardInfo"]

RECORD_NAME = "atdata.json"
FORMAT = 1
_SHARD_NAME = re.compile(r"[^/\\\0]{1,255}\.tar")


class ManifestInfo(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (hex) of a manifest file."""

    size: int
    sha256: str


class FieldStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one scalar field in one shard: smallest and largest value, and how many are None."""

    min: str | int | float | bool | None = None
    max: str | int | float | bool | None = None
    nulls: int = 0


class ShardInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard of a dataset: file name, size in bytes, number of samples, SHA-256 in hex."""

    name: str
    size: int
    samples: int
    sha256: str
    manifest: ManifestInfo | None = None
    stats: dict[str, FieldStats] = {}


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
        return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False).encode()

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
        if _digest(document) != document.get("digest"):
            raise CommitRecordError(
                "the commit record does not match its own digest: it was altered or damaged. Restore the file from a "
                "copy, or write the dataset again",
                url=url,
            )
        try:
            shards = msgspec.convert(document["shards"], tuple[ShardInfo, ...])
            schema = None if document["schema"] is None else Schema.from_record(document["schema"])
        except (msgspec.MsgspecError, KeyError, AtdataError) as error:
            raise CommitRecordError(f"the commit record cannot be read: {error}", url=url) from None
        record = cls(schema, shards)
        for shard in shards:
            if not _SHARD_NAME.fullmatch(shard.name):
                raise CommitRecordError(f"the commit record names a shard {shard.name!r}", url=url)
        if record.cid != document.get("cid"):
            raise CommitRecordError("the commit record's content identifier is not that of its content", url=url)
        return record


def _digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
