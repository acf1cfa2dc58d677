# ruff: noqa: RUF001 (typographic signs are wanted in what people read)
"""Which samples a training is given: dropped, repeated, also after a kill; and how soon it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import peers_training as training
from harness import Bar, Context, Grid, Result, Row, Table, Timing
from training_rank import Orders
from workloads import COUNTED

RANKS, WORKERS = 2, 2
BATCH = 64  # of all ranks together: what it is has to stay, says the documentation of two libraries
OTHER_WORKERS = (2, 3)
OTHER_RANKS = (4, 1)
DEADLINE = 180.0  # seconds for a run; one that takes longer is taken to hang
_RANK = Path(__file__).with_name("training_rank.py")
_POLL = 0.02


class Failed(Exception):
    """A library did not come to the end of what it was to do; says why, in few words."""


class Training:
    """The ranks of one run, processes of their own."""

    def __init__(
        self,
        ctx: Context,
        peer: training.Peer,
        layout: tuple[int, int],
        state: list[Path] | None = None,
        *,
        modules: Path | None = None,
        save_after: int | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.ranks, workers = layout
        self._save_after = save_after
        self.out = Path(tempfile.mkdtemp(prefix="training-", dir=ctx.data))
        folder = peer.prepare(ctx, COUNTED)
        self._streaming = peer.package == "streaming"
        self._clean()
        self._processes = []
        for rank in range(self.ranks):
            part = training.Part(folder, COUNTED, COUNTED.count(ctx), rank, self.ranks, workers, BATCH // self.ranks)
            found = None if state is None else state[rank if len(state) == self.ranks else 0]
            orders = Orders(peer.name, part, self.out, found, modules, save_after, stop_after)
            with (self.out / f"said-{rank}.txt").open("wb") as said:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, str(_RANK), str(orders.write(self.out / f"orders-{rank}.json"))],
                        stdin=subprocess.PIPE,  # closed by the end of this process, however it ends
                        stdout=said,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def finish(self) -> None:
        """Wait until every rank has read its part."""
        self._wait(lambda: all((self.out / f"done-{rank}").exists() for rank in range(self.ranks)))
        with contextlib.suppress(subprocess.TimeoutExpired):  # how a library ends is not what is asked here
            for process in self._processes:
                process.wait(20)

    def kill(self) -> None:
        """Kill all ranks with their workers, some steps after they have saved their states."""
        assert self._save_after is not None
        enough = self._save_after + 3
        self._wait(lambda: all(self._steps(rank) >= enough for rank in range(self.ranks)))
        self.close()

    def _steps(self, rank: int) -> int:
        path = self.out / f"seen-{rank}.txt"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _wait(self, done: Any) -> None:
        deadline = time.monotonic() + DEADLINE
        while not done():
            for rank, process in enumerate(self._processes):
                if process.poll() is not None and not done():
                    lines = (self.out / f"said-{rank}.txt").read_text(errors="replace").strip().splitlines()
                    raise Failed(f"ended with {process.returncode}: {lines[-1] if lines else 'silence'}")
            if time.monotonic() > deadline:
                raise Failed(f"hangs for {DEADLINE:.0f} s")
            time.sleep(_POLL)

    def numbers(self, until: int | None = None) -> list[int]:
        """The samples that were given to all ranks, in the first `until` steps."""
        found: list[int] = []
        for rank in range(self.ranks):
            path = self.out / f"seen-{rank}.txt"
            for line in path.read_text().splitlines():
                step, some = json.loads(line)
                if until is None or step <= until:
                    found += some
        return found

    def states(self) -> list[Path]:
        """The saved state of each rank."""
        return [self.out / f"state-{rank}" for rank in range(self.ranks)]

    def first(self) -> float:
        """Seconds until the slowest rank had its first batch."""
        return max(float((self.out / f"first-{rank}.txt").read_text()) for rank in range(self.ranks))

    def close(self) -> None:
        """End what still runs."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _clean(self) -> None:
        if self._streaming:  # what it says to do after processes were killed
            with peers.quiet():
                peers.streaming().base.util.clean_stale_shared_memory()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        self._clean()
        shutil.rmtree(self.out, ignore_errors=True)


def run(ctx: Context) -> Result:
    """All libraries that are here."""
    result = Result()
    found = []
    for peer in training.PEERS:
        if peers.available(ctx, peer.package) or peer.name == "atdata":
            found.append(peer)
        else:
            result.missing.append(peer.package)
    with contextlib.ExitStack() as stack:
        rows: list[list[str]] = []
        states: dict[str, _Kept] = {}
        for peer in found:
            cells, kept = _exactness(ctx, peer, stack)
            rows.append([peer.name, *cells])
            print(f"{peer.name}: {', '.join(cells)}", file=sys.stderr)  # all takes minutes
            if kept is not None:
                states[peer.name] = kept
        _say(ctx, result, rows)
        _resume_time(ctx, result, states)
    return result


