"""What `import atdata` costs, in a new process each time."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from harness import Bar, Context, Result, Row, Table
from peers import available

TITLE = "Import"


def run(ctx: Context) -> Result:
    """Bare interpreter, ours, theirs, turn by turn."""
    result = Result()
    programs = {
        "import atdata": "import atdata",
        "import atdata; atdata.Dataset": "import atdata; atdata.Dataset",
        "import numpy": "import numpy",
    }
    if available(ctx, "webdataset"):
        programs["import webdataset"] = "import webdataset"
    else:
        result.missing.append("webdataset")
    if available(ctx, "litdata"):
        programs["import litdata"] = "import litdata"
    else:
        result.missing.append("litdata")
    seconds: dict[str, list[float]] = {"bare": [], **{name: [] for name in programs}}
    for turn in range(2 * ctx.rounds + 1):
        for name, program in {"bare": "pass", **programs}.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    bare = statistics.median(seconds.pop("bare"))
    over = {name: [s - bare for s in found] for name, found in seconds.items()}
    ours = statistics.median(over["import atdata"])
    rows = [
        Row(
            n,
            1e3 * statistics.median(s),
            1e3 * min(s),
            1e3 * max(s),
            None if n == "import atdata" else statistics.median(s) / ours,
        )
        for n, s in over.items()
    ]
    note = (
        f"Over a bare interpreter, which takes {1e3 * bare:.0f} ms; new processes, files cached. webdataset imports "
        "torch where it is installed; LitData always."
    )
    result.tables.append(Table(TITLE, "ms", rows, note))
    found = over["import atdata"]
    result.bars.append(Bar("import atdata: over a bare interpreter", 0.15, ours, min(found), max(found), False, "s"))
    return result
