"""A dataset as an Arrow table or a pandas frame.

| field                                   | Arrow column                                                         |
|-----------------------------------------|----------------------------------------------------------------------|
| `str int float bool bytes`, `Literal`   | string, int64 (uint64 where needed), double, bool, binary            |
| `Image`, `Enum`, `datetime`             | binary, the values' type, timestamp in µs                            |
| arrays of one dtype and shape           | `arrow.fixed_shape_tensor`; a plain column for 0-d arrays            |
| other arrays                            | struct of `data` (list of the elements in C order) and `shape`       |
| lists, tuples, dicts, nested classes    | what Arrow infers from the same values as plain Python objects       |
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atdata.errors import DatasetError
from atdata.samples.images import Image

if TYPE_CHECKING:
    import pandas as pd

    from atdata.datasets.batch import SampleBatch
    from atdata.datasets.dataset import Dataset

__all__ = ["batch_table", "to_frame", "to_table"]

_ROWS = 1024


def to_table(dataset: Dataset[Any]) -> pa.Table:
    """All samples as an Arrow table, gathered batch by batch."""
    columns: dict[str, list[Any]] = {}
    for batch in dataset._whole(_ROWS):
        for name in batch.fields:
            columns.setdefault(name, []).append(batch[name])
    return pa.table({name: _column(name, parts) for name, parts in columns.items()})


def batch_table(batch: SampleBatch[Any]) -> pa.Table:
    """One batch as an Arrow table."""
    return pa.table({name: _column(name, [batch[name]]) for name in batch.fields})


def to_frame(dataset: Dataset[Any]) -> pd.DataFrame:
    """All samples as a pandas frame; arrays are kept as NumPy arrays in object columns."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install 'atdata[pandas]'") from None
    columns: dict[str, list[Any]] = {}
    for batch in dataset._whole(_ROWS):
        for name in batch.fields:
            columns.setdefault(name, []).extend(batch[name])
    return pd.DataFrame({name: _objects(values) for name, values in columns.items()})


def _objects(values: list[Any]) -> Any:
    if not any(isinstance(v, np.ndarray) for v in values):
        return values
    column = np.empty(len(values), object)  # pandas would unpack a list of equal arrays
    for i, value in enumerate(values):
        column[i] = value
    return column


def _column(name: str, parts: list[Any]) -> pa.ChunkedArray | pa.Array:
    """One field of all batches: each part is a stacked array or a list."""
    stacked = [p for p in parts if isinstance(p, np.ndarray)]
    if len(stacked) == len(parts) and len({(p.dtype, p.shape[1:]) for p in parts}) == 1:
        return pa.chunked_array([_tensor(p) for p in parts])
    values = [_plain(value) for part in parts for value in part]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise DatasetError(f"the field cannot be an Arrow column: {error}", field=name) from None


def _tensor(part: np.ndarray[Any, Any]) -> pa.Array:
    little = part.astype(part.dtype.newbyteorder("="), copy=False)
    if part.ndim == 1:
        return pa.array(little)
    if part.dtype.kind not in "iuf" or 0 in part.shape[1:]:
        return pa.array([_plain(value) for value in part])
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(little))


def _plain(value: Any) -> Any:
    """The value as objects that Arrow understands."""
    if isinstance(value, np.ndarray):
        return {"data": value.reshape(-1).tolist(), "shape": list(value.shape)}
    if isinstance(value, Image):
        return value.data
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