# -- dropped and repeated --------------------------------------------------------------------------------------------


# The states that the ranks of a library saved in the middle of an epoch, and what one of them had imported.
_Kept = tuple[list[Path], Path]


def _exactness(ctx: Context, peer: training.Peer, stack: contextlib.ExitStack) -> tuple[list[str], _Kept | None]:
    """The cells of a library, and what is kept of it for the time it takes to go on."""
    count = COUNTED.count(ctx)
    with _failing() as cells, Training(ctx, peer, (RANKS, WORKERS)) as whole:
        whole.finish()
        cells.append(_lost(whole.numbers(), count))
    if not peer.state:
        return [*cells, "no state", "", "", ""], None
    half = max(1, count // BATCH // 2)
    killed = stack.enter_context(Training(ctx, peer, (RANKS, WORKERS), save_after=half))
    with _failing() as failed:
        killed.kill()
        failed.append("")
    if failed != [""]:
        return [*cells, *failed, "", "", ""], None
    states = killed.states()
    for layout, can in (((RANKS, WORKERS), True), (OTHER_WORKERS, peer.elastic[0]), (OTHER_RANKS, peer.elastic[1])):
        if not can:
            cells.append("cannot")
            continue
        with _failing() as more, Training(ctx, peer, layout, states) as resumed:
            resumed.finish()
            more.append(_lost(killed.numbers(until=half) + resumed.numbers(), count))
        cells += more
    return [*cells, f"{_size(states[0]):,}"], (states, killed.out / "modules-0.json")


@contextlib.contextmanager
def _failing() -> Iterator[list[str]]:
    """Cells to add to; one that says what failed, where something did."""
    cells: list[str] = []
    try:
        yield cells
    except Failed as failure:
        cells.append(str(failure).replace("|", "/"))


def _lost(numbers: list[int], count: int) -> str:
    seen = Counter(numbers)
    assert not set(seen) - set(range(count)), "samples that were never written"
    return f"{count - len(seen):,} / {seen.total() - len(seen):,}"


def _size(state: Path) -> int:
    """Bytes of a state, as JSON where that can hold it."""
    found = pickle.loads(state.read_bytes())
    try:
        return len(json.dumps(found))
    except TypeError:
        return len(state.read_bytes())


def _say(ctx: Context, result: Result, rows: list[list[str]]) -> None:
    workers, ranks = (f"{a} × {b}" for a, b in (OTHER_WORKERS, OTHER_RANKS))
    same = f"{RANKS} × {WORKERS}"
    head = [f"epoch, {same}", f"killed, resumed {same}", f"resumed {workers}", f"resumed {ranks}", "state, bytes"]
    result.grids.append(
        Grid(
            f"Samples dropped / repeated, ranks × workers, {COUNTED.count(ctx):,} samples shuffled in batches",
            head,
            rows,
            f"Ranks go in step, {BATCH} samples of all together a step. Half through an epoch each saves its state; "
            "some steps later all are killed (SIGKILL), and others begin with the states. What was given after they "
            "were saved does not count, as the model is set back too. “cannot”: its documentation does not have it "
            "go on with other numbers; “no state”: it has none, and begins the epoch anew. Dropped and repeated are "
            "counted over the whole epoch.",
        )
    )
    asked = (f"an epoch of {same}", f"killed and resumed by {same}", f"resumed by {workers}", f"resumed by {ranks}")
    for cell, what in zip(rows[0][1:], asked, strict=False):
        bad = sum(int(part.replace(",", "")) for part in cell.split(" / "))
        result.bars.append(
            Bar(f"samples dropped or repeated, {what}", 0, bad, bad, bad, at_least=False, unit="samples")
        )


# -- how soon it goes on ---------------------------------------------------------------------------------------------


def _resume_time(ctx: Context, result: Result, states: dict[str, _Kept]) -> None:
    """Every library in turn, from the beginning and from a state."""
    fresh, resumed = ({name: Timing(name) for name in states} for _ in range(2))
    for _ in range(min(ctx.rounds, 3)):  # each takes many processes
        for name, (state, modules) in states.items():
            for timings, given in ((fresh, None), (resumed, state)):
                peer = training.named(name)
                with Training(ctx, peer, (RANKS, WORKERS), given, modules=modules, stop_after=1) as short:
                    short.finish()
                    timings[name].turns.append([short.first()])
    for timings, what in ((resumed, "from a state in the middle of an epoch"), (fresh, "from its beginning")):
        ours = next(iter(timings.values())).median
        rows = [
            Row(t.name, t.median, t.low, t.high, None if number == 0 else t.median / ours)
            for number, t in enumerate(timings.values())
        ]
        note = (
            f"{RANKS} ranks × {WORKERS} workers, new processes in which everything was imported before, until the "
            "slower rank has its batch: workers started, shards found, the place in the order found."
        )
        result.tables.append(Table(f"To the first batch, {what}", "s", rows, note))
