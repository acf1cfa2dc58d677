"""Writing large datasets in little memory, and what is shown meanwhile."""

import os
import pty
import re
import subprocess
import sys

import pytest

import atdata
from atdata.testing.probes import Probe, probes

MEMORY = """
import resource, sys
import numpy as np
import atdata
from atdata.testing.probes import Probe

def generate(count, size):
    for n in range(count):
        yield Probe(np.full(size, n % 251, np.uint8), n)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def write(prefix, count, size):
    dataset = atdata.Dataset.from_samples(generate(count, size), Probe)
    return store.write_shards(dataset, prefix=prefix)

store = atdata.LocalDiskStore(sys.argv[1])
write("small", 100, 1000)
before = peak()
urls = write("large", int(sys.argv[2]), int(sys.argv[3]))
print(len(urls), sum(shard.size for shard in urls.shards), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(200, 1_000_000), (30_000, 64)])
def test_memory_does_not_grow_with_the_dataset(tmp_path, count, size):
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(count), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    shards, written, grown = map(int, done.stdout.split())
    assert shards == max(1, count // 10_000)
    assert written > count * size
    assert grown < 100, f"{grown} MiB more for {written >> 20} MiB of shards"


@pytest.mark.parametrize("size", [64, 20_000, 1_000_000])
def test_a_generator_may_use_its_array_again(tmp_path, size):
    """What was given is stored as it was then."""
    sample = probes(1, size=size)[0]

    def generate():
        for n in range(30):
            sample.pixels[:] = n
            sample.label = n
            yield sample

    dataset = atdata.Dataset.from_samples(generate(), Probe)
    urls = atdata.LocalDiskStore(tmp_path).write_shards(dataset, prefix="x", maxcount=7)
    for n, found in enumerate(atdata.Dataset[Probe](urls)):
        assert (found.label, found.pixels.min(), found.pixels.max(), len(found.pixels)) == (n, n, n, size)


def test_an_iterator_is_written_once(tmp_path):
    dataset = atdata.Dataset.from_samples(iter(probes(3)), Probe)
    store = atdata.LocalDiskStore(tmp_path)
    store.write_shards(dataset, prefix="x")
    with pytest.raises(atdata.AtdataError, match="was read already"):
        store.write_shards(dataset, prefix="y")
    assert not (tmp_path / "y").exists()


def test_keys_and_numbers(tmp_path):
    """Samples without keys are numbered over the whole dataset, not in each shard."""
    urls = atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(probes(5), Probe), prefix="x", maxcount=2
    )
    assert [key for key, _ in atdata.Dataset[Probe](urls).keyed()] == [f"{n:09d}" for n in range(5)]


@pytest.mark.parametrize(
    "key",
    ["", "a.b", "a/", "/a", "a//b", "..", "a/../b", "__index__", "__x__/y", "nul\0", "new\nline", "a\\b", "\ud800",
     "k" * 5000],
    ids=lambda key: repr(key)[:12],
)  # fmt: skip
def test_keys_that_readers_would_cut_are_refused(tmp_path, key):
    dataset = atdata.Dataset.from_samples(probes(2), Probe, key=lambda sample: key)
    with pytest.raises(atdata.errors.UnsafeNameError, match=r"[Kk]eys?"):
        atdata.LocalDiskStore(tmp_path / "root").write_shards(dataset, prefix="x")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "key", ["a b", "ünï/数据", "a.b/c", "_x", "__x", "-", "k" * 4000, "[x]", "100%", "'\""], ids=lambda k: k[:9]
)
def test_unusual_keys_work(tmp_path, key):
    dataset = atdata.Dataset.from_samples(probes(1), Probe, key=lambda sample: key)
    (url,) = atdata.LocalDiskStore(tmp_path).write_shards(dataset, prefix="x")
    back = atdata.Dataset[Probe](url)
    assert [k for k, _ in back.keyed()] == [key]
    assert back.get(key) == probes(1)[0]


# -- progress ----------------------------------------------------------------------------------------------------

PROGRESS = """
import sys, time, atdata
from atdata.testing.probes import Probe, probes
def slowly():
    for sample in probes(150):
        time.sleep(0.004)
        yield sample
samples = slowly() if sys.argv[2] == "generator" else probes(150)
dataset = atdata.Dataset.from_samples(samples, Probe)
if sys.argv[2] == "list":
    dataset = dataset.map(lambda sample: (time.sleep(0.004), sample)[1])
atdata.LocalDiskStore(sys.argv[1]).write_shards(
    dataset, prefix=sys.argv[4], progress={"True": True, "False": False, "None": None}[sys.argv[3]])
"""


def on_a_terminal(*arguments):
    """What the program shows on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-c", PROGRESS, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


@pytest.mark.parametrize("progress", ["True", "False", "None"])
def test_nothing_is_shown_where_there_is_no_terminal(tmp_path, progress):
    command = [sys.executable, "-c", PROGRESS, str(tmp_path), "list", progress, "x"]
    done = subprocess.run(command, capture_output=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("progress", ["False", "None"])
def test_nothing_is_shown_unasked(tmp_path, progress):
    assert on_a_terminal(tmp_path, "list", progress, "x") == ""


def test_rate_and_time_left_on_a_terminal(tmp_path):
    shown = on_a_terminal(tmp_path, "list", "True", "digits/[v1] [/bold]")
    assert "writing digits/[v1] [/bold]" in shown
    assert "150 samples" in shown
    counts = [int(found) for found in re.findall(r"(\d+) samples", shown)]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert re.search(r"[1-9]\d*/s", shown)
    assert re.search(r"0:00:0\d 0:00:0\d", shown)  # time taken, time left
    assert len(atdata.Dataset(tmp_path / "digits/[v1] [/bold]")) == 150


def test_rate_of_a_dataset_without_a_length(tmp_path):
    shown = on_a_terminal(tmp_path, "generator", "True", "x")
    assert "150 samples" in shown
    assert re.search(r"[1-9]\d*/s", shown)
    assert re.search(r"/s 0:00:0\d", shown)  # time taken; how much is left nobody knows
