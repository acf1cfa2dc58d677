"""Typed datasets in plain WebDataset tar shards: stored anywhere, found by name, checked to the byte.

The public names are here; each is imported when it is first used, so `import atdata` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from atdata.cid import generate_cid, verify_cid
    from atdata.datasets.batch import SampleBatch
    from atdata.datasets.dataset import Dataset
    from atdata.datasets.mixture import mix
    from atdata.datasets.query import fields
    from atdata.datasets.sources import DataSource
    from atdata.errors import AtdataError
    from atdata.index.atmosphere import AtmosphereIndex
    from atdata.index.load import load_dataset
    from atdata.index.local import LocalIndex
    from atdata.index.splits import DatasetDict
    from atdata.index.verify import verify
    from atdata.lenses.lens import Lens
    from atdata.lenses.network import LensNetwork, lens
    from atdata.samples.dictsample import DictSample
    from atdata.samples.fields import Shape
    from atdata.samples.images import Image
    from atdata.samples.packable import Packable, pack, packable, unpack
    from atdata.samples.schema import Schema
    from atdata.stores.base import AbstractDataStore
    from atdata.stores.disk import LocalDiskStore
    from atdata.stores.opening import open_store
    from atdata.stores.pds import PDSBlobStore
    from atdata.stores.s3 import S3DataStore
    from atdata.testing.laws import check_laws

_HOMES = {
    "AbstractDataStore": "atdata.stores.base",
    "AtdataError": "atdata.errors",
    "AtmosphereIndex": "atdata.index.atmosphere",
    "DataSource": "atdata.datasets.sources",
    "Dataset": "atdata.datasets.dataset",
    "DatasetDict": "atdata.index.splits",
    "DictSample": "atdata.samples.dictsample",
    "Image": "atdata.samples.images",
    "Lens": "atdata.lenses.lens",
    "LensNetwork": "atdata.lenses.network",
    "LocalDiskStore": "atdata.stores.disk",
    "LocalIndex": "atdata.index.local",
    "PDSBlobStore": "atdata.stores.pds",
    "Packable": "atdata.samples.packable",
    "S3DataStore": "atdata.stores.s3",
    "SampleBatch": "atdata.datasets.batch",
    "Schema": "atdata.samples.schema",
    "Shape": "atdata.samples.fields",
    "check_laws": "atdata.testing.laws",
    "fields": "atdata.datasets.query",
    "generate_cid": "atdata.cid",
    "lens": "atdata.lenses.network",
    "load_dataset": "atdata.index.load",
    "mix": "atdata.datasets.mixture",
    "open_store": "atdata.stores.opening",
    "pack": "atdata.samples.packable",
    "packable": "atdata.samples.packable",
    "unpack": "atdata.samples.packable",
    "verify": "atdata.index.verify",
    "verify_cid": "atdata.cid",
}

__all__ = [
    "AbstractDataStore",
    "AtdataError",
    "AtmosphereIndex",
    "DataSource",
    "Dataset",
    "DatasetDict",
    "DictSample",
    "Image",
    "Lens",
    "LensNetwork",
    "LocalDiskStore",
    "LocalIndex",
    "PDSBlobStore",
    "Packable",
    "S3DataStore",
    "SampleBatch",
    "Schema",
    "Shape",
    "check_laws",
    "fields",
    "generate_cid",
    "lens",
    "load_dataset",
    "mix",
    "open_store",
    "pack",
    "packable",
    "unpack",
    "verify",
    "verify_cid",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'atdata' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
