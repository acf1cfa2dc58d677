"""Stores on object storage: one implementation over obstore for S3, GCS, Azure, memory and plain HTTP.

obstore's time-outs cover whole bodies, and its waits cannot be interrupted; so reading asks for bounded ranges only.
Its runtime does not survive `fork`: a child of a process that used it would hang for ever. There something else reads,
if the store knows of something else, and all the rest is refused. What obstore cannot read at the first try is asked
for in the same way, which sees more of the answers.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from atdata.errors import (
    AccessDeniedError,
    DatasetExistsError,
    DatasetNotFoundError,
    ForkError,
    IntegrityError,
    StoreError,
    UnsafeNameError,
)
from atdata.stores.answers import Answer, CutError, Reader, translated
from atdata.stores.base import DataStore, StoredObject, Transaction, check_prefix
from atdata.stores.claims import CLAIMS, Claim
from atdata.stores.record import RECORD_NAME, files_of

__all__ = ["ObjectStore", "RemoteObject"]

T = TypeVar("T")

PART = 8 << 20  # bytes of one uploaded part, and of one range of a large read
_PIECE = 512 << 10
PARTS = 4  # parts of one object in flight
_TRIES = 3

# Whether this process, or one it was forked from, has used obstore's runtime.
_used_in: int | None = None


def _forked() -> bool:
    """Whether this process was forked from one that had used obstore."""
    return _used_in is not None and _used_in != os.getpid()


class ObjectStore(DataStore):
    """Base of the stores on object storage.

    A subclass says how URLs look (`base`, such as `s3://bucket/`) and makes the obstore client.
    """

    base: str
    _client: Any = None
    _in_forks = ""  # what works there all the same
    conditional = True

    @abc.abstractmethod
    def _connect(self) -> Any:
        """A new obstore store."""

    @property
    def client(self) -> Any:
        """The obstore store of this process."""
        global _used_in
        if _forked():
            raise ForkError(
                "this process was forked from one that had used object storage, whose connections do not survive that"
                f"{self._in_forks}. Start workers with 'forkserver' or 'spawn' "
                "(DataLoader(..., multiprocessing_context='forkserver'))"
            )
        _used_in = os.getpid()
        if self._client is None:
            self._client = self._connect()
        return self._client

    @property
    def reader(self) -> Reader:
        """What reads in this process."""
        return (self._direct_reader() if _forked() else None) or _Obstore(self)

    @property
    def _hasty_client(self) -> Any:
        """The obstore store that reads: it gives up at once where something else goes on."""
        return self.client

    @property
    def shard_client(self) -> Any:
        """The obstore store that sends shards, of which something that `client` sends has the digest."""
        return self.client

    def _direct_reader(self) -> Reader | None:
        """What reads without obstore, in a forked process and where obstore failed; None when nothing can."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_client"] = None
        return state

    def key(self, url: str) -> str:
        """The key of an object's URL.

        Raises:
            UnsafeNameError: the URL is not one of this store's, or has dot parts or control characters.
        """
        if not url.startswith(self.base):
            raise UnsafeNameError(f"the URL does not belong to this store ({self.base})", url=url)
        key = url[len(self.base) :]
        if any(part in (".", "..") for part in key.split("/")) or any(ord(char) < 32 for char in key):
            raise UnsafeNameError("no object of a data store has such a name", url=url)
        return key

    def supports_streaming(self) -> bool:
        """True: bytes are used as they arrive."""
        return True

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Start writing under `prefix`; see `DataStore.begin`."""
        from atdata.stores.uploads import ObjectTransaction

        return ObjectTransaction(self, prefix, overwrite)

    def resume(self, prefix: str, names: Collection[str], *, overwrite: bool) -> Transaction:
        """Go on with an unfinished write; see `DataStore.resume`."""
        from atdata.stores.uploads import ObjectTransaction

        return ObjectTransaction(self, prefix, overwrite, names)

    def open(self, url: str) -> RemoteObject:
        """Open the object at `url` for reading; see `DataStore.open`."""
        found = RemoteObject(self, url)
        found.size  # noqa: B018  (asks the server, and so finds out whether there is one)
        return found

    def list(self, prefix: str = "") -> Iterator[str]:
        """URLs of the objects under `prefix`, sorted; nothing of unfinished writes."""
        keys = self.keys(check_prefix(prefix) + "/" if prefix else "")
        written = {key.rpartition("/")[0] for key in keys if key.endswith("/" + RECORD_NAME)}
        unfinished = {key.partition("/" + CLAIMS)[0] for key in keys if "/" + CLAIMS in key} - written
        for key in sorted(keys):
            if key.rpartition("/")[0] in unfinished or any(part.startswith(".atdata") for part in key.split("/")):
                continue
            yield self.base + key

    def delete(self, prefix: str) -> None:
        """Remove the dataset at `prefix`; see `DataStore.delete`."""
        folder = check_prefix(prefix) + "/"
        data = self.get(folder + RECORD_NAME)
        if data is None:
            raise DatasetNotFoundError("there is no dataset here", url=self.base + folder)
        claim = Claim(self, folder)
        try:
            self.remove([folder + RECORD_NAME])
            self.remove([folder + name for name in files_of(data)])
        finally:
            claim.release()

    def keys(self, folder: str) -> Sequence[str]:
        """The keys of all objects under `folder`, which ends with a slash."""
        return self.reader.keys(folder)

    # -- single requests -------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """A small object, or None when there is none."""
        try:
            return bytes(self.reader.fetch(key).data)
        except DatasetNotFoundError:
            return None

    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        """A small object, whole.

        Args:
            key: its key.
            data: its bytes.
            create: only when there is none yet; DatasetExistsError when there is.
        """
        if not create:
            with self.errors(self.base + key):
                self.client.put(key, data, mode="overwrite", use_multipart=False)
            return
        if not self.conditional and self.get(key) is not None:
            raise DatasetExistsError("the object is there already", url=self.base + key)
        for attempt in itertools.count(1):
            try:
                with self.errors(self.base + key):
                    self.client.put(key, data, mode="create" if self.conditional else "overwrite", use_multipart=False)
                return
            except (AccessDeniedError, DatasetNotFoundError, ForkError):
                raise
            except StoreError as error:
                # obstore does not repeat this. The answer to a request that succeeded may have been lost, or a
                # repetition met its own work: what is there now tells.
                found = self.get(key)
                if found == data:
                    return
                if found is not None or isinstance(error, DatasetExistsError) or attempt == _TRIES:
                    raise

    def remove(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are passed over."""
        for key in keys:
            with contextlib.suppress(DatasetNotFoundError), self.errors(self.base + key):
                self.client.delete(key)

    def drop_uploads(self, folder: str, mine: Callable[[str], object]) -> None:
        """Abort what a writer that is gone was uploading under `folder`, where a server keeps the parts of it.

        Args:
            folder: of the keys.
            mine: whether a key is to be dropped.
        """

    def errors(self, url: str) -> contextlib.AbstractContextManager[None]:
        """obstore's errors as ours, with what to do and without secrets."""
        return translated(url, self.base)


