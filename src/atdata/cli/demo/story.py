"""What `atdata demo` does, tells and shows, step by step."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from atdata.cli.demo import digits
from atdata.cli.demo.sheet import contact_sheet
from atdata.cli.demo.telling import PREFIX, Telling
from atdata.cli.demo.timing import PASSES, Comparison, compare
from atdata.cli.pictures import can_draw, picture
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import locate
from atdata.errors import DatasetExistsError, DatasetNotFoundError
from atdata.samples.schema import Schema

__all__ = ["run"]

_NEEDS = {"sklearn": "scikit-learn", "PIL": "pillow", "webdataset": "webdataset"}
_SHEET = "contact-sheet.png"


def run(report: Report, folder: Path, *, network: bool = False) -> None:
    """Run the whole demo in `folder`, with its second half on a network of this machine."""
    start = time.monotonic()
    _check_extra(report)
    _check_folder(folder)
    story = _Story(report, folder)
    story.write()
    story.read()
    story.learn()
    story.draw()
    story.race()
    if network:
        story.share()
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
    place = folder / PREFIX
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


class _Story(Telling):
    """The steps, each of which does its part, says so, and keeps the numbers for the JSON document."""

    def __init__(self, report: Report, folder: Path) -> None:
        super().__init__(report)
        self._folder = folder
        self._numbers: dict[str, Any] = {"folder": str(folder), "dataset": str(folder / PREFIX)}

    # -- the steps -----------------------------------------------------------------------------------------------

    def write(self) -> None:
        self.title("A sample is a class; a dataset is written from any iterable of them")
        self.code(digits.Digit, digits.samples, digits.write, folder=str(self._folder))
        self.report.print(f"Writing scikit-learn's handwritten digits to {self.shown(self._folder)}:\n")
        start = time.perf_counter()
        self._urls = digits.write(digits.samples(), str(self._folder))
        seconds = time.perf_counter() - start
        record = self._urls.record
        self._tree(self._folder / PREFIX)
        self.report.print(
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
        self.title("It comes back by its place alone: the class is built from the stored schema")
        self.code(digits.read, digits.read_batches, folder=str(self._folder))
        self._digits = found = digits.read(str(self._folder))
        batch = digits.read_batches(found)
        sample = found[17]
        self.report.print(f"digits              {clean(repr(found))}")
        self.report.print(f"len(digits)         {len(found):,}")
        self.report.print(f"digits[17].label    {sample.label}")
        drawn = picture(sample.image, self.report.console) if can_draw(self.report.console) else None
        if drawn is not None:
            self.report.print("digits[17].image")
            self.report.print(drawn)
        image = batch.image
        self.report.print(
            f"batch.image         {image.dtype} array of shape {image.shape}, copied straight from the shard"
        )
        self.report.print(f"batch.label[:10]    {batch.label[:10]}")

    def learn(self) -> None:
        self.title("A small classifier learns from the first four fifths, and is tried on the rest")
        self.code(digits.centroids)
        centroids = digits.centroids(self._digits)
        right, seen = digits.score(self._digits, centroids)
        accuracy = right / seen
        self.report.print(
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
        self.title("A contact sheet")
        path = self._folder / _SHEET
        images = next(iter(self._digits.ordered(batch_size=200))).image
        contact_sheet(images, path, columns=20, top=16)
        self.report.print(f"The first {len(images)} samples: {self.shown(path)} ({size(path.stat().st_size)})")
        self._numbers["contact_sheet"] = str(path)

    def race(self) -> None:
        self.title("Reading speed, against the webdataset package on the same shards")
        results = compare(self._digits, list(self._urls), len(self._digits))
        self.report.print(_table(results))
        self.report.print(
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

    def share(self) -> None:
        from atdata.cli.demo.sharing import Sharing

        sharing = Sharing(self.report, self.step)
        self._numbers["network"] = sharing.run(self._digits)
        self.step = sharing.step

    def end(self, seconds: float) -> None:
        dataset = self.shown(self._folder / PREFIX)
        commands = [f"{_command()} {what} {dataset}" for what in ("head", "inspect", "verify")]
        self.title(f"Done in {seconds:.1f} s. Try next", number=False)
        for command in commands:
            self.report.print(f"    {command}")
        self._numbers |= {"seconds": round(seconds, 2), "try_next": commands}
        self.report.document(self._numbers)

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
        self.report.print(f" {self.shown(folder)}")
        self.report.print(table)


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
