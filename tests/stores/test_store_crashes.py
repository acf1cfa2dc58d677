"""Writers that are killed or interrupted: the dataset is the old one or the new one, whole, or visibly none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import crash
import pytest

import atdata
from atdata.errors import DatasetExistsError, DatasetNotFoundError, StoreBusyError
from atdata.stores.record import RECORD_NAME
from atdata.testing.probes import Probe, probes

PROGRAM = str(Path(crash.__file__))


def run(*arguments):
    done = subprocess.run([sys.executable, PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def samples_at(root):
    """The samples of the dataset; None when there visibly is none."""
    try:
        return list(atdata.Dataset[Probe](root / crash.PREFIX))
    except DatasetNotFoundError:
        return None


def files(root):
    """Names of all files below, hidden ones too."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def files_of(shards):
    stems = [f"{crash.PREFIX}/shard-{number:06d}" for number in range(shards)]
    ends = (".manifest.json", ".manifest.parquet", ".tar")
    return [f"{crash.PREFIX}/{RECORD_NAME}", *(stem + end for stem in stems for end in ends)]


def check_visible_tars(root):
    """Whatever stands under a shard's name is a whole archive."""
    for path in root.rglob("*.tar"):
        if ".atdata" not in str(path):
            with tarfile.open(path) as archive:
                assert archive.getmembers()
            list(atdata.Dataset[Probe](str(path)))


@pytest.fixture
def old(tmp_path):
    root = tmp_path / "old"
    crash.write(root, crash.old(), overwrite=False)
    return root


@pytest.fixture
def none(tmp_path):
    return tmp_path / "none"


def check_rerun(root, samples, shards, maxcount=5):
    crash.write(root, samples, overwrite=True, maxcount=maxcount)
    assert samples_at(root) == samples
    assert files(root) == files_of(shards)


@pytest.mark.slow
def test_a_first_write_killed_before_any_step(tmp_path, none):
    out = tmp_path / "out"
    results = run("steps", "write", "SIGKILL", none, out)
    assert set(results[:-1]) == {-signal.SIGKILL}
    assert len(results) > 40
    seen = set()
    for number in range(len(results)):
        root = out / str(number)
        root.mkdir(exist_ok=True)
        check_visible_tars(root)
        # Half of them meet a reader first, the others the next writer.
        found = samples_at(root) if number % 2 else None
        seen.add(found is not None)
        assert found in (None, crash.new())
        if found is None and number % 2:
            crash.write(root, crash.new(), overwrite=False)  # it is no dataset for writers either
            assert files(root) == files_of(2)
        check_rerun(root, crash.new(), 2)
    assert seen == {True, False}


@pytest.mark.slow
def test_an_overwrite_killed_before_any_step(tmp_path, old):
    out = tmp_path / "out"
    results = run("steps", "overwrite", "SIGKILL", old, out)
    assert set(results[:-1]) == {-signal.SIGKILL}
    seen = []
    for number in range(len(results)):
        root = out / str(number)
        decided = any(root.rglob(f".atdata-writing-*/{RECORD_NAME}"))
        had_record = (root / crash.PREFIX / RECORD_NAME).exists()
        if number % 2:
            found = samples_at(root)
            assert found in (crash.old(), crash.new())
            if decided and not had_record:  # the reader has finished it
                assert found == crash.new()
                assert files(root) == files_of(2)
            check_visible_tars(root)
            seen.append(found == crash.new())
        else:
            with pytest.raises(DatasetExistsError):  # whichever it is, it is there
                crash.write(root, probes(1), overwrite=False)
            assert samples_at(root) == (crash.new() if decided else samples_at(root))
        check_rerun(root, crash.new(), 2)
    assert seen == sorted(seen)  # first old, from one step on new
    assert set(seen) == {True, False}


@pytest.mark.slow
def test_a_reader_that_finishes_a_publish_is_killed_before_any_step(tmp_path, old):
    out = tmp_path / "out"
    results = run("steps", "overwrite", "SIGKILL", old, out)
    unfinished = [
        out / str(number)
        for number in range(len(results))
        if any((out / str(number)).rglob(f".atdata-writing-*/{RECORD_NAME}"))
        and not (out / str(number) / crash.PREFIX / RECORD_NAME).exists()
    ]
    assert len(unfinished) > 5
    again = tmp_path / "again"
    results = run("steps", "read", "SIGKILL", unfinished[0], again)
    for number in range(len(results)):
        assert samples_at(again / str(number)) == crash.new()
        check_rerun(again / str(number), crash.new(), 2)


@pytest.mark.slow
def test_a_delete_killed_before_any_step(tmp_path, old):
    out = tmp_path / "out"
    results = run("steps", "delete", "SIGKILL", old, out)
    seen = []
    for number in range(len(results)):
        root = out / str(number)
        found = samples_at(root)
        assert found in (None, crash.old())
        seen.append(found is None)
        if number % 2:
            crash.write(root, crash.new(), overwrite=found is not None)
            assert samples_at(root) == crash.new()
            assert files(root) == files_of(2)
            continue
        store = atdata.LocalDiskStore(root)
        if found is None:
            with pytest.raises(DatasetNotFoundError):
                store.delete(crash.PREFIX)
        else:
            store.delete(crash.PREFIX)
        assert files(root) == []
    assert seen == sorted(seen)
    assert set(seen) == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["none", "old"])
