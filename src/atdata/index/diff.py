"""What changed between two versions of a dataset, sample by sample, told by manifests alone.

A sample is its key and the digest of its bytes. Shards of one digest on both sides hold the same samples, and of the
others the manifests say keys and digests; so no shard is read that has a manifest, and a dataset of a million samples
takes a second or two. Where a key comes several times, its samples are compared as a bag: equal ones cancel out, and
what is left is paired in order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.datasets.access import Access
from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import Located, ShardRef, is_source
from atdata.errors import AtdataError, DatasetError, IntegrityError
from atdata.index.matching import match
from atdata.index.versions import Change, Version
from atdata.samples.evolution import Evolution, compare
from atdata.samples.schema import Schema
from atdata.shards.keys import ShardKeys, keys_in, read_keys
from atdata.stores.disk import LocalObject
from atdata.stores.http import public_url
from atdata.stores.opening import Opening

__all__ = ["ChangedSample", "ChangedSamples", "DatasetDiff", "SamplePlace", "SamplePlaces", "diff"]

_WORKERS = 16  # manifests on their way
_RANK: dict[Change | None, int] = {None: 0, "patch": 1, "minor": 2, "major": 3}


class SamplePlace(NamedTuple):
    """One sample of one side: key, URL of the shard, number in the shard, and SHA-256 of its bytes in hex."""

    key: str
    url: str
    row: int
    sha256: str


class ChangedSample(NamedTuple):
    """A sample whose key is there on both sides, with other bytes."""

    key: str
    old: SamplePlace
    new: SamplePlace


class SamplePlaces(Sequence[SamplePlace]):
    """Some samples of one side, in its order; each is made when it is asked for."""

    def __init__(self, keys: pa.Array, digests: pa.Array, shards: NDArray[Any], rows: NDArray[Any], urls: list[str]):
        self._keys = keys
        self._digests = digests
        self._shards = shards
        self._rows = rows
        self._urls = urls

    @property
    def keys(self) -> list[str]:
        """Their keys."""
        found: list[str] = self._keys.to_pylist()
        return found

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> SamplePlace: ...
    @overload
    def __getitem__(self, index: slice) -> list[SamplePlace]: ...
    def __getitem__(self, index: int | slice) -> SamplePlace | list[SamplePlace]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        url = self._urls[int(self._shards[at])]
        return SamplePlace(self._keys[at].as_py(), url, int(self._rows[at]), self._digests[at].as_py().hex())

    def __repr__(self) -> str:
        return _some(f"{len(self):,} samples", self._keys[:3].to_pylist(), len(self))


class ChangedSamples(Sequence[ChangedSample]):
    """Samples with other bytes than before, in the order of the new side; each is made when it is asked for."""

    def __init__(self, old: SamplePlaces, new: SamplePlaces) -> None:
        self._old = old
        self._new = new

    @property
    def keys(self) -> list[str]:
        """Their keys."""
        return self._new.keys

    def __len__(self) -> int:
        return len(self._new)

    @overload
    def __getitem__(self, index: int) -> ChangedSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[ChangedSample]: ...
    def __getitem__(self, index: int | slice) -> ChangedSample | list[ChangedSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        new = self._new[index]
        return ChangedSample(new.key, self._old[index], new)

    def __repr__(self) -> str:
        return repr(self._new)


def _some(what: str, keys: list[str], count: int) -> str:
    return f"<{what}{': ' if keys else ''}{', '.join(map(repr, keys))}{', …' if count > len(keys) else ''}>"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DatasetDiff:
    """How one version of a dataset became another.

    Attributes:
        added: samples that only the new one has.
        removed: samples that only the old one has.
        changed: samples of one key with other bytes.
        unchanged: number of samples that are the same on both sides.
        schema: how the sample type changed; None where a side has no schema.
        change: the part of the version number that has to rise; None when both are the same. "patch": the same
            samples, lying differently; "minor": all samples of the old one are there still, and a newer type reads
            older data; "major": anything else.
        shared_shards: number of shards that both have, byte for byte.
        shards_read: URLs of the shards without a manifest, which had to be read to the end.
    """

    added: SamplePlaces
    removed: SamplePlaces
    changed: ChangedSamples
    unchanged: int
    schema: Evolution | None
    change: Change | None
    shared_shards: int
    shards_read: tuple[str, ...]

    def bump(self, version: str) -> str:
        """The version number that follows `version` for this change; the same when nothing changed.

        Raises:
            EntryFormError: it is no version number.
        """
        number = Version(version)
        return (number if self.change is None else number.after(self.change)).text

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, name)):,} {name}" for name in ("added", "removed", "changed"))
        return f"DatasetDiff({counts}, {self.unchanged:,} unchanged)"

    def __str__(self) -> str:
        lines = [
            f"{sign} {len(samples):,} {name}{' ' if samples else ''}{_shown(samples)}"
            for sign, name, samples in (
                ("+", "added", self.added), ("-", "removed", self.removed), ("~", "changed", self.changed)
            )
        ]  # fmt: skip
        lines.append(f"= {self.unchanged:,} unchanged; {self.shared_shards:,} shards are the same on both sides")
        if self.schema is not None and self.schema.change is not None:
            lines += ["schema:", *(f"  {d}" for d in self.schema.differences)]
        if self.shards_read:
            lines.append(f"{len(self.shards_read):,} shards have no manifest and were read: {self.shards_read[0]}, …")
        lines.append(f"change: {self.change or 'none'}")
        return "\n".join(lines)


def _shown(samples: SamplePlaces | ChangedSamples) -> str:
    keys = [sample.key for sample in samples[:5]]
    return f"({', '.join(map(repr, keys))}{', …' if len(samples) > len(keys) else ''})" if keys else ""


def diff(old: Dataset[Any], new: Dataset[Any]) -> DatasetDiff:
    """What changed from `old` to `new`.

    Memory is some 60 bytes and two keys for each sample of the shards that differ.

    Args:
        old: the stored dataset before, without steps such as `map`.
        new: the one after.

    Raises:
        DatasetError: a dataset is in memory, or has steps.
        ManifestError: a manifest is malformed.
        IntegrityError: a manifest or a shard is not the one that was recorded.
        DatasetNotFoundError: a shard is gone and has no manifest.
    """
    before, after = _stored(old), _stored(new)
    shared = Counter(_digests(before)) & Counter(_digests(after))
    one, other = _Side(old, before, shared), _Side(new, after, shared)
    found = match(one.keys, one.digests(), other.keys, other.digests())
    change: Change | None = "patch" if one.identities != other.identities else None
    if len(found.removed) or len(found.changed_old):
        change = "major"
    elif len(found.added):
        change = "minor"
    schema = None if before.schema is None or after.schema is None else compare(before.schema, after.schema)
    return DatasetDiff(
        added=other.places(found.added),
        removed=one.places(found.removed),
        changed=ChangedSamples(one.places(found.changed_old), other.places(found.changed_new)),
        unchanged=one.shared_samples + found.equal,
        schema=schema,
        change=max(change, _schema_change(before.schema, after.schema, schema), key=_RANK.__getitem__),
        shared_shards=one.shared_shards,
        shards_read=one.read + other.read,
    )


def _stored(ds: Dataset[Any]) -> Located:
    if ds.located is None:
        raise DatasetError("samples in memory have no versions to compare: write them with a store's write_shards")
    if steps := ds.describe()["steps"]:
        raise DatasetError(f"stored datasets are compared, and this one has steps ({', '.join(steps)})")
    return ds.located


def _digests(located: Located) -> list[str]:
    """The digests of the shards for which it is known."""
    return [ref.info.sha256 for ref in located.shards if ref.info is not None]


def _schema_change(old: Schema | None, new: Schema | None, found: Evolution | None) -> Change | None:
    if found is not None:
        return found.change
    return None if old is new is None else "major"  # samples become of a type, or lose it


class _Side:
    """The samples of one side that the other may not have.

    Args:
        ds: the dataset.
        located: where its shards are.
        shared: the digests of shards that both sides have, and how often both do.
    """

    def __init__(self, ds: Dataset[Any], located: Located, shared: Counter[str]) -> None:
        left = shared.copy()
        self.shared_samples = self.shared_shards = 0
        self.identities: list[str] = []  # what tells one shard from another, in order
        refs: list[ShardRef] = []
        for ref in located.shards:
            if ref.info is not None and left[ref.info.sha256] > 0:
                left[ref.info.sha256] -= 1
                self.shared_shards += 1
                self.shared_samples += ref.info.samples
                self.identities.append(ref.info.sha256)
            else:
                refs.append(ref)
                self.identities.append("")
        source = ds.source if is_source(ds.source) else None
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="atdata-diff") as pool:
            found = list(pool.map(lambda ref: _keys_of(ref, ds.opening, source), refs))
        identity = iter(map(_identity, refs, found))
        self.identities = [known or next(identity) for known in self.identities]
        self.read = tuple(public_url(r.url) for r, k in zip(refs, found, strict=True) if k.shard_sha256 is None)
        self._urls = [public_url(ref.url) for ref in refs]
        counts = [len(k.keys) for k in found]
        self._starts = np.cumsum([0, *counts])
        self.keys = pa.chunked_array([chunk for k in found for chunk in k.keys.chunks], pa.string())
        self._digests = pa.chunked_array([chunk for k in found for chunk in k.digests.chunks], pa.binary(32))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digests(self) -> NDArray[np.uint64]:
        """The samples' digests, four numbers each."""
        parts = [
            np.frombuffer(c.buffers()[1], np.uint64, 4 * len(c), 32 * c.offset) for c in self._digests.chunks if len(c)
        ]
        return np.concatenate([np.empty(0, np.uint64), *parts]).reshape(-1, 4)

    def places(self, samples: NDArray[np.int64]) -> SamplePlaces:
        """Where these samples lie."""
        shards = np.searchsorted(self._starts, samples, side="right") - 1
        # `pa.array` of a NumPy array would import pandas where that is installed.
        picked = pa.Array.from_buffers(pa.int64(), len(samples), [None, pa.py_buffer(np.ascontiguousarray(samples))])
        keys, digests = (column.take(picked).combine_chunks() for column in (self.keys, self._digests))
        return SamplePlaces(keys, digests, shards, samples - self._starts[shards], self._urls)


