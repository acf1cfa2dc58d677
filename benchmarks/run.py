"""Compare atdata with other loaders, on this machine, in one run: tables, and which promises are kept.

python benchmarks/run.py [--scale 1.0] [--only NAME] [--out FILE] [--full]
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
SCENARIOS = (
    "iterate",
    "batches",
    "write",
    "random_access",
    "reading",
    "dataloader",
    "correctness",
    "resume",
    "disk_bytes",
    "first_pass",
    "start_up",
    "memory",
    "queries",
    "lenses",
    "versions",
    "index",
    "proofs",
    "atmosphere",
    "published",
    "remote",
    "remote_far",
    "remote_memory",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the scenarios, each in a process of its own; 1 when a promise is missed and `--strict` is given."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="part of the data (1.0: 100,000 small, 3,000 large samples)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often every contender has its turn")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="only this scenario; may be repeated")
    parser.add_argument("--kind", action="append", choices=("S", "L"), help="only this kind of data, in most parts")
    parser.add_argument(
        "--peers",
        default="webdataset,streaming,litdata,pyarrow,lance,datasets,grain,torch",
        help="packages to compare with, where installed",
    )
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where data is made and kept for the next run")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--full", action="store_true", help="measure memory with 10 GB of shards instead of 2 GB")
    parser.add_argument("--no-report", action="store_true", help="leave README.md and results.png as they are")
    parser.add_argument("--strict", action="store_true", help="fail when a promise is missed")
    parser.add_argument("--child", choices=SCENARIOS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.data.mkdir(parents=True, exist_ok=True)
    if options.child:
        options.out.write_text(json.dumps(_child(options)))
        return 0
    return _all(options)


def _child(options: argparse.Namespace) -> dict[str, Any]:
    from harness import Context

    ctx = Context(options.data, options.scale, options.rounds, options.full, tuple(options.peers.split(",")))
    if options.kind:
        ctx.kinds = tuple(options.kind)
    found: dict[str, Any] = importlib.import_module(options.child).run(ctx).to_json()
    return found


def _all(options: argparse.Namespace) -> int:
    import report
    from harness import Result, machine, versions

    began = time.time()
    state = {"machine": machine(), "versions": versions(), "scale": options.scale, "rounds": options.rounds}
    results: dict[str, Result] = {}
    runs: dict[str, dict[str, Any]] = {}
    for name in options.only or SCENARIOS:
        start, load = time.perf_counter(), machine()["load"]
        results[name] = Result.from_json(_run(name, options))
        seconds = round(time.perf_counter() - start)
        print(report.as_text(results[name]))
        print(f"({name}: {seconds} s)\n", flush=True)
        runs[name] = {
            "day": time.strftime("%Y-%m-%d"), "cpu": machine()["cpu"], "load": load,
            "load_after": machine()["load"], "seconds": seconds, "rounds": options.rounds,
            "result": results[name].to_json(),
        }  # fmt: skip
    state["seconds"] = round(time.time() - began)
    print(report.bars_as_text(results))
    if options.out:
        options.out.write_text(json.dumps({**state, "runs": runs}, indent=1))
    # A part of the data is not what README.md is to show; of parts that were not run it shows what it had.
    if not (options.no_report or options.kind) and options.scale == 1.0:
        report.write(HERE, state, runs, SCENARIOS)
    missed = [bar for result in results.values() for bar in result.bars if not bar.passed]
    return 1 if missed and options.strict else 0


def _run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [
            sys.executable,
            str(HERE / "run.py"),
            "--child",
            name,
            "--out",
            str(out),
            "--scale",
            str(options.scale),
            "--rounds",
            str(options.rounds),
            "--peers",
            options.peers,
            "--data",
            str(options.data),
        ]
        if options.full:
            command.append("--full")
        for kind in options.kind or ():
            command += ["--kind", kind]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise SystemExit(f"the scenario {name} failed (its own report is above)")
        found: dict[str, Any] = json.loads(out.read_text())
        return found


if __name__ == "__main__":
    sys.exit(main())
