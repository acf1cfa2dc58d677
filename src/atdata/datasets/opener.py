"""Opening one shard, wherever it lies: checked against what is recorded of it, with the manifest beside it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Literal, NamedTuple, TypeVar

from atdata.datasets import checks
from atdata.datasets.remote import RemoteShard
from atdata.datasets.sources import DataSource, ShardRef
from atdata.errors import DatasetNotFoundError, IntegrityError
from atdata.shards.compression import compression
from atdata.shards.manifest import Manifest
from atdata.shards.manifest_columns import ManifestColumns, read_columns
from atdata.shards.manifest_file import read_manifest
from atdata.shards.reader import BufferShard, Shard, StreamShard
from atdata.stores.base import StoredObject
from atdata.stores.cache import Cache
from atdata.stores.disk import LocalObject
from atdata.stores.http import public_url
from atdata.stores.opening import Opening

__all__ = ["Opened", "Opener", "Verify"]

M = TypeVar("M", Manifest, ManifestColumns)
Verify = Literal["first", "always", "never"]


class Opened(NamedTuple):
    """A shard that is open.

    Attributes:
        shard: the shard.
        checked: whether all of it was found to be as written (or nobody wants to know).
        state: of its file when it was opened; None when it is no local file.
        expected: the SHA-256 it has to have, when that is known.
    """

    shard: Shard
    checked: bool
    state: checks.State | None = None
    expected: str | None = None


class Opener:
    """Opens the shards of one dataset.

    Args:
        source: what they come from, when that is an object of the user's.
        opening: how their URLs are opened.
        verify: when their bytes are checked.
        cache: where whole shards from servers are kept.
    """

    def __init__(self, source: DataSource | None, opening: Opening, verify: Verify, cache: Cache | None) -> None:
        self._source = source
        self._opening = opening
        self._verify = verify
        self._cache = cache

    def open(self, ref: ShardRef, *, whole: bool) -> Opened:
        """A shard; one on this machine is checked as a whole, unless that was done, when `whole` says so.

        Raises:
            DatasetNotFoundError: it is not there.
            IntegrityError: it is not as it was written.
            ManifestError: its manifest says what cannot be.
        """
        if self._source is not None:
            return Opened(StreamShard(ref.url, partial(self._open_source, ref.url)), checked=True)
        file = self._opening.open(ref.url, None if ref.info is None else ref.info.size)
        if isinstance(file, LocalObject):
            with file:
                return self._local(ref, file, whole)
        return self._far(ref, file)

    def columns(self, ref: ShardRef, fields: Iterable[str]) -> ManifestColumns | None:
        """What a shard's manifest says of some fields; None where there is no manifest. The shard is not opened."""
        file = self._opening.open(ref.url, None if ref.info is None else ref.info.size)
        with file if isinstance(file, LocalObject) else contextlib.nullcontext():
            self._check_size(ref, file.size)
            return self._beside(ref, file.size, partial(read_columns, fields=fields))

    def _open_source(self, name: str) -> IO[bytes]:
        assert self._source is not None
        try:
            return self._source.open_shard(name)
        except KeyError:
            raise DatasetNotFoundError("the source lists this shard, but does not have it", url=name) from None

    def _local(self, ref: ShardRef, file: LocalObject, whole: bool) -> Opened:
        self._check_size(ref, file.size)
        manifest = self._manifest(ref, file.size)
        return self._mapped(ref, file, manifest, whole)

    def _mapped(self, ref: ShardRef, file: LocalObject, manifest: Manifest | None, whole: bool) -> Opened:
        expected = ref.digest or (manifest.shard_sha256 if manifest else None)
        state = checks.state_of(file.stat)
        checked = expected is None or self._verify == "never"
        if not checked and expected is not None and self._verify == "first":
            checked = checks.is_known(state, expected)
        if whole and not checked and expected is not None:
            try:
                checks.check_whole(file.map(), state, manifest, expected)
            except IntegrityError as error:
                error.at(url=ref.url)
                raise
            checked = True
        if compression(file.read(0, min(10, file.size))) is not None:
            path = Path(file.url)
            return Opened(StreamShard(ref.url, lambda: path.open("rb")), checked, state, expected)
        return Opened(BufferShard(ref.url, file.map(), manifest), checked, state, expected)

    def _far(self, ref: ShardRef, file: StoredObject) -> Opened:
        """A shard on a server: by ranges with a manifest, else whole where its digest is known, else as a stream."""
        expected = ref.digest
        cache = self._cache or file.cache
        if cache is not None and expected is not None:
            return self._cached(cache, ref, file, expected)
        self._check_size(ref, file.size)
        manifest = self._manifest(ref, file.size)
        if manifest is not None:
            shard = RemoteShard(public_url(ref.url), file, manifest, check=self._verify != "never")
            return Opened(shard, checked=True)
        if expected is None:
            return Opened(StreamShard(public_url(ref.url), file.stream), checked=True)
        try:
            return Opened(self._downloaded(ref, file, expected), checked=True)
        except IntegrityError:  # once more: it may have been damaged on the way
            return Opened(self._downloaded(ref, file, expected), checked=True)

    def _cached(self, cache: Cache, ref: ShardRef, file: StoredObject, expected: str) -> Opened:
        """The whole shard out of the cache, brought there if need be."""
        manifest = self._manifest(ref, file.size)
        for attempt in itertools.count():
            kept = cache.find(expected)
            path = kept or cache.add(expected, file.chunks, url=ref.url)
            try:
                with LocalObject(path) as local:
                    if kept is None:  # it was hashed on its way here
                        checks.remember(checks.state_of(local.stat), expected)
                    return self._mapped(ref, local, manifest, whole=True)
            except (DatasetNotFoundError, IntegrityError):  # just made room for another, or damaged in its folder
                if attempt == 2:
                    raise
                cache.remove(expected)
        raise AssertionError

    def _downloaded(self, ref: ShardRef, file: StoredObject, expected: str) -> Shard:
        """The whole shard in a file without a name, checked: nothing of it may be seen before its digest is known."""
        hasher = hashlib.sha256()
        with tempfile.TemporaryFile(prefix="atdata-") as copy:
            for chunk in file.chunks():
                hasher.update(chunk)
                copy.write(chunk)
            copy.flush()
            if self._verify != "never" and hasher.hexdigest() != expected:
                raise IntegrityError(
                    "the shard's bytes are not those that were written (SHA-256 differs)",
                    url=ref.url,
                    expected=expected,
                    got=hasher.hexdigest(),
                )
            with LocalObject(Path(f"/proc/self/fd/{copy.fileno()}")) as local:
                return BufferShard(ref.url, local.map())

    def _check_size(self, ref: ShardRef, size: int) -> None:
        if ref.info is not None and size != ref.info.size:
            raise IntegrityError(
                f"the shard has {size} bytes, its record {ref.info.size}: it was cut, changed or replaced",
                url=public_url(ref.url),
                expected=ref.info.size,
                got=size,
            )

    def _manifest(self, ref: ShardRef, size: int) -> Manifest | None:
        return self._beside(ref, size, read_manifest)

    def _beside(self, ref: ShardRef, size: int, read: Callable[..., M | None]) -> M | None:
        """What is read of the manifest beside a shard of that size; None where there is none."""
        if ref.info is None and ref.sha256 is not None:
            return None  # nobody vouches for one: what it says could be anything
        info = None if ref.info is None else ref.info.manifest
        far = self._opening.path(ref.url) is None
        if far and ref.info is not None and info is None:
            return None  # the record says that there is none: no need to ask the server
        url = self._opening.manifest(ref.url, ref.info)
        expected = None if info is None else info.size
        data = None if url is None else self._read_beside(ref, url, expected)
        if data is None:
            return None  # an accelerator: everything works without it
        if info is not None:
            got = hashlib.sha256(data).hexdigest()
            if got != info.sha256 and far and url is not None:  # it may have been damaged on the way
                data = self._read_beside(ref, url, expected) or b""
                got = hashlib.sha256(data).hexdigest()
            if got != info.sha256:
                raise IntegrityError(
                    "the manifest is not the one that was written (SHA-256 differs); rebuild it with "
                    "`atdata manifest build --force`, or delete it",
                    url=url,
                    expected=info.sha256,
                    got=got,
                )
        manifest = read(data, url=url, shard_size=size)
        if manifest is not None and ref.info is not None and (
            len(manifest) != ref.info.samples or manifest.shard_sha256 != ref.info.sha256
        ):  # fmt: skip
            raise IntegrityError(
                "the manifest belongs to another shard", url=url, expected=ref.info.sha256, got=manifest.shard_sha256
            )
        return manifest

    def _read_beside(self, ref: ShardRef, url: str, size: int | None) -> bytes | None:
        path = self._opening.path(ref.url)
        if path is None:
            return self._opening.read(url, size)
        return Opening().read(url)  # a stranger's `read_url` knows its own shards only
