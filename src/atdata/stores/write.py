"""`write_shards`, once for every store: samples → shards → sink → commit record, in one pass.

The caller's thread encodes; one background thread hashes, stores, and finishes shards, so that encoding, SHA-256 and
the disk work at the same time. What is under way between the two is bounded.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atdata.errors import EmptyDatasetError, StoreError
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema
from atdata.shards.manifest import header_name, manifest_name
from atdata.shards.manifest_file import extremes, to_header, to_parquet
from atdata.shards.writer import Room, ShardWriter, encoder
from atdata.stores.base import WrittenShards
from atdata.stores.progress import Progress
from atdata.stores.record import CommitRecord, FieldStats, ManifestInfo, ShardInfo

if TYPE_CHECKING:
    from atdata.shards.manifest import Manifest
    from atdata.stores.base import DataStore, SampleSource, Sink, Transaction

__all__ = ["write_shards"]

_UNDER_WAY = 4  # stretches of a few MiB between the two threads
_LONG = 64  # longer texts do not go into the statistics


def write_shards(
    store: DataStore,
    ds: SampleSource,
    *,
    prefix: str,
    maxcount: int,
    maxsize: int,
    overwrite: bool,
    manifest: bool,
    progress: bool,
) -> WrittenShards:
    """See `DataStore.write_shards`."""
    for name, value in (("maxcount", maxcount), ("maxsize", maxsize)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    largest = store.largest
    if largest is not None and maxsize > largest:
        raise StoreError(
            f"maxsize={maxsize} is more than the {largest} bytes that this store takes in one object: give at most "
            "that, or no maxsize, which means what it takes",
            url=prefix,
        )
    sample_type = ds.sample_type
    schema = None if issubclass(sample_type, DictSample) else Schema.of(sample_type)
    transaction = store.begin(prefix, overwrite=overwrite)
    try:
        with Progress(f"writing {prefix}", ds.known_length(), show=progress) as bar, _Worker() as worker:
            shards = _Shards(transaction, worker, sample_type, schema, manifest, largest)
            samples = enumerate(ds.keyed())
            following = next(samples, None)
            while following is not None:
                writer = shards.begin()
                following = writer.fill(
                    itertools.chain([following], samples),
                    maxcount=maxcount,
                    maxsize=maxsize,
                    room=shards.room,
                    advance=bar.advance if bar.shown else None,
                )
                shards.end(writer)
            infos = shards.finish()
        if not infos:
            raise EmptyDatasetError("there are no samples to write; nothing was changed", url=prefix)
        record = transaction.fitted(CommitRecord(schema, tuple(infos)))
        return WrittenShards(transaction.commit(record), record)
    except BaseException as error:  # Ctrl-C too: whatever happened, there is no other dataset at the prefix than before
        transaction.fail(error)
        raise


class _Shards:
    """The shards of one dataset, begun and finished as the limits ask."""

    def __init__(
        self,
        transaction: Transaction,
        worker: _Worker,
        sample_type: type,
        schema: Schema | None,
        manifest: bool,
        largest: int | None,
    ) -> None:
        self._transaction = transaction
        self._worker = worker
        self._encoder = encoder(sample_type)
        self._schema = schema
        self._manifest = manifest
        self._largest = largest
        self.room = None if largest is None else Room(largest, largest if manifest else None)
        self._close: Callable[[], None] = lambda: None
        self._infos: list[ShardInfo] = []
        self._count = 0

    def finish(self) -> list[ShardInfo]:
        self._worker.drain()
        return self._infos

    def begin(self) -> ShardWriter:
        name = f"shard-{self._count:06d}.tar"
        self._count += 1
        sink = self._transaction.create(name)
        sha = None if sink.sha256 is not None else hashlib.sha256()  # once is enough
        worker = self._worker

        def store(parts: list[bytes]) -> None:
            for part in parts:
                if sha is not None:
                    sha.update(part)
                sink.write(part)

        writer = ShardWriter(lambda parts: worker.submit(lambda: store(parts)), self._encoder)
        self._close = lambda: self._infos.append(self._finished(name, sink, writer, sha))
        worker.on_failure(sink.abort)
        return writer

    def end(self, writer: ShardWriter) -> None:
        writer.finish()
        self._worker.submit(self._close)

    def _finished(self, name: str, sink: Sink, writer: ShardWriter, sha: Any) -> ShardInfo:
        sha256 = str(sink.sha256) if sha is None else sha.hexdigest()
        sink.close()
        found = writer.manifest(sha256)
        info = None
        if self._manifest:
            parquet = to_parquet(found)
            beside = manifest_name(name)
            assert beside is not None
            self._check_fits(beside, parquet)
            self._put(beside, parquet)
            kind, version = (
                ("DictSample", "1.0.0") if self._schema is None else (self._schema.name, self._schema.version)
            )
            header = to_header(found, shard_id=name.removesuffix(".tar"), schema_type=kind, schema_version=version)
            self._check_fits(header_name(name), header)
            self._put(header_name(name), header)
            info = ManifestInfo(len(parquet), hashlib.sha256(parquet).hexdigest())
        return ShardInfo(name, writer.size, writer.samples, sha256, info, _stats(found))

    def _check_fits(self, name: str, data: bytes) -> None:
        if self._largest is not None and len(data) > self._largest:
            raise StoreError(
                f"{name} has {len(data)} bytes, and this store takes at most {self._largest} in one object: give a "
                "smaller maxcount, or manifest=False"
            )

    def _put(self, name: str, data: bytes) -> None:
        sink = self._transaction.create(name)
        try:
            sink.write(data)
            sink.close()
        except BaseException:
            sink.abort()
            raise


def _stats(manifest: Manifest) -> dict[str, FieldStats]:
    found = {}
    for name in manifest.scalar_fields:
        column = manifest.table[name]
        low, high = extremes(column)
        if hasattr(low, "isoformat"):
            low, high = low.isoformat(), high.isoformat()
        if isinstance(low, str) and (len(low) > _LONG or len(high) > _LONG):
            low = high = None
        found[name] = FieldStats(low, high, column.null_count)
    return found


class _Worker:
    """One thread that does what it is given, in order; the first failure is raised in the caller's thread."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(_UNDER_WAY)
        self._error: BaseException | None = None
        self._cleanup: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="atdata-writer", daemon=True)

    def __enter__(self) -> _Worker:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._error = self._error or InterruptedError()  # what waits is not done any more
        self._tasks.put(None)
        self._thread.join()
        if kind is not None:
            for undo in self._cleanup:
                undo()

    def on_failure(self, undo: Callable[[], None]) -> None:
        """Have `undo` called when the work fails."""
        self._cleanup.append(undo)

    def submit(self, task: Callable[[], None]) -> None:
        """Have `task` done; waits when too much is waiting."""
        if self._error is not None:
            raise self._error
        self._tasks.put(task)

    def drain(self) -> None:
        """Wait until everything is done."""
        self._tasks.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task is None:
                    return
                if self._error is None:
                    task()
            except BaseException as error:  # handed to the caller's thread, which raises it
                self._error = error
            finally:
                del task
                self._tasks.task_done()
