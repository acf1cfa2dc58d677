"""The manifests are plain Parquet: DuckDB, polars and Arrow ask them the same questions, and get the same answers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from query_samples import POOLS, Row, row

import atdata
from atdata.datasets.query import Fields
from atdata.datasets.query_rows import column_matcher
from atdata.datasets.query_tree import Predicate
from atdata.datasets.split import hash_ranges
from atdata.shards.manifest_columns import ManifestColumns
from atdata.shards.manifest_file import read_manifest

F = Fields(Row)
LATER = datetime(2026, 1, 1, 5, tzinfo=UTC)
NOT_NAN = [value for value in POOLS["real"][0] if value == value]  # SQL sorts NaN above all numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset of 60 rows in 6 shards."""
    root = tmp_path_factory.mktemp("data")
    pools = {**{name: pool for name, (pool, _) in POOLS.items()}, "real": NOT_NAN, "maybe_real": [1.0, 2.0, None]}
    samples = [row(**{name: pool[i * 7 % len(pool)] for name, pool in pools.items()}) for i in range(60)]
    ds = atdata.Dataset.from_samples(samples, Row)
    atdata.LocalDiskStore(root).write_shards(ds, prefix="rows", maxcount=10)
    return root / "rows"


def found(folder: Path, predicate: Predicate) -> list[str]:
    """The keys that the library finds."""
    match = column_matcher(predicate, Row)
    keys: list[str] = []
    for path in sorted(folder.glob("*.manifest.parquet")):
        manifest = read_manifest(path.read_bytes())
        assert manifest is not None
        answer = match(ManifestColumns.of(manifest))
        assert answer.certain
        keys += [key for key, held in zip(manifest.keys, answer.mask, strict=True) if held]
    return keys


ASKED: list[tuple[Predicate, str, Any]] = [
    ((F.whole >= 2) & F.text.isin(["a", "b"]), "whole >= 2 AND text IN ('a', 'b')",
     (pl.col("whole") >= 2) & pl.col("text").is_in(["a", "b"])),
    (F.maybe_text != "a", "maybe_text <> 'a'", pl.col("maybe_text") != "a"),
    (~(F.maybe_text == "a"), "NOT (maybe_text = 'a')", ~(pl.col("maybe_text") == "a")),
    (~((F.maybe_whole == 1) & F.flag), "NOT (maybe_whole = 1 AND flag)",
     ~((pl.col("maybe_whole") == 1) & pl.col("flag"))),
    ((F.maybe_whole == 1) | F.maybe_flag, "maybe_whole = 1 OR maybe_flag",
     (pl.col("maybe_whole") == 1) | pl.col("maybe_flag")),
    (~F.maybe_text.isin(["a", "b"]), "maybe_text NOT IN ('a', 'b')", ~pl.col("maybe_text").is_in(["a", "b"])),
    (F.maybe_real.is_null(), "maybe_real IS NULL", pl.col("maybe_real").is_null()),
    (~F.array.is_null(), "__offset__array IS NOT NULL", pl.col("__offset__array").is_not_null()),
    (F.real.between(0, 2), "real BETWEEN 0 AND 2", pl.col("real").is_between(0, 2)),
    (F.text.startswith("a") & F.text.contains("b"), "starts_with(text, 'a') AND contains(text, 'b')",
     pl.col("text").str.starts_with("a") & pl.col("text").str.contains("b", literal=True)),
    (F.text > "\uffff", "text > '\uffff'", pl.col("text") > "\uffff"),
    (F.color == "red", "color = 'red'", pl.col("color") == "red"),
    (F.instant > LATER, "instant > TIMESTAMPTZ '2026-01-01 05:00:00+00'", pl.col("instant") > LATER),
]  # fmt: skip


@pytest.mark.parametrize(("predicate", "sql", "expression"), ASKED, ids=[sql for _, sql, _ in ASKED])
def test_sql_finds_the_same_samples(folder: Path, predicate: Predicate, sql: str, expression: Any) -> None:
    expected = found(folder, predicate)
    manifests = f"{folder}/*.manifest.parquet"
    assert expected
    assert [
        key for (key,) in duckdb.sql(f"SELECT __key__ FROM '{manifests}' WHERE {sql} ORDER BY 1").fetchall()
    ] == expected
    assert sorted(pl.scan_parquet(manifests).filter(expression).collect()["__key__"]) == expected


def test_arrow_finds_the_same_samples(folder: Path) -> None:
    manifests = pads.dataset(sorted(map(str, folder.glob("*.manifest.parquet"))))
    expression = (pc.field("whole") >= 2) & ~(pc.field("maybe_text") == "a")
    keys = manifests.to_table(columns=["__key__"], filter=expression)["__key__"].to_pylist()
    assert keys == found(folder, (F.whole >= 2) & ~(F.maybe_text == "a"))


def test_sql_splits_as_the_library_does(folder: Path) -> None:
    manifests = f"{folder}/*.manifest.parquet"
    stop = hash_ranges([0.6], seed=5)[0].stop
    sql = f"SELECT __key__ FROM '{manifests}' WHERE left(sha256('5:' || __key__), 16) < '{stop:016x}' ORDER BY 1"
    keys = [f"{i:09d}" for i in range(60)]
    held = hash_ranges([0.6], seed=5)[0].holds(keys)
    assert [key for (key,) in duckdb.sql(sql).fetchall()] == [key for key, here in zip(keys, held, strict=True) if here]