class _Obstore:
    """Reads by obstore; what fails passes on to what reads without it, and can say why."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def _or_directly(self, key: str, read: Callable[[Any], T], directly: Callable[[Reader], T]) -> T:
        try:
            with self._store.errors(self._store.base + key):
                return read(self._store._hasty_client)
        except (DatasetNotFoundError, IntegrityError, ForkError):
            raise
        except StoreError:
            direct = self._store._direct_reader()
            if direct is None:
                raise
            with contextlib.suppress(ForkError):  # it does not know the credentials that obstore found
                return directly(direct)
            raise

    def head(self, key: str) -> Answer:
        return self._or_directly(
            key, lambda client: _answer(memoryview(b""), client.head(key)), lambda direct: direct.head(key)
        )

    def fetch(self, key: str, start: int | None = None, stop: int | None = None, etag: str | None = None) -> Answer:
        options: dict[str, Any] = {} if start is None else {"range": (start, stop)}
        if etag is not None:
            options["if_match"] = etag

        def read(client: Any) -> Answer:
            found = client.get(key, options=options)
            answer = _answer(memoryview(found.bytes()), found.meta)
            if start is not None and stop is not None and len(answer.data) < min(stop, answer.size) - start:
                raise CutError("the server gave less than it was asked for", url=self._store.base + key)
            return answer

        return self._or_directly(key, read, lambda direct: direct.fetch(key, start, stop, etag))

    def keys(self, folder: str) -> Sequence[str]:
        import obstore

        return self._or_directly(
            folder,
            lambda client: [str(meta["path"]) for page in obstore.list(client, folder or None) for meta in page],
            lambda direct: direct.keys(folder),
        )


def _answer(data: memoryview, meta: Any) -> Answer:
    return Answer(data, int(meta["size"]), meta["e_tag"])


class RemoteObject(StoredObject):
    """An object on a server, read by ranges.

    Args:
        store: the store it lies in.
        url: its URL.
        size: its size when that is known already; else the server is asked.
    """

    def __init__(self, store: ObjectStore, url: str, size: int | None = None) -> None:
        self.store = store
        self.url = url
        self.key = store.key(url)
        # The version that was seen first. Without a lock, which another thread might hold while this process forks.
        self._first: dict[str, Any] = {} if size is None else {"size": size}

    @property
    def size(self) -> int:  # type: ignore[override]
        """Its length in bytes."""
        if "size" not in self._first:
            self._note_version(self.store.reader.head(self.key))
        size: int = self._first["size"]
        return size

    @property
    def etag(self) -> str | None:
        """What the server calls the version that is read; None while that is not known."""
        return self._first.get("etag")

    def _note_version(self, answer: Answer) -> None:
        """Hold on to the version that was seen first: what was replaced meanwhile must not be mixed."""
        size = self._first.setdefault("size", answer.size)
        if answer.size != size or (
            answer.etag is not None and answer.etag != self._first.setdefault("etag", answer.etag)
        ):
            raise IntegrityError(
                "the object was replaced since its record was read; read it again",
                url=self.url,
                expected=size,
                got=answer.size,
            )

    def fetch(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` up to `stop`, without a copy.

        obstore tries again by itself. Where connections break so early that a range never arrives whole, it is asked
        for in small pieces.
        """
        if start >= stop:
            return memoryview(b"")
        try:
            return self._fetch(start, stop)
        except CutError:
            if stop - start <= _PIECE:
                raise
            pieces = [self._fetch(at, min(at + _PIECE, stop)) for at in range(start, stop, _PIECE)]
            return memoryview(b"".join(pieces))

    def _fetch(self, start: int, stop: int) -> memoryview:
        answer = self.store.reader.fetch(self.key, start, stop, self.etag)
        self._note_version(answer)
        data = answer.data
        if len(data) != stop - start:
            raise StoreError(
                f"the server gave {len(data)} bytes where {stop - start} were asked for", url=self.url, offset=start
            )
        return data

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        return bytes(self.fetch(start, stop))

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of several ranges, in the order asked for, several at a time."""
        with ThreadPoolExecutor(min(16, len(ranges) or 1)) as pool:
            return list(pool.map(lambda r: self.read(*r), ranges))

    def chunks(self) -> Iterator[memoryview]:
        """The object from the beginning in stretches of 8 MiB, the next ones fetched while one is used."""
        total = self.size
        starts = range(0, total, PART)
        with ThreadPoolExecutor(PARTS, thread_name_prefix="atdata-fetch") as pool:
            waiting = []
            try:
                for at in starts:
                    waiting.append(pool.submit(self.fetch, at, min(at + PART, total)))
                    if len(waiting) > PARTS:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()
