"""A bad day for any of our stores: a store around another one, whose operations fail where they are told to.

This is the level of the store contract: what `write_shards` and `Dataset` meet when a store has done all it could and
fails nevertheless. What happens below, between a store and its server, is the matter of `atdata.testing.FaultProxy`.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any, TypeVar

from atdata.errors import StoreError
from atdata.stores.base import DataStore, Sink, StoredObject, Transaction
from atdata.stores.record import CommitRecord

__all__ = ["FaultyStore"]

T = TypeVar("T")

_HAVE_ANSWERS = ("write", "close", "keep", "commit", "delete")


class FaultyStore(DataStore):
    """A store that works as another one does, but for the faults.

    Its operations are `begin`, `resume`, `create`, `write`, `close`, `left`, `keep`, `commit`, `open`, `read`, `list`
    and `delete`. One that fails does nothing and raises StoreError. Giving up (`abort`, `suspend`) never fails. A
    `Dataset` with this store reads through it; what `read_url` gives leads past it.

    Args:
        store: one of atdata's stores, or another subclass of `atdata.stores.base.DataStore`.
        latency: seconds that each operation takes longer.
        fail_share: share of the operations that fail, chosen by `seed`.
        fail_every: each so manieth operation fails; 0: none.
        only: the operations that these two are about; none: all.
        seed: chooses.

    Attributes:
        operations: the names of all operations so far, in order.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Word:
        ...     text: str
        >>> words = [Word("shard"), Word("store")]
        >>> store = FaultyStore(atdata.open_store("memory://bad-day"))
        >>> store.fail("close")
        >>> try:
        ...     store.write_shards(atdata.Dataset.from_samples(words, Word), prefix="v1", manifest=False)
        ... except StoreError as error:
        ...     print(error.message)
        the operation 'close' fails, as it was told to
        >>> store.operations
        ['begin', 'create', 'write', 'close']
        >>> list(store.list())
        []
    """

    def __init__(
        self,
        store: DataStore,
        *,
        latency: float = 0.0,
        fail_share: float = 0.0,
        fail_every: int = 0,
        only: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self.store = store
        self.latency = latency
        self.fail_share = fail_share
        self.fail_every = fail_every
        self.only = only
        self.operations: list[str] = []
        self._concerned = 0
        self._dice = random.Random(seed)  # noqa: S311  (which operations fail)
        self._failing: list[tuple[str, int, bool]] = []
        self._spoiling: list[tuple[str, int, float]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"FaultyStore({self.store!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    # -- what to do wrong ------------------------------------------------------------------------------------

    def fail(self, operation: str = "", after: int = 0) -> None:
        """Have an operation fail: this one (or any), after so many others of its kind from now on."""
        self._failing.append((operation, after, False))

    def lose_answer(self, operation: str = "commit", after: int = 0) -> None:
        """Have an operation be done and raise StoreError all the same, as when the answer to it is lost.

        Args:
            operation: `write`, `close`, `keep`, `commit` or `delete`.
            after: how many others of its kind come before it.
        """
        if operation not in _HAVE_ANSWERS:
            raise ValueError(f"an answer can be lost to {', '.join(_HAVE_ANSWERS)}, not to {operation}")
        self._failing.append((operation, after, True))

    def flip_bit(self, read: int = 0, at: float = 0.5) -> None:
        """In the bytes of the `read` after so many others from now on, at this share of their length."""
        self._spoiling.append(("flip", read, at))

    def shorten(self, read: int = 0, at: float = 0.5) -> None:
        """Have that `read` give less than it was asked for: only this share."""
        self._spoiling.append(("shorten", read, at))

    # -- meeting it ------------------------------------------------------------------------------------------

    def _do(self, operation: str, url: str, act: Callable[[], T]) -> T:
        lost = self._meet(operation, url)
        result = act()
        if lost:
            raise StoreError(f"the answer to the operation {operation!r} is lost, as it was told to", url=url)
        return result

    def _meet(self, operation: str, url: str) -> bool:
        """Wait, fail, or say whether the answer is to be lost."""
        with self._lock:
            self.operations.append(operation)
            fails = lost = False
            waiting = []
            for name, after, losing in self._failing:
                if name not in ("", operation):
                    waiting.append((name, after, losing))
                elif after:
                    waiting.append((name, after - 1, losing))
                else:
                    fails, lost = fails or not losing, lost or losing
            self._failing = waiting
            if not self.only or operation in self.only:
                self._concerned += 1
                fails = fails or bool(self.fail_every and self._concerned % self.fail_every == 0)
                fails = bool(self.fail_share and self._dice.random() < self.fail_share) or fails
        if self.latency:
            time.sleep(self.latency)
        if fails:
            raise StoreError(f"the operation {operation!r} fails, as it was told to", url=url)
        return lost

    def _read(self, url: str, act: Callable[[], bytes | memoryview]) -> bytes:
        data = bytearray(self._do("read", url, act))
        with self._lock:
            due = [(what, at) for what, left, at in self._spoiling if left == 0]
            self._spoiling = [(what, left - 1, at) for what, left, at in self._spoiling if left]
        for what, at in due:
            if what == "shorten":
                del data[int(len(data) * at) :]
            elif data:
                data[min(len(data) - 1, int(len(data) * at))] ^= 0x10
        return bytes(data)

    # -- the contract ----------------------------------------------------------------------------------------

    @property
    def largest(self) -> int | None:
        """As of the store."""
        return self.store.largest

    @property
    def shard_size(self) -> int:
        """As of the store."""
        return self.store.shard_size

    def read_url(self, url: str) -> str:
        """What the store gives; it leads past the faults."""
        return self.store.read_url(url)

    def supports_streaming(self) -> bool:
        """As the store does."""
        return self.store.supports_streaming()

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """See `DataStore.begin`."""
        return _FaultyTransaction(
            self, prefix, self._do("begin", prefix, lambda: self.store.begin(prefix, overwrite=overwrite))
        )

    def resume(self, prefix: str, names: Collection[str], *, overwrite: bool) -> Transaction:
        """See `DataStore.resume`."""
        return _FaultyTransaction(
            self, prefix, self._do("resume", prefix, lambda: self.store.resume(prefix, names, overwrite=overwrite))
        )

    def open(self, url: str) -> StoredObject:
        """See `DataStore.open`."""
        return _FaultyObject(self, self._do("open", url, lambda: self.store.open(url)))

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `DataStore.list`."""
        yield from self._do("list", prefix, lambda: self.store.list(prefix))

    def delete(self, prefix: str) -> None:
        """See `DataStore.delete`."""
        self._do("delete", prefix, lambda: self.store.delete(prefix))


