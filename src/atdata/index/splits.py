"""Train, validation and test: which shard belongs to which split, told by names alone, and never guessed.

A name says a split by a word in it, words being runs of letters: `train`, `training`; `val`, `valid`, `validation`,
`dev`, `development`; `test`, `testing`. So do `train.tar`, `imagenet-val-000017.tar`, `data.test.tar` and the folder
`test2017`, but not `retrain.tar`. What counts is the file's name and the folders that the user's pattern or folder
leaves open; the folders above it say nothing (`my-test-project/…`).
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from atdata.datasets.dataset import Dataset
from atdata.errors import SplitError, SplitNotFoundError
from atdata.stores.http import public_url

__all__ = ["DatasetDict", "Grouping", "canonical", "common_folder", "group", "matching", "missing", "splits_in"]

_WORDS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_REMEDY = "Say which is which: load_dataset({'train': …, 'test': …})"
_LETTERS = re.compile(r"[^\W\d_]+")


class DatasetDict(dict[str, Dataset[Any]]):
    """The splits of a dataset by name: `train`, `validation`, `test`, or what was given.

    `splits["val"]` and `splits["dev"]` are the validation split, too.

    Example:
        >>> from atdata import DictSample
        >>> DatasetDict(train=Dataset.from_samples([DictSample(x=1)], DictSample))
        DatasetDict(
            train: Dataset[DictSample](samples in memory, 1 samples)
        )
    """

    def __missing__(self, name: str) -> Dataset[Any]:
        known = matching(name, self)
        if known is None:
            raise missing(name, self)
        return self[known]

    def __repr__(self) -> str:
        width = max(map(len, self), default=0) + 1
        lines = [f"    {f'{name}:':{width}} {ds!r}\n" for name, ds in self.items()]
        return f"DatasetDict(\n{''.join(lines)})" if lines else "DatasetDict()"


def canonical(name: str) -> str:
    """The name under which a split is known: `val` is `validation`; a name that is no such word stays as it is.

    Example:
        >>> canonical("val"), canonical("Training"), canonical("holdout")
        ('validation', 'train', 'holdout')
    """
    return _SPLIT_OF.get(name.lower(), name) if isinstance(name, str) else name


def splits_in(name: str) -> set[str]:
    """The splits that the words of a file or folder name say.

    Example:
        >>> splits_in("imagenet-val-000017.tar"), splits_in("retrain.tar"), sorted(splits_in("train-test.tar"))
        ({'validation'}, set(), ['test', 'train'])
    """
    return {_SPLIT_OF[word] for word in _LETTERS.findall(name.lower()) if word in _SPLIT_OF}


class Grouping(NamedTuple):
    """Shards by split.

    Attributes:
        splits: for each split the numbers of its shards, in their order.
        named: whether their names say so; otherwise nothing does, and all are `train`.
    """

    splits: dict[str, list[int]]
    named: bool

    def numbers(self, split: str, *, url: str | None = None) -> list[int]:
        """The numbers of the shards of one split.

        Raises:
            SplitNotFoundError: there is none; the message says which there are.
        """
        name = matching(split, self.splits)
        if name is None:
            raise missing(split, self.splits, named=self.named, url=url)
        return self.splits[name]


def matching(split: str, names: Iterable[str]) -> str | None:
    """The one of these names that means that split; None when there is none."""
    known = list(names)
    return split if split in known else next((n for n in known if canonical(n) == canonical(split)), None)


def missing(split: str, there: Iterable[str], *, named: bool = True, url: str | None = None) -> SplitNotFoundError:
    """The error for a split that is not there."""
    known = ", ".join(there) or "none"
    why = "" if named else " (no shard's name says a split, so all are taken for train)"
    return SplitNotFoundError(f"there is no split {split!r}; there is: {known}{why}", url=url)


def group(urls: Sequence[str], *, root: str | None = None) -> Grouping:
    """The shards by the split that each one's name says.

    Args:
        urls: where the shards lie.
        root: the folder below which folders count, too; by default the one that all shards have in common.

    Raises:
        SplitError: a name says two splits, a folder another one than the file, or some names say a split and others
            none. The message says what was seen.

    Example:
        >>> group(["data/train-0.tar", "data/val-0.tar", "data/train-1.tar"])
        Grouping(splits={'train': [0, 2], 'validation': [1]}, named=True)
    """
    root = common_folder(urls) if root is None else root
    found: dict[str, list[int]] = {}
    unnamed: list[int] = []
    for number, url in enumerate(urls):
        says = _says(url, root)
        if says is None:
            unnamed.append(number)
        else:
            found.setdefault(says, []).append(number)
    if not found:
        return Grouping({"train": unnamed}, named=False)
    splits = {name: found[name] for name in _WORDS if name in found}
    if unnamed:
        seen = [f"{_few([urls[n] for n in numbers])} for {name}" for name, numbers in splits.items()]
        seen.append(f"{_few([urls[n] for n in unnamed])} for none")
        raise SplitError(f"some shards name a split and some do not: {'; '.join(seen)}. {_REMEDY}")
    return Grouping(splits, named=True)


def common_folder(urls: Sequence[str]) -> str:
    """The deepest folder that all of them are in, with its slash; empty when there is none."""
    if not urls:
        return ""
    folders = [public_url(url).rpartition("/")[0].split("/") for url in (min(urls), max(urls))]
    shared = []
    for a, b in zip(*folders, strict=False):
        if a != b:
            break
        shared.append(a)
    return "/".join(shared) + "/" if shared else ""


def _says(url: str, root: str) -> str | None:
    """The split that a shard's name, or a folder between it and the root, says."""
    plain = public_url(url)
    below = plain.removeprefix(root)
    if plain.lower().startswith(("http://", "https://")):
        below = urllib.parse.unquote(below)
    *folders, name = below.split("/") if plain.startswith(root) else [below.rpartition("/")[2]]
    words = [(part, splits_in(part)) for part in (*folders, name)]
    said = set().union(*(splits for _, splits in words))
    if len(said) > 1:
        parts = ", ".join(f"{part!r} says {' and '.join(sorted(s))}" for part, s in words if s)
        raise SplitError(f"it cannot be told which split a shard belongs to: {parts}. {_REMEDY}", url=plain)
    return said.pop() if said else None


def _few(urls: Sequence[str]) -> str:
    """The names of some shards, and how many there are."""
    names = [public_url(url).rpartition("/")[2] for url in urls[:3]]
    more = f" and {len(urls) - 3} more" if len(urls) > 3 else ""
    return ", ".join(names) + more
