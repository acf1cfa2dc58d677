"""What `atdata demo` does, tells and shows, step by step."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from atdata.cli.demo import digits
from atdata.cli.demo.sheet import contact_sheet
from atdata.cli.demo.timing import PASSES, Comparison, compare
from atdata.cli.pictures import can_draw, picture
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import locate
from atdata.errors import DatasetExistsError, DatasetNotFoundError
from atdata.samples.schema import Schema

__all__ = ["run"]

_NEEDS = {"sklearn": "scikit-learn", "PIL": "pillow", "webdataset": "webdataset"}
_PREFIX = "digits/v1"
_SHEET = "contact-sheet.png"


def run(report: Report, folder: Path) -> None:
    """Run the whole demo in `folder`."""
    start = time.monotonic()
    _check_extra(report)
    _check_folder(folder)
    story = _Story(report, folder)
    story.write()
    story.read()
    story.learn()
    story.draw()
    story.race()
    story.end(time.monotonic() - start)


def _check_extra(report: Report) -> None:
    missing = []
    for module, package in _NEEDS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        command = f"{shlex.quote(sys.executable)} -m pip install 'atdata[demo]'"
        raise ImportError(f"the demo needs {', '.join(missing)}; install with: {command}")


def _check_folder(folder: Path) -> None:
    """Refuse to write over anything but an earlier run of this demo."""
    place = folder / _PREFIX
    try:
        schema = locate(str(place)).schema
    except DatasetNotFoundError:
        if (folder / _SHEET).exists():
            raise DatasetExistsError(
                f"there is a {_SHEET} that no earlier demo wrote; choose another folder with --to", url=str(folder)
            ) from None
        return
    if schema is None or schema.cid != Schema.of(digits.Digit).cid or schema.name != "Digit":
        raise DatasetExistsError(
            "there is a dataset that is not this demo's; choose another folder with --to", url=str(place)
        )


class _Story:
    """The steps, each of which does its part, says so, and keeps the numbers for the JSON document."""

    def __init__(self, report: Report, folder: Path) -> None:
        self._report = report
        self._folder = folder
        self._numbers: dict[str, Any] = {"folder": str(folder), "dataset": str(folder / _PREFIX)}
        self._step = 0

    # -- the steps -----------------------------------------------------------------------------------------------

    def write(self) -> None:
        self._title("A sample is a class; a dataset is written from any iterable of them")
        self._code(digits.Digit, digits.samples, digits.write, folder=str(self._folder))
        self._report.print(f"Writing scikit-learn's handwritten digits to {self._shown(self._folder)}:\n")
        start = time.perf_counter()
        self._urls = digits.write(digits.samples(), str(self._folder))
        seconds = time.perf_counter() - start
        record = self._urls.record
        self._tree(self._folder / _PREFIX)
        self._report.print(
            f"\n{count(record.samples, 'sample')} in {count(len(record.shards), 'shard')}, {size(record.size)}, "
            f"written in {seconds:.2f} s (with loading scikit-learn's data).\nContent identifier: {record.cid}\n"
            "The shards are plain tar files; atdata.json was written last, and names each by its SHA-256."
        )
        self._numbers |= {
            "cid": record.cid,
            "samples": record.samples,
            "bytes": record.size,
            "shards": [
                {"name": s.name, "samples": s.samples, "bytes": s.size, "sha256": s.sha256} for s in record.shards
            ],
        }

    def read(self) -> None:
        self._title("It comes back by its place alone: the class is built from the stored schema")
        self._code(digits.read, digits.read_batches, folder=str(self._folder))
        self._digits = found = digits.read(str(self._folder))
        batch = digits.read_batches(found)
        sample = found[17]
        self._report.print(f"digits              {clean(repr(found))}")
        self._report.print(f"len(digits)         {len(found):,}")
        self._report.print(f"digits[17].label    {sample.label}")
        drawn = picture(sample.image, self._report.console) if can_draw(self._report.console) else None
        if drawn is not None:
            self._report.print("digits[17].image")
            self._report.print(drawn)
        image = batch.image
        self._report.print(
            f"batch.image         {image.dtype} array of shape {image.shape}, copied straight from the shard"
        )
        self._report.print(f"batch.label[:10]    {batch.label[:10]}")

    def learn(self) -> None:
        self._title("A small classifier learns from the first four fifths, and is tried on the rest")
        self._code(digits.centroids)
        centroids = digits.centroids(self._digits)
        right, seen = digits.score(self._digits, centroids)
        accuracy = right / seen
        self._report.print(
            f"Learned from {len(self._digits) - seen:,} samples. Of the {seen} held out, the nearest centroid is that "
            f"of the right digit for {right}:\naccuracy {accuracy:.1%} (guessing gives about 10 %)."
        )
        self._numbers |= {
            "trained_on": len(self._digits) - seen,
            "held_out": seen,
            "correct": right,
            "accuracy": accuracy,
        }

    def draw(self) -> None:
        self._title("A contact sheet")
        path = self._folder / _SHEET
        images = next(iter(self._digits.ordered(batch_size=200))).image
        contact_sheet(images, path, columns=20, top=16)
        self._report.print(f"The first {len(images)} samples: {self._shown(path)} ({size(path.stat().st_size)})")
        self._numbers["contact_sheet"] = str(path)

    def race(self) -> None:
        self._title("Reading speed, against the webdataset package on the same shards")
        results = compare(self._digits, list(self._urls), len(self._digits))
        self._report.print(_table(results))
        self._report.print(
            f"Medians of {PASSES} passes after one to warm up, turn by turn, in this process. Both decode every image\n"
            "and label, webdataset with msgspec. Spread: half of the passes lie within it, for the less steady one."
        )
        self._numbers["speed"] = [
            {
                "what": r.what,
                "atdata_samples_per_second": round(r.atdata),
                "webdataset_samples_per_second": round(r.webdataset),
                "ratio": round(r.ratio, 2),
                "spread": round(r.spread, 3),
            }
            for r in results
        ]

    def end(self, seconds: float) -> None:
        dataset = self._shown(self._folder / _PREFIX)
        commands = [f"{_command()} {what} {dataset}" for what in ("head", "inspect", "verify")]
        self._title(f"Done in {seconds:.1f} s. Try next", number=False)
        for command in commands:
            self._report.print(f"    {command}")
        self._numbers |= {"seconds": round(seconds, 2), "try_next": commands}
        self._report.document(self._numbers)

    # -- telling -------------------------------------------------------------------------------------------------

    def _title(self, text: str, *, number: bool = True) -> None:
        from rich.text import Text

        self._step += number
        self._report.print(Text(f"\n{self._step}. {text}\n" if number else f"\n{text}\n", "bold"))

    def _code(self, *parts: Any, folder: str | None = None) -> None:
        """Show the source of a class, or of the bodies of functions."""
        source = "\n".join(_source(part) for part in parts).rstrip("\n")
        if digits.Digit in parts:
            source = f"import atdata\nimport numpy as np\nfrom numpy.typing import NDArray\n\n{source}"
        if folder is not None:
            source = source.replace(
                'f"{folder}/digits/v1"', json.dumps(os.path.join(folder, _PREFIX), ensure_ascii=False)
            )
            source = source.replace(
                "LocalDiskStore(folder)", f"LocalDiskStore({json.dumps(folder, ensure_ascii=False)})"
            )
        self._report.code(textwrap.indent(source, "    "))
        self._report.print("")

    def _tree(self, folder: Path) -> None:
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column("file", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("digest", style="dim", no_wrap=True)
        digests = {s.name: s.sha256 for s in self._urls.shards}
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        for i, name in enumerate(names):
            sha256 = digests.get(name)
            table.add_row(
                f"{'└──' if i == len(names) - 1 else '├──'} {name}",
                size((folder / name).stat().st_size),
                f"sha256 {sha256[:16]}…" if sha256 is not None else "",
            )
        self._report.print(f" {self._shown(folder)}")
        self._report.print(table)

    def _shown(self, path: Path) -> str:
        """The path as it can be pasted into a shell in this folder."""
        return shlex.quote(clean(str(path)))


def _source(part: Any) -> str:
    """A class as it stands; of a function, its body without the docstring and the last return."""
    text = re.sub(r"  # type: ignore.*", "", textwrap.dedent(inspect.getsource(part)))
    if inspect.isclass(part):
        return text
    lines = text.split("\n")
    body = lines[next(i for i, line in enumerate(lines) if line.rstrip().endswith('"""')) + 1 :]
    while body and (not body[-1].strip() or body[-1].startswith("    return ")):
        body.pop()
    return textwrap.dedent("\n".join(body)).strip("\n") + "\n"


def _command() -> str:
    """How to call the command that is running: by its name where the shell finds this very one."""
    script = Path(sys.argv[0])
    if script.name == "atdata" and script.exists():
        found = shutil.which("atdata")
        return "atdata" if found is not None and os.path.samefile(found, script) else shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m atdata"


def _table(results: list[Comparison]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1))
    table.add_column("samples/s", no_wrap=True)
    for name in ("atdata", "webdataset", "ratio", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        speeds = (f"{r.atdata:,.0f}", f"{r.webdataset:,.0f}")
        table.add_row(r.what, *speeds, f"{r.ratio:.1f}×", f"±{r.spread:.0%}")  # noqa: RUF001
    return table
