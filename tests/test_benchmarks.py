# ruff: noqa: RUF001 (typographic signs are wanted in what people read)
"""The benchmarks run, at a tiny scale, and their contenders agree; nothing here looks at the clock."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RUN = BENCHMARKS / "run.py"


def bench(folder: Path, name: str, *options: str) -> dict[str, Any]:
    out = folder / "out.json"
    command = [sys.executable, str(RUN), "--scale", "0.0005", "--rounds", "1", "--only", name, *options]
    done = subprocess.run(
        [*command, "--data", str(folder / "data"), "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept" in done.stdout
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bars", "options"),
    [
        ("iterate", 2, ["--peers", "webdataset"]),
        ("batches", 2, ["--peers", "webdataset"]),
        ("write", 2, ["--peers", "webdataset"]),
        ("random_access", 0, ["--peers", "none"]),
        ("reading", 6, ["--peers", "pyarrow"]),
        ("dataloader", 1, ["--peers", "webdataset,torch", "--kind", "S"]),
        ("resume", 3, ["--peers", "none"]),
        ("disk_bytes", 1, ["--peers", "webdataset"]),
        ("first_pass", 3, ["--peers", "webdataset", "--kind", "S"]),
        ("start_up", 1, ["--peers", "none"]),
        ("memory", 3, ["--peers", "none"]),
        ("index", 13, ["--peers", "none"]),
        ("proofs", 4, ["--peers", "none"]),
        ("atmosphere", 9, ["--peers", "none"]),
        ("published", 2, ["--peers", "none"]),
        ("queries", 0, ["--peers", "none"]),
        ("lenses", 9, ["--peers", "none", "--kind", "S"]),
        ("versions", 2, ["--peers", "none"]),
        ("remote", 3, ["--peers", "none"]),
        ("remote_far", 4, ["--peers", "none"]),
        ("remote_memory", 4, ["--peers", "none"]),
    ],
)
def test_a_scenario_runs_and_its_contenders_agree(tmp_path: Path, name: str, bars: int, options: list[str]) -> None:
    before = (BENCHMARKS / "README.md").read_bytes()
    found = bench(tmp_path, name, *options)
    result = found["runs"][name]["result"]
    assert len(result["bars"]) == bars
    for table in result["tables"]:
        assert table["rows"][0]["name"].startswith(("atdata", "import atdata"))
        for row in table["rows"]:
            assert row["value"] > 0 or name == "start_up"
    assert (BENCHMARKS / "README.md").read_bytes() == before, "a part of the benchmarks changed the published results"


@pytest.mark.slow
def test_what_a_training_is_given_is_counted(tmp_path: Path) -> None:
    result = bench(tmp_path, "correctness", "--peers", "webdataset")["runs"]["correctness"]["result"]
    assert [bar["got"] for bar in result["bars"]] == [0] * 4
    assert {row["name"] for table in result["tables"] for row in table["rows"]} == {"atdata"}
    (grid,) = result["grids"]
    cells = {name: rest for name, *rest in grid["rows"]}
    assert cells["atdata"][:4] == ["0 / 0"] * 4
    assert cells["webdataset, split by node"][:2] == ["0 / 0", "no state"]
    dropped, _, repeated = cells["webdataset, resampled"][0].partition(" / ")
    assert int(dropped) > 0
    assert int(repeated) > 0, "shards that are drawn come again, and others never: nobody would have counted"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("harness", "report")
    yield tuple(importlib.import_module(name) for name in names)
    for name in names:
        sys.modules.pop(name, None)


def test_contenders_that_differ_are_refused(modules: Any) -> None:
    harness, _ = modules
    with pytest.raises(AssertionError, match="b gave 2, a gave 1"):
        harness.compare([harness.Contender("a", lambda: 1), harness.Contender("b", lambda: 2)], 1)
    with pytest.raises(AssertionError, match="differ"):
        harness.agree("work", {"a": lambda: 1, "b": lambda: 2})


def test_contenders_take_turns(modules: Any) -> None:
    harness, _ = modules
    seen: list[str] = []
    harness.compare([harness.Contender(n, lambda n=n: seen.append(n)) for n in "ab"], 2, runs=1)
    assert "".join(seen) == "ababab"


def test_ratio_is_of_the_medians_with_its_range_by_round(modules: Any) -> None:
    harness, _ = modules
    timings = {"a": harness.Timing("a", [[1.0], [2.0], [1.0]]), "b": harness.Timing("b", [[10.0], [30.0], [20.0]])}
    assert harness.ratio(timings, "a", "b") == (20.0, 10.0, 20.0)


def test_the_report_says_what_was_missed(modules: Any, tmp_path: Path) -> None:
    harness, report = modules
    rows = [harness.Row("atdata", 1234.6, 1000, 2000), harness.Row("other", 99.99, 90, 110, 12.34)]
    bars = [harness.Bar("speed", 15, 12.34, 11, 13), harness.Bar("size", 0.55, 0.5, 0.5, 0.5, False)]
    grid = harness.Grid("Lost", ["samples"], [["atdata", "0 / 0"], ["other", "3 / 1"]], "Counted.")
    tables = [harness.Table("Work", "samples/s", rows, "A note.")]
    results = {"x": harness.Result(tables, bars, ["litdata"], [grid])}
    assert harness.Result.from_json(results["x"].to_json()) == results["x"]
    state = {"machine": harness.machine(), "versions": {"atdata": "0"}}
    run = {"day": "2026-01-02", "cpu": "Z80", "load": "0", "load_after": "0", "rounds": 1, "seconds": 1}
    assert "1 of 2 kept" in report.bars_as_text(results)
    (tmp_path / "README.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.plot = lambda path, results: False
    earlier = harness.Result(bars=[harness.Bar("of an earlier run", 1, 2, 2, 2)])
    report.write(tmp_path, state, {"w": {**run, "result": earlier.to_json()}}, ["x", "w"])
    report.write(tmp_path, state, {"x": {**run, "result": results["x"].to_json()}}, ["x", "w"])
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.index("| speed |") < text.index("| of an earlier run | ≥ 1× | 2× |  | pass |")
    assert "| x | 2026-01-02 | Z80 | 0 | 0 | 1 | 1 |" in text
    assert "| speed | ≥ 15× | 12.3× | 11 – 13 | MISS |" in text
    assert "- Work: other, 100 samples/s against 1,230" not in text, "what is slower is not ahead"
    assert "| size | ≤ 0.55 | 0.5 |  | pass |" in text
    assert "| other | 3 / 1 |" in text
    assert "| atdata | 1,230 | 1,000 – 2,000 |  |" in text
    assert "Not here, so not compared: litdata." in text
