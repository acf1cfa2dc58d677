"""`atdata verify`: every byte against what was recorded, and every sample read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from atdata.cli.places import local_file, type_of
from atdata.cli.reporting import Report, clean, count, size
from atdata.datasets.sources import Located, ShardRef, locate
from atdata.errors import AtdataError, CommitRecordError, IntegrityError, ManifestError
from atdata.shards.compression import compression
from atdata.shards.grouping import RawSample
from atdata.shards.manifest import Manifest, header_name, manifest_name, read_manifest
from atdata.shards.members import decoder
from atdata.shards.reader import BufferShard, Shard, StreamShard
from atdata.stores.disk import LocalObject, local_path
from atdata.stores.manifests import manifest_of
from atdata.stores.progress import Progress
from atdata.stores.record import RECORD_NAME

__all__ = ["run"]

_CHUNK = 4 << 20
_LISTED = 20  # problems of one shard that people see; JSON has them all


class Problem(msgspec.Struct):
    """One thing that is wrong, and where."""

    type: str
    message: str
    url: str | None = None
    offset: int | None = None
    key: str | None = None
    field: str | None = None

    @classmethod
    def of(cls, error: Exception, url: str, raw: RawSample | None = None) -> Problem:
        """An error as a problem of the file at `url`, or of one of its samples."""
        if not isinstance(error, AtdataError):
            message = f"{type(error).__name__}: {error}"
            return cls(type(error).__name__, message, url, raw.offset if raw else None, raw.key if raw else None)
        error.at(url=url, offset=raw.offset if raw else None, key=raw.key if raw else None)
        return cls(type(error).__name__, error.message, error.url, error.offset, error.key, error.field)


class ShardFindings(msgspec.Struct):
    """What came out for one shard: `samples` is how many were read without a problem, None with --fast."""

    url: str
    bytes: int = 0
    samples: int | None = None
    problems: list[Problem] = []
    notes: list[str] = []


def run(report: Report, url: str, *, fast: bool) -> None:
    """Check the dataset at `url`; exits with 1 when anything is wrong."""
    problems: list[Problem] = []
    notes: list[str] = []
    try:
        located = locate(url)
    except CommitRecordError as error:
        # What the record said is lost, but not what can be seen without it.
        problems.append(Problem.of(error, url))
        located = _without_record(url)
    if located.record is None and not problems:
        notes.append(f"no {RECORD_NAME} is about exactly these shards: whether any is missing cannot be known")
    expected = [ref.info.samples if ref.info is not None else None for ref in located.shards]
    total = sum(n for n in expected if n is not None) if None not in expected else None
    findings = []
    with Progress(
        "checking", len(located.shards) if fast else total, show=not report.json, unit="shards" if fast else "samples"
    ) as bar:
        for ref in located.shards:
            findings.append(_Check(ref, type_of(located), fast, bar).run())
            if fast:
                bar.advance()
    notes += [note for found in findings for note in found.notes]
    every = problems + [problem for found in findings for problem in found.problems]
    report.document(
        {
            "url": url,
            "ok": not every,
            "fast": fast,
            "cid": None if located.record is None else located.record.cid,
            "shards": [
                {"url": f.url, "bytes": f.bytes, "samples": f.samples, "problems": len(f.problems)} for f in findings
            ],
            "problems": [msgspec.to_builtins(problem) for problem in every],
            "notes": notes,
        }
    )
    if not report.json:
        _show(report, located, problems, findings, notes, fast)
    if every:
        raise typer.Exit(1)


def _without_record(url: str) -> Located:
    """The shards that a damaged record may have spoken for."""
    path = local_path(url)
    if path is None or not path.is_dir():
        return Located(())
    return Located(tuple(ShardRef(str(shard.absolute())) for shard in sorted(path.glob("*.tar"))))


class _Check:
    """The check of one shard: goes on after a problem, as far as there is anything to go by."""

    def __init__(self, ref: ShardRef, sample_type: type, fast: bool, bar: Progress) -> None:
        self._ref = ref
        self._info = ref.info
        self._type = sample_type
        self._decode = decoder(sample_type)
        self._fast = fast
        self._bar = bar
        self._found = ShardFindings(ref.url)
        self._pinned = False  # whether the record has vouched for the manifest

    def run(self) -> ShardFindings:
        path = local_file(self._ref)
        try:
            with LocalObject(path) as file:
                self._file(path, file)
        except (AtdataError, OSError) as error:
            self._wrong(error)
        return self._found

    def _wrong(self, error: Exception, raw: RawSample | None = None, url: str | None = None) -> None:
        self._found.problems.append(Problem.of(error, url or self._ref.url, raw))

    def _file(self, path: Path, file: LocalObject) -> None:
        self._found.bytes = file.size
        if self._info is not None and file.size != self._info.size:
            self._wrong(
                IntegrityError(
                    f"the shard has {file.size} bytes, its record {self._info.size}: it was cut, changed or replaced"
                )
            )
        sha256 = _sha256(file)
        if self._info is not None and sha256 != self._info.sha256:
            self._wrong(IntegrityError("the shard's bytes are not those that were written (SHA-256 differs)"))
        manifest = self._manifest(path, file.size, sha256)
        if manifest is None and self._info is None:
            self._found.notes.append(f"{path.name}: no digest is recorded for it; only its structure can be checked")
        if self._fast:
            return
        self._found.samples = 0
        if compression(file.read(0, min(10, file.size))) is not None:
            self._walk(StreamShard(self._ref.url, lambda: path.open("rb")), None, decode=True)
            return
        buffer = file.map()
        if manifest is not None:
            self._rows(BufferShard(self._ref.url, buffer, manifest), manifest)
        self._walk(BufferShard(self._ref.url, buffer), manifest, decode=manifest is None)
        if manifest is not None and not self._pinned and not self._found.problems:
            self._columns(buffer, manifest, sha256)

    # -- the manifest --------------------------------------------------------------------------------------------

    def _manifest(self, path: Path, shard_size: int, sha256: str) -> Manifest | None:
        """The shard's manifest, when it is its own and can be trusted."""
        name = manifest_name(str(path))
        info = None if self._info is None else self._info.manifest
        if name is None:
            return None
        try:
            data = Path(name).read_bytes()
        except FileNotFoundError:
            if info is not None:
                self._wrong(
                    ManifestError("the manifest is not there; `atdata manifest build` makes it again"), url=name
                )
            return None
        if info is not None and hashlib.sha256(data).hexdigest() != info.sha256:
            self._wrong(
                IntegrityError(
                    "the manifest is not the one that was written (SHA-256 differs); "
                    "`atdata manifest build --force` makes it again"
                ),
                url=name,
            )
            return None
        try:
            manifest = read_manifest(data, url=name)
            if manifest is None:
                self._found.notes.append(f"{Path(name).name}: another tool's manifest, not used and not checked")
                return None
        except ManifestError as error:
            self._wrong(error, url=name)
            return None
        if self._info is None and manifest.shard_sha256 != sha256:
            self._wrong(
                IntegrityError(
                    "the shard's bytes are not those that its manifest was made of (SHA-256 differs): the shard was "
                    "damaged, or the manifest belongs to another"
                )
            )
        elif self._info is not None and (manifest.shard_sha256, len(manifest)) != (
            self._info.sha256,
            self._info.samples,
        ):
            self._wrong(IntegrityError("the manifest belongs to another shard"), url=name)
            return None
        self._pinned = info is not None
        self._header(Path(header_name(str(path))), manifest)
        return manifest if manifest.shard_size == shard_size else None

    def _header(self, path: Path, manifest: Manifest) -> None:
        try:
            header = json.loads(path.read_bytes())
            found = [header[name] for name in ("num_samples", "shard_size", "shard_sha256")]
        except FileNotFoundError:
            return  # nothing reads it but other tools
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._wrong(ManifestError(f"the manifest's JSON header cannot be read: {error}"), url=str(path))
            return
        if found != [len(manifest), manifest.shard_size, manifest.shard_sha256]:
            self._wrong(
                ManifestError("the manifest's JSON header says something else than the manifest"), url=str(path)
            )

    def _columns(self, buffer: memoryview, manifest: Manifest, sha256: str) -> None:
        """What no record vouches for: the values that the manifest gives for the samples' fields."""
        made = manifest_of(buffer, self._type, sha256)
        for name in manifest.table.column_names:
            if name in made.table.column_names and not manifest.table[name].equals(made.table[name]):
                self._wrong(
                    ManifestError(f"the manifest's column {name!r} differs from the samples"),
                    url=manifest_name(self._ref.url),
                )

    # -- samples -------------------------------------------------------------------------------------------------

    def _rows(self, shard: BufferShard, manifest: Manifest) -> None:
        """Every sample where the manifest says it is."""
        for row, raw in enumerate(shard.raw()):
            if hashlib.sha256(raw.parts["msgpack"]).digest() != manifest.digest(row):
                self._wrong(IntegrityError("the sample's bytes are not those that were written (SHA-256 differs)"), raw)
            else:
                self._sample(raw)
            self._bar.advance()

    def _walk(self, shard: Shard, manifest: Manifest | None, *, decode: bool) -> None:
        """Every sample that the archive's own headers lead to."""
        row = 0
        try:
            for raw in shard.raw():
                if manifest is not None:
                    self._place(raw, row, manifest)
                row += 1
                if decode:
                    self._sample(raw)
                    self._bar.advance()
        except AtdataError as error:
            self._wrong(error)
            return
        expected = len(manifest) if manifest is not None else self._info.samples if self._info is not None else None
        if expected is not None and row != expected:
            self._wrong(IntegrityError(f"the shard has {row} samples, its record says {expected}"))
        if row == 0:
            self._found.notes.append(f"{Path(self._ref.url).name}: there are no samples in it")

    def _sample(self, raw: RawSample) -> None:
        try:
            self._decode(raw)
        except Exception as error:  # whatever a damaged sample leads to: the others are still to be read
            self._wrong(error, raw)
        else:
            assert self._found.samples is not None
            self._found.samples += 1

    def _place(self, raw: RawSample, row: int, manifest: Manifest) -> None:
        if row >= len(manifest):
            return  # the count is compared at the end
        payload = raw.parts.get("msgpack")
        length = -1 if payload is None else len(payload)
        there = (manifest.keys[row], int(manifest.offsets[row]), int(manifest.sizes[row]))
        if (raw.key, raw.offset, length) != there:
            key, offset, bytes_ = there
            self._wrong(
                IntegrityError(f"the manifest has sample {key!r} of {bytes_} bytes at byte {offset} in this place"), raw
            )


