"""The check of one shard for `atdata verify`: all that is wrong with it, in one pass over its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from atdata import errors
from atdata.datasets.sources import ShardRef
from atdata.errors import (
    AccessDeniedError,
    AtdataError,
    DatasetNotFoundError,
    IntegrityError,
    ManifestError,
    SampleDecodeError,
    StoreError,
)
from atdata.shards.compression import compression, open_archive
from atdata.shards.grouping import RawSample, group
from atdata.shards.manifest import Manifest, header_name
from atdata.shards.manifest_file import read_manifest
from atdata.shards.members import decoder
from atdata.shards.tar import StreamSource, walk
from atdata.stores.base import StoredObject
from atdata.stores.hashing import Hashing
from atdata.stores.http import public_url
from atdata.stores.manifests import manifest_of
from atdata.stores.opening import Opening
from atdata.stores.ranges import windows

__all__ = ["Problem", "ShardCheck", "ShardFindings", "wrong_size"]

_WINDOW = 8 << 20  # bytes of samples read at once where the archive's headers do not lead to them


class Problem(msgspec.Struct):
    """One thing that is wrong, and where."""

    type: str
    message: str
    url: str | None = None
    offset: int | None = None
    key: str | None = None
    field: str | None = None

    @classmethod
    def of(cls, error: Exception, url: str, raw: RawSample | None = None) -> Problem:
        """An error as a problem of the file at `url`, or of one of its samples."""
        if not isinstance(error, AtdataError):
            message = f"{type(error).__name__}: {error}"
            return cls(type(error).__name__, message, url, raw.offset if raw else None, raw.key if raw else None)
        error.at(url=url, offset=raw.offset if raw else None, key=raw.key if raw else None)
        return cls(type(error).__name__, error.message, error.url, error.offset, error.key, error.field)

    def error(self) -> AtdataError:
        """The problem as an error to raise: of its own class, or what stands for those that are not atdata's."""
        kind = getattr(errors, self.type, SampleDecodeError)
        made: AtdataError = kind(self.message, url=self.url, offset=self.offset, key=self.key, field=self.field)
        return made


class ShardFindings(msgspec.Struct):
    """What came out for one shard: `samples` is how many were read without a problem, None where none were.

    `beside` has the URLs of its manifest and that one's header.
    """

    url: str
    bytes: int = 0
    beside: list[str] = []
    samples: int | None = None
    problems: list[Problem] = []
    notes: list[str] = []


def wrong_size(ref: ShardRef, size: int) -> IntegrityError | None:
    """What is to be said of a shard that has so many bytes; None where that is right."""
    if ref.info is None or ref.info.size == size:
        return None
    return IntegrityError(f"the shard has {size} bytes, its record {ref.info.size}: it was cut, changed or replaced")


