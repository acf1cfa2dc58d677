"""Samples of two sides matched by key and digest, a million at a time: everything here is NumPy and Arrow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Matched", "match"]

_Ints = NDArray[np.int64]


class Matched(NamedTuple):
    """Numbers of samples, in the order of their side; those of one key at the same place in both `changed` arrays."""

    added: _Ints
    removed: _Ints
    changed_old: _Ints
    changed_new: _Ints
    equal: int


def match(
    old: pa.ChunkedArray, old_digests: NDArray[np.uint64], new: pa.ChunkedArray, new_digests: NDArray[np.uint64]
) -> Matched:
    """Find each sample of one side on the other.

    Args:
        old: the keys before; Arrow strings.
        old_digests: the digests that go with them, of shape (samples, 4).
        new: the keys after.
        new_digests: their digests.
    """
    codes = _codes([*old.chunks, *new.chunks], pa.string())
    sides = codes[: len(old)], codes[len(old) :]
    total = int(codes.max(initial=-1)) + 1
    counts = [np.bincount(side, minlength=total) for side in sides]
    single = (counts[0] <= 1) & (counts[1] <= 1)
    at = [np.full(total, -1), np.full(total, -1)]
    for where, side in zip(at, sides, strict=True):
        where[side] = np.arange(len(side))
    both = single & (counts[0] == 1) & (counts[1] == 1)
    a, b = at[0][both], at[1][both]
    same = (old_digests[a] == new_digests[b]).all(axis=1)
    gone, fresh = at[0][single & (counts[1] == 0)], at[1][single & (counts[0] == 0)]
    # The rest, of keys that come several times on a side.
    rows = [np.flatnonzero(~single[side]) for side in sides]
    more = _bags(sides[0][rows[0]], old_digests[rows[0]], sides[1][rows[1]], new_digests[rows[1]])
    changed_old = np.concatenate([a[~same], rows[0][more.changed_old]])
    changed_new = np.concatenate([b[~same], rows[1][more.changed_new]])
    order = np.argsort(changed_new, kind="stable")
    return Matched(
        np.sort(np.concatenate([fresh, rows[1][more.added]])),
        np.sort(np.concatenate([gone, rows[0][more.removed]])),
        changed_old[order],
        changed_new[order],
        int(same.sum()) + more.equal,
    )


def _bags(old: _Ints, old_digests: NDArray[np.uint64], new: _Ints, new_digests: NDArray[np.uint64]) -> Matched:
    """The same for keys (by number) that come several times: equal samples first, then what is left of a key."""
    kind = pa.binary(32)
    digests = [pa.py_buffer(np.ascontiguousarray(d)) for d in (old_digests, new_digests)]
    counts = len(old), len(new)
    content = _codes(
        [pa.Array.from_buffers(kind, n, [None, data]) for n, data in zip(counts, digests, strict=True)], kind
    )
    distinct = int(content.max(initial=-1)) + 1
    a, b = _paired(old * distinct + content[: len(old)], new * distinct + content[len(old) :])
    rest_old, rest_new = np.delete(np.arange(len(old)), a), np.delete(np.arange(len(new)), b)
    c, d = _paired(old[rest_old], new[rest_new])
    return Matched(np.delete(rest_new, d), np.delete(rest_old, c), rest_old[c], rest_new[d], len(a))


def _paired(a: _Ints, b: _Ints) -> tuple[_Ints, _Ints]:
    """Positions of equal numbers in both: the first one here with the first one there, and so on."""
    _, dense = np.unique(np.concatenate([a, b]), return_inverse=True)
    ranks = [_ranks(side) for side in (dense[: len(a)], dense[len(a) :])]
    most = max(int(r.max(initial=0)) for r in ranks) + 1
    _, x, y = np.intersect1d(
        dense[: len(a)] * most + ranks[0], dense[len(a) :] * most + ranks[1], assume_unique=True, return_indices=True
    )
    return x, y


def _ranks(numbers: _Ints) -> _Ints:
    """How often each number came before."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    position = np.arange(len(numbers))
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(numbers) else np.empty(0, bool)
    out = np.empty(len(numbers), np.int64)
    out[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return out


def _codes(chunks: list[pa.Array], kind: pa.DataType) -> _Ints:
    """A number for each value, the same for equal ones, below the number of different ones."""
    if not any(map(len, chunks)):
        return np.empty(0, np.int64)
    indices = pa.chunked_array(chunks, kind).dictionary_encode().combine_chunks().indices
    # Arrow's own conversion would import pandas where that is installed, which takes a second.
    return np.frombuffer(indices.buffers()[1], np.int32, len(indices), 4 * indices.offset).astype(np.int64)
