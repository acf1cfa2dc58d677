"""The Merkle search tree of a repository: what a key leads to, or that it leads nowhere.

A node holds keys of one layer, in order, with links to the nodes of the layer below between them. A key's layer is the
number of pairs of zero bits that its SHA-256 begins with, so that a set of keys has exactly one tree. All that is
checked on the way: a tree that could hide a key in a place where nobody looks proves nothing.

Format: https://atproto.com/specs/repository (MST structure).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, NamedTuple

from atdata.atmosphere.dagcbor import decode
from atdata.atmosphere.syntax import shown
from atdata.cid import Link
from atdata.errors import ProofError

__all__ = ["find", "layer_of"]

_MAX_ENTRIES = 1000  # of one node; 3 on average, and more than 100 with a chance of 10⁻¹³
_MAX_KEY = 1024


class _Node(NamedTuple):
    keys: list[bytes]
    values: list[Link]
    subtrees: list[Link | None]  # before, between and after the keys: one more


def layer_of(key: bytes) -> int:
    """The layer of the tree that `key` belongs to, counted from the leaves.

    Example:
        >>> [layer_of(key) for key in (b"2653ae71", b"blue", b"app.bsky.feed.post/9adeb165882c")]
        [0, 1, 8]
    """
    return (256 - int.from_bytes(hashlib.sha256(key).digest(), "big").bit_length()) // 2


def find(blocks: Mapping[bytes, bytes], root: Link, key: bytes) -> Link | None:
    """What `key` leads to in the tree at `root`; None where the tree does not have it.

    Args:
        blocks: by the 36 bytes of their CIDs, which are right: of the tree, at least the nodes on the way to the key.
        root: the top node.
        key: `collection/rkey`.

    Raises:
        ProofError: a node on the way is missing or malformed (`link` is "path").
    """
    layer = -1  # of the node above; unknown at the top
    low: bytes | None = None  # the subtree's keys lie between these
    high: bytes | None = None
    link: Link | None = root
    while link is not None:
        block = blocks.get(link.raw)
        if block is None:
            raise _broken(key, f"the proof lacks the node {link}, in which the key would be", "it was cut short")
        try:
            node = _node(block)
            layer = _checked(node, layer, low, high)
        except ValueError as error:
            raise _broken(key, f"the node {link} is malformed: {error}", "such a tree proves nothing") from None
        i = bisect_left(node.keys, key)
        if i < len(node.keys):
            if node.keys[i] == key:
                return node.values[i]
            high = node.keys[i]
        if i:
            low = node.keys[i - 1]
        link = node.subtrees[i]
    return None


def _checked(node: _Node, above: int, low: bytes | None, high: bytes | None) -> int:
    """The node's layer, if it stands where it should."""
    keys = node.keys
    if not keys:
        if node.subtrees[0] is None and above < 0:
            return 0  # the empty repository
        if node.subtrees[0] is None or above < 0:
            raise ValueError("it has no keys, and is neither an empty repository's only node nor on the way to others")
        layer = above - 1
    else:
        layer = layer_of(keys[0]) if above < 0 else above - 1
        for key in keys:
            if layer_of(key) != layer:
                raise ValueError(f"the key {shown(key)} is of layer {layer_of(key)}, and here in layer {layer}")
        if (low is not None and keys[0] <= low) or (high is not None and keys[-1] >= high):
            raise ValueError(f"its keys, {shown(keys[0])} to {shown(keys[-1])}, belong elsewhere in the tree")
    if layer <= 0 and any(node.subtrees):
        raise ValueError("it leads to nodes below layer 0")
    return layer


def _node(block: bytes) -> _Node:
    """A node with its keys in full."""
    data = decode(block)
    if type(data) is not dict or data.keys() != {"e", "l"}:
        raise ValueError("it is no map of `e` and `l`")
    if type(data["e"]) is not list or len(data["e"]) > _MAX_ENTRIES:
        raise ValueError(f"its entries are no list of at most {_MAX_ENTRIES}")
    keys: list[bytes] = []
    values: list[Link] = []
    subtrees = [_subtree(data["l"])]
    before = b""
    for entry in data["e"]:
        if type(entry) is not dict or entry.keys() != _ENTRY:
            raise ValueError("an entry is no map of `k`, `p`, `t` and `v`")
        shared, rest, value = entry["p"], entry["k"], entry["v"]
        if type(shared) is not int or type(rest) is not bytes or type(value) is not Link:
            raise ValueError("an entry's `k`, `p` or `v` is of another kind than it should be")
        if not 0 <= shared <= len(before):
            raise ValueError(f"a key would share {shared} bytes with {shown(before)}")
        key = before[:shared] + rest
        if not 0 < len(key) <= _MAX_KEY:
            raise ValueError(f"a key of {len(key)} bytes")
        if keys:
            if key <= before:
                raise ValueError(f"the keys {shown(before)} and {shown(key)} are not in order")
            if before[shared : shared + 1] == rest[:1]:
                raise ValueError(f"the key {shown(key)} shares more with the one before than it says")
        keys.append(key)
        values.append(value)
        subtrees.append(_subtree(entry["t"]))
        before = key
    return _Node(keys, values, subtrees)


_ENTRY = {"k", "p", "t", "v"}


def _subtree(link: Any) -> Link | None:
    if link is None or (type(link) is Link and link.is_block):
        return link
    raise ValueError("what should lead to another node does not")


def _broken(key: bytes, what: str, so: str) -> ProofError:
    return ProofError(
        f"{key.decode(errors='replace')} is neither proved nor proved absent: {what}; {so}. Ask once more, and do not "
        "trust this server if that does not help",
        link="path",
    )
