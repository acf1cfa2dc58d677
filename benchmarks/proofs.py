"""The proof of a record, beyond the network: from a server's answer to what the account signed."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Bar, Context, Result, Row, Table

TITLE = "Proofs"
RECORDS = 5000
MOST = 2.0  # ms


def run(ctx: Context) -> Result:
    """Records of a large repository that are there and that are not, signed by both kinds of key."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "atmosphere"))
    result = Result()
    try:
        from signed_repositories import COLLECTION, Key, Repository
    except ImportError as error:
        result.missing.append(str(error.name))
        return result
    paths = [f"{COLLECTION}/{n:05d}" for n in range(ctx.count(RECORDS))]
    records = {path: {"$type": COLLECTION, "n": n, "name": f"dataset {n}"} for n, path in enumerate(paths)}
    for curve in ("k256", "p256"):
        _measure(ctx, Repository(records, key=Key(curve)), paths[:: max(1, len(paths) // 100)], result)
    return result


def _measure(ctx: Context, repository: Any, paths: list[str], result: Result) -> None:
    from atdata.atmosphere.keys import parse_key
    from atdata.atmosphere.proof import prove

    cars = {path: repository.car(path) for path in (*paths, *(f"{path}x" for path in paths))}
    signature = repository.key.sign(bytes(200))
    key = parse_key(repository.key.multikey)

    def proven(path: str) -> str | None:
        return prove(cars[path], repository.account, repository.uri(path)).cid

    assert all(proven(path) for path in paths)
    assert not any(proven(f"{path}x") for path in paths)
    contenders: dict[str, Callable[[str], object]] = {
        "atdata, a record": proven,
        "atdata, no such record": lambda path: proven(f"{path}x"),
        "the signature alone": lambda path: key.check(bytes(200), signature),
    }
    turns: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for turn in range(ctx.rounds + 1):
        for name, work in contenders.items():
            found = [_milliseconds(work, path) for path in paths]
            if turn:
                turns[name].append(found)
    middle = {name: statistics.median(itertools.chain.from_iterable(each)) for name, each in turns.items()}
    rows = [Row(name, middle[name], min(map(min, each)), max(map(max, each))) for name, each in turns.items()]
    curve = repository.key.curve
    blocks = statistics.median(len(repository.proof(path)) for path in paths)
    note = f"Medians of {len(paths)} records of a repository of {len(repository.records):,}; {blocks:.0f} blocks each."
    result.tables.append(Table(f"{TITLE}, {curve} key", "ms", rows, note))
    for name in ("atdata, a record", "atdata, no such record"):
        each = [statistics.median(turn) for turn in turns[name]]
        what = f"proof beyond the network, {curve} key{name.removeprefix('atdata')}"
        result.bars.append(Bar(what, MOST, middle[name], min(each), max(each), at_least=False, unit="ms"))


def _milliseconds(work: Callable[[str], object], path: str) -> float:
    start = time.perf_counter()
    work(path)
    return 1e3 * (time.perf_counter() - start)
