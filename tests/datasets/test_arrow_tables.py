"""Datasets as Arrow tables and pandas frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dataset_samples import Digit, Everything, digits, everything

import atdata
from atdata.errors import DatasetError
from atdata.stores.base import WrittenShards


def test_an_arrow_table(urls: WrittenShards, bare: WrittenShards) -> None:
    for source in (urls, bare):
        table = atdata.Dataset[Digit](source).to_arrow()
        assert table.column_names == ["image", "label", "note"]
        assert table.num_rows == 25
        assert table["label"].to_pylist() == list(range(25))
        assert table["note"].to_pylist() == [d.note for d in digits(25)]
        assert table.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (4, 3))
        assert table["image"].combine_chunks().to_numpy_ndarray().tolist() == [d.image.tolist() for d in digits(25)]


def test_every_field_type_has_a_column(store: atdata.LocalDiskStore) -> None:
    values = [everything(i) for i in range(5)]
    ds = atdata.Dataset[Everything](store.write_shards(atdata.Dataset.from_samples(values, Everything), prefix="e"))
    table = ds.select_fields(*(f for f in Everything.__annotations__ if f not in ("mixed", "pair"))).to_arrow()
    assert table["color"].to_pylist() == ["blue", "red", "blue", "red", "blue"]
    assert table["when"].to_pylist() == [v.when for v in values]
    assert table["point"].to_pylist() == [{"x": float(i), "y": float(-i)} for i in range(5)]
    assert table["any_array"].to_pylist() == [{"data": [i] * (i % 3), "shape": [i % 3]} for i in range(5)]
    assert table["maybe_array"].to_pylist()[:2] == [{"data": [0] * 4, "shape": [2, 2]}, None]
    assert table["fixed"].combine_chunks().to_numpy_ndarray()[4].tolist() == [[4] * 3] * 2
    assert table["image"].to_pylist()[2] == b"\x89PNG\x02"


def test_what_has_no_column_says_which_field() -> None:
    rows: list[Any] = [atdata.DictSample(a=1), atdata.DictSample(a="x")]
    with pytest.raises(DatasetError, match="cannot be an Arrow column") as caught:
        atdata.Dataset.from_samples(rows, atdata.DictSample).to_arrow()
    assert caught.value.field == "a"


def test_a_pandas_frame(urls: WrittenShards) -> None:
    frame = atdata.Dataset[Digit](urls).filter(lambda s: s.label > 20).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["image", "label", "note"]
    assert frame["label"].tolist() == [21, 22, 23, 24]
    assert isinstance(frame["image"][0], np.ndarray)
    assert frame["image"][3].tolist() == [[24] * 3] * 4
    assert atdata.Dataset.from_samples([], Digit).to_pandas().empty
