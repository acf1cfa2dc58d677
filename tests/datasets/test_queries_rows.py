"""Which samples match: statistics, manifests and samples agree with what Python says of every sample."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from query_samples import LONG, POOLS, Question, Row, question, questions, row, rows

import atdata
from atdata.datasets.query import Fields, as_predicate
from atdata.datasets.query_rows import Candidates, column_matcher, matcher
from atdata.datasets.query_stats import Bounds, bounds_of, pruner
from atdata.datasets.query_tree import Instant, Predicate
from atdata.datasets.steps import selected_type
from atdata.errors import QueryError
from atdata.samples.schema import Schema
from atdata.shards.manifest_columns import ManifestColumns
from atdata.shards.manifest_file import read_manifest
from atdata.stores.base import WrittenShards
from atdata.stores.record import FieldStats

SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
IN_MANIFEST = POOLS.keys() - {"long", "raw", "odd", "strange", "many", "mixed"}
F = Fields(Row)


def written(samples: list[Any], sample_type: type, root: str, **options: Any) -> WrittenShards:
    ds: atdata.Dataset[Any] = atdata.Dataset.from_samples(samples, sample_type)
    return atdata.LocalDiskStore(root).write_shards(ds, prefix="v1", **options)


def manifest_of(url: str) -> ManifestColumns:
    manifest = read_manifest(Path(url.removesuffix(".tar") + ".manifest.parquet").read_bytes())
    assert manifest is not None
    return ManifestColumns.of(manifest)


def candidates(predicate: Predicate, manifest: ManifestColumns, sample_type: type) -> Candidates:
    return column_matcher(predicate, sample_type)(manifest)


def rows_of(found: Candidates) -> list[int]:
    return np.flatnonzero(found.mask).tolist()


def expected(asked: Question, samples: list[Any]) -> list[int]:
    return [i for i, sample in enumerate(samples) if asked.truth(sample) is True]


@given(st.lists(rows(), min_size=1, max_size=12), questions())
@settings(max_examples=300, deadline=None)
def test_samples_are_matched_as_python_matches_them(samples: list[Row], asked: Question) -> None:
    matches = matcher(asked.predicate, Row)
    assert [i for i, sample in enumerate(samples) if matches(sample)] == expected(asked, samples)


@given(st.lists(rows(), min_size=1, max_size=12), st.lists(questions(), min_size=20, max_size=20))
@SLOW
@example([row(real=-0.0), row(real=0.0), row(real=1.0)], [question(F, "real", "isin", [zero]) for zero in (0, -0.0)])
def test_manifests_are_matched_as_python_matches_samples(samples: list[Row], several: list[Question]) -> None:
    with tempfile.TemporaryDirectory() as root:
        manifest = manifest_of(written(samples, Row, root)[0])
        for asked in several:
            found = candidates(asked.predicate, manifest, Row)
            rows_found = rows_of(found)
            assert found.certain == (set(asked.predicate.fields) <= IN_MANIFEST)
            if found.certain:
                assert rows_found == expected(asked, samples), asked.predicate
            else:
                assert set(expected(asked, samples)) <= set(rows_found), asked.predicate
                matches = matcher(asked.predicate, Row)
                assert [i for i in rows_found if matches(samples[i])] == expected(asked, samples), asked.predicate


@given(
    st.lists(rows(), min_size=1, max_size=8),
    st.integers(1, 3),
    st.lists(questions(sorted(IN_MANIFEST)), min_size=20, max_size=20),
)
@SLOW
def test_no_shard_with_a_match_is_pruned(samples: list[Row], maxcount: int, several: list[Question]) -> None:
    with tempfile.TemporaryDirectory() as root:
        urls = written(samples, Row, root, maxcount=maxcount)
        schema = Schema.of(Row)
        for asked in several:
            may_match = pruner(asked.predicate)
            for number, info in enumerate(urls.shards):
                here = samples[number * maxcount : (number + 1) * maxcount]
                if not may_match(bounds_of(info.stats, schema, Row), info.samples):
                    assert expected(asked, here) == [], asked.predicate


# -- pruning ---------------------------------------------------------------------------------------------------------

K, N = Bounds(3, 7), Bounds(0.5, 2.5, 1)
NAMES, SAME, ZONED = Bounds("cat", "dog"), Bounds("owl", "owl"), Bounds(Instant(True, 0), Instant(True, 10**6))
BOUNDS = {
    "k": K,
    "n": N,
    "t": NAMES,
    "same": SAME,
    "when": ZONED,
    "none": Bounds(None, None, 10),
    "inf": Bounds(None, None),
}
D = Fields(atdata.DictSample)
START = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("predicate", "answer"),
    [
        (D.k == 2, False), (D.k == 3, True), (D.k == 7.0, True), (D.k == 8, False),
        (D.k < 3, False), (D.k <= 3, True), (D.k > 7, False), (D.k >= 7, True), (D.k > 6.5, True),
        (D.k != 3, True), (~(D.k >= 3), False), (~(D.k < 8), False), (~(D.k == 3), True),
        (D.k.isin([1, 2, 8, 9]), False), (D.k.isin([1, 5]), True), (D.k.isin([]), False), (~D.k.isin([]), True),
        (D.k.between(8, 9), False), (~D.k.between(0, 9), False), (D.k.is_null(), False), (~D.k.is_null(), True),
        (D.n > 3, False), (~(D.n <= 3), True), (D.n != 1, True), (D.n.is_null(), True),  # NaN is in no bounds
        (D.t.startswith("ant"), False), (D.t.startswith("c"), True), (D.t.startswith("catalogue"), True),
        (D.t.startswith("do"), True), (D.t.startswith("dove"), False), (D.t.startswith("e"), False),
        (D.t.contains("zebra"), True), (~D.t.startswith("cat"), True),
        (D.same != "owl", False), (~D.same.startswith("ow"), False), (~D.same.isin(["owl"]), False),
        (D.when >= START, True), (D.when < START, False), (D.when > START.replace(second=2), False),
        (D.when < START.replace(tzinfo=None), True),  # they cannot be compared: reading says so
        (D.when.isin([START.replace(tzinfo=None)]), True), (D.when.isin([START.replace(second=2)]), False),
        (D.none == 3, False), (D.none.is_null(), True), (~(D.none == 3), False), (~D.none.is_null(), False),
        (D.inf == 3, True), (D.inf.isin([1, "a"]), True), (D.unknown == 3, True), (D.unknown.is_null(), True),
        ((D.k == 5) & (D.t == "ant"), False), ((D.k == 2) | (D.t == "cow"), True), ((D.k == 2) | (D.t == "ant"), False),
        (~((D.k == 2) | (D.t == "ant")), True), (~((D.k > 2) & (D.t > "ant")), False),
    ],
)  # fmt: skip
def test_what_bounds_rule_out(predicate: Predicate, answer: bool) -> None:
    assert pruner(predicate)(BOUNDS, 10) is answer


@atdata.packable
class Plain:
    number: int
    text: str
    maybe: int | None = None


@atdata.packable
class Flipped:
    """What is seen is not what is stored."""

    number: int
    text: str
    maybe: int | None = None

    def __post_init__(self) -> None:
        self.number = -self.number


@atdata.packable
class AsFloat:
    number: float
    text: datetime
    maybe: int | None = None


@atdata.packable
class Strict:
    number: int
    text: str
    maybe: int


PLAIN = Schema.of(Plain)
STATS = {"number": FieldStats(1, 5), "text": FieldStats("2026-01-01", "2026-02-01"), "maybe": FieldStats(1, 2, 3)}


def test_bounds_are_used_only_where_reading_gives_the_same_values() -> None:
    assert bounds_of(STATS, PLAIN, Plain) == {
        "number": Bounds(1, 5), "text": Bounds("2026-01-01", "2026-02-01"), "maybe": Bounds(1, 2, 3),
    }  # fmt: skip
    assert bounds_of(STATS, PLAIN, Flipped) == {}
    assert bounds_of(STATS, None, Plain) == {}
    assert bounds_of(STATS, PLAIN, atdata.DictSample) == {}
    assert bounds_of(STATS, PLAIN, AsFloat).keys() == {"maybe"}
    assert bounds_of(STATS, PLAIN, Strict).keys() == {"number", "text"}


def test_statistics_of_another_type_than_their_field_say_nothing() -> None:
    hostile = {"number": FieldStats("a", "b"), "text": FieldStats(1, 2), "maybe": FieldStats(True, False)}
    assert set(bounds_of(hostile, PLAIN, Plain).values()) == {Bounds(None, None)}
    times = {"clock": FieldStats("2026-01-01T00:00:00Z", "2026-01-02T00:00:00"), "instant": FieldStats(3, "soon", 1)}
    assert bounds_of(times, Schema.of(Row), Row) == {"clock": Bounds(None, None), "instant": Bounds(None, None, 1)}


# -- manifests -------------------------------------------------------------------------------------------------------


def test_a_manifest_is_asked_only_where_reading_gives_the_same_values(tmp_path: Path) -> None:
    manifest = manifest_of(
        written([Plain(n, "2026-01-01", None if n == 2 else n) for n in range(5)], Plain, str(tmp_path))[0]
    )
    every = [0, 1, 2, 3, 4]
    for sample_type, found, certain in [
        (Plain, [3, 4], True),
        (Flipped, every, False),
        (AsFloat, every, False),
        (Strict, [3, 4], True),
        (atdata.DictSample, every, False),
        (selected_type(Plain, ("number",)), [3, 4], True),
    ]:
        answer = candidates(Fields(sample_type).number > 2, manifest, sample_type)
        assert (rows_of(answer), answer.certain) == (found, certain), sample_type
    unsure = candidates(Fields(Strict).maybe > 2, manifest, Strict)
    assert (rows_of(unsure), unsure.certain) == (every, False)
    # A class that lacks a field cannot read these samples, and a column must not hide that.
    assert candidates(Fields(Other).number > 2, manifest, Other).certain is False


@atdata.packable
class Other:
    number: int
    text: str


def test_what_a_manifest_cannot_tell_leaves_only_what_may_match(tmp_path: Path) -> None:
    samples = [row(whole=i % 4, long=LONG[i % 2]) for i in range(20)]
    manifest = manifest_of(written(samples, Row, str(tmp_path))[0])
    scan = F.long.contains("other")
    both = candidates((F.whole == 1) & scan, manifest, Row)
    assert (rows_of(both), both.certain) == (list(range(1, 20, 4)), False)
    assert len(rows_of(candidates((F.whole == 1) | scan, manifest, Row))) == 20
    assert rows_of(candidates(~((F.whole == 1) | scan), manifest, Row)) == [i for i in range(20) if i % 4 != 1]
    assert rows_of(candidates((F.whole == 9) & scan, manifest, Row)) == []


# -- values that cannot be compared ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["manifest", "samples"])
def test_times_with_and_without_a_zone_are_not_compared(tmp_path: Path, by: str) -> None:
    samples = [row(instant=None), row()]
    manifest = manifest_of(written(samples, Row, str(tmp_path))[0])

    def ask(predicate: Predicate) -> list[int]:
        if by == "manifest":
            return rows_of(candidates(predicate, manifest, Row))
        return [i for i, sample in enumerate(samples) if matcher(predicate, Row)(sample)]

    naive, zoned = datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)
    for predicate in (F.clock == zoned, F.clock != zoned, F.clock.isin([zoned]), ~(F.clock < zoned)):
        with pytest.raises(QueryError, match=r"clock: .* time without a zone, .* with a time with a zone"):
            ask(predicate)
    with pytest.raises(QueryError, match=r"instant: .* time with a zone, .* with a time without a zone"):
        ask(F.instant > naive)
    assert ask(F.clock.isin([naive, zoned])) == [0, 1]
    assert ask(F.instant.isin([])) == []
    assert ask(F.instant.is_null()) == [0]


def test_nothing_is_compared_where_there_are_no_values(tmp_path: Path) -> None:
    manifest = manifest_of(written([row(instant=None)], Row, str(tmp_path))[0])
    assert rows_of(candidates(F.instant > datetime(2026, 1, 1), manifest, Row)) == []


def ask(predicate: Predicate, **values: Any) -> bool:
    return matcher(predicate, atdata.DictSample)(atdata.DictSample(values))


def test_values_without_a_declared_type() -> None:
    assert ask(D.x == 1, x=1.0)
    assert ask(D.x.isin(["a", 1]), x="a")
    assert not ask(D.x != 1, x=None)
    assert ask(D.x.is_null(), x=None)
    assert ask(D["keys"] == 3, keys=3)
    assert ask(D.x == 1, x=np.int64(1))
    with pytest.raises(QueryError, match="x: the value is a text, and cannot be compared with a number"):
        ask(D.x == 1, x="1")
    with pytest.raises(QueryError, match="x: the value is a bool, and cannot be compared with a number or text"):
        ask(D.x.isin([1, "a"]), x=True)
    with pytest.raises(QueryError, match="x: the value is a ndarray, and cannot be compared with a number"):
        ask(D.x > 1, x=np.ones(2))
    with pytest.raises(QueryError, match=r"labl: the sample has no field 'labl' \(did you mean 'label'\?\)"):
        ask(D.labl == "x", label="x")


def test_samples_in_memory_are_asked_for_what_would_be_stored() -> None:
    class Text(str):
        __slots__ = ()

    odd = row(whole=np.int8(3), real=np.float32(0.1), text=Text("a"), flag=np.bool_(True), maybe_real=2)
    for predicate in (F.whole == 3, F.real != 0.1, F.real > 0.1, F.text.isin(["a"]), F.flag, F.maybe_real == 2.0):
        assert matcher(as_predicate(predicate), Row)(odd)
    assert matcher(F.text == "a", Row)({"text": "a"})  # what a map step gave, whatever it said
