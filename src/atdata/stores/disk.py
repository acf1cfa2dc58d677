"""Shards on the local disk: `LocalDiskStore`.

A write happens in a hidden folder inside the prefix, and its commit record is put there last; from that moment the
write is decided. Publishing then moves the files to their names, the record last. A process killed before the decision
leaves the old state and a hidden folder that the next writer sweeps away; killed after it, whoever comes next finishes
the moves. A lock file, held by `flock` and so released by the kernel whatever happens, keeps writers apart.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from atdata.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    StoreBusyError,
    StoreError,
    UnsafeNameError,
)
from atdata.stores.base import DataStore, Sink, StoredObject, Transaction, check_prefix
from atdata.stores.record import RECORD_NAME, CommitRecord, files_of

__all__ = ["LocalDiskStore", "LocalObject", "local_path", "recover"]

_LOCK = ".atdata.lock"
_STAGING = ".atdata-writing-"
_REPLACED = "replaced.json"
_DELETED = "deleted.json"


class LocalDiskStore(DataStore):
    """A data store in a folder of the local disk.

    Args:
        root: the folder; `~/.atdata/data` by default. It is made when the first dataset is written.

    Example:
        >>> store = LocalDiskStore("data")
        >>> urls = store.write_shards(dataset, prefix="digits/v1")  # doctest: +SKIP
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root if root is not None else "~/.atdata/data").expanduser().absolute()

    def __repr__(self) -> str:
        return f"LocalDiskStore({str(self.root)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalDiskStore) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def read_url(self, url: str) -> str:
        """The path of the file at `url`."""
        return str(self._path(url))

    def supports_streaming(self) -> bool:
        """True: a local file can be read while it is opened."""
        return True

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Start writing under `prefix`; see `DataStore.begin`."""
        return _DiskTransaction(self._folder(prefix), overwrite)

    def resume(self, prefix: str, names: Collection[str], *, overwrite: bool) -> Transaction:
        """Go on with an unfinished write; see `DataStore.resume`."""
        return _DiskTransaction(self._folder(prefix), overwrite, names)

    def open(self, url: str) -> LocalObject:
        """Open the file at `url` for reading; see `DataStore.open`."""
        return LocalObject(self._path(url))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Paths of the files under `prefix`, sorted; nothing of unfinished writes."""
        yield from _files_under(self._folder(prefix) if prefix else self.root)

    def delete(self, prefix: str) -> None:
        """Remove the dataset at `prefix`; see `DataStore.delete`."""
        folder = self._folder(prefix)
        with _errors(folder):
            if not folder.is_dir():
                raise DatasetNotFoundError("there is no dataset here", url=str(folder))
            with _locked(folder):
                _recover(folder)  # a decided write would bring the dataset back
                if not (folder / RECORD_NAME).exists():
                    raise DatasetNotFoundError("there is no dataset here", url=str(folder))
                staging = _new_staging(folder)
                staging.mkdir()
                os.rename(folder / RECORD_NAME, staging / _DELETED)
                _sync(folder)
                _finish_deleting(folder, staging)
        _remove_empty(folder, self.root)

    def _folder(self, prefix: str) -> Path:
        folder = self.root / check_prefix(prefix)
        if not _inside(folder, self.root):
            raise UnsafeNameError(f"the prefix {prefix!r} leads out of the store", url=str(self.root))
        return folder

    def _path(self, url: str) -> Path:
        path = local_path(url)
        if path is None:
            raise UnsafeNameError("a disk store reads local paths only", url=url)
        if not path.is_absolute():
            path = self.root / path
        if "\0" in url or not _inside(path, self.root):
            raise UnsafeNameError(f"the path leads out of the store at {self.root}", url=url)
        return path


def _inside(path: Path, root: Path) -> bool:
    """Whether `path` stays in `root` when links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links that lead round in a circle
        return False


def local_path(url: str) -> Path | None:
    """The path that a path or `file://` URL means; None for URLs of other schemes."""
    scheme, colon, _ = url.partition("://")
    if not colon:
        return Path(url)
    if scheme.lower() != "file":
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UnsafeNameError(f"a file URL names another machine, {parts.netloc!r}", url=url)
    return Path(unquote(parts.path))


class LocalObject(StoredObject):
    """A file open for reading; it stays the same file even when another takes its name."""

    def __init__(self, path: Path) -> None:
        self.url = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetNotFoundError("there is no such file", url=self.url) from None
        except OSError as error:
            raise StoreError(f"the file cannot be opened: {error.strerror}", url=self.url) from None
        self.stat = os.fstat(self._fd)
        self.size = self.stat.st_size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        pieces = []
        at = start
        while at < stop:
            try:
                piece = os.pread(self._fd, stop - at, at)
            except OSError as error:
                raise StoreError(f"the file cannot be read: {error.strerror}", url=self.url, offset=at) from None
            if not piece:
                raise StoreError(f"the file ends at byte {at}, before byte {stop}", url=self.url, offset=at)
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)

    def stream(self) -> IO[bytes]:
        """The file from the beginning."""
        return io.BufferedReader(_FileStream(os.dup(self._fd)), 1 << 20)

    def map(self) -> memoryview:
        """The whole file as a read-only view of mapped memory; it keeps the file alive."""
        if self.size == 0:
            return memoryview(b"")
        try:
            return memoryview(mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise StoreError(f"the file cannot be mapped: {error.strerror}", url=self.url) from None

    def close(self) -> None:
        """Let go of the file; maps made from it stay."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> LocalObject:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()


