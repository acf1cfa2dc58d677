"""Opening the shards of a dataset: checked against what is recorded, and kept open for a while."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from atdata.datasets.sources import DataSource, Located, ShardRef
from atdata.errors import IntegrityError, StoreError
from atdata.shards.manifest import Manifest, manifest_name, read_manifest
from atdata.shards.reader import BufferShard, Shard, StreamShard
from atdata.stores.disk import LocalObject, local_path

__all__ = ["Access", "Verify"]

Verify = Literal["first", "always", "never"]

_OPEN = 64  # shards kept open for random access
_AHEAD = 2  # shards whose digests are checked while one is read

# SHA-256 of files this process has hashed, by what tells one state of a file from another.
_hashed: dict[tuple[int, int, int, int, int], str] = {}
_hashing = threading.Lock()


class Access:
    """The shards of one dataset in one process."""

    def __init__(self, located: Located, source: Any, resolve: Any, verify: Verify) -> None:
        self.refs = located.shards
        self._source = source if isinstance(source, DataSource) else None
        self._resolve = resolve
        self._verify = verify
        self._open: OrderedDict[int, tuple[Shard, bool]] = OrderedDict()
        self._lock = threading.Lock()
        self._counts: list[int] | None = None
        self._pid = os.getpid()

    def foreign(self) -> bool:
        """Whether this was made in another process, of which this one is a fork."""
        return self._pid != os.getpid()

    # -- whole shards ----------------------------------------------------------------------------------------

    def shards(self, first: int = 0) -> Iterator[Shard]:
        """The shards in order from number `first`, each checked as a whole before any byte of it is given out."""
        if self._source is not None or self._verify == "never":
            for number in range(first, len(self.refs)):
                yield self.open(number, whole=False)
            return
        # The next shards are hashed (hashlib lets other threads run) while the caller works on this one.
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="atdata-verify") as pool:
            waiting: dict[int, Future[Shard]] = {}
            try:
                for number in range(first, len(self.refs)):
                    for ahead in range(number, min(number + 1 + _AHEAD, len(self.refs))):
                        if ahead not in waiting:
                            waiting[ahead] = pool.submit(self._fresh, ahead, True)
                    yield waiting.pop(number).result()
            finally:
                for future in waiting.values():
                    future.cancel()

    def open(self, number: int, *, whole: bool) -> Shard:
        """Shard `number`, from those kept open when it is among them."""
        return self._kept(number, whole)[0]

    def _kept(self, number: int, whole: bool) -> tuple[Shard, bool]:
        with self._lock:
            found = self._open.get(number)
            if found is not None and (found[1] or not whole):
                self._open.move_to_end(number)
                return found
        shard = self._fresh(number, whole)
        checked = whole or self._verify == "never"
        with self._lock:
            self._open[number] = (shard, checked)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return shard, checked

    def _fresh(self, number: int, whole: bool) -> Shard:
        ref = self.refs[number]
        if self._source is not None:
            return StreamShard(ref.url, lambda: self._source.open_shard(ref.url))  # type: ignore[union-attr]
        path = local_path(ref.url if self._resolve is None else self._resolve(ref.url))
        if path is None:
            raise StoreError("URLs of this kind cannot be read; a local path or file:// URL can", url=ref.url)
        return self._local(ref, path, whole)

    def _local(self, ref: ShardRef, path: Path, whole: bool) -> Shard:
        with LocalObject(path) as file:
            if ref.info is not None and file.size != ref.info.size:
                raise IntegrityError(
                    f"the shard has {file.size} bytes, its record says {ref.info.size}: it was cut, changed or replaced",
                    url=ref.url,
                    expected=ref.info.size,
                    got=file.size,
                )
            manifest = self._manifest(ref, path, file.size)
            expected = ref.info.sha256 if ref.info else manifest.shard_sha256 if manifest else None
            if whole and expected is not None and self._verify != "never":
                got = _sha256(file, again=self._verify == "always")
                if got != expected:
                    raise IntegrityError(
                        "the shard's bytes are not those that were written (SHA-256 differs): it was damaged or replaced",
                        url=ref.url,
                        expected=expected,
                        got=got,
                    )
            if _compressed(file):
                return StreamShard(ref.url, lambda: path.open("rb"))
            return BufferShard(ref.url, file.map(), manifest)

    def _manifest(self, ref: ShardRef, shard: Path, size: int) -> Manifest | None:
        name = manifest_name(str(shard))
        if name is None:
            return None
        try:
            data = Path(name).read_bytes()
        except FileNotFoundError:
            return None  # an accelerator: everything works without it
        except OSError as error:
            raise StoreError(f"the manifest cannot be read: {error.strerror}", url=name) from None
        info = None if ref.info is None else ref.info.manifest
        if info is not None:
            got = hashlib.sha256(data).hexdigest()
            if got != info.sha256:
                raise IntegrityError(
                    "the manifest is not the one that was written (SHA-256 differs); rebuild it with "
                    "`atdata manifest build --force`, or delete it",
                    url=name,
                    expected=info.sha256,
                    got=got,
                )
        manifest = read_manifest(data, url=name, shard_size=size)
        if manifest is not None and ref.info is not None and (
            len(manifest) != ref.info.samples or manifest.shard_sha256 != ref.info.sha256
        ):  # fmt: skip
            raise IntegrityError(
                "the manifest belongs to another shard", url=name, expected=ref.info.sha256, got=manifest.shard_sha256
            )
        return manifest

    # -- single samples --------------------------------------------------------------------------------------

    def counts(self) -> list[int]:
        """Number of samples up to and with each shard."""
        if self._counts is None:
            sizes = (
                ref.info.samples if ref.info is not None else len(self.open(number, whole=False))
                for number, ref in enumerate(self.refs)
            )
            self._counts = list(itertools.accumulate(sizes))
        return self._counts

    @property
    def counted(self) -> bool:
        """Whether `counts` is known already."""
        return self._counts is not None

    def length(self) -> int:
        """Number of samples in all shards."""
        counts = self.counts()
        return counts[-1] if counts else 0

    def find(self, key: str) -> tuple[int, int] | None:
        """Shard number and row of the first sample with that key."""
        for number in range(len(self.refs)):
            row = self.open(number, whole=False).find(key)
            if row is not None:
                return number, row
        return None

    def sample(self, index: int, sample_type: type) -> tuple[str, Any]:
        """Key and sample of that number, checked by its own digest where its shard was not checked as a whole."""
        counts = self._counts or self.counts()
        number = bisect.bisect_right(counts, index)
        row = index - (counts[number - 1] if number else 0)
        return self.row(number, row, sample_type)

    def row(self, number: int, row: int, sample_type: type) -> tuple[str, Any]:
        """Key and sample `row` of shard `number`."""
        shard, checked = self._kept(number, False)
        if isinstance(shard, BufferShard) and shard.manifest is not None:
            if not checked:
                self._check_row(shard, row)
            return shard.key(row), shard.sample(sample_type, row)
        if not checked and self._source is None:
            # Without a manifest the shard as a whole is all there is to check.
            shard, _ = self._kept(number, True)
        for found in shard.keyed(sample_type, row, row + 1):
            return found
        raise IntegrityError("the shard has fewer samples than before", url=shard.url)

    def _check_row(self, shard: BufferShard, row: int) -> None:
        manifest = shard.manifest
        assert manifest is not None
        got = hashlib.sha256(shard.payload(row)).digest()
        expected = manifest.digest(row)
        if got != expected:
            raise IntegrityError(
                "the sample's bytes are not those that were written (SHA-256 differs)",
                url=shard.url,
                offset=int(manifest.offsets[row]),
                key=shard.key(row),
                expected=expected.hex(),
                got=got.hex(),
            )


def _compressed(file: LocalObject) -> bool:
    head = file.read(0, min(6, file.size))
    return head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"))


def _sha256(file: LocalObject, *, again: bool) -> str:
    stat = file.stat
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    with _hashing:
        known = _hashed.get(state)
    if known is not None and not again:
        return known
    with file.stream() as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    with _hashing:
        if len(_hashed) > 1_000_000:
            _hashed.clear()
        _hashed[state] = found
    return found