def test_a_writer_killed_at_random_moments(tmp_path, before, request):
    template = request.getfixturevalue(before)
    out = tmp_path / "out"
    results = run("moments", "write-large", 26, template, out)
    assert results.count(-signal.SIGKILL) >= 18
    for number in range(len(results)):
        root = out / str(number)
        root.mkdir(exist_ok=True)
        found = samples_at(root)
        allowed = [crash.large(), None if before == "none" else crash.old()]
        assert found in allowed
        check_visible_tars(root)
        check_rerun(root, crash.large(), 8, maxcount=40)
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["none", "old"])
def test_ctrl_c_before_any_step(tmp_path, before, request):
    """A writer that is interrupted cleans up behind itself, at once."""
    template = request.getfixturevalue(before)
    out = tmp_path / "out"
    results = run("steps", "overwrite", "SIGINT", template, out)
    assert set(results[:-1]) == {130}
    for number in range(len(results)):
        root = out / str(number)
        left = files(root) if root.exists() else []
        # The very last step of all is to remove the lock, which nobody holds any more.
        left = [name for name in left if not name.endswith(".atdata.lock") or number < len(results) - 3]
        found = samples_at(root)
        if found == crash.new():
            assert left == files_of(2)
        elif before == "old":
            assert found == crash.old()
            assert left == files_of(3)
        else:
            assert found is None
            assert left == []
            assert not (root / "p").exists()
        check_rerun(root, crash.new(), 2)


@pytest.mark.slow
def test_writers_at_the_same_moment(tmp_path):
    for turn in range(3):
        root = tmp_path / str(turn)
        results = run("race", 6, root)
        assert results.count(0) == 1
        assert set(results) <= {0, 10, 11}
        assert samples_at(root) == probes(40, first=1000 * results.index(0))
        assert files(root) == files_of(8)


# -- one writer in another process, which waits for a line of input after some samples ------------------------------

WAITING = """
import sys, atdata
from atdata.testing.probes import Probe, probes
def generate():
    for sample in probes(20):
        if sample.label == 12:
            print("waiting", flush=True)
            sys.stdin.readline()
        yield sample
atdata.LocalDiskStore(sys.argv[1]).write_shards(
    atdata.Dataset.from_samples(generate(), Probe), prefix="p/v1", maxcount=5, overwrite=True)
"""


@pytest.fixture
def waiting(tmp_path):
    """Starts a writer and waits until it has written some samples."""
    started = []

    def start(root):
        command = [sys.executable, "-c", WAITING, str(root)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, **pipes)
        started.append(process)
        assert process.stdout.readline() == "waiting\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_at_once(tmp_path, waiting):
    process = waiting(tmp_path)
    for overwrite in (False, True):
        start = time.monotonic()
        with pytest.raises(StoreBusyError, match=r"another process is writing .*p/v1"):
            crash.write(tmp_path, probes(3), overwrite=overwrite)
        assert time.monotonic() - start < 10
    assert samples_at(tmp_path) is None
    assert list(atdata.LocalDiskStore(tmp_path).list()) == []
    process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    assert samples_at(tmp_path) == probes(20)
    with pytest.raises(DatasetExistsError, match="overwrite=True"):
        crash.write(tmp_path, probes(3), overwrite=False)
    assert files(tmp_path) == files_of(4)


def test_the_lock_of_a_killed_process_does_not_block(tmp_path, waiting):
    waiting(tmp_path).kill()
    deadline = time.monotonic() + 30
    while True:  # the kernel takes a moment to let go of the lock
        try:
            crash.write(tmp_path, crash.new(), overwrite=False)
            break
        except StoreBusyError:
            assert time.monotonic() < deadline
    assert samples_at(tmp_path) == crash.new()
    assert files(tmp_path) == files_of(2)


@pytest.mark.parametrize("before", ["none", "old"])
def test_ctrl_c_while_samples_are_made(before, request, waiting):
    root = request.getfixturevalue(before)
    content = {name: (root / name).read_bytes() for name in files(root)}
    process = waiting(root)
    assert files(root) != sorted(content)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert "in generate" in stderr
    assert {name: (root / name).read_bytes() for name in files(root)} == content
    assert root.exists() == (before == "old")


def test_a_reader_keeps_what_it_has_open(tmp_path, old):
    """Overwriting does not change the bytes under a reader that has begun."""
    dataset = atdata.Dataset[Probe](old / crash.PREFIX)
    reader = iter(atdata.Dataset[Probe](old / crash.PREFIX, verify="never").take(5).ordered())
    first = next(reader)
    crash.write(old, crash.new(), overwrite=True)
    assert [first, *reader] == crash.old()[:5]
    with pytest.raises(atdata.AtdataError, match=r"changed|replaced|no such file|not the one that was written"):
        list(dataset)  # it knows the old record, and does not take the new shards for the old ones
    assert os.path.exists(old / crash.PREFIX / RECORD_NAME)
