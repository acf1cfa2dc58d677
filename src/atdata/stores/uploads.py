"""Writing to object storage: multipart uploads, and the commit of a dataset under one prefix."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from atdata.errors import AtdataError, DatasetExistsError, IntegrityError, StoreError
from atdata.stores.base import Sink, Transaction, check_prefix
from atdata.stores.claims import Claim
from atdata.stores.objects import PART, PARTS, RemoteObject
from atdata.stores.record import RECORD_NAME, CommitRecord, files_of

if TYPE_CHECKING:
    from atdata.stores.objects import ObjectStore

__all__ = ["ObjectTransaction"]

_WRITTEN = r"shard-[0-9]{6,}\.(?:tar|manifest\.parquet|manifest\.json)"


class _Aborted(Exception):
    """Ends an upload from inside; obstore then aborts it on the server."""


class _MultipartSink(Sink):
    """A multipart upload that goes on while the bytes are still being made."""

    def __init__(self, store: ObjectStore, key: str, *, fresh: bool) -> None:
        self._store = store
        self._key = key
        self._fresh = fresh  # nothing was there before
        self._size = 0
        self._queue: queue.Queue[bytes | _Aborted | None] = queue.Queue(2)
        self._error: BaseException | None = None
        self._open = True
        self._all_given = False
        self._failed_early = False
        self._thread = threading.Thread(target=self._upload, name="atdata-upload", daemon=True)
        self._client = store.client
        self._thread.start()

    def _upload(self) -> None:
        try:
            with self._store.errors(self._store.base + self._key):
                self._client.put(self._key, self._parts(), chunk_size=PART, max_concurrency=PARTS)
        except BaseException as error:  # raised in the writer's thread at its next call
            self._failed_early = not self._all_given
            self._error = error
            while self._failed_early and self._queue.get() is not None:  # so that no writer waits for ever
                pass

    def _parts(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, _Aborted):
                raise item
            yield item
        self._all_given = True

    def write(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(data)
        self._size += len(data)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._open = False
        url = self._store.base + self._key
        if self._error is not None:
            self._whole_nonetheless(url)
            return
        found = RemoteObject(self._store, url).size
        if found != self._size:
            raise IntegrityError(
                f"the server has {found} bytes of {self._size} that were sent",
                url=url,
                expected=self._size,
                got=found,
            )

    def _whole_nonetheless(self, url: str) -> None:
        """Raise the upload's error, unless all of it is there and only the answer that said so was lost."""
        assert self._error is not None
        if type(self._error) is StoreError and self._fresh and not self._failed_early:
            with contextlib.suppress(AtdataError):
                if RemoteObject(self._store, url).size == self._size:
                    return
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

    def __init__(self, store: ObjectStore, prefix: str, overwrite: bool) -> None:
        self._store = store
        self._folder = check_prefix(prefix) + "/"
        self._overwrite = overwrite
        self._created: list[str] = []
        self._committed = False
        self._claim = Claim(store, self._folder)
        try:
            old = store.get(self._folder + RECORD_NAME)
            if not overwrite:
                self._refuse_existing(old is not None)
            if self._claim.took_over:
                self._clear(old)
        except BaseException:
            self._claim.release()
            raise
        self._old = [] if old is None else files_of(old)
        self._replaces = old is not None
        # What replaces a dataset waits beside it, so that a failure leaves the old one whole.
        self._into = f"{self._folder}.atdata-{uuid.uuid4().hex[:8]}/" if self._replaces else self._folder

    def _refuse_existing(self, dataset: bool) -> None:
        url = self._store.base + self._folder
        if dataset:
            raise DatasetExistsError(
                "there is a dataset already; choose another prefix, or pass overwrite=True to replace it", url=url
            )
        if self._claim.took_over:
            return  # what lies there is of a writer that is gone; see `_clear`
        for key in self._store.keys(self._folder):
            name = key[len(self._folder) :]
            if "/" not in name and name.endswith((".tar", ".manifest.parquet", ".manifest.json")):
                raise DatasetExistsError(
                    f"{name} is there already, though no dataset is; choose another prefix, or pass overwrite=True",
                    url=url,
                )

    def _clear(self, record: bytes | None) -> None:
        """Remove what a writer that is gone left behind: its shards would be found by a glob."""
        mine = re.compile(r"\.atdata-[0-9a-f]{8}/.*" + ("|" + _WRITTEN if record is None else ""), re.ASCII)
        left = [key for key in self._store.keys(self._folder) if mine.fullmatch(key[len(self._folder) :])]
        self._store.remove(left)

    def create(self, name: str) -> Sink:
        """A multipart upload for a new object `name` under the prefix."""
        self._claim.renew()
        key = self._into + name
        self._created.append(key)
        return _MultipartSink(self._store, key, fresh=self._replaces or not self._overwrite)

    def commit(self, record: CommitRecord) -> list[str]:
        """Make everything written the dataset at the prefix; the record comes last."""
        store, folder = self._store, self._folder
        data = record.to_bytes()
        self._claim.check()
        if self._replaces:
            store.remove([folder + RECORD_NAME])
            self._committed = True  # from here on there is nothing to go back to
            for key in self._created:
                with store.errors(store.base + key):
                    store.client.copy(key, folder + key[len(self._into) :])
            store.put(folder + RECORD_NAME, data, create=True)
            new = {key[len(self._into) :] for key in self._created}
            store.remove([*self._created, *(folder + name for name in self._old if name not in new)])
        else:
            store.put(folder + RECORD_NAME, data, create=not self._overwrite)
        self._committed = True
        with contextlib.suppress(AtdataError):  # the dataset is there; the next writer finds a claim that is void
            self._claim.release()
        return [store.base + folder + shard.name for shard in record.shards]

    def abort(self) -> None:
        """Leave the prefix as it was before."""
        if self._committed:
            return
        # The server may be gone: the error that led here is raised anyway, and the next writer clears up.
        try:
            if self._claim.mine():  # else another writer took over, and what lies there is its own
                self._store.remove(self._created)
        except AtdataError:
            self._claim.forget()
        else:
            with contextlib.suppress(AtdataError):
                self._claim.release()
