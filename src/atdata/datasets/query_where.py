"""The step `where`: the samples that a predicate is true for, found with as little reading as can be."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atdata.datasets.query_rows import Candidates, Mask, column_kind, column_matcher, matcher
from atdata.datasets.query_stats import bounds_of, pruner
from atdata.datasets.query_tree import Predicate
from atdata.datasets.resolving import View
from atdata.datasets.seeing import Decoded, decoding
from atdata.datasets.selection import Rows, Selection
from atdata.datasets.sources import Located, ShardRef
from atdata.datasets.steps import Keyed, NarrowingStep, Select, Step, ValueStep, only_fields
from atdata.errors import AtdataError
from atdata.samples import codec
from atdata.samples.fields import Array
from atdata.samples.schema import Schema

__all__ = ["Outlook", "Where", "outlook"]


@dataclasses.dataclass(frozen=True)
class Where(NarrowingStep):
    """Only the samples that `predicate` is true for.

    Attributes:
        predicate: checked to be one about `sample_type`.
        sample_type: the class of the samples before the step, which is that after it.
    """

    predicate: Predicate
    sample_type: type

    @property
    def identity(self) -> str:
        """The predicate's canonical text."""
        return self.predicate.fingerprint

    def count_after(self, count: int) -> int | None:
        """Only manifests or samples tell, unless there is none to begin with."""
        return 0 if count == 0 else None

    def narrow(self, selection: Selection, view: View) -> Selection:
        """By statistics and manifests; only of what they cannot tell are samples read.

        Shards that can have no such sample, by the statistics in their commit record, are left alone. Of the others the
        manifests are read, several at a time.
        """
        if not all(isinstance(step, Select) for step in view.values):
            stored = self._of_stored(view.decoding)
            if stored is not None:
                return stored.narrow(selection, View(view.access, stored.sample_type))
            return selection.keep(self._read(selection, view))
        pruned = _pruned(self.predicate, view.stored_type, view.access.refs, view.access.schema)
        match = column_matcher(self.predicate, view.stored_type)

        def by_manifest(shard: int) -> Candidates | None:
            manifest = view.access.columns(shard, self.predicate.fields)
            try:
                return None if manifest is None else match(manifest)
            except AtdataError as error:
                error.at(url=view.access.refs[shard].url)
                raise

        asked = [part.shard for part in selection.parts() if part.shard not in pruned]
        answers = view.access.each(asked, by_manifest)
        unsure: set[int] = set()

        def wanted(shard: int, rows: Rows) -> Mask | bool:
            if shard in pruned:
                return False
            found = next(answers)
            if found is None or not found.certain:
                unsure.add(shard)
            if found is None:
                return True
            mask: Mask = found.mask[rows.start : rows.stop] if isinstance(rows, range) else found.mask[rows]
            return mask

        with contextlib.closing(answers):
            selection = selection.within(wanted)
        return self._without_doubt(selection, unsure, view) if unsure else selection

    def _of_stored(self, decoded: Decoded) -> Where | None:
        """The same question about stored samples; None where lenses do more than pass on the fields it is about."""
        passing = decoded.passing
        if passing is None or decoded.left or not passing.fields.keys() >= {*self.predicate.fields}:
            return None
        asked, there = codec.plan(passing.view).nodes, codec.plan(passing.source).nodes
        if any(asked[name] != there[passing.fields[name]] for name in self.predicate.fields):
            return None  # values of another type than the view declares are looked at one by one
        return Where(self.predicate.renamed(passing.fields), passing.source)

    def _without_doubt(self, selection: Selection, unsure: set[int], view: View) -> Selection:
        """Those that match, when of some shards that has to be read."""
        doubtful = np.flatnonzero(np.isin(selection.places(np.arange(len(selection))).shards, list(unsure)))
        mask = np.ones(len(selection), bool)
        stored_type = only_fields(view.stored_type, self.predicate.fields, view.access.schema)
        mask[doubtful] = self._read(selection.pick(doubtful), View(view.access, stored_type))
        return selection.keep(mask)

    def _read(self, selection: Selection, view: View) -> Mask:
        """Whether each sample matches, found by reading them all."""
        matches = matcher(self.predicate, self.sample_type)
        mask = np.zeros(len(selection), bool)
        for position, (key, sample) in enumerate(view.samples(selection)):
            try:
                mask[position] = matches(sample)
            except AtdataError as error:
                error.at(key=key)
                raise
        return mask

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        matches = matcher(self.predicate, self.sample_type)
        for key, sample in samples:
            try:
                found = matches(sample)
            except AtdataError as error:
                error.at(key=key)
                raise
            if found:
                yield key, sample


def _pruned(predicate: Predicate, stored_type: type, refs: Sequence[ShardRef], schema: Schema | None) -> set[int]:
    """The numbers of the shards that have no sample which matches, told without reading anything."""
    may_match = pruner(predicate)
    return {
        number
        for number, ref in enumerate(refs)
        if ref.info is not None and not may_match(bounds_of(ref.info.stats, schema, stored_type), ref.info.samples)
    }


class Outlook(NamedTuple):
    """What a query will take.

    Attributes:
        predicate: what is asked.
        shards: how many shards there are.
        pruned: how many of them are left alone, as their statistics rule them out.
        scanned: the fields that no manifest holds, for which samples have to be read; None where nothing is recorded of
            the manifests.
    """

    predicate: str
    shards: int
    pruned: int
    scanned: list[str] | None


def outlook(step: Where, before: Sequence[Step], stored_type: type, located: Located) -> Outlook:
    """What a query will take, told without reading anything.

    Args:
        step: the query.
        before: the steps before it.
        stored_type: the class that samples are read as.
        located: the shards.
    """
    predicate, refs = step.predicate, located.shards
    values = [done for done in before if isinstance(done, ValueStep)]
    if not all(isinstance(done, Select) for done in values):
        stored = step._of_stored(decoding(stored_type, values, located.schema))
        if stored is not None:
            return outlook(stored, (), stored_type, located)._replace(predicate=repr(predicate))
        return Outlook(repr(predicate), len(refs), 0, list(predicate.fields))
    pruned = _pruned(predicate, stored_type, refs, located.schema)
    infos = [ref.info for number, ref in enumerate(refs) if number not in pruned]
    scanned = []
    for name in predicate.fields:
        kind = column_kind(stored_type, name)
        # Statistics are recorded of the very fields whose values stand in the manifest.
        known = [i is not None and i.manifest is not None and (kind is Array or name in i.stats) for i in infos]
        if kind is None or not all(known):
            scanned.append(name)
    unknown = None in infos and any(column_kind(stored_type, name) is not None for name in predicate.fields)
    return Outlook(repr(predicate), len(refs), len(pruned), None if unknown else scanned)