class _FaultyTransaction(Transaction):
    def __init__(self, faulty: FaultyStore, prefix: str, real: Transaction) -> None:
        self._faulty = faulty
        self._prefix = prefix
        self._real = real

    def create(self, name: str) -> Sink:
        url = f"{self._prefix}/{name}"
        return _FaultySink(self._faulty, url, self._faulty._do("create", url, lambda: self._real.create(name)))

    def left(self, name: str) -> StoredObject | None:
        found = self._faulty._do("left", f"{self._prefix}/{name}", lambda: self._real.left(name))
        return None if found is None else _FaultyObject(self._faulty, found)

    def keep(self, name: str) -> None:
        self._faulty._do("keep", f"{self._prefix}/{name}", lambda: self._real.keep(name))

    def fitted(self, record: CommitRecord) -> CommitRecord:
        return self._real.fitted(record)

    def commit(self, record: CommitRecord | None) -> list[str]:
        return self._faulty._do("commit", self._prefix, lambda: self._real.commit(record))

    def abort(self) -> None:
        self._real.abort()

    def suspend(self) -> None:
        self._real.suspend()


class _FaultySink(Sink):
    def __init__(self, faulty: FaultyStore, url: str, real: Sink) -> None:
        self._faulty = faulty
        self._url = url
        self._real = real

    def write(self, data: bytes) -> None:
        self._faulty._do("write", self._url, lambda: self._real.write(data))

    def close(self) -> None:
        self._faulty._do("close", self._url, self._real.close)

    def abort(self) -> None:
        self._real.abort()


class _FaultyObject(StoredObject):
    def __init__(self, faulty: FaultyStore, real: StoredObject) -> None:
        self._faulty = faulty
        self._real = real
        self.url = real.url
        self.size = real.size

    def read(self, start: int, stop: int) -> bytes:
        return self._faulty._read(self.url, lambda: self._real.read(start, stop))

    def stream(self) -> IO[bytes]:
        return io.BufferedReader(_FaultyStream(self._faulty, self.url, self._real.stream()), 1 << 20)


class _FaultyStream(io.RawIOBase):
    """A stream of which each stretch is a `read`."""

    def __init__(self, faulty: FaultyStore, url: str, real: IO[bytes]) -> None:
        self._faulty = faulty
        self._url = url
        self._real = real

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._faulty._read(self._url, lambda: self._real.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._real.close()
        super().close()
