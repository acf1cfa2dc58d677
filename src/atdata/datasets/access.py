"""Opening the shards of a dataset: checked against what is recorded, and kept open for a while."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

from atdata.datasets.sources import DataSource, Located, ShardRef, is_source
from atdata.errors import AtdataError, DatasetNotFoundError, IntegrityError, StoreError
from atdata.shards.manifest import Manifest, manifest_name, read_manifest
from atdata.shards.reader import BufferShard, Shard, StreamShard
from atdata.shards.tar import BufferSource, walk
from atdata.stores.disk import LocalObject, local_path

__all__ = ["Access", "Verify"]

Verify = Literal["first", "always", "never"]

_OPEN = 64  # shards kept open for random access
_AHEAD = 2  # shards whose digests are checked while one is read

# SHA-256 of files this process has hashed, by what tells one state of a file from another.
_State = tuple[int, int, int, int, int]
_hashed: dict[_State, str] = {}
_hashing = threading.Lock()


class Access:
    """The shards of one dataset in one process."""

    def __init__(self, located: Located, source: Any, resolve: Any, verify: Verify) -> None:
        self.refs = located.shards
        self._source: DataSource | None = source if is_source(source) else None
        self._resolve = resolve
        self._verify = verify
        self._open: OrderedDict[int, tuple[Shard, bool]] = OrderedDict()
        self._lock = threading.Lock()
        self._counts: list[int] | None = None
        self._seen: dict[int, int] = {}
        self._states: dict[str, _State] = {}  # of the files when they were opened last
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
        pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="atdata-verify")
        waiting: dict[int, Future[Shard]] = {}
        try:
            for number in range(first, len(self.refs)):
                for ahead in range(number, min(number + 1 + _AHEAD, len(self.refs))):
                    if ahead not in waiting:
                        waiting[ahead] = pool.submit(self._fresh, ahead, True)
                yield waiting.pop(number).result()
        finally:
            # Not waiting for its threads: one of them may be who runs this, as the garbage collector.
            pool.shutdown(wait=False, cancel_futures=True)

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
            return StreamShard(ref.url, lambda: self._open_source(ref.url))
        path = local_path(ref.url if self._resolve is None else self._resolve(ref.url))
        if path is None:
            raise StoreError("URLs of this kind cannot be read; a local path or file:// URL can", url=ref.url)
        return self._local(ref, path, whole)

    def _open_source(self, name: str) -> IO[bytes]:
        assert self._source is not None
        try:
            return self._source.open_shard(name)
        except KeyError:
            raise DatasetNotFoundError("the source lists this shard, but does not have it", url=name) from None

    def _local(self, ref: ShardRef, path: Path, whole: bool) -> Shard:
        with LocalObject(path) as file:
            if ref.info is not None and file.size != ref.info.size:
                raise IntegrityError(
                    f"the shard has {file.size} bytes, its record {ref.info.size}: it was cut, changed or replaced",
                    url=ref.url,
                    expected=ref.info.size,
                    got=file.size,
                )
            manifest = self._manifest(ref, path, file.size)
            expected = ref.info.sha256 if ref.info else manifest.shard_sha256 if manifest else None
            if whole and expected is not None and self._verify != "never":
                got = _sha256(file, again=self._verify == "always")
                if got != expected:
                    error = _damage(file.map(), manifest, expected, got)
                    error.at(url=ref.url)
                    raise error
            self._states[ref.url] = _state(file.stat)
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

    def learn(self, number: int, count: int) -> None:
        """Take note that shard `number` gave `count` samples, so that nobody has to count them."""
        self._seen[number] = count
        if self._counts is None and len(self._seen) == len(self.refs):
            self._counts = list(itertools.accumulate(self._seen[n] for n in range(len(self.refs))))

    @property
    def streamed(self) -> bool:
        """Whether the shards come from a source, so that counting samples means to read them all."""
        return self._source is not None

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
        number, row = self._place(index)
        return self.row(number, row, sample_type)

    def rows(self, indices: Sequence[int], sample_type: type) -> Iterator[tuple[str, Any]]:
        """Keys and samples of these numbers; of a shard that can only be read through, in one pass."""
        places = [self._place(index) for index in indices]
        for number, run in itertools.groupby(places, lambda place: place[0]):
            rows = [row for _, row in run]
            if isinstance(self._kept(number, False)[0], BufferShard) or len(rows) == 1:
                for row in rows:
                    yield self.row(number, row, sample_type)
                continue
            shard = self._whole(number)
            first, wanted = min(rows), set(rows)
            found = {
                row: pair
                for row, pair in enumerate(shard.keyed(sample_type, first, max(rows) + 1), first)
                if row in wanted
            }
            for row in rows:
                yield found[row]

    def _place(self, index: int) -> tuple[int, int]:
        counts = self._counts or self.counts()
        number = bisect.bisect_right(counts, index)
        return number, index - (counts[number - 1] if number else 0)

    def row(self, number: int, row: int, sample_type: type) -> tuple[str, Any]:
        """Key and sample `row` of shard `number`."""
        shard, checked = self._kept(number, False)
        if isinstance(shard, BufferShard) and shard.manifest is not None:
            if not checked:
                self._check_row(shard, row)
            return shard.key(row), shard.sample(sample_type, row)
        # Without a manifest the shard as a whole is all there is to check.
        for found in self._whole(number).keyed(sample_type, row, row + 1):
            return found
        raise IntegrityError("the shard has fewer samples than before", url=shard.url)

    def _whole(self, number: int) -> Shard:
        """Shard `number`, checked as a whole as often as was asked for."""
        again = self._source is None and (
            self._verify == "always" or (self._verify == "first" and self._changed(number))
        )
        if again:
            with self._lock:
                self._open.pop(number, None)
        return self._kept(number, self._source is None)[0]

    def _changed(self, number: int) -> bool:
        """Whether the file was written to since it was checked; another file in its place is no change of this one."""
        ref = self.refs[number]
        path = local_path(ref.url if self._resolve is None else self._resolve(ref.url))
        state = self._states.get(ref.url)
        if path is None or state is None:
            return False
        try:
            now = _state(os.stat(path))
        except OSError:
            return False
        return now[:2] == state[:2] and now != state

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
    head = file.read(0, min(10, file.size))
    if head.startswith(b"BZh"):  # which may also begin the name of a tar's first member
        return head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5  # a Zstandard frame too, RFC 8878, 3.1.2
    return skippable or head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"))


def _damage(buffer: memoryview, manifest: Manifest | None, expected: str, got: str) -> IntegrityError:
    """What is wrong with a shard that has the digest `got` instead of `expected`, as exactly as can be told."""
    if manifest is not None and manifest.shard_sha256 == expected:
        ends = (manifest.offsets + manifest.sizes).tolist()
        bad = [
            row
            for row, (start, end) in enumerate(zip(manifest.offsets.tolist(), ends, strict=True))
            if hashlib.sha256(buffer[start:end]).digest() != manifest.digest(row)
        ]
        if not bad:
            try:
                offset = None
                for _ in walk(BufferSource(buffer)):
                    pass
            except AtdataError as error:
                offset = error.offset
            return IntegrityError(
                "the shard is damaged outside of its samples, in a tar header or filling (SHA-256 differs)",
                offset=offset,
                expected=expected,
                got=got,
            )
        if len(bad) == 1 or len(bad) < len(manifest):
            row = bad[0]
            others = f"; so are those of {len(bad) - 1} more" if len(bad) > 1 else ""
            return IntegrityError(
                f"the sample's bytes are not those that were written (SHA-256 differs){others}",
                offset=int(manifest.offsets[row]),
                key=manifest.keys[row],
                expected=expected,
                got=got,
            )
    return IntegrityError(
        "the shard's bytes are not those that were written (SHA-256 differs): it was damaged or replaced",
        expected=expected,
        got=got,
    )


def _state(stat: os.stat_result) -> _State:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _sha256(file: LocalObject, *, again: bool) -> str:
    state = _state(file.stat)
    with _hashing:
        known = _hashed.get(state)
    if known is not None and not again:
        return known
    with file.stream() as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    with _hashing:
        if len(_hashed) > 1_000_000:
            _hashed.clear()
        _hashed[state] = found
    return found
