"""Bytes on disk of the same payloads."""

from __future__ import annotations

from pathlib import Path

import peers
from harness import Bar, Context, Result, Row, Table
from workloads import SMALL, Workload, chosen

TITLE = "Bytes on disk"


def run(ctx: Context) -> Result:
    """Both kinds."""
    result = Result()
    for work in chosen(ctx):
        _run(ctx, work, result)
    return result


def _run(ctx: Context, work: Workload, result: Result) -> None:
    folder = work.written(ctx)
    shards = sum(path.stat().st_size for path in folder.glob("*.tar"))
    sizes = {"atdata, with manifests and record": _total(folder), "atdata, the shards alone": shards}
    if peers.available(ctx, "webdataset"):
        sizes["webdataset"] = sum(Path(url).stat().st_size for url in peers.webdataset_shards(ctx, work))
        _same_payloads(ctx, work, folder)
    else:
        result.missing.append("webdataset")
    if work is SMALL:
        for label, package, make in (
            ("MosaicML Streaming", "streaming", peers.streaming_dataset),
            ("LitData", "litdata", peers.litdata_dataset),
        ):
            if peers.available(ctx, package):
                make(ctx, work)
                sizes[label] = _total(work.folder(ctx, package))
            else:
                result.missing.append(package)
    count = work.count(ctx)
    first = next(iter(sizes.values()))
    rows = [
        Row(n, s / count, s / count, s / count, None if n.startswith("atdata, with") else s / first)
        for n, s in sizes.items()
    ]
    result.tables.append(
        Table(
            f"{TITLE}, {work}",
            "bytes/sample",
            rows,
            f"A payload alone has {_payload(work, ctx):,.0f} bytes; tar rounds it up to 512 and adds a header of 512.",
        )
    )
    if work is SMALL and "webdataset" in sizes:
        share = first / sizes["webdataset"]
        result.bars.append(Bar("bytes on disk, S: of webdataset's", 0.55, share, share, share, at_least=False))


def _total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _payload(work: Workload, ctx: Context) -> int:
    import atdata

    return len(atdata.pack(work.samples(Context(ctx.data, 1e-9))[0]))


def _same_payloads(ctx: Context, work: Workload, folder: Path) -> None:
    import webdataset

    theirs = webdataset.WebDataset(peers.webdataset_shards(ctx, work), shardshuffle=False)
    ours = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False)
    for a, b, _ in zip(ours, theirs, range(100), strict=False):
        assert (a["__key__"], a["msgpack"]) == (b["__key__"], b["msgpack"]), "the payloads differ"