def _identity(ref: ShardRef, found: ShardKeys) -> str:
    known = ref.digest or found.shard_sha256
    if known is not None:
        return known
    whole = hashlib.sha256()
    for key, digest in zip(found.keys.to_pylist(), found.digests.to_pylist(), strict=True):
        whole.update(digest + key.encode() + b"\0")
    return whole.hexdigest()


def _keys_of(ref: ShardRef, opening: Opening, source: Any) -> ShardKeys:
    """Keys and digests of a shard: out of its manifest, or else by reading it."""
    found = None if source is not None else _manifest_keys(ref, opening)
    if found is None:
        access = Access(Located((ref,)), source, opening, "first")
        try:
            found = keys_in(access.shard(0, whole=True).raw())
        except AtdataError as error:
            raise error.at(url=public_url(ref.url)) from None
    if ref.info is not None and len(found.keys) != ref.info.samples:
        raise IntegrityError(
            f"{len(found.keys)} samples are there, and {ref.info.samples} were recorded",
            url=public_url(ref.url),
            expected=ref.info.samples,
            got=len(found.keys),
        )
    return found


def _manifest_keys(ref: ShardRef, opening: Opening) -> ShardKeys | None:
    """What the manifest beside a shard says; None where there is none of ours."""
    far = opening.path(ref.url) is None
    expected = None if ref.info is None else ref.info.manifest
    if far and ref.info is not None and expected is None:
        return None
    url = opening.manifest(ref.url, ref.info)
    beside = opening if far else Opening()  # a stranger's `read_url` knows its own shards only
    data = None if url is None else beside.read(url)
    if url is None or data is None:
        return None
    if expected is not None and hashlib.sha256(data).hexdigest() != expected.sha256:
        data = beside.read(url) or b"" if far else data  # it may have been damaged on the way
        got = hashlib.sha256(data).hexdigest()
        if got != expected.sha256:
            raise IntegrityError(
                "the manifest is not the one that was written (SHA-256 differs); rebuild it with "
                "`atdata manifest build --force`, or delete it",
                url=public_url(url),
                expected=expected.sha256,
                got=got,
            )
    found = read_keys(data, url=public_url(url), shard_size=_size(ref, opening))
    if found is not None and ref.info is not None and found.shard_sha256 != ref.info.sha256:
        raise IntegrityError(
            "the manifest belongs to another shard",
            url=public_url(url),
            expected=ref.info.sha256,
            got=found.shard_sha256,
        )
    return found


def _size(ref: ShardRef, opening: Opening) -> int:
    if ref.info is not None:
        return ref.info.size
    file = opening.open(ref.url)
    if isinstance(file, LocalObject):
        file.close()
    return file.size
