"""Run by the tests as a program: writing where it is bound to fail. It asserts, and says what it saw.

faults.py full ROOT        ROOT is a small file system; writes with every amount of free space up to enough
faults.py nodes ROOT       ROOT is a file system that runs out of files
faults.py filesize ROOT    a limit on the size of files
faults.py denied ROOT      as somebody who may not write in some folders of ROOT
"""

import os
import resource
import sys
from pathlib import Path

import atdata
from atdata.errors import DatasetNotFoundError, StoreError
from atdata.testing.probes import Probe, probes

OLD = probes(20, first=500, size=500)
NEW = probes(60, size=1500)


def write(root, samples, prefix, **options):
    dataset = atdata.Dataset.from_samples(samples, Probe)
    return atdata.LocalDiskStore(root).write_shards(dataset, prefix=prefix, maxcount=20, **options)


def content(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


def refused(root, samples, prefix, word, **options):
    """Whether the write failed as it has to: a clear error, and everything as before."""
    before = content(root)
    try:
        write(root, samples, prefix, **options)
    except StoreError as error:
        message = str(error)
    else:
        return False
    assert word in message, message
    assert str(root) in message, message
    assert content(root) == before, sorted(set(content(root)) ^ set(before))
    return True


def free(root):
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


def fill(root, leave):
    """A file that leaves so many bytes."""
    filler = Path(root, "filler")
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, max(free(root) - leave, 1))


def full(root):
    root = Path(root)
    write(root, OLD, "old")
    for prefix, options in (("old", {"overwrite": True}), ("new/deep", {})):
        failures = 0
        for leave in range(0, 1 << 20, 4096):
            fill(root, leave)
            if not refused(root, NEW, prefix, "the disk is full; free some space", **options):
                break
            failures += 1
            if prefix == "old":
                assert list(atdata.Dataset[Probe](root / "old")) == OLD
        assert failures > 20, failures
        assert list(atdata.Dataset[Probe](root / prefix)) == NEW
    print(f"failed {failures} times")


def nodes(root):
    root = Path(root)
    write(root, OLD, "old")
    spare = []
    while True:
        try:
            spare.append(root / f"spare-{len(spare)}")
            spare[-1].touch()
        except OSError:
            spare.pop()
            break
    failures = 0
    while refused(root, NEW, "old", "the disk is full; free some space", overwrite=True):
        assert list(atdata.Dataset[Probe](root / "old")) == OLD
        spare.pop().unlink()
        failures += 1
    assert failures > 5, failures
    assert list(atdata.Dataset[Probe](root / "old")) == NEW
    print(f"failed {failures} times")


def filesize(root):
    write(root, OLD, "old")
    for limit in (10, 4096, 20_000, 50_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        assert refused(root, NEW, "old", "choose a smaller maxsize", overwrite=True)
        assert refused(root, NEW, "new", "choose a smaller maxsize")
    assert list(atdata.Dataset[Probe](os.path.join(root, "old"))) == OLD
    write(root, NEW, "new", maxsize=40_000)
    print("done")


def denied(root):
    root = Path(root)
    write(root / "store", OLD, "old")
    write(root / "store", OLD, "secret")
    (root / "store/locked").mkdir()
    (root / "store/locked").chmod(0o555)
    (root / "store/old").chmod(0o555)
    (root / "store/secret").chmod(0o000)
    (root / "store").chmod(0o555)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    store = atdata.LocalDiskStore(root / "store")
    for prefix in ("new", "new/deep", "locked", "locked/x", "old"):
        assert refused(root / "store", NEW, prefix, "you may not write here", overwrite=True), prefix
    assert list(atdata.Dataset[Probe](root / "store/old")) == OLD
    for call in (
        lambda: store.delete("old"),
        lambda: store.delete("secret"),
        lambda: write(root / "store", NEW, "secret"),
        lambda: list(store.list("secret")),
        lambda: store.open(str(root / "store/secret/shard-000000.tar")),
        lambda: store.begin("secret", overwrite=True),
    ):
        try:
            call()
        except DatasetNotFoundError as error:
            raise AssertionError("it is there") from error
        except StoreError as error:
            print(error)
        else:
            raise AssertionError("it was allowed")


if __name__ == "__main__":
    {"full": full, "nodes": nodes, "filesize": filesize, "denied": denied}[sys.argv[1]](sys.argv[2])
