"""The first pass over shards that nobody has checked yet, in a new process each time, against later ones."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import batches
import peers
from harness import Bar, Context, Result, Timing, rates, ratio
from workloads import LARGE, SMALL, Workload, chosen

TITLE = "First pass"
_BARS = {"S": 0.5, "L": 0.25}
_WAYS = {"batches": "batches of 64, every field", "samples": "samples, every array summed"}
_FIRST, _LATER, _THEIRS = "atdata, first pass", "atdata, later passes", "webdataset (checks nothing)"
_PROCESSES = 2  # of ours in a round: each has only one first pass
_ENOUGH = 0.4  # seconds of later passes


def run(ctx: Context) -> Result:
    """Both kinds, as samples and as batches."""
    result = Result()
    for work in chosen(ctx):
        # What loads modules and starts threads in a new process, so that only the reading itself is timed.
        little = Context(ctx.data / "warm-up", 1e-9)
        places = {"atdata": [str(work.written(little)), str(work.written(ctx))]}
        if peers.available(ctx, "webdataset"):
            places["webdataset"] = [str(Path(peers.webdataset_shards(c, work)[0]).parent) for c in (little, ctx)]
        else:
            result.missing.append("webdataset")
        os.sync()
        for way in _WAYS:
            _run(ctx, work, way, places, result)
    return result


def _run(ctx: Context, work: Workload, way: str, places: dict[str, list[str]], result: Result) -> None:
    timings = {name: Timing(name) for name in (_FIRST, _LATER)}
    if "webdataset" in places:
        timings[_THEIRS] = Timing(_THEIRS)
    seen = set()
    for _ in range(ctx.rounds):
        ours = []
        for _ in range(min(_PROCESSES, ctx.rounds)):
            # Even a memory that outlives processes could not know these files.
            for path in Path(places["atdata"][1]).glob("*.tar"):
                path.touch()
            ours.append(_process(work, way, "atdata", places))
        timings[_FIRST].turns.append([found["seconds"][0] for found in ours])
        timings[_LATER].turns.append([s for found in ours for s in found["seconds"][1:]])
        seen |= {found["seen"] for found in ours}
        if _THEIRS in timings:
            found = _process(work, way, "webdataset", places)
            timings[_THEIRS].turns.append(found["seconds"])
            seen.add(found["seen"])
    assert len(seen) == 1, f"{TITLE}, {way}: the contenders differ: {seen}"
    result.tables.append(rates(f"{TITLE}, {_WAYS[way]}, {work}", "samples/s", work.count(ctx), timings))
    name = f"first pass, {work.letter}, {way}"
    if way == "batches":
        result.bars.append(Bar(f"{name}: of later passes", _BARS[work.letter], *ratio(timings, _FIRST, _LATER)))
    if _THEIRS in timings:
        result.bars.append(Bar(f"{name}: times webdataset", 1.0, *ratio(timings, _FIRST, _THEIRS)))


def _process(work: Workload, way: str, who: str, places: dict[str, list[str]]) -> dict[str, Any]:
    command = [sys.executable, __file__, work.letter, way, who, *places[who]]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _child(letter: str, way: str, who: str, little: str, folder: str) -> dict[str, Any]:
    work = next(w for w in (SMALL, LARGE) if w.letter == letter)
    _passes(work, way, who, little)()
    read = _passes(work, way, who, folder)
    seconds: list[float] = []
    # webdataset knows no first pass: one will do.
    while not seconds or (who == "atdata" and (len(seconds) < 2 or (sum(seconds[1:]) < _ENOUGH and len(seconds) < 6))):
        gc.collect()
        start = time.perf_counter()
        seen = read()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "seen": seen}


def _passes(work: Workload, way: str, who: str, folder: str) -> Callable[[], float]:
    array = work.array
    if who == "atdata":
        dataset = work.dataset(Path(folder))
        if way == "batches":
            return lambda: batches.take(array, dataset.ordered(batch_size=batches.SIZE))
        return lambda: _sum(getattr(s, array) for s in dataset.ordered())
    shards = sorted(str(path) for path in Path(folder).glob("*.tar"))
    if way == "batches":
        return lambda: batches.take(array, peers.webdataset_batches(work, shards, batches.SIZE))
    return lambda: _sum(s[array] for s in peers.webdataset_samples(work, shards))


def _sum(arrays: Iterable[Any]) -> float:
    """Reads every byte."""
    total = 0.0
    for array in arrays:
        total += float(array.sum())
    return total


if __name__ == "__main__":
    print(json.dumps(_child(*sys.argv[1:])))
