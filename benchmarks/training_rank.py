"""One rank of a training: reads its batches in step with the others, and writes down what it was given.

python training_rank.py ORDERS    (a JSON file, see `Orders`)
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import peers  # noqa: E402 (its folder has to be known first)
import peers_training as training  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from workloads import COUNTED  # noqa: E402


@dataclass(frozen=True)
class Orders:
    """What a rank is to do.

    Attributes:
        peer: with which library.
        part: what to read; its work is `COUNTED`.
        out: the folder for what it writes: `seen-RANK.txt`, a line for every step with its number and the samples';
            `state-RANK`, the state after `save_after` steps; `first-RANK.txt`, seconds to the first batch;
            `modules-RANK.json`, what had been imported by then.
        state: the file with the state to go on from.
        modules: a file with what is imported before the clock runs.
        save_after: steps after which the state is saved; None for never.
        stop_after: steps after which it ends; None for the end of the epoch.
    """

    peer: str
    part: training.Part
    out: Path
    state: Path | None = None
    modules: Path | None = None
    save_after: int | None = None
    stop_after: int | None = None

    def write(self, path: Path) -> Path:
        """The orders as a file."""
        part = {f.name: getattr(self.part, f.name) for f in dataclasses.fields(self.part) if f.name != "work"}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "part"}
        path.write_text(json.dumps({**rest, "part": part}, default=str))
        return path

    @classmethod
    def read(cls, path: Path) -> Orders:
        """The orders of a file."""
        found = json.loads(path.read_text())
        part = found.pop("part")
        part = training.Part(**{**part, "folder": Path(part["folder"]), "work": COUNTED})
        paths = {name: found[name] and Path(found[name]) for name in ("out", "state", "modules")}
        return cls(**{**found, **paths, "part": part})


def main(orders: Orders) -> None:
    """One epoch, or what is left of it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    part, out = orders.part, orders.out
    training.settle(part)
    meeting = f"file://{out / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=part.rank, world_size=part.ranks)
    peer = training.named(orders.peer)
    if orders.modules is not None:
        _import(peer, json.loads(orders.modules.read_text()))
    state = None if orders.state is None else pickle.loads(orders.state.read_bytes())
    dist.barrier()
    start = time.perf_counter()
    batches, save = peer.read(part, state)
    batches = iter(batches)
    first = next(batches, None)
    (out / f"first-{part.rank}.txt").write_text(str(time.perf_counter() - start))
    (out / f"modules-{part.rank}.json").write_text(json.dumps(list(sys.modules)))
    _train(orders, first, batches, save)
    (out / f"done-{part.rank}").touch()
    dist.barrier()
    dist.destroy_process_group()


def _end_with_parent() -> None:
    """Its parent writes nothing: that there is an end of it says that the parent has ended."""
    os.read(0, 1)  # not sys.stdin, whose lock a forked worker would find held
    os.killpg(0, signal.SIGKILL)


def _import(peer: training.Peer, modules: list[str]) -> None:
    if peer.package == "streaming":
        peers.streaming()
    for name in modules:
        with contextlib.suppress(Exception):  # some are made by others, and nothing that can be imported
            importlib.import_module(name)


def _train(orders: Orders, batch: Any, batches: Iterator[Any], save: Any) -> None:
    rank, out, step = orders.part.rank, orders.out, 0
    with (out / f"seen-{rank}.txt").open("a") as seen:
        while orders.stop_after is None or step < orders.stop_after:
            # Ranks may have one batch more or less: all go on until nobody has any.
            more = torch.tensor([0 if batch is None else 1])
            dist.all_reduce(more)
            if int(more) == 0:
                break
            step += 1
            if batch is not None:
                seen.write(json.dumps([step, batch]) + "\n")
                seen.flush()
            if step == orders.save_after:
                temporary = out / f"state-{rank}.new"
                temporary.write_bytes(pickle.dumps(save(step)))
                temporary.replace(out / f"state-{rank}")
            batch = next(batches, None)


if __name__ == "__main__":
    main(Orders.read(Path(sys.argv[1])))
