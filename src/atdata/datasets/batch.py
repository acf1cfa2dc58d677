"""A batch of samples, column by column: nothing is decoded before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.columns import Allocate, Lying, arrays_from, stack
from atdata.samples import codec
from atdata.samples.dictsample import DictSample

if TYPE_CHECKING:
    import pyarrow as pa

    from atdata.integrations.torch import TensorBatch

__all__ = ["SampleBatch"]

T = TypeVar("T")


class SampleBatch(Generic[T]):
    """Some samples, seen by column: `batch.image`, `batch["image"]`.

    An array field gives one new, writable array of shape (samples, …) when all its arrays have one dtype and shape,
    else (ragged, or None among them) a list of arrays; every other field gives a list. A column is gathered when it is
    first asked for and kept. A field named like one of this class's own members is reached as an item only.

    A batch holds on to what its samples were read from, which may be more than the batch itself.

    Args:
        samples: the samples, all of one type.
        sample_type: their class; by default that of the first.
        valid: of shape (samples,), False for samples that only pad the batch; by default none does.

    Example:
        >>> batch = SampleBatch([DictSample(x=1), DictSample(x=2)])
        >>> len(batch), batch.x
        (2, [1, 2])
    """

    def __init__(
        self, samples: Sequence[T], sample_type: type[T] | None = None, valid: NDArray[np.bool_] | None = None
    ) -> None:
        self._type: Any = sample_type if sample_type is not None else type(samples[0]) if samples else DictSample
        self._samples: list[T] | None = list(samples)
        self._lying: Lying | None = None
        self._valid = valid
        self._columns: dict[str, Any] = {}

    @classmethod
    def of_lying(cls, lying: Lying, sample_type: type[T], valid: NDArray[np.bool_] | None = None) -> SampleBatch[T]:
        """The batch of samples that lie somewhere; `valid` says which of them are no padding, when not all."""
        batch = cls.__new__(cls)
        batch._type, batch._valid = sample_type, valid
        batch._samples, batch._lying, batch._columns = None, lying, {}
        return batch

    @property
    def sample_type(self) -> type[T]:
        """The class of the samples."""
        found: type[T] = self._type
        return found

    @property
    def samples(self) -> list[T]:
        """The samples themselves; arrays read from a shard are read-only."""
        if self._samples is None:
            assert self._lying is not None
            self._samples = self._lying.samples(self._type)
        return self._samples

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Of shape (samples,): False for samples that only pad the batch (`remainder="pad"`), else True."""
        if self._valid is None:
            self._valid = np.ones(len(self), bool)
        return self._valid

    @property
    def fields(self) -> list[str]:
        """The names of the columns."""
        if issubclass(self._type, Mapping):
            return list(dict.fromkeys(name for sample in self.samples for name in sample))  # type: ignore[attr-defined]
        return [f.name for f in codec.plan(self._type).fields]

    def __len__(self) -> int:
        if self._samples is not None:
            return len(self._samples)
        assert self._lying is not None
        return len(self._lying)

    def __iter__(self) -> Iterator[T]:
        return iter(self.samples)

    def __getitem__(self, field: str) -> Any:
        found = self._columns.get(field)
        if found is None:
            found = self._columns[field] = self._column(field)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(
            type(self), name
        ):  # a member of this class that raised AttributeError itself
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(str(error.args[0])) from None

    def __repr__(self) -> str:
        return f"SampleBatch[{self._type.__name__}]({len(self)} samples: {', '.join(self.fields)})"

    # -- other formats ---------------------------------------------------------------------------------------

    def to_torch(self) -> TensorBatch:
        """The columns by name, as tensors that share their memory; see `atdata.integrations.torch.tensor`.

        Raises:
            ImportError: torch is missing (`pip install 'atdata[torch]'`).
        """
        from atdata.integrations.torch import tensors

        self._expect_all()
        return tensors({name: self[name] for name in self.fields}, self.valid)

    def to_jax(self) -> dict[str, Any]:
        """The columns by name, as `jax.Array`s; see `atdata.integrations.jax.arrays`.

        Raises:
            ImportError: jax is missing (`pip install jax`).
        """
        from atdata.integrations.jax import arrays

        self._expect_all()
        return arrays({name: self[name] for name in self.fields})

    def to_arrow(self) -> pa.Table:
        """The batch as an Arrow table; see `atdata.datasets.arrow` for the column types."""
        from atdata.datasets.arrow import batch_table

        self._expect_all()
        return batch_table(self)

    def in_arrays_of(self, allocate: Allocate) -> dict[str, Any]:
        """The columns by name; the arrays that have to be gathered for that are made by `allocate`.

        Args:
            allocate: given shape and dtype, an array with anything in it, C-contiguous; None where it makes none.
        """
        with arrays_from(allocate):
            return {name: self[name] for name in self.fields}

    def __reduce__(self) -> tuple[Any, ...]:
        # The places it came from mean nothing in another process, so the samples go along.
        return (SampleBatch, (self.samples, self._type, self._valid))

    def _expect_all(self) -> None:
        """Have all columns brought at once, where they lie far away."""
        if self._samples is None and self._lying is not None and not issubclass(self._type, Mapping):
            self._lying.expect(self._type, self.fields)

    def _column(self, field: str) -> Any:
        if not issubclass(self._type, Mapping) and field not in codec.plan(self._type).nodes:
            raise KeyError(f"{self._type.__name__} has no field {field!r}; it has {', '.join(self.fields)}")
        if self._samples is None and self._lying is not None:
            found = self._lying.column(self._type, field)
            if found is not None:
                return found
        samples: list[Any] = self.samples
        try:
            values = [s[field] if isinstance(s, Mapping) else getattr(s, field) for s in samples]
        except (KeyError, AttributeError):
            raise KeyError(f"not every sample of the batch has a field {field!r}") from None
        return stack(values)
