"""Whether the bytes of local shards are those that were written.

A shard is checked once for each state of its file. One of large samples is checked by samples, by their own digests, so
that the first are there at once and several cores help: in runs where it is read in order, and else those that are
asked for, each once. Where every header and filling is what atdata writes for these keys and sizes, all samples
together fix every byte of the file. Other shards are hashed as a whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from atdata.errors import AtdataError, IntegrityError
from atdata.forks import shared_lock
from atdata.shards import tar
from atdata.shards.manifest import Manifest
from atdata.shards.reader import BufferShard, Rows
from atdata.shards.tar import BufferSource, walk
from atdata.stores.ranges import windows

__all__ = [
    "State",
    "Ticks",
    "check_payload",
    "check_rows",
    "check_whole",
    "checked_by_sample",
    "hashed",
    "is_known",
    "remember",
    "runs",
    "state_of",
]

_LARGE = 16 << 10  # bytes of an average sample from which hashing them one by one costs no more than all at once
_STRETCH = 64 << 20
_SMALL = 32 << 20  # bytes of a shard that is hashed as a whole in no time
_RUN = 16 << 20  # bytes of samples checked in one go
_COLD = 64 << 10  # bytes from which they are brought near before they are hashed
_WARM = 1 << 20  # bytes that stay near until they are hashed: what a core's own cache holds

# What tells one state of a file from another: device, inode, size, times of content and of metadata.
State = tuple[int, int, int, int, int]

# SHA-256 of the files this process has checked.
_known: dict[State, str] = {}
# Of files that are not known as a whole, the samples that are: a bit for each.
_ticked: dict[tuple[State, str], NDArray[np.uint8]] = {}
_lock = shared_lock()


def state_of(stat: os.stat_result) -> State:
    """The state of a file."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def is_known(state: State, expected: str) -> bool:
    """Whether a file in that state was found to have the digest `expected`."""
    with _lock:
        return _known.get(state) == expected


def remember(state: State, sha256: str) -> None:
    """Take note of what a file in that state was found to be."""
    with _lock:
        if len(_known) > 1_000_000:
            _known.clear()
        _known[state] = sha256


def sha256_of(buffer: memoryview) -> str:
    """SHA-256 in hex."""
    # In long stretches: every step between two of them waits for the Python code of other threads.
    hasher = hashlib.sha256()
    for at in range(0, len(buffer), _STRETCH):
        hasher.update(buffer[at : at + _STRETCH])
    return hasher.hexdigest()


def hashed(piece: memoryview) -> hashlib._Hash:
    """The SHA-256 of a sample's or a field's bytes.

    SHA-256 takes the next cache line so seldom that a processor does not read ahead for it, and bytes that another core
    received, or that lie in the page cache, come at half its speed. So each line of them is touched before, which is
    done at many times that speed.
    """
    if len(piece) < _COLD:
        return hashlib.sha256(piece)
    hasher = hashlib.sha256()
    for at in range(0, len(piece), _WARM):
        part = piece[at : at + _WARM]
        np.add.reduce(np.frombuffer(part, np.uint64, len(part) >> 3)[::8])
        hasher.update(part)
    return hasher


def check_whole(buffer: memoryview, state: State, manifest: Manifest | None, expected: str) -> None:
    """Hash a mapped file.

    Raises:
        IntegrityError: its digest is not `expected`; the place is as exact as a manifest allows.
    """
    got = sha256_of(buffer)
    if got != expected:
        raise _damage(buffer, manifest, expected, got)
    remember(state, got)


def runs(shard: BufferShard) -> list[tuple[int, int]] | None:
    """Runs of samples that together fix every byte of the shard; None when it has to be hashed as a whole."""
    manifest = shard.manifest
    if manifest is None or not len(manifest) or manifest.sizes.mean() < _LARGE or not _framed(shard, manifest):
        return None
    ends = manifest.offsets + manifest.sizes
    return list(windows(manifest.offsets.tolist(), ends.tolist(), _RUN))


def checked_by_sample(shard: BufferShard) -> bool:
    """Whether single samples of it are checked by themselves, as hashing all of it would take longer."""
    manifest = shard.manifest
    return manifest is not None and (len(shard.buffer) > _SMALL or manifest.sizes.mean() >= _LARGE)


