"""The other libraries: how each writes and reads the same samples, and whether it is installed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import logging
import os
import shutil
import struct
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Context
from workloads import Workload

_STAMP = ".complete"


def available(ctx: Context, name: str) -> bool:
    """Whether `name` is to be compared, and can be imported."""
    return name in ctx.peers and _imports(name)


@functools.cache
def _imports(name: str) -> bool:
    if importlib.util.find_spec(name) is None:
        return False
    try:
        with quiet():
            streaming() if name == "streaming" else importlib.import_module(name)
    except Exception as error:  # a torch without the libraries of its GPU gives an OSError, others give others
        print(f"{name} is installed, and cannot be imported: {error}", file=sys.stderr)
        return False
    return True


def prepared(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, made by `make` unless an earlier run did."""
    if not (folder / _STAMP).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        make(folder)
        (folder / _STAMP).touch()
    return folder


# -- webdataset ------------------------------------------------------------------------------------------------------


def array_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands before the elements of an array in our payloads."""
    name = dtype.str.encode()
    return struct.pack(f"<B{len(name)}sB{len(shape)}q", len(name), name, len(shape), *shape)


def webdataset_payload(work: Workload) -> Callable[[Any], dict[str, Any]]:
    """From a sample to the map that webdataset packs: the same bytes as atdata's."""
    head = array_header(work.dtype, work.shape)
    name = work.array
    return lambda s: {name: head + getattr(s, name).tobytes(), "label": s.label, "idx": s.idx}


def webdataset_write(work: Workload, samples: list[Any], folder: Path, maxcount: int = 10_000) -> None:
    """What `ShardWriter` makes of the samples, its own msgpack encoder included."""
    import webdataset

    folder.mkdir(parents=True)
    payload = webdataset_payload(work)
    with webdataset.ShardWriter(
        str(folder / "shard-%06d.tar"), maxcount=maxcount, maxsize=256 << 20, verbose=0
    ) as writer:
        for sample in samples:
            writer.write({"__key__": f"{sample.idx:09d}", "msgpack": payload(sample)})


def webdataset_shards(ctx: Context, work: Workload) -> list[str]:
    """The samples as webdataset itself writes them."""
    folder = prepared(work.folder(ctx, "webdataset"), lambda folder: webdataset_write(work, work.samples(ctx), folder))
    return sorted(str(path) for path in folder.glob("*.tar"))


def webdataset_decoder(work: Workload) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """ormsgpack, and the array as a view; dtype and shape are known, so that no header is parsed."""
    import ormsgpack

    unpack = ormsgpack.unpackb
    frombuffer = np.frombuffer
    name, dtype, shape, head = work.array, work.dtype, work.shape, len(array_header(work.dtype, work.shape))
    flat = len(shape) == 1

    def decode(sample: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = unpack(sample["msgpack"])
        array = frombuffer(found[name], dtype, offset=head)
        found[name] = array if flat else array.reshape(shape)
        return found

    return decode


def webdataset_samples(work: Workload, shards: list[str]) -> Any:
    """An iterable of decoded samples; workers of a DataLoader read shards of their own."""
    import webdataset

    return webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).map(webdataset_decoder(work))


def webdataset_batches(work: Workload, shards: list[str], size: int) -> Any:
    """An iterable of batches: arrays stacked, the other fields as lists."""
    name = work.array
    stack = np.stack

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: stack([s[name] for s in samples]),
            "label": [s["label"] for s in samples],
            "idx": [s["idx"] for s in samples],
        }

    return webdataset_samples(work, shards).batched(size, collation_fn=collate, partial=True)


# -- MosaicML Streaming ----------------------------------------------------------------------------------------------


class _StandIn(types.ModuleType):
    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for what `import streaming` imports and nothing that is measured uses."""

    _names = ("torchvision", "transformers")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self._names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def streaming() -> Any:
    """The package `streaming` (mosaicml-streaming)."""
    found = sys.modules.get("streaming")
    if found is None:
        sys.meta_path.insert(0, finder := _StandIns())
        try:
            with quiet():
                found = importlib.import_module("streaming")
        finally:
            sys.meta_path.remove(finder)
    return found


def streaming_write(ctx: Context, work: Workload, folder: Path, **settings: Any) -> None:
    """The samples in MDS shards."""
    columns = {
        work.array: f"ndarray:{work.dtype}:{','.join(map(str, work.shape))}",
        "label": "str",
        "idx": "int",
    }
    with streaming().MDSWriter(out=str(folder), columns=columns, **settings) as writer:
        for s in work.samples(ctx):
            writer.write({work.array: getattr(s, work.array), "label": s.label, "idx": s.idx})


def streaming_dataset(ctx: Context, work: Workload) -> Any:
    """The samples in MDS shards, as a dataset."""
    package = streaming()
    folder = prepared(work.folder(ctx, "streaming"), lambda folder: streaming_write(ctx, work, folder))
    with quiet():
        package.base.util.clean_stale_shared_memory()
        return package.StreamingDataset(local=str(folder), shuffle=False, batch_size=1)


# -- LitData ---------------------------------------------------------------------------------------------------------


def litdata_write(ctx: Context, work: Workload, folder: Path, **settings: Any) -> None:
    """The samples in LitData's chunks."""
    with quiet():
        from litdata.streaming import Cache

        folder.mkdir(parents=True)
        cache = Cache(str(folder), **settings)
        for i, s in enumerate(work.samples(ctx)):
            cache[i] = {work.array: getattr(s, work.array), "label": s.label, "idx": s.idx}
        cache.done()
        cache.merge()


def litdata_dataset(ctx: Context, work: Workload, **settings: Any) -> Any:
    """The samples in LitData's chunks, as a dataset."""
    folder = prepared(work.folder(ctx, "litdata"), lambda folder: litdata_write(ctx, work, folder, chunk_bytes="64MB"))
    with quiet():
        import litdata

        return litdata.StreamingDataset(str(folder), shuffle=False, **settings)


def litdata_tuned(ctx: Context, work: Workload) -> Any:
    """The same, set for random places: by default it looks for an item's neighbours, and decodes up to 256 along."""
    name = "LITDATA_POSIX_PAGE_BYTES"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        dataset = litdata_dataset(ctx, work, batch_decode=0)
        dataset[0]  # now it looks at its settings
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
    return dataset


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the banners, progress bars and warnings of others."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