class _FileStream(io.RawIOBase):
    """A file from its beginning, with a position of its own: copies of a file descriptor share theirs."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._fd, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)


class _DiskSink(Sink):
    def __init__(self, path: Path) -> None:
        self._path = path
        with _errors(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with _errors(self._path):
            while view:
                view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        with _errors(self._path):
            os.fsync(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)


class _DiskTransaction(Transaction):
    def __init__(self, folder: Path, overwrite: bool, names: Collection[str] = ()) -> None:
        self._folder = folder
        self._made: list[Path] = []
        self._lock = contextlib.ExitStack()
        self._staging = _new_staging(folder)
        self._decided = False
        try:
            with _errors(folder):
                self._enter()
                _recover(folder)
                for left in folder.glob(f"{_STAGING}*"):  # of writers that were killed: nobody else is here
                    if not self._adopt(left, names):
                        shutil.rmtree(left, ignore_errors=True)
                if not overwrite:
                    _refuse_existing(folder, names)
                self._staging.mkdir(exist_ok=True)
        except BaseException:
            with contextlib.suppress(OSError):
                self._staging.rmdir()
            self._end()
            raise

    def _adopt(self, left: Path, names: Collection[str]) -> bool:
        """Go on in the folder of an unfinished write, with what it has of these names; in one at most."""
        if self._staging.exists() or not any((left / name).is_file() for name in names):
            return False
        for path in left.iterdir():
            if path.name not in names:
                path.unlink()
        self._staging = left
        return True

    def _enter(self) -> None:
        """Make the folder, and take its lock."""
        for left in reversed(range(10)):
            self._made += [p for p in (self._folder, *self._folder.parents) if not p.exists()]  # innermost first
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.enter_context(_locked(self._folder))
                return
            except FileNotFoundError:  # another writer gave up meanwhile, and removed the folders it had made
                if not left:
                    raise

    def create(self, name: str) -> Sink:
        (self._staging / name).unlink(missing_ok=True)
        return _DiskSink(self._staging / name)

    def left(self, name: str) -> StoredObject | None:
        path = self._staging / name
        return LocalObject(path) if path.is_file() else None

    def keep(self, name: str) -> None:
        """What lies in the folder of the write is part of it."""

    def commit(self, record: CommitRecord | None) -> list[str]:
        if record is None:
            return self._place()
        staged = self._staging / RECORD_NAME
        sink = _DiskSink(self._staging / f"{RECORD_NAME}.new")
        try:
            sink.write(record.to_bytes())
            sink.close()
        finally:
            sink.abort()
        with _errors(self._folder):
            _sync(self._staging)
            for made in self._made:
                _sync(made.parent)
            os.rename(self._staging / f"{RECORD_NAME}.new", staged)
            _sync(self._staging)
            self._decided = True
            _publish(self._folder, self._staging)
        self._end()
        return [str(self._folder / shard.name) for shard in record.shards]

    def _place(self) -> list[str]:
        """The files to their names, where they are no dataset; one that was there is gone before the first comes."""
        folder = self._folder
        with _errors(folder):
            current = folder / RECORD_NAME
            old = files_of(current.read_bytes()) if current.exists() else []
            names = sorted(os.listdir(self._staging))
            current.unlink(missing_ok=True)
            _sync(folder)
            for name in names:
                os.replace(self._staging / name, folder / name)
            for name in set(old) - set(names):
                (folder / name).unlink(missing_ok=True)
            _sync(folder)
            self._decided = True  # nothing to take back
            shutil.rmtree(self._staging, ignore_errors=True)
        self._end()
        return [str(folder / name) for name in names]

    def suspend(self) -> None:
        if self._decided:
            self.abort()
            return
        with contextlib.suppress(OSError):
            self._staging.rmdir()  # where nothing was made
        self._end()

    def abort(self) -> None:
        try:
            if self._decided:  # Ctrl-C while it was published; should this fail, whoever comes next finishes it
                with contextlib.suppress(OSError):
                    _recover(self._folder)
                    shutil.rmtree(self._staging, ignore_errors=True)
            else:
                # The record first: without it nobody takes what is left here for a decided write.
                with contextlib.suppress(OSError):
                    (self._staging / RECORD_NAME).unlink(missing_ok=True)
                shutil.rmtree(self._staging, ignore_errors=True)
        finally:
            self._end()

    def _end(self) -> None:
        self._lock.close()
        if not self._decided:
            for made in self._made:
                with contextlib.suppress(OSError):
                    made.rmdir()


def _publish(folder: Path, staging: Path) -> None:
    """Move a decided write to its names. Killed anywhere in here and called again, it goes on where it stopped."""
    current, replaced = folder / RECORD_NAME, staging / _REPLACED
    if current.exists():
        os.replace(current, replaced)
        _sync(folder)
    record = (staging / RECORD_NAME).read_bytes()
    old = files_of(replaced.read_bytes()) if replaced.exists() else []
    old += files_of(record)  # what lies there under the same names and is not of this write: a manifest, say
    new = set(files_of(record, written=True))
    for path in sorted(staging.iterdir()):
        if path.name not in (RECORD_NAME, _REPLACED):
            os.replace(path, folder / path.name)
    for name in old:
        if name not in new:
            (folder / name).unlink(missing_ok=True)
    _sync(folder)
    os.replace(staging / RECORD_NAME, current)
    _sync(folder)
    shutil.rmtree(staging, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish a write that was killed between its decision and its last move, if there is one."""
    if _decided_staging(folder) is None:
        return
    try:
        with _locked(folder):
            _recover(folder)
    except OSError as error:
        raise StoreError(
            "a write was interrupted while its files were moved to their names, and cannot be finished: "
            f"{error.strerror}; open the dataset once as a user who may write here",
            url=str(folder),
        ) from None


