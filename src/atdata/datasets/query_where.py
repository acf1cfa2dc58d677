"""The step `where`: the samples that a predicate is true for, found with as little reading as can be."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from atdata.datasets.access import Access
from atdata.datasets.query_rows import Candidates, Mask, column_matcher, matcher
from atdata.datasets.query_stats import bounds_of, pruner
from atdata.datasets.query_tree import Predicate
from atdata.datasets.resolving import View
from atdata.datasets.selection import Rows, Selection
from atdata.datasets.steps import Keyed, NarrowingStep, Select, selected_type
from atdata.errors import AtdataError
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import keeps_values

__all__ = ["Where", "pruned_shards"]


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
            return selection.keep(self._read(selection, view))
        pruned = pruned_shards(self.predicate, view.stored_type, view.access)
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

    def _without_doubt(self, selection: Selection, unsure: set[int], view: View) -> Selection:
        """Those that match, when of some shards that has to be read."""
        doubtful = np.flatnonzero(np.isin(selection.places(np.arange(len(selection))).shards, list(unsure)))
        mask = np.ones(len(selection), bool)
        stored_type, fields = view.stored_type, self.predicate.fields
        if not issubclass(stored_type, DictSample) and keeps_values(stored_type):
            stored_type = selected_type(stored_type, fields)  # nothing else has to be decoded
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


def pruned_shards(predicate: Predicate, stored_type: type, access: Access) -> set[int]:
    """The numbers of the shards that have no sample which matches, told without reading anything."""
    may_match = pruner(predicate)
    return {
        number
        for number, ref in enumerate(access.refs)
        if ref.info is not None
        and not may_match(bounds_of(ref.info.stats, access.schema, stored_type), ref.info.samples)
    }
