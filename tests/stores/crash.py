"""Run by the tests as a program: children of it that write, read or delete are killed or interrupted at chosen moments.

    crash.py steps ACTION SIGNAL TEMPLATE OUT     one child for every step that touches the disk, stopped before it
    crash.py moments ACTION COUNT TEMPLATE OUT    COUNT children, killed at random moments
    crash.py race COUNT ROOT                      COUNT writers at the same time

Every child works on its own copy of TEMPLATE, OUT/0, OUT/1, …; what became of each is printed as JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import atdata
from atdata.testing.probes import Probe, probes

PREFIX = "p/v1"
STEPS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def old():
    return probes(13, first=1000, size=300)


def new():
    return probes(8, size=300)


def large():
    return probes(300, size=2000)


def write(root, samples, *, overwrite, maxcount=5):
    dataset = atdata.Dataset.from_samples(samples, Probe)
    return atdata.LocalDiskStore(root).write_shards(dataset, prefix=PREFIX, maxcount=maxcount, overwrite=overwrite)


ACTIONS = {
    "write": lambda root: write(root, new(), overwrite=False),
    "overwrite": lambda root: write(root, new(), overwrite=True),
    "write-large": lambda root: write(root, large(), overwrite=True, maxcount=40),
    "delete": lambda root: atdata.LocalDiskStore(root).delete(PREFIX),
    "read": lambda root: list(atdata.Dataset[Probe](os.path.join(root, PREFIX))),
}


def stop_before(step, number):
    """Have this process get a signal before the given one of its steps that touch the disk."""
    lock = threading.Lock()
    count = 0

    def wrap(real):
        def call(*args, **kwargs):
            nonlocal count
            with lock:
                count += 1
                mine = count
            if mine == step:
                os.kill(os.getpid(), number)
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, wrap(getattr(os, name)))


def fork(work):
    """Do `work` in a child; gives its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except KeyboardInterrupt:
            status = 130
        except atdata.AtdataError as error:
            print(type(error).__name__, error, file=sys.stderr)
            status = 3
        finally:
            os._exit(status)
    return pid


def copy(template, out, number):
    root = Path(out, str(number))
    if os.path.isdir(template):
        shutil.copytree(template, root)
    return root


def ended(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def steps(action, name, template, out):
    number = signal.Signals[name]
    results = []
    while not results or results[-1] != 0:
        root = copy(template, out, len(results))

        step = len(results) + 1

        def work(step=step, root=root):
            stop_before(step, number)
            ACTIONS[action](root)

        results.append(ended(fork(work)))
        if len(results) > 1000:
            raise RuntimeError("it never comes to an end")
    return results


def moments(action, count, template, out):
    took = []
    for number in range(3):
        root = copy(template, out, f"whole-{number}")
        start = time.monotonic()
        pid = fork(lambda root=root: ACTIONS[action](root))
        assert ended(pid) == 0
        took.append(time.monotonic() - start)
    dice = random.Random(7)
    results = []
    for number in range(int(count)):
        root = copy(template, out, number)
        pid = fork(lambda root=root: ACTIONS[action](root))
        time.sleep(dice.uniform(0, min(took)))
        os.kill(pid, signal.SIGKILL)
        results.append(ended(pid))
    return results


def race(count, root):
    ready, go = os.pipe(), os.pipe()

    def work(number):
        os.close(go[1])
        os.write(ready[1], b".")
        os.read(go[0], 1)  # gives nothing, when the parent closes its end
        try:
            write(root, probes(40, first=1000 * number), overwrite=False)
        except atdata.errors.StoreBusyError:
            os._exit(10)
        except atdata.errors.DatasetExistsError:
            os._exit(11)

    pids = [fork(lambda number=number: work(number)) for number in range(int(count))]
    for _ in pids:
        os.read(ready[0], 1)
    os.close(go[1])
    return [ended(pid) for pid in pids]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as warm:  # everything is imported before the forks, so that children are quick
        ACTIONS["write"](warm)
        ACTIONS["read"](warm)
    print(json.dumps({"steps": steps, "moments": moments, "race": race}[sys.argv[1]](*sys.argv[2:])))