def _sha256(file: LocalObject) -> str:
    sha = hashlib.sha256()
    for start in range(0, file.size, _CHUNK):
        sha.update(file.read(start, min(start + _CHUNK, file.size)))
    return sha.hexdigest()


# -- for people ------------------------------------------------------------------------------------------------------


def _show(
    report: Report,
    located: Located,
    problems: list[Problem],
    findings: list[ShardFindings],
    notes: list[str],
    fast: bool,
) -> None:
    from rich.text import Text

    groups = [problems, *(found.problems for found in findings)]
    for url, group in _by_file(groups):
        report.print(Text.assemble(("✗ ", "bold red"), (clean(url), "bold")))
        for problem in group[:_LISTED]:
            report.print(f"    {clean(_line(problem))}")
        if len(group) > _LISTED:
            report.print(f"    … and {len(group) - _LISTED:,} more (--json lists all)")
    for note in notes[:_LISTED]:
        report.print(Text.assemble(("note  ", "yellow"), (clean(note), "default")))
    if len(notes) > _LISTED:
        report.print(f"… and {len(notes) - _LISTED:,} more notes (--json lists all)")
    total = sum(len(group) for group in groups)
    samples = sum(found.samples or 0 for found in findings)
    what = f"{count(len(findings), 'shard')}, {size(sum(found.bytes for found in findings))}"
    what += ", digests only" if fast else f", {count(samples, 'sample')} read"
    if total:
        bad = sum(bool(found.problems) for found in findings)
        where = f" in {bad} of {len(findings)} shards" if findings else ""
        report.print(Text.assemble((f"{count(total, 'problem')}{where}", "bold red"), (f"  ({what})", "default")))
        return
    recorded = located.record is not None
    verdict = "all as recorded" if recorded else "nothing is wrong that can be seen without a record"
    report.print(Text.assemble(("✓ ", "bold green"), (f"{what}: {verdict}", "default")))


def _by_file(groups: list[list[Problem]]) -> Iterator[tuple[str, list[Problem]]]:
    files: dict[str, list[Problem]] = {}
    for group in groups:
        for problem in group:
            files.setdefault(problem.url or "", []).append(problem)
    yield from files.items()


def _line(problem: Problem) -> str:
    place: list[Any] = []
    if problem.key is not None:
        place.append(f"sample {problem.key!r}")
    if problem.offset is not None:
        place.append(f"byte {problem.offset}")
    text = problem.message
    if problem.field is not None and not text.startswith(problem.field):
        text = f"{problem.field}: {text}"
    return f"{', '.join(place)}: {text}" if place else text