class ShardCheck:
    """The check of one shard: goes on after a problem, as far as there is anything to go by.

    Args:
        ref: the shard.
        opening: how it is opened.
        sample_type: the class of its samples.
        fast: check digests only.
        going_on: called after every sample and every few megabytes, with the number of samples since.

    Attributes:
        lost: why its server cannot be read; None when it can.
    """

    def __init__(
        self, ref: ShardRef, opening: Opening, sample_type: type, fast: bool, going_on: Callable[[int], None]
    ) -> None:
        self._ref = ref
        self._url = public_url(ref.url)
        self._name = self._url.rpartition("/")[2]
        self._info = ref.info
        self._opening = opening
        self._type = sample_type
        self._decode = decoder(sample_type)
        self._fast = fast
        self._going_on = going_on
        self._found = ShardFindings(self._url)
        self._pinned = False  # whether the record has vouched for the manifest
        self.lost: StoreError | None = None

    def run(self) -> ShardFindings:
        """Check the shard."""
        try:
            self._shard()
        except (AtdataError, OSError) as error:
            if isinstance(error, StoreError) and not isinstance(error, DatasetNotFoundError | AccessDeniedError):
                self.lost = error
            self._wrong(error)
        return self._found

    def _wrong(self, error: Exception, raw: RawSample | None = None, url: str | None = None) -> None:
        self._found.problems.append(Problem.of(error, url or self._url, raw))

    def _shard(self) -> None:
        file = self._opening.open(self._ref.url)
        self._found.bytes = file.size
        wrong = wrong_size(self._ref, file.size)
        if wrong is not None:
            self._wrong(wrong)
        here = len(self._found.problems)
        manifest = self._manifest()
        with Hashing(file, lambda _: self._going_on(0)) as hashing:
            if not self._fast:
                self._found.samples = 0
                self._samples(file, hashing, manifest)
            sha256 = hashing.finish()
        if self._ref.digest not in (None, sha256):
            wrong = IntegrityError("the shard's bytes are not those that were written (SHA-256 differs)")
            self._found.problems.insert(here, Problem.of(wrong, self._url))
        if self._info is None and manifest is not None and manifest.shard_sha256 != sha256:
            wrong = IntegrityError(
                "the shard's bytes are not those that its manifest was made of (SHA-256 differs): the shard was "
                "damaged, or the manifest belongs to another"
            )
            self._found.problems.insert(here, Problem.of(wrong, self._url))
        if manifest is None and self._ref.digest is None:
            self._found.notes.append(f"{self._name}: no digest is recorded for it; only its structure can be checked")
        if manifest is not None and not self._pinned and not self._fast and not self._found.problems:
            self._columns(file, manifest)

    # -- the manifest --------------------------------------------------------------------------------------------

    def _manifest(self) -> Manifest | None:
        """The shard's manifest, when there is one that can be its own."""
        info = None if self._info is None else self._info.manifest
        url = self._opening.manifest(self._ref.url, self._info)
        if url is None:
            return None
        self._found.beside.append(url)
        data = self._opening.read(url, None if info is None else info.size)
        if data is None:
            if info is not None:
                self._wrong(ManifestError("the manifest is not there; `atdata manifest build` makes it again"), url=url)
            return None
        if info is not None and hashlib.sha256(data).hexdigest() != info.sha256:
            self._wrong(
                IntegrityError(
                    "the manifest is not the one that was written (SHA-256 differs); "
                    "`atdata manifest build --force` makes it again"
                ),
                url=url,
            )
            return None
        try:
            manifest = read_manifest(data, url=url)
            if manifest is None:
                self._found.notes.append(f"{url.rpartition('/')[2]}: another tool's manifest, not used and not checked")
                return None
        except ManifestError as error:
            self._wrong(error, url=url)
            return None
        if self._info is not None and (manifest.shard_sha256, len(manifest)) != (self._info.sha256, self._info.samples):
            self._wrong(IntegrityError("the manifest belongs to another shard"), url=url)
            return None
        self._pinned = info is not None
        self._header(manifest)
        return manifest

    def _header(self, manifest: Manifest) -> None:
        url = self._opening.beside(self._ref.url, header_name(self._name) or "")
        if url is None:
            return  # a blob has nothing beside it
        self._found.beside.append(url)
        try:
            data = self._opening.read(url)
            if data is None:
                return  # nothing reads it but other tools
            header = json.loads(data)
            found = [header[name] for name in ("num_samples", "shard_size", "shard_sha256")]
        except (AtdataError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._wrong(ManifestError(f"the manifest's JSON header cannot be read: {error}"), url=url)
            return
        if found != [len(manifest), manifest.shard_size, manifest.shard_sha256]:
            self._wrong(ManifestError("the manifest's JSON header says something else than the manifest"), url=url)

    def _columns(self, file: StoredObject, manifest: Manifest) -> None:
        """What no record vouches for: the values that the manifest gives for the samples' fields."""
        if not manifest.scalar_fields and not manifest.array_fields:
            return
        with Hashing(file, lambda _: self._going_on(0)) as hashing:
            made = manifest_of(hashing, self._type)
        for name in manifest.table.column_names:
            if name in made.table.column_names and not manifest.table[name].equals(made.table[name]):
                self._wrong(
                    ManifestError(f"the manifest's column {name!r} differs from the samples"),
                    url=self._opening.manifest(self._ref.url, self._info),
                )

    # -- samples -------------------------------------------------------------------------------------------------

    def _samples(self, file: StoredObject, hashing: Hashing, manifest: Manifest | None) -> None:
        """Every sample that the archive's own headers lead to, and every one where the manifest says that it is."""
        reader = hashing.reader()
        if compression(reader.peek(10)[:10]) is not None or (manifest and manifest.shard_size != file.size):
            manifest = None
        missed = set() if manifest is None else set(range(len(manifest)))
        row = 0
        try:
            for raw in group(walk(StreamSource(open_archive(reader)))):
                if manifest is None or self._in_place(raw, row, manifest):
                    missed.discard(row)
                    self._sample(raw, row, manifest)
                row += 1
        except AtdataError as error:
            if error is hashing.failure:  # it is not what was read that is wrong
                raise
            self._wrong(error)
        else:
            expected = len(manifest) if manifest is not None else self._info.samples if self._info is not None else None
            if expected is not None and row != expected:
                self._wrong(IntegrityError(f"the shard has {row} samples, its record says {expected}"))
            if row == 0:
                self._found.notes.append(f"{self._name}: there are no samples in it")
        if manifest is not None and missed:
            self._missed(file, manifest, np.array(list(missed)))

    def _in_place(self, raw: RawSample, row: int, manifest: Manifest) -> bool:
        """Whether the archive has the sample that the manifest says it has in this place."""
        if row >= len(manifest):
            return False  # the count is compared at the end
        payload = raw.parts.get("msgpack")
        length = -1 if payload is None else len(payload)
        there = (manifest.keys[row], int(manifest.offsets[row]), int(manifest.sizes[row]))
        if (raw.key, raw.offset, length) == there:
            return True
        key, offset, bytes_ = there
        self._wrong(
            IntegrityError(f"the manifest has sample {key!r} of {bytes_} bytes at byte {offset} in this place"), raw
        )
        return False

    def _missed(self, file: StoredObject, manifest: Manifest, rows: NDArray[np.int64]) -> None:
        """Samples that only the manifest leads to, because the archive's headers are damaged."""
        rows = rows[np.argsort(manifest.offsets[rows])]
        starts, sizes = manifest.offsets[rows].tolist(), manifest.sizes[rows].tolist()
        stops = [start + size for start, size in zip(starts, sizes, strict=True)]
        for first, last in windows(starts, stops, _WINDOW):
            base = starts[first]
            data = file.fetch(base, max(stops[first:last]))
            for at in range(first, last):
                row = int(rows[at])
                payload = data[starts[at] - base : stops[at] - base]
                self._sample(RawSample(manifest.keys[row], starts[at], {"msgpack": payload}), row, manifest)

    def _sample(self, raw: RawSample, row: int, manifest: Manifest | None) -> None:
        if manifest is not None and hashlib.sha256(raw.parts["msgpack"]).digest() != manifest.digest(row):
            self._wrong(IntegrityError("the sample's bytes are not those that were written (SHA-256 differs)"), raw)
        else:
            if manifest is not None:
                self._fields(raw, row, manifest)
            try:
                self._decode(raw)
            except Exception as error:  # whatever a damaged sample leads to: the others are still to be read
                self._wrong(error, raw)
            else:
                assert self._found.samples is not None
                self._found.samples += 1
        self._going_on(1)

    def _fields(self, raw: RawSample, row: int, manifest: Manifest) -> None:
        """What the manifest says of the bytes of single fields, by which they are read without their sample."""
        for name in (*manifest.array_fields, *manifest.packed_fields):
            own = manifest.ranges(name)
            if own is None or not own.checked[row] or own.sizes[row] <= 0:
                continue
            begin = int(own.offsets[row]) - raw.offset
            if hashlib.sha256(raw.parts["msgpack"][begin : begin + int(own.sizes[row])]).digest() != own.digest(row):
                text = "the manifest's digest of this field is not that of its bytes, which are as they were written"
                self._wrong(ManifestError(text, field=name), raw)
