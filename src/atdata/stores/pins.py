"""Pins: the records that keep the blobs of a dataset in an account, and say how its files are called.

A server keeps blobs, and gives them to others, as long as a record names them. A dataset at a prefix has one record
`science.alt.dataset.pin`, part 0, which names its commit record and files; what does not fit into that stands in
further parts. Part 0 is written last: the dataset is there when that is. Keys are made from the prefix and the part
(see `key_of`), so that everything about a prefix is found without a search, and written again replaces itself.

The further parts have one of two series of keys. A dataset that replaces another has the other series, so that the old
one stays whole until its part 0 is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from atdata.cid import Link
from atdata.errors import CommitRecordError, RecordError, StoreError
from atdata.stores.blobs import blob_url
from atdata.stores.record import CommitRecord

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere

__all__ = ["PIN", "ROOM", "SERIES", "WRITER", "File", "Pin", "Pins", "json_size", "key_of", "now"]

PIN = "science.alt.dataset.pin"
SERIES = ("a", "b")
WRITER = "writer"  # the series of the record in which a writer says that it is at work
ROOM = 90_000  # bytes of JSON for the files of one record; some servers take no larger records than 150 KB
_MOST_FILES = 1000
_MOST_PARTS = 10_000
_MOST_RECORD = 256 << 20


def key_of(prefix: str, part: int = 0, series: str = "") -> str:
    """The record key of a part of a prefix; `series` is "" for part 0."""
    from atdata.atmosphere.syntax import tid_of

    return tid_of(f"{PIN}\n{prefix}\n{series}\n{part}")


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class File(NamedTuple):
    """A file under a prefix.

    Attributes:
        name: its name.
        blob: the blob object, as the server gave it.
    """

    name: str
    blob: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes, in hex."""
        return Link.parse(self.blob["ref"]["$link"]).sha256

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(self.blob["size"])

    def to_value(self) -> dict[str, Any]:
        """The file in a record."""
        return {"name": self.name, "blob": dict(self.blob)}


def json_size(file: File) -> int:
    """Bytes that a file takes in a record."""
    return len(json.dumps(file.to_value(), ensure_ascii=False, separators=(",", ":")).encode()) + 1


class Pin(NamedTuple):
    """One pin record.

    Attributes:
        prefix: the place in the store.
        files: some of the files there.
        part: its number; None where a writer says that it is at work.
        parts: how many records the dataset has; in part 0.
        series: which keys the further ones have; in part 0.
        cid: the identifier of the content; in part 0.
        record: the commit record; in part 0.
        created_at: when it was written.
        writer: who is at work.
        record_cid: the identifier of the pin record itself, when it was read.
    """

    prefix: str
    files: tuple[File, ...] = ()
    part: int | None = None
    parts: int = 1
    series: str | None = None
    cid: str | None = None
    record: Mapping[str, Any] | None = None
    created_at: str = ""
    writer: Mapping[str, Any] | None = None
    record_cid: str | None = None

    def to_value(self) -> dict[str, Any]:
        """The record's content."""
        value: dict[str, Any] = {"$type": PIN, "prefix": self.prefix, "blobs": [file.to_value() for file in self.files]}
        if self.part is not None:
            value["part"] = self.part
        if self.record is not None:
            value |= {"parts": self.parts, "series": self.series, "cid": self.cid, "record": dict(self.record)}
        if self.writer is not None:
            value["writer"] = dict(self.writer)
        return value | {"createdAt": self.created_at or now()}

    @classmethod
    def of(cls, value: Any, record_cid: str | None = None, *, url: str | None = None) -> Self:
        """A record that anybody may have written.

        Raises:
            RecordError: it breaks its lexicon, or names files that no dataset has.
        """
        from atdata.atmosphere import lexicon

        try:
            lexicon.check(PIN, value)
            files = tuple(File(each["name"], each["blob"]) for each in value["blobs"])
            for at, file in enumerate(files):
                if "/" in file.name or file.name in ("", ".", "..") or not file.name.isprintable():
                    raise RecordError("is no name of a file", field=f"pin.blobs[{at}].name")
        except RecordError as error:
            raise error.at(url=url) from None
        parts = min(value.get("parts", 1), _MOST_PARTS)
        return cls(
            value["prefix"], files, value.get("part"), parts, value.get("series"), value.get("cid"),
            value.get("record"), value["createdAt"], value.get("writer"), record_cid,
        )  # fmt: skip


class Pins:
    """The pins of one account, for reading.

    Args:
        client: who asks.
        did: the account.
        proof: whether the account's signature is asked for, and not only its server's word.
    """

    def __init__(self, client: Atmosphere, did: str, *, proof: bool = True) -> None:
        self._client = client
        self._did = did
        self._proof = proof

    def url(self, prefix: str) -> str:
        """The place of a prefix."""
        return f"at://{self._did}/{prefix}/"

    def get(self, prefix: str, part: int = 0, series: str = "") -> Pin | None:
        """One record; None where there is none."""
        from atdata.atmosphere.syntax import AtUri

        found = self._client.get_record(AtUri(self._did, PIN, key_of(prefix, part, series)), proof=self._proof)
        if found is None:
            return None
        pin = Pin.of(found.value, found.cid, url=str(found.uri))
        if pin.prefix != prefix or pin.part not in (part, None):
            raise RecordError("the record at this key is of another prefix or part", url=str(found.uri))
        return pin

    def first(self, prefix: str) -> Pin | None:
        """Part 0 of the dataset at a prefix; None where there is no dataset."""
        pin = self.get(prefix)
        return None if pin is None or pin.record is None else pin

    def further(self, prefix: str, series: str) -> Iterator[Pin]:
        """The parts of one series, as far as they are there."""
        for part in range(1, _MOST_PARTS):
            pin = self.get(prefix, part, series)
            if pin is None:
                return
            yield pin

    def all(self) -> Iterator[Pin]:
        """Every pin of the account that is what its lexicon says, in no order; each knows its series."""
        for found in self._client.list_records(self._did, PIN):
            try:
                pin = Pin.of(found.value, found.cid)
            except RecordError:
                continue
            # Another program may have put a record at a key of its own: it is no part of a dataset here.
            for series in ("",) if pin.part == 0 else (WRITER,) if pin.part is None else SERIES:
                if found.uri.rkey == key_of(pin.prefix, pin.part or 0, series):
                    yield pin._replace(series=series or pin.series)

    def record(self, pin: Pin) -> CommitRecord:
        """The commit record of a dataset, checked against its part 0.

        Raises:
            CommitRecordError: it cannot be trusted.
        """
        assert pin.record is not None
        link = pin.record["ref"]["$link"]
        url = f"at://{self._did}/blob/{link}"
        if pin.record["size"] > _MOST_RECORD:
            raise StoreError(f"the commit record has {pin.record['size']} bytes: no dataset has that", url=url)
        data = b"".join(self._client.blob_chunks(self._did, link, limit=pin.record["size"]))
        record = CommitRecord.from_bytes(data, url=url)
        if record.cid != pin.cid:
            raise CommitRecordError("the commit record is of other content than its pin says", url=self.url(pin.prefix))
        return record

    def urls(self, record: CommitRecord) -> list[str]:
        """Where the shards of a record lie."""
        return [blob_url(self._did, shard.sha256) for shard in record.shards]