def _recover(folder: Path) -> None:
    """Finish what a killed process had decided; the caller holds the lock."""
    staging = _decided_staging(folder)
    if staging is not None:
        _publish(folder, staging)
    for deleted in folder.glob(f"{_STAGING}*/{_DELETED}"):
        _finish_deleting(folder, deleted.parent)


def _new_staging(folder: Path) -> Path:
    return folder / f"{_STAGING}{uuid.uuid4().hex[:8]}"


def _finish_deleting(folder: Path, staging: Path) -> None:
    """Remove the files of a dataset whose record lies in `staging` already. Can be called again after a kill."""
    for name in files_of((staging / _DELETED).read_bytes()):
        (folder / name).unlink(missing_ok=True)
    _sync(folder)
    shutil.rmtree(staging, ignore_errors=True)


def _decided_staging(folder: Path) -> Path | None:
    for staging in folder.glob(f"{_STAGING}*"):
        if (staging / RECORD_NAME).exists():
            return staging
    return None


def _refuse_existing(folder: Path, names: Collection[str]) -> None:
    if (folder / RECORD_NAME).exists():
        raise DatasetExistsError(
            "there is a dataset already: replace it with overwrite=True (--overwrite), or choose another place",
            url=str(folder),
        )
    for name in sorted(os.listdir(folder)):
        if name in names or name.endswith((".tar", ".manifest.parquet", ".manifest.json")):
            raise DatasetExistsError(
                f"{name} is there, and no dataset: choose another place, or overwrite=True (--overwrite)",
                url=str(folder),
            )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    path = folder / _LOCK
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StoreError(f"the folder cannot be locked: {error.strerror}", url=str(folder)) from None
            raise StoreBusyError("another process is writing a dataset here; wait for it", url=str(folder)) from None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                break
        os.close(fd)  # its last holder has removed this file; try the one that is there now
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """The system's errors as ours, with what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        hint = {
            errno.ENOSPC: "the disk is full; free some space and run again",
            errno.EDQUOT: "the quota is used up; free some space and run again",
            errno.EFBIG: "the file would be larger than allowed here; choose a smaller maxsize",
            errno.EACCES: "you may not write here",
            errno.EROFS: "the disk is read-only",
        }.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(f"cannot write: {hint}", url=str(path)) from error


def _files_under(folder: Path) -> Iterator[str]:
    """Paths of the files in `folder` and below, sorted; none of ours that begin with `.atdata`."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in found)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StoreError(f"the folder cannot be listed: {error.strerror}", url=str(folder)) from None
    for name in entries:
        if name.startswith(".atdata"):
            continue
        if name.endswith("/"):
            yield from _files_under(folder / name)
        elif (folder / name).is_file():  # links to folders are not followed
            yield str(folder / name)


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
