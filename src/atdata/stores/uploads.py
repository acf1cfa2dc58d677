"""Writing to object storage: multipart uploads, and the commit of a dataset under one prefix."""

from __future__ import annotations

import contextlib
import itertools
import queue
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from atdata.errors import AtdataError, DatasetExistsError, IntegrityError, StoreError
from atdata.stores.base import Sink, Transaction, check_prefix
from atdata.stores.claims import Claim
from atdata.stores.objects import PART, PARTS, RemoteObject
from atdata.stores.record import RECORD_NAME, CommitRecord, files_of

if TYPE_CHECKING:
    from atdata.stores.objects import ObjectStore

__all__ = ["ObjectTransaction"]

_STRETCH = 1 << 20  # bytes handed over in one go
_CLOSING = 4  # objects whose last bytes are under way
_WRITTEN = r"shard-[0-9]{6,}\.(?:tar|manifest\.parquet|manifest\.json)"


class _Aborted(Exception):
    """Ends an upload from inside; obstore then aborts it on the server."""


class _Upload(Sink):
    """An object that goes to the server while its bytes are still being made; a small one in one request.

    Args:
        store: where to.
        key: its key.
        fresh: nothing was there before.
        closed: told when all bytes were given, while the last of them may still be under way.
    """

    def __init__(self, store: ObjectStore, key: str, *, fresh: bool, closed: Callable[[_Upload], None]) -> None:
        self._store = store
        self._key = key
        self._fresh = fresh
        self._closed = closed
        self._size = 0
        self._pieces: list[bytes] = []  # that wait for more: every step between threads takes time
        self._waiting = 0
        self._queue: queue.Queue[list[bytes] | _Aborted | None] = queue.Queue(2)
        self._error: BaseException | None = None
        self._open = True
        self._all_given = False
        self._thread = threading.Thread(target=self._run, name="atdata-upload", daemon=True)
        self._client = store.client
        self._shard_client = store.shard_client
        self._thread.start()

    def _run(self) -> None:
        try:
            try:
                self._send()
            except StoreError as error:
                # Only the answer may have been lost.
                if type(error) is not StoreError or not (self._fresh and self._all_given) or not self._arrived():
                    raise
            else:
                self._check()
        except BaseException as error:  # raised in the writer's thread at its next call
            self._error = error
            while not self._all_given and self._queue.get() is not None:  # so that no writer waits for ever
                pass

    def _send(self) -> None:
        given = self._given()
        first, size = [], 0
        for piece in given:
            first.append(piece)
            size += len(piece)
            if size > PART:
                break
        with self._store.errors(self._store.base + self._key):
            if self._all_given:
                self._client.put(self._key, b"".join(first), use_multipart=False)
            else:
                parts = itertools.chain(first, given)
                del first
                self._shard_client.put(self._key, parts, chunk_size=PART, max_concurrency=PARTS)

    def _given(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, _Aborted):
                raise item
            yield from item
        self._all_given = True

    def _arrived(self) -> bool:
        with contextlib.suppress(AtdataError):
            return RemoteObject(self._store, self._store.base + self._key).size == self._size
        return False

    def _check(self) -> None:
        url = self._store.base + self._key
        found = RemoteObject(self._store, url).size
        if found != self._size:
            raise IntegrityError(
                f"the server has {found} bytes of {self._size} that were sent",
                url=url,
                expected=self._size,
                got=found,
            )

    def write(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._pieces.append(data)
        self._waiting += len(data)
        self._size += len(data)
        if self._waiting >= _STRETCH:
            self._pass_on()

    def _pass_on(self) -> None:
        self._queue.put(self._pieces)
        self._pieces, self._waiting = [], 0

    def close(self) -> None:
        self._pass_on()
        self._queue.put(None)
        self._open = False
        self._closed(self)

    def finish(self) -> None:
        """Wait until the object is there; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        if self._open:
            self._open = False
            if self._error is None:
                self._queue.put(_Aborted())
            self._queue.put(None)
            self._thread.join()


class ObjectTransaction(Transaction):
    """One writer's work under one prefix of a store on object storage."""

    def __init__(self, store: ObjectStore, prefix: str, overwrite: bool, names: Collection[str] = ()) -> None:
        self._store = store
        self._folder = check_prefix(prefix) + "/"
        self._overwrite = overwrite
        self._created: list[str] = []
        self._committed = False
        self._left: set[str] = set()  # keys that may be resumed
        self._closing: deque[_Upload] = deque()
        self._claim = Claim(store, self._folder)
        try:
            old = store.get(self._folder + RECORD_NAME)
            if old is not None and not overwrite:
                raise DatasetExistsError(
                    "there is a dataset already: replace it with overwrite=True (--overwrite), or choose another place",
                    url=store.base + self._folder,
                )
            # What replaces a dataset waits beside it, so that a failure leaves the old one whole.
            self._into = self._folder if old is None else f"{self._folder}.atdata-{uuid.uuid4().hex[:8]}/"
            if self._claim.took_over or (names and overwrite):
                self._sweep(old is None, names)
            if not overwrite:
                self._refuse_files(names)
        except BaseException:
            with contextlib.suppress(AtdataError):
                if self._claim.took_over:  # what was left is still to be resumed, or removed
                    self._claim.suspend()
                else:
                    self._claim.release()
            raise
        self._old = [] if old is None else files_of(old)

    def _sweep(self, fresh: bool, names: Collection[str]) -> None:
        """Remove what a writer that is gone left behind: its shards would be found by a glob; less what is resumed."""
        folder = self._folder
        keys = self._store.keys(folder)
        aside = re.compile(re.escape(folder) + r"\.atdata-[0-9a-f]{8}/")
        staged = (aside.match(key) for key in keys if key.rpartition("/")[2] in names)
        self._into = next((found[0] for found in staged if found), self._into)
        self._left = {self._into + name for name in names}.intersection(keys)
        if self._claim.took_over:
            written = re.compile(re.escape(folder) + _WRITTEN, re.ASCII)
            mine = (key for key in keys if aside.match(key) or (fresh and written.fullmatch(key)))
            self._store.remove([key for key in mine if key not in self._left])
            with contextlib.suppress(AtdataError):  # not everybody may list or drop uploads
                self._store.drop_uploads(folder, lambda key: aside.match(key) or written.fullmatch(key))

    def _refuse_files(self, names: Collection[str]) -> None:
        """Refuse a prefix with files that a glob would take for this dataset's, or that would be overwritten."""
        for key in self._store.keys(self._folder):
            name = key[len(self._folder) :]
            shard = "/" not in name and name.endswith((".tar", ".manifest.parquet", ".manifest.json"))
            if (shard or name in names) and key not in self._left:
                raise DatasetExistsError(
                    f"{name} is there, and no dataset: choose another place, or overwrite=True (--overwrite)",
                    url=self._store.base + self._folder,
                )

    def create(self, name: str) -> Sink:
        """A multipart upload for a new object `name` under the prefix."""
        self._claim.renew()
        key = self._into + name
        self._created.append(key)
        fresh = key not in self._left and (self._into != self._folder or not self._overwrite)
        return _Upload(self._store, key, fresh=fresh, closed=self._finish_earlier)

    def _finish_earlier(self, upload: _Upload) -> None:
        """Let the end of an upload go on while the next object is made; not those of many."""
        self._closing.append(upload)
        if len(self._closing) > _CLOSING:
            self._closing.popleft().finish()

    def _finish_all(self) -> None:
        while self._closing:
            self._closing.popleft().finish()

    def left(self, name: str) -> RemoteObject | None:
        """What an unfinished write left under `name`; see `Transaction.left`."""
        key = self._into + name
        return RemoteObject(self._store, self._store.base + key) if key in self._left else None

    def keep(self, name: str) -> None:
        """Take what was left under `name` into this transaction."""
        self._created.append(self._into + name)

    def commit(self, record: CommitRecord | None) -> list[str]:
        """Make everything written the dataset at the prefix; the record comes last."""
        store, folder = self._store, self._folder
        self._finish_all()
        self._claim.check()
        if self._into != folder:
            store.remove([folder + RECORD_NAME])
            self._committed = True  # from here on there is nothing to go back to
            for key in self._created:
                with store.errors(store.base + key):
                    store.client.copy(key, folder + key[len(self._into) :])
            if record is not None:
                store.put(folder + RECORD_NAME, record.to_bytes(), create=True)
            new = {key[len(self._into) :] for key in self._created}
            store.remove([*self._created, *(folder + name for name in self._old if name not in new)])
        elif record is not None:
            store.put(folder + RECORD_NAME, record.to_bytes(), create=not self._overwrite)
        self._committed = True
        with contextlib.suppress(AtdataError):  # the dataset is there; the next writer finds a claim that is void
            self._claim.release()
        if record is None:
            return [store.base + folder + key[len(self._into) :] for key in self._created]
        return [store.base + folder + shard.name for shard in record.shards]

    def suspend(self) -> None:
        """Leave what was made to a writer that resumes; see `Transaction.suspend`."""
        self._let_end()
        with contextlib.suppress(AtdataError):  # the server may be gone; the claim is void with this process
            self._claim.suspend()

    def _let_end(self) -> None:
        """Wait for what is under way, whatever comes of it: nothing may arrive later."""
        while self._closing:
            with contextlib.suppress(AtdataError):
                self._closing.popleft().finish()

    def abort(self) -> None:
        """Leave the prefix as it was before."""
        self._let_end()
        if self._committed:
            return
        # The server may be gone: the error that led here is raised anyway, and the next writer clears up.
        try:
            if self._claim.mine():  # else another writer took over, and what lies there is its own
                # What was to be resumed, too: without a claim it would be found by a glob.
                self._store.remove(sorted({*self._created, *self._left}))
        except AtdataError:
            self._claim.forget()
        else:
            with contextlib.suppress(AtdataError):
                self._claim.release()