class Ticks:
    """Which samples of a shard were found to be as written, where they are asked for in any order.

    Args:
        shard: the shard, with its manifest.
        state: the state of its file.
        expected: the SHA-256 of the whole shard.
    """

    def __init__(self, shard: BufferShard, state: State, expected: str) -> None:
        self._shard = shard
        self._state = state
        self._expected = expected
        with _lock:
            if len(_ticked) > 1_000_000:
                _ticked.clear()
            # One bit for each sample: a large dataset is half read for a long time.
            self._bits = _ticked.setdefault((state, expected), np.zeros(-(-len(shard) // 8), np.uint8))

    def unknown(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the samples that nobody has checked yet, each once and by number."""
        rows = np.unique(rows)
        with _lock:
            known = self._bits[rows >> 3] & (1 << (rows & 7)).astype(np.uint8)
        return rows[np.flatnonzero(known == 0)]

    def check(self, rows: NDArray[np.int64]) -> None:
        """Check samples, and take note; once all samples are known to be good, so is the shard.

        Raises:
            IntegrityError: a sample's bytes are not those that were written.
        """
        check_rows(self._shard, rows)
        with _lock:
            np.bitwise_or.at(self._bits, rows >> 3, (1 << (rows & 7)).astype(np.uint8))
            left = 8 * len(self._bits) - int(np.unpackbits(self._bits).sum())
        manifest = self._shard.manifest
        assert manifest is not None
        if left == -len(manifest) % 8 and _framed(self._shard, manifest):
            remember(self._state, self._expected)
            with _lock:
                _ticked.pop((self._state, self._expected), None)


def _framed(shard: BufferShard, manifest: Manifest) -> bool:
    """Whether all that is not payload is what atdata writes for these keys and sizes."""
    heads = tar.headers([f"{key}.msgpack" for key in manifest.keys], manifest.sizes.tolist())
    lengths = np.fromiter(map(len, heads), np.int64, len(heads))
    padded = manifest.sizes + -manifest.sizes % tar.BLOCK
    starts = np.concatenate([[0], np.cumsum(lengths + padded)])
    if (manifest.offsets != starts[:-1] + lengths).any() or len(shard.buffer) != tar.archive_size(int(starts[-1])):
        return False
    buffer = shard.buffer
    for head, start, size, end in zip(
        heads, starts[:-1].tolist(), manifest.sizes.tolist(), starts[1:].tolist(), strict=True
    ):
        payload_end = start + len(head) + size
        if buffer[start : start + len(head)] != head or bytes(buffer[payload_end:end]) != tar.padding(size):
            return False
    return bytes(buffer[int(starts[-1]) :]) == tar.end_of_archive(int(starts[-1]))


def check_rows(shard: BufferShard, rows: Rows) -> None:
    """Check samples against their digests.

    Raises:
        IntegrityError: a sample's bytes are not those that were written.
    """
    for row, got in _damaged(shard, rows):
        assert shard.manifest is not None
        raise IntegrityError(
            "the sample's bytes are not those that were written (SHA-256 differs)",
            url=shard.url,
            offset=int(shard.manifest.offsets[row]),
            key=shard.key(row),
            expected=shard.manifest.digest(row).hex(),
            got=got,
        )


def check_payload(shard: BufferShard, row: int, payload: memoryview) -> None:
    """Check one sample, as `check_rows` does, without what it takes to go through many."""
    assert shard.manifest is not None
    if hashed(payload).digest() != shard.manifest.digest(row):
        check_rows(shard, slice(row, row + 1))


def _damaged(shard: BufferShard, rows: Rows) -> Iterator[tuple[int, str]]:
    manifest = shard.manifest
    assert manifest is not None
    offsets = (manifest.offsets[rows] - shard.base).tolist()
    sizes = manifest.sizes[rows].tolist()
    numbers = range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()
    buffer = shard.buffer
    for row, at, size in zip(numbers, offsets, sizes, strict=True):
        hasher = hashed(buffer[at : at + size])
        if hasher.digest() != manifest.digest(row):
            yield row, hasher.hexdigest()


def _damage(buffer: memoryview, manifest: Manifest | None, expected: str, got: str) -> IntegrityError:
    """What is wrong with a shard that has the digest `got` instead of `expected`, as exactly as can be told."""
    message = "the shard's bytes are not those that were written (SHA-256 differs): it was damaged or replaced"
    offset = key = None
    if manifest is not None and manifest.shard_sha256 == expected:
        bad = [row for row, _ in _damaged(BufferShard("", buffer, manifest), slice(0, len(manifest)))]
        if not bad:
            message = "the shard is damaged outside of its samples, in a tar header or filling (SHA-256 differs)"
            try:
                for _ in walk(BufferSource(buffer)):
                    pass
            except AtdataError as error:
                offset = error.offset
        elif len(bad) == 1 or len(bad) < len(manifest):
            others = f"; so are those of {len(bad) - 1} more" if len(bad) > 1 else ""
            message = f"the sample's bytes are not those that were written (SHA-256 differs){others}"
            offset, key = int(manifest.offsets[bad[0]]), manifest.keys[bad[0]]
    return IntegrityError(message, offset=offset, key=key, expected=expected, got=got)
