# ruff: noqa: E712, SIM300 (comparisons that a linter takes for those of Python)
"""Writing predicates: what they look like, what is refused at once, and that they can be kept, compared and sent."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from query_samples import Color, Level, Odd, Question, Row, questions

import atdata
from atdata.datasets.query import Field, Fields, as_predicate, check, fields
from atdata.datasets.query_tree import Instant, Predicate
from atdata.errors import AtdataError, QueryError, SchemaError

F = Fields(Row)
D = Fields(atdata.DictSample)


# -- what they look like ---------------------------------------------------------------------------------------------

WRITTEN: list[tuple[Predicate, str]] = [
    (F.whole == 3, "F.whole == 3"),
    (F["whole"] != 3, "F.whole != 3"),
    (3 < F.whole, "F.whole > 3"),
    (F.text.isin(["owl", "bat", "owl"]), "F.text.isin(['owl', 'bat'])"),
    (F.real.between(0, 1.5), "(F.real >= 0) & (F.real <= 1.5)"),
    (F.maybe_text.is_null(), "F.maybe_text.is_null()"),
    (F.text.contains("x") | F.text.startswith("y"), "F.text.contains('x') | F.text.startswith('y')"),
    (~(F.whole > 3), "~(F.whole > 3)"),
    (~~(F.whole > 3), "F.whole > 3"),
    (~F.text.contains("x"), "~F.text.contains('x')"),
    ((F.whole > 1) & (F.whole < 3) & (F.real == 0.5), "(F.whole > 1) & (F.whole < 3) & (F.real == 0.5)"),
    ((F.whole > 1) & ((F.whole < 3) | (F.real == 1)), "(F.whole > 1) & ((F.whole < 3) | (F.real == 1))"),
    (F.color == Color.RED, "F.color == 'red'"),
    (F.level >= Level.LOW, "F.level >= 1"),
    (F.odd.isin([Odd.NUMBER, Odd.TEXT]), "F.odd.isin([1, '1'])"),
    (~F.flag & (F.whole == np.int64(3)), "~(F.flag == True) & (F.whole == 3)"),
    (F.flag & F.maybe_flag, "(F.flag == True) & (F.maybe_flag == True)"),
    ((F.whole == 1) | F.flag, "(F.flag == True) | (F.whole == 1)"),
    (D["the label"] == b"x", "F['the label'] == b'x'"),
    (F.clock >= np.datetime64("2026-01-01"), "F.clock >= datetime.datetime(2026, 1, 1, 0, 0)"),
]  # fmt: skip


@pytest.mark.parametrize(("predicate", "text"), WRITTEN)
def test_a_predicate_looks_as_it_is_written(predicate: Predicate, text: str) -> None:
    assert repr(predicate) == text


def test_fields_are_those_of_the_type_or_dataset() -> None:
    ds = atdata.Dataset.from_samples([], Row)
    assert repr(atdata.fields(Row).text == "a") == repr(atdata.fields(ds).text == "a")
    assert dir(atdata.fields(Row)) == sorted(Row.__annotations__)
    assert [field.name for field in atdata.fields(Row)] == list(Row.__annotations__)
    assert repr(atdata.fields(Row)) == "fields(Row)"
    assert copy.copy(F).text.name == "text"
    assert atdata.fields(ds.map(len, atdata.DictSample)).anything.name == "anything"
    with pytest.raises(TypeError, match="fields are those of a sample type or of a dataset, not of 3"):
        atdata.fields(3)
    with pytest.raises(SchemaError):
        atdata.fields(int)


# -- what is refused -------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: F.txet, SchemaError, r"Row has no field 'txet' \(did you mean 'text'\?\); it has whole, "),
    (lambda: F["zzz"], SchemaError, "Row has no field 'zzz'; it has whole"),
    (lambda: F.whole == "3", QueryError, r"Row.whole: int cannot be compared with str \(== '3'\)"),
    (lambda: F.whole == True, QueryError, r"Row.whole: int cannot be compared with bool \(== True\)"),
    (lambda: F.maybe_whole < b"3", QueryError, "Row.maybe_whole: int or None cannot be compared with bytes"),
    (lambda: F.real > datetime(2026, 1, 1), QueryError, "Row.real: float cannot be compared with datetime"),
    (lambda: F.text.isin(["a", 3]), QueryError, r"Row.text: str cannot be compared with int \(isin 3\)"),
    (lambda: F.text.contains(b"a"), QueryError, "Row.text: str cannot be compared with bytes"),
    (lambda: F.raw.startswith("a"), QueryError, "Row.raw: bytes cannot be compared with str"),
    (lambda: F.flag == 1, QueryError, "Row.flag: bool cannot be compared with int"),
    (lambda: F.flag < True, QueryError, "Row.flag: < cannot be asked of bool"),
    (lambda: F.whole.contains(3), QueryError, "Row.whole: contains cannot be asked of int"),
    (lambda: F.color == "redd", QueryError, r"'redd' is none of the values it can have \(did you mean 'red'\?\)"),
    (lambda: F.color == Level.LOW, QueryError, "Row.color: Color cannot be compared with a Level"),
    (lambda: F.color < Color.RED, QueryError, "Row.color: < cannot be asked of Color"),
    (lambda: F.level == 3, QueryError, "Row.level: 3 is none of the values it can have: 1, 2"),
    (lambda: F.choice == "c", QueryError, "Row.choice: 'c' is none of the values it can have: 'a', 'b'"),
    (lambda: F.strange > 1, QueryError, "Row.strange: > cannot be asked of one of '1', 1, True"),
    (lambda: F.strange == 2, QueryError, "Row.strange: 2 is none of the values"),
    (lambda: F.text == None, QueryError, "Row.text: nothing is equal to None, as in SQL: is_null"),  # noqa: E711
    (lambda: F.text.isin(["a", None]), QueryError, "Row.text: nothing is equal to None"),
    (lambda: F.real == math.nan, QueryError, "Row.real: NaN is equal to nothing"),
    (lambda: F.real.isin([1, np.float32("nan")]), QueryError, "Row.real: NaN is equal to nothing"),
    (lambda: F.clock > date(2026, 1, 1), QueryError, "Row.clock: a date has no time of day: give a datetime"),
    (lambda: F.clock > np.datetime64("NaT", "s"), QueryError, "Row.clock: a field cannot be compared with NoneType"),
    (lambda: F.clock > np.datetime64(1, "ns"), QueryError, "Row.clock: datetime cannot be compared with int"),
    (lambda: F.text == "\ud800", QueryError, "Row.text: text with a lone surrogate is in no dataset"),
    (lambda: F.array == 3, QueryError, r"Row.array: ndarray\[float32\] or None cannot be compared, only asked"),
    (lambda: F.array == np.ones(2), QueryError, "Row.array: "),
    (lambda: F.whole == np.ones(2), QueryError, "Row.whole: a field cannot be compared with ndarray"),
    (lambda: F.many.contains(3), QueryError, "Row.many: .* cannot be compared, only asked"),
    (lambda: F.whole == {}, QueryError, "Row.whole: a field cannot be compared with dict"),
    (lambda: F.whole == F.real, QueryError, "Row.whole: a field is compared with a value; two .* Dataset.filter"),
    (lambda: F.whole == (F.real == 1), QueryError, "Row.whole: a field is compared with a value"),
    (lambda: F.text.isin("abc"), QueryError, "Row.text: isin takes a list of values, not 'abc'"),
    (lambda: F.text.isin(3), QueryError, "Row.text: isin takes a list"),  # type: ignore[arg-type]
    (lambda: F.mixed < True, QueryError, "Row.mixed: any cannot be compared with bool"),
    (lambda: F.mixed.contains(3), QueryError, "Row.mixed: any cannot be compared with int"),
    (lambda: D.x.contains(3), QueryError, "DictSample.x: the field cannot be compared with int"),
    (lambda: F.text.upper(), AttributeError, r"Row.text: a field has the operators .* but no 'upper'; .*filter"),
    (lambda: (F.whole > 1) and (F.whole < 3), TypeError, "& | ~ in place of and, or, not"),
    (lambda: (F.whole > 1) or F.flag, TypeError, "& | ~ in place of and, or, not"),
    (lambda: not F.flag, TypeError, "the field flag is not true or false by itself"),
    (lambda: 1 < F.whole < 3, TypeError, r"write F.x.between\(a, b\) in place of a <= F.x <= b"),
    (lambda: F.text in ["a", "b"], TypeError, r"F.x.isin\(\[…\]\) in place of `in`"),
    (lambda: "a" in F.text, TypeError, r"write F.text.contains\(…\)"),
    (lambda: list(F.text), TypeError, "the field text has one value for each sample"),
    (lambda: F.whole & F.flag, QueryError, "Row.whole: int is not yes or no: compare the field"),
    (lambda: ~F.text, QueryError, "Row.text: str is not yes or no"),
    (lambda: (F.whole > 1) & F.real < 2, QueryError, "Row.real: .* each comparison in brackets"),
    (lambda: F.whole > 1 & F.flag, TypeError, "not 1; comparisons need brackets"),
    (lambda: (F.whole > 1) & True, TypeError, "unsupported operand"),
    (lambda: {F.text}, TypeError, "unhashable"),
    (lambda: as_predicate(lambda sample: True), TypeError, "a function goes to Dataset.filter"),
    (lambda: as_predicate(True), TypeError, "not True; comparisons need brackets"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "error", "message"), REFUSED)
def test_mistakes_are_told_when_they_are_written(
    write: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        write()
    assert not isinstance(caught.value, AtdataError) or pickle.loads(pickle.dumps(caught.value)).args


def test_pandas_times() -> None:
    pd = pytest.importorskip("pandas")
    assert (F.clock > pd.Timestamp("2026-01-01")) == (F.clock > datetime(2026, 1, 1))
    with pytest.raises(QueryError, match="NaT is no time"):
        F.clock > pd.NaT  # noqa: B015


def test_a_missing_field_is_an_attribute_error_too() -> None:
    assert not hasattr(F, "txet")
    assert getattr(F, "txet", None) is None
    assert isinstance(F.text, Field)


@atdata.packable
class Other:
    text: int
    flag: bool


def test_a_predicate_is_checked_against_the_type_it_is_asked_of() -> None:
    check(F.flag == True, Other)
    check((F.text == "a") & D.anything.is_null(), atdata.DictSample)
    with pytest.raises(QueryError, match=r"Other.text: startswith cannot be asked of int"):
        check((F.flag == True) | ~F.text.startswith("a"), Other)
    with pytest.raises(SchemaError, match=r"Other has no field 'texts' \(did you mean 'text'\?\)"):
        check(D.texts.is_null(), Other)


# -- kept, compared, sent --------------------------------------------------------------------------------------------


@given(questions(), questions())
@settings(deadline=None)
def test_equal_predicates_have_one_fingerprint_and_hash(a: Question, b: Question) -> None:
    again = pickle.loads(pickle.dumps(a.predicate))
    assert again == a.predicate
    assert (repr(again), hash(again)) == (repr(a.predicate), hash(a.predicate))
    assert (a.predicate & b.predicate) == (b.predicate & a.predicate)
    assert (a.predicate | b.predicate) == (b.predicate | a.predicate | b.predicate)
    assert ~~a.predicate == a.predicate
    assert ~a.predicate != a.predicate
    assert {a.predicate: 1}[again] == 1


DIFFERENT = [
    F.whole == 1, F.whole != 1, F.whole < 1, F.whole == 2, F.maybe_whole == 1, F.whole.isin([1, 2]), F.whole.isin([]),
    F.text == "1", F.text == "1 ", F.text.contains("1"), F.text.startswith("1"), F.maybe_text.is_null(),
    (F.whole == 1) & (F.text == "1"), (F.whole == 1) | (F.text == "1"), ~(F.whole == 1),
    F.real == 1.5, F.real == math.inf, F.raw == b"1", F.flag == True, F.flag == False, F.mixed == 1, F.mixed == True,
    F.mixed == "1", F.mixed == b"1", F.clock == datetime(2026, 1, 1), F.clock == datetime(2026, 1, 1, tzinfo=UTC),
    ((F.whole == 1) | (F.whole == 2)) & (F.whole == 3), (F.whole == 1) | ((F.whole == 2) & (F.whole == 3)),
    D['a"),("b'] == 1, D["a"] == 1,
]  # fmt: skip


def test_different_questions_have_different_fingerprints() -> None:
    assert len({predicate.fingerprint for predicate in DIFFERENT}) == len(DIFFERENT)
    assert (F.whole == 1) != "F.whole == 1"


def test_the_same_question_written_in_other_ways() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert (F.whole == 1) == (F.whole == 1.0) == (F.whole == np.uint8(1))
    assert F.whole.isin([1, 2]) == F.whole.isin((2.0, 1, 2)) == F.whole.isin(np.array([2, 1]))
    assert (F.instant == noon) == (F.instant == noon.astimezone(timezone(timedelta(hours=5))))
    assert (F.color == Color.RED) == (F.color == "red")
    assert (F.whole == 1) & F.flag & (F.real > 0) == F.flag & ((F.real > 0) & (F.whole == 1))
    assert (F.flag == True).fingerprint == '==("flag",true)'
    assert (
        (F.whole >= 22) & F.text.isin(["owl", "bat"])
    ).fingerprint == 'and(>=("whole",22),isin("text",["bat","owl"]))'


def test_predicates_do_not_change() -> None:
    predicate: Any = F.whole == 1
    with pytest.raises(AttributeError):
        predicate.value = 2


def test_many_parts_nest_no_deeper() -> None:
    predicate = F.whole == 0
    for number in range(1, 5000):
        predicate = predicate | (F.whole == number)
    assert len(pickle.loads(pickle.dumps(predicate)).parts) == 5000
    check(predicate, Row)


@dataclass
class Held:
    predicate: Predicate


def test_a_predicate_needs_no_class_of_the_users(tmp_path: Path) -> None:
    """It can be read by a process that has never heard of the sample type."""
    predicate = (F.color == Color.RED) & (F.level >= Level.LOW) & (F.instant > datetime(2026, 1, 1, tzinfo=UTC))
    (tmp_path / "p").write_bytes(pickle.dumps(predicate))
    program = f"import pickle; print(pickle.load(open({str(tmp_path / 'p')!r}, 'rb')).fingerprint)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == predicate.fingerprint


# -- times -----------------------------------------------------------------------------------------------------------


def test_instants_are_exact() -> None:
    zone = timezone(timedelta(hours=1, seconds=7, microseconds=3))
    assert Instant.of(datetime(1970, 1, 1, 1, 0, 7, 4, tzinfo=zone)) == Instant(True, 1)
    assert Instant.of(datetime(1970, 1, 1, 0, 0, 0, 5)) == Instant(False, 5)
    first, last = datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), datetime.max.replace(tzinfo=zone)
    assert Instant.of(first).microseconds < Instant.of(datetime.min).microseconds
    assert Instant.of(last).microseconds < Instant.of(datetime.max).microseconds


def test_the_hour_that_comes_twice() -> None:
    """Python's comparisons of such times do not look at the instant."""
    zoneinfo = pytest.importorskip("zoneinfo")
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    early, late = (datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1))
    assert early == late
    assert Instant.of(late).microseconds - Instant.of(early).microseconds == 3600 * 10**6
    assert (F.instant == early) != (F.instant == late)
    assert (F.instant == late) == (F.instant == late.astimezone(UTC))


def test_fields_is_a_public_name() -> None:
    assert atdata.fields is fields
