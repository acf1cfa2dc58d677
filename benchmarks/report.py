# ruff: noqa: RUF001 (typographic signs are wanted in what people read)
"""The results as text, as the section of README.md, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import Bar, Grid, Result, Table

BEGIN = "<!-- results: written by run.py -->"
_OF_A_RUN = ("day", "cpu", "load", "load_after", "rounds", "seconds")
END = "<!-- end of results -->"


def number(value: float) -> str:
    """Three significant digits, thousands grouped."""
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _cells(table: Table) -> list[tuple[str, ...]]:
    rows = [("", table.unit, "lowest – highest", "ratio")]
    for row in table.rows:
        spread = "" if row.low == row.high else f"{number(row.low)} – {number(row.high)}"
        rows.append((row.name, number(row.value), spread, "" if row.ratio is None else f"{number(row.ratio)}×"))
    return rows


def _with_cells(result: Result) -> list[tuple[Table | Grid, list[tuple[str, ...]]]]:
    """Every table with its lines, the head first."""
    grids = [(grid, [("", *grid.head), *map(tuple, grid.rows)]) for grid in result.grids]
    return [*grids, *((table, _cells(table)) for table in result.tables)]


def as_text(result: Result) -> str:
    """The tables of one scenario, for a terminal."""
    out = []
    for table, rows in _with_cells(result):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        out.append(table.title)
        for row in rows:
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            out.append("  " + "  ".join([first, *rest]).rstrip())
        if table.note:
            out.append(f"  {table.note}")
        out.append("")
    if result.missing:
        out.append(f"not here, so not compared: {', '.join(sorted(set(result.missing)))}")
    return "\n".join(out)


def _bar_cells(bar: Bar) -> tuple[str, ...]:
    sign = "≥" if bar.at_least else "≤"
    unit = f" {bar.unit}" if bar.unit != "×" else "" if bar.want < 1 else "×"
    spread = "" if bar.low == bar.high else f"{number(bar.low)} – {number(bar.high)}"
    return (
        bar.text,
        f"{sign} {number(bar.want)}{unit}",
        f"{number(bar.got)}{unit}",
        spread,
        "pass" if bar.passed else "MISS",
    )


def peers_ahead(results: dict[str, Result]) -> list[str]:
    """Where another library did better than atdata, in words."""
    return [
        f"{table.title.partition(' (')[0]}: {row.name}, {number(row.value)} {table.unit} against "
        f"{number(table.rows[0].value)}"
        for result in results.values()
        for table in result.tables
        for row in table.rows
        if row.ratio is not None and row.ratio < 1 and "atdata" not in row.name and not row.name.startswith("bare ")
    ]


def bars_as_text(results: dict[str, Result]) -> str:
    """All promises, for a terminal."""
    rows = [("promise", "wanted", "measured", "by round", "")]
    rows += [_bar_cells(bar) for result in results.values() for bar in result.bars]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    kept = sum(bar.passed for result in results.values() for bar in result.bars)
    ahead = [f"ahead of atdata: {line}" for line in peers_ahead(results)]
    return "\n".join([*lines, f"{kept} of {len(rows) - 1} kept", *ahead])


def _markdown(rows: list[tuple[str, ...]]) -> list[str]:
    head, *body = rows
    out = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return out + ["| " + " | ".join(row) + " |" for row in body]


def as_markdown(state: dict[str, Any], runs: dict[str, dict[str, Any]]) -> str:
    """The section of README.md."""
    results = {name: Result.from_json(run["result"]) for name, run in runs.items()}
    machine = state["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in state["versions"].items())
    out = [
        f"**Machine** of the last run: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine.get('memory', '?')}, {machine['system']}, Python {machine['python']}; files are in the "
        f"page cache. {versions}.",
        "",
        *_markdown(
            [("part", "day", "processor", "load before (1, 5, 15 min)", "load after", "rounds", "seconds")]
            + [(name, *(str(run[key]) for key in _OF_A_RUN)) for name, run in runs.items()]
        ),
        "",
        "![What was measured, as a multiple of what is promised](results.png)",
        "",
        *_markdown(
            [("promise", "wanted", "measured", "range by round", "verdict")]
            + [_bar_cells(bar) for result in results.values() for bar in result.bars]
        ),
        "",
    ]
    if ahead := peers_ahead(results):
        out += ["Where another library is ahead:", "", *(f"- {line}" for line in ahead), ""]
    out += ["<details><summary>Every measurement</summary>", ""]
    for result in results.values():
        for table, rows in _with_cells(result):
            out += [f"**{table.title}**", "", *_markdown(rows), ""]
            if table.note:
                out += [table.note, ""]
    out += ["</details>", ""]
    missing = sorted({name for result in results.values() for name in result.missing})
    if missing:
        out += [f"Not here, so not compared: {', '.join(missing)}.", ""]
    return "\n".join(out)


def write(folder: Path, state: dict[str, Any], runs: dict[str, dict[str, Any]], order: Sequence[str] = ()) -> None:
    """README.md's section between its markers, and results.png beside it.

    What was found is kept in results.json; of parts that are not among `runs` that is shown which stands there. They
    come in `order`.
    """
    kept = folder / "results.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    runs = {**before, **runs}
    runs = {name: runs[name] for name in sorted(runs, key=lambda name: [*order, name].index(name))}
    kept.write_text(json.dumps(runs, indent=1) + "\n")
    readme = folder / "README.md"
    text = readme.read_text()
    start, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{readme} has lost its first marker"
    assert end, f"{readme} has lost its second marker"
    readme.write_text(f"{start}{begin}\n\n{as_markdown(state, runs)}\n{end}{after}")
    plot(folder / "results.png", {name: Result.from_json(run["result"]) for name, run in runs.items()})


def plot(path: Path, results: dict[str, Result]) -> bool:
    """Every promise as a bar, as a part of what was wanted; False where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    bars = [bar for result in results.values() for bar in result.bars]

    def share(bar: Bar, got: float) -> float:
        if not bar.want:  # none at all
            return 1 / (1 + got)
        return got / bar.want if bar.at_least else bar.want / max(got, 1e-9)

    figure, axes = plt.subplots(figsize=(11, 0.34 * len(bars) + 1.3), layout="constrained")
    beside = axes.get_yaxis_transform()  # x by the width of the picture, y by the data
    for y, bar in enumerate(reversed(bars)):
        value = share(bar, bar.got)
        ends = sorted((share(bar, bar.low), share(bar, bar.high)))
        axes.barh(y, value - 1, left=1, color="#3b7dd8" if bar.passed else "#d8603b", height=0.62)
        axes.plot(ends, [y, y], color="black", linewidth=1.2, marker="|", markersize=6)
        _, wanted, got, _, verdict = _bar_cells(bar)
        axes.text(1.02, y, got, va="center", fontsize=9, transform=beside)
        axes.text(1.26, y, wanted, va="center", fontsize=9, transform=beside)
        axes.text(1.52, y, verdict, va="center", fontsize=9, transform=beside)
    for x, head in ((1.02, "measured"), (1.26, "promised"), (1.52, "verdict")):
        axes.text(x, len(bars) - 0.3, head, va="bottom", fontsize=9, fontweight="bold", transform=beside)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(bars)), [bar.text for bar in reversed(bars)], fontsize=9)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("as a multiple of what is promised: right of 1× is better (lines: range by round)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return True
