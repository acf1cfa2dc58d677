"""Samples with changed views written back into them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atdata.errors import DatasetError, LensError, StepError
from atdata.lenses.composition import compose
from atdata.lenses.derived import alike, derive

if TYPE_CHECKING:
    from atdata.datasets.dataset import Dataset
    from atdata.lenses.lens import Lens

__all__ = ["Edited"]


class Edited:
    """The samples of a dataset, each with its view written back into it; read one by one, as often as it is iterated.

    Args:
        samples: what is changed.
        views: a view of each sample, in the same order.
        lens: with a putter.

    Raises:
        LensError: the lens has no putter, or is between other classes.
    """

    def __init__(self, samples: Dataset[Any], views: Dataset[Any], lens: Lens[Any, Any]) -> None:
        if missing := [part.name for part in lens.parts if not part.editable]:
            what = "it" if missing == [lens.name] else " and ".join(missing)
            raise LensError(f"nothing can be written back through {lens.name}: {what} has no putter")
        for what, cls, found in (
            ("samples", lens.source, samples.sample_type),
            ("views", lens.view, views.sample_type),
        ):
            if not alike(cls, found):
                other = cls.__name__ == found.__name__
                raise LensError(
                    f"the {what} that {lens.name} writes are of {cls.__name__}, and these are of "
                    f"{'another class of that name, with other fields' if other else found.__name__}"
                )
        self._samples = samples
        self._views = views
        # Classes built from stored schemas are as good as those of the lens.
        self._lens = compose(derive(samples.sample_type, lens.source), lens, derive(lens.view, views.sample_type))

    def __iter__(self) -> Iterator[Any]:
        for _, sample in self.keyed():
            yield sample

    def keyed(self) -> Iterator[tuple[str | None, Any]]:
        """Key and sample, in order.

        Raises:
            DatasetError: there are more samples than views, or more views; or the key of a view is not that of its
                sample.
            StepError: the lens failed.
        """
        nothing = (None, None)
        pairs = itertools.zip_longest(self._samples.keyed(), self._views.keyed())
        for number, (one, other) in enumerate(pairs):
            (key, sample), (seen, view) = one or nothing, other or nothing
            if other is None:
                raise DatasetError(f"there are only {number} views, and more samples", key=key)
            if one is None:
                raise DatasetError(f"there are only {number} samples, and more views", key=seen)
            if key != seen and None not in (key, seen):
                raise DatasetError(
                    f"view {number} has the key {seen!r}, and sample {number} another: give the views in the order of "
                    "the samples, one for each",
                    key=key,
                )
            try:
                made = self._lens.put(view, sample)
            except Exception as error:
                raise StepError(
                    f"the lens {self._lens.name} of put_back raised {type(error).__name__}: {error}", key=key
                ) from error
            yield key, made
