"""Stores and written datasets that many tests read."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_samples import Digit, digits

import atdata
from atdata.stores.base import WrittenShards


@pytest.fixture
def store(tmp_path: Path) -> atdata.LocalDiskStore:
    return atdata.LocalDiskStore(tmp_path / "data")


@pytest.fixture
def urls(store: atdata.LocalDiskStore) -> WrittenShards:
    """25 digits in shards of 10, 10 and 5, with manifests."""
    return store.write_shards(atdata.Dataset.from_samples(digits(25), Digit), prefix="digits/v1", maxcount=10)


@pytest.fixture
def bare(store: atdata.LocalDiskStore) -> WrittenShards:
    """The same without manifests."""
    ds = atdata.Dataset.from_samples(digits(25), Digit)
    return store.write_shards(ds, prefix="bare/v1", maxcount=10, manifest=False)
