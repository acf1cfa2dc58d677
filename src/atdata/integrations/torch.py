"""PyTorch: batches as tensors, and loaders as what a `DataLoader` iterates over."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
    from torch.utils.data._utils.collate import default_collate_fn_map
except ImportError:
    raise ImportError("this needs PyTorch: pip install 'atdata[torch]'") from None

from atdata.integrations.lending import Borrower, Loan, borrow, lender
from atdata.samples import codec

__all__ = ["TensorBatch", "TorchBatches", "tensors"]


class TensorBatch(dict[str, Any]):
    """The columns of a batch by name: tensors, and lists of what no tensor can hold.

    A `DataLoader` passes it on as it is.

    Attributes:
        valid: bool tensor of shape (samples,), False for samples that only pad the batch (`remainder="pad"`).
    """

    def __init__(self, columns: Mapping[str, Any], valid: torch.Tensor) -> None:
        super().__init__(columns)
        self.valid = valid
        # In a worker: tensors in memory that it lends, each with the array that it shares; and to whom it lends them.
        self.gathered: dict[str, tuple[torch.Tensor, NDArray[Any]]] = {}
        self.reader: bytes | None = None

    def pin_memory(self) -> TensorBatch:
        """The batch in memory from which a GPU fetches faster; a DataLoader calls this (`pin_memory=True`)."""
        pinned = {name: c.pin_memory() if isinstance(c, torch.Tensor) else c for name, c in self.items()}
        return TensorBatch(pinned, self.valid.pin_memory())

    def to(self, device: Any, *, non_blocking: bool = False) -> TensorBatch:
        """The batch with its tensors on another device."""
        moved = {
            name: c.to(device, non_blocking=non_blocking) if isinstance(c, torch.Tensor) else c
            for name, c in self.items()
        }
        return TensorBatch(moved, self.valid.to(device, non_blocking=non_blocking))

    def __copy__(self) -> TensorBatch:
        # A DataLoader without batches of its own converts what is in a copy.
        made = TensorBatch(self, self.valid)
        made.gathered, made.reader = dict(self.gathered), self.reader
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return (_batch, _sent(self, {}))


def _sent(batch: TensorBatch, lent: Mapping[str, Loan], reader: bytes | None = None) -> tuple[Any, ...]:
    """A batch on its way to another process: `_batch` makes it again."""
    # Each tensor for itself would take a piece of shared memory, which is slow for small ones; bytes are not.
    small = {name: column.numpy() for name, column in batch.items() if name not in lent and _is_small(column)}
    columns = {name: None if name in lent or name in small else column for name, column in batch.items()}
    valid = None if bool(batch.valid.all()) else batch.valid.numpy()
    return columns, small, lent, reader, valid, len(batch.valid)


def _batch(
    columns: Mapping[str, Any],
    small: Mapping[str, NDArray[Any]],
    lent: Mapping[str, Loan],
    reader: bytes | None,
    valid: NDArray[np.bool_] | None,
    count: int,
) -> TensorBatch:
    """A batch that was sent."""
    arrays = {**small, **{name: borrow(loan, reader) for name, loan in lent.items()}}
    found = {name: torch.from_numpy(arrays[name]) if name in arrays else column for name, column in columns.items()}
    return TensorBatch(found, torch.ones(count, dtype=torch.bool) if valid is None else torch.from_numpy(valid))


def _from_worker(batch: TensorBatch) -> tuple[Any, ...]:
    """How a batch goes from one process directly to another: what was gathered in lent memory stays where it is."""
    loans = {}
    for name, (tensor, array) in batch.gathered.items():
        if batch.get(name) is tensor and (loan := lender().lend(array)) is not None:
            loans[name] = loan
    return _batch, _sent(batch, loans, batch.reader)


ForkingPickler.register(TensorBatch, _from_worker)

_SMALL = 1 << 16  # bytes of a tensor up to which it is sent as such


def _is_small(column: Any) -> bool:
    if type(column) is not torch.Tensor or column.device.type != "cpu" or column.requires_grad:
        return False
    plain = column.layout == torch.strided and column.dtype in _AS_ARRAYS
    plain = plain and not column.is_conj() and not column.is_neg()
    return plain and column.numel() * column.element_size() <= _SMALL


def _types() -> frozenset[Any]:
    """The types of tensors that NumPy has too."""
    found = set()
    for code in "?bhilBHIQefdFD":
        with contextlib.suppress(TypeError):  # which older ones do not have
            found.add(torch.from_numpy(np.empty(0, code)).dtype)
    return frozenset(found)


_AS_ARRAYS = _types()


def _one(batches: list[Any], *, collate_fn_map: Any = None) -> Any:
    """A batch is a batch already: what a DataLoader makes of one when nobody told it `batch_size=None`."""
    if len(batches) != 1:
        raise ValueError(
            f"the DataLoader was asked to make one batch of {len(batches)} batches; give it batch_size=None, and the "
            "batch size to ordered() or shuffled()"
        )
    return batches[0]


# The place PyTorch has for the collation of types it does not know.
default_collate_fn_map[TensorBatch] = _one


def tensor(column: Any) -> Any:
    """A column as a tensor; as it is, where no tensor can hold it.

    Args:
        column: as a batch has it. An array becomes a tensor that shares its memory (a copy where its bytes are not in
            the machine's order, or it is read-only); a list of bools, of ints or of floats becomes bool, int64 or
            float64.

    Returns:
        A tensor; or the column itself: lists of strings, of None among numbers, of ragged arrays (each a tensor), of
        integers beyond 64 bits; arrays of strings, times and structures.
    """
    if isinstance(column, np.ndarray):
        return _of_array(column)
    if not isinstance(column, list):
        return column
    kinds = set(map(type, column))
    if kinds == {bool} or kinds == {float}:
        return torch.tensor(column, dtype=torch.bool if kinds == {bool} else torch.float64)
    if kinds == {int}:
        try:
            return torch.tensor(column, dtype=torch.int64)
        except (RuntimeError, ValueError, OverflowError):  # does not fit, which it says in several ways
            return column
    return [_of_array(v) if isinstance(v, np.ndarray) else v for v in column] if np.ndarray in kinds else column


def _of_array(array: NDArray[Any]) -> Any:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(step < 0 for step in array.strides):  # which torch cannot share
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError:
        return array


def tensors(columns: Mapping[str, Any], valid: NDArray[np.bool_]) -> TensorBatch:
    """A batch's columns, each as `tensor` gives it.

    Args:
        columns: the columns by name.
        valid: bool, of shape (samples,): False for samples that only pad the batch.
    """
    return TensorBatch({name: tensor(column) for name, column in columns.items()}, torch.from_numpy(valid))


class Batches(Protocol):
    """What a loader has to be: batches or samples from any place on, and a state."""

    def __iter__(self) -> Iterator[Any]:
        """The batches or samples of this share."""

    def __len__(self) -> int:
        """How many."""

    def state_dict(self) -> dict[str, Any]:
        """How far it is."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def starting(self, epoch: int, position: int) -> Batches:
        """The same from another place."""

    def watch(self, watcher: Callable[[int, int], None]) -> None:
        """Have `watcher` called with epoch and position, now and whenever another place is chosen."""


class TorchBatches(IterableDataset[Any]):
    """A loader for `torch.utils.data.DataLoader` and for torchdata's `StatefulDataLoader`; `Loader.torch()` makes it.

    Give the DataLoader no `batch_size` of its own. Every worker reads its own batches, so that all together give each
    batch once, in the loader's order. After `Loader.set_epoch` and `Loader.load_state_dict` the next epoch of the
    DataLoader begins there, also in workers that persist.

    Without a batch size it gives samples, as dicts, which the DataLoader then batches with a `batch_size` of its own;
    which samples come together then depends on the number of workers.
    """

    def __init__(self, loader: Batches) -> None:
        self._loader = loader
        # Shared with the workers: those that persist have to hear of another epoch.
        self._place: torch.Tensor = torch.zeros(2, dtype=torch.int64)
        self._place.share_memory_()  # type: ignore[no-untyped-call]
        self._borrower: Borrower | None = Borrower()
        self._reader = self._borrower.key
        place = self._place

        def moved(epoch: int, position: int) -> None:
            place[0], place[1] = epoch, position

        loader.watch(moved)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        epoch, position = self._place.tolist()
        return _Iterator(self._loader.starting(epoch, position), self._reader)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_borrower": None}  # what it has borrowed stays in its process


class _Iterator(Iterator[Any]):
    """One epoch in one process, with the state that a `StatefulDataLoader` saves for each of its workers."""

    def __init__(self, loader: Batches, reader: bytes) -> None:
        self._loader = loader
        self._reader = reader
        self._items = iter(loader)

    def __next__(self) -> Any:
        item = next(self._items)
        return _item(item) if get_worker_info() is None else _worker_item(item, self._reader)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loader.load_state_dict(state)
        self._items = iter(self._loader)


def _worker_item(item: Any, reader: bytes) -> Any:
    """The item of a worker: large arrays are gathered in memory that it lends to the process which it works for."""
    if not hasattr(item, "to_torch"):
        return _item(item)
    own: list[NDArray[Any]] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> NDArray[Any] | None:
        kind = np.dtype(dtype)
        if math.prod(shape) * kind.itemsize <= _SMALL or kind.kind not in "biufc" or not kind.isnative:
            return None
        array = lender().array(shape, kind)
        if array is not None:
            own.append(array)
        return array

    columns = item.in_arrays_of(allocate)
    batch = item.to_torch()
    for name, column in columns.items():
        tensor = batch[name]
        if (
            any(column is a for a in own)
            and isinstance(tensor, torch.Tensor)
            and tensor.data_ptr() == column.ctypes.data
        ):
            batch.gathered[name] = tensor, column
    batch.reader = reader
    return batch


def _item(item: Any) -> Any:
    if hasattr(item, "to_torch"):
        return item.to_torch()
    names = item if isinstance(item, Mapping) else [field.name for field in codec.plan(type(item)).fields]
    values = ((name, item[name] if isinstance(item, Mapping) else getattr(item, name)) for name in names)
    return {name: _of_array(value) if isinstance(value, np.ndarray) else value for name, value in values}
