"""The state of a loader: a few numbers that say how far an epoch was read, and of what.

```
{"atdata": 1,
 "dataset": "bafy…",            the content's identifier; without a commit record a digest of shards and counts
 "type": "1f3a…",               of the class the samples are read as, and of that after all steps, with their fields
 "steps": "9c0e…",              of the steps, functions by their names
 "order": [2048, 32],           block and window of a shuffle; with lanes also these and the batch size; "stored"
 "seed": 7, "epoch": 0,
 "remainder": "drop",
 "position": 128000}            samples that were given out, by all ranks and workers together
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from atdata.datasets.sources import Located
from atdata.datasets.steps import Step
from atdata.errors import StateError
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema

__all__ = ["FORMAT", "check_state", "dataset_digest", "steps_digest", "type_digest"]

FORMAT = 1

_MEANINGS = {
    "dataset": "of another dataset",
    "type": "of samples with another class or other fields",
    "steps": "of other steps (map, filter, where, take, …), or of the same in another order",
    "order": "of another order (block, window and lanes; shuffled or not)",
    "seed": "of another seed",
    "remainder": "with another remainder",
}


def dataset_digest(located: Located, counts: Sequence[int] | None) -> str:
    """What a dataset holds, wherever it lies.

    The CID of its commit record; else "shards:" and half of a SHA-256 of one line for each shard, in order: its own
    SHA-256 where that is recorded, else its name and number of samples.

    Args:
        located: its shards.
        counts: number of samples of each shard, where known.
    """
    if located.record is not None:
        return located.record.cid
    lines = []
    for number, ref in enumerate(located.shards):
        name = ref.url.partition("?")[0].rpartition("/")[2]
        count = "" if counts is None else str(counts[number])
        lines.append(f"{name}\t{count}\n" if ref.digest is None else f"{ref.digest}\n")
    return "shards:" + hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def type_digest(*sample_types: type) -> str:
    """What sample types are: their names and their fields, in 8 hex digits."""
    texts = ("DictSample" if issubclass(t, DictSample) else Schema.of(t).cid for t in sample_types)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def steps_digest(steps: Sequence[Step]) -> str:
    """What steps do, as far as can be told, in 8 hex digits."""
    text = "".join(f"{type(step).__name__}\t{step.identity}\n" for step in steps)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def check_state(state: Mapping[str, Any], mine: Mapping[str, Any], length: int | None) -> tuple[int, int]:
    """Epoch and position of a state that fits.

    Args:
        state: what was saved.
        mine: the state of this loader; everything but epoch and position has to be the same.
        length: samples of an epoch, where known.

    Raises:
        StateError: it is no state, or of something else; the message says what differs.
    """
    if not isinstance(state, Mapping) or "atdata" not in state:
        raise StateError(f"this is no state of a loader: {state!r:.200}")
    if state["atdata"] != FORMAT:
        raise StateError(f"the state has format {state['atdata']!r}, this version reads {FORMAT}: update atdata")
    missing = [name for name in mine if name not in state]
    if missing:
        raise StateError(f"the state is not whole: it has no {', '.join(missing)}")
    wrong = [
        f"{meaning} ({name} {state[name]!r}, here {mine[name]!r})"
        for name, meaning in _MEANINGS.items()
        if _plain(state[name]) != _plain(mine[name])
    ]
    if wrong:
        raise StateError(f"the state is {'; it is '.join(wrong)}")
    epoch, position = state["epoch"], state["position"]
    for name, value in (("epoch", epoch), ("position", position)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise StateError(f"the state's {name} is {value!r}, not a number from 0 on")
    if length is not None and position > length:
        raise StateError(f"the state's position is {position}, and there are {length} samples")
    return epoch, position


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # some ways of saving make tuples of lists, or lists
