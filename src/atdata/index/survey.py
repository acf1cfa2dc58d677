"""What an index has to know of a dataset's shards: where each lies, and its size, sample count and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, cast

import msgspec

from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import ShardRef
from atdata.errors import AtdataError, CatalogError, DatasetError, EntryFormError, IntegrityError
from atdata.index.backend import Part
from atdata.index.details import check_url
from atdata.shards.compression import open_archive
from atdata.shards.grouping import group
from atdata.shards.manifest_file import read_manifest
from atdata.shards.tar import StreamSource, walk
from atdata.stores.disk import LocalDiskStore
from atdata.stores.opening import Opening
from atdata.stores.record import ManifestInfo, ShardInfo

__all__ = ["parts_of", "refs_in", "survey"]

_infos_in = msgspec.json.Decoder(list[ShardInfo]).decode


def survey(ds: Dataset[Any], advance: Callable[[], None] = lambda: None) -> tuple[ShardRef, ...]:
    """The shards of a dataset, each with its URL or absolute path and what is known of it.

    What no commit record tells is found by reading the shard once; `advance` is called after each.

    Raises:
        DatasetError: the samples are in memory, or are changed by steps on the way.
        EntryFormError: a shard has no URL by which others can find it.
        ShardError: a shard that had to be read is damaged.
    """
    if ds.located is None:
        raise DatasetError("the samples are in memory: write them with the index's write_samples")
    steps = ds.describe()["steps"]
    if steps:
        raise DatasetError(
            f"an index keeps shards as they are, and this dataset changes them ({', '.join(steps)}): write what comes "
            "out with the index's write_samples"
        )
    found = []
    for ref in ds.located.shards:
        url = check_url(_address(ref.url, ds.opening))
        info = ref.info if ref.info is not None else _read(ref, ds.opening)
        found.append(ShardRef(url, msgspec.structs.replace(info, name=url.rpartition("/")[2])))
        advance()
    return tuple(found)


def _address(url: str, opening: Opening) -> str:
    """What a shard is called everywhere: a disk store takes paths from its own folder too."""
    return opening.address(url) if isinstance(opening.store, LocalDiskStore) else url


def _read(ref: ShardRef, opening: Opening) -> ShardInfo:
    """Read a shard from front to back.

    Raises:
        IntegrityError: it has another digest than the one that is known.
    """
    url = ref.url
    try:
        with opening.open(url).stream() as stream:
            reading = _Hashing(stream)
            samples = sum(1 for _ in group(walk(StreamSource(open_archive(cast(IO[bytes], reading))))))
            while reading.read(1 << 20):  # to the end of the file, wherever that of the archive is
                pass
        sha256 = reading.sha.hexdigest()
        if ref.sha256 not in (None, sha256):
            raise IntegrityError(
                "the shard's bytes are not those that were written (SHA-256 differs)", expected=ref.sha256, got=sha256
            )
        manifest = _manifest(url, opening, reading.count, sha256)
    except AtdataError as error:
        error.at(url=url)
        raise
    return ShardInfo(url.rpartition("/")[2], reading.count, samples, sha256, manifest)


def _manifest(url: str, opening: Opening, size: int, sha256: str) -> ManifestInfo | None:
    beside = opening.manifest(url, None)
    data = None if beside is None else opening.read(beside)
    if data is None:
        return None
    manifest = read_manifest(data, url=beside, shard_size=size)
    if manifest is None or manifest.shard_sha256 != sha256:
        return None  # of a shard that lay here before
    return ManifestInfo(len(data), hashlib.sha256(data).hexdigest())


class _Hashing:
    """A stream that takes the digest of what passes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha = hashlib.sha256()
        self.count = 0

    def read(self, n: int) -> bytes:
        data = self._stream.read(n)
        self.sha.update(data)
        self.count += len(data)
        return data

    def close(self) -> None:
        """The stream belongs to somebody else."""


def parts_of(refs: Sequence[ShardRef]) -> tuple[Part, ...]:
    """Shards as rows: neighbours in one folder together."""
    folders: list[tuple[str, list[ShardInfo]]] = []
    for ref in refs:
        if ref.info is None:
            raise EntryFormError(f"nothing is known of the shard {ref.url!r:.200}")
        name = ref.url.rpartition("/")[2]
        folder = ref.url[: len(ref.url) - len(name)]
        if not folders or folders[-1][0] != folder:
            folders.append((folder, []))
        folders[-1][1].append(msgspec.structs.replace(ref.info, name=name))
    return tuple(Part(folder, msgspec.json.encode(infos).decode()) for folder, infos in folders)


def refs_in(parts: Sequence[Part]) -> Iterator[ShardRef]:
    """The shards that rows name, in order.

    Raises:
        CatalogError: a row cannot be read.
    """
    for part in parts:
        try:
            infos = _infos_in(part.shards)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise CatalogError(f"a list of shards in the index was altered, and cannot be read: {error}") from None
        for info in infos:
            yield ShardRef(part.folder + info.name, info)
