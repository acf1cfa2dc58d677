"""The conformance suites, run against our disk store, a web server, and a store such as a stranger would write."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
import webdataset

import atdata
from atdata.errors import StoreError
from atdata.testing import DataStoreSuite, FullStoreSuite, ReadOnlyStoreSuite
from atdata.testing.probes import dataset_of, probes


class TestLocalDiskStore(FullStoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        return atdata.LocalDiskStore(tmp_path / "root")

    def remains(self, store):
        return [str(path) for path in store.root.rglob("*")]


class TestHttpDataStore(ReadOnlyStoreSuite):
    opens = True

    @pytest.fixture
    def store(self, web):
        self.web = web
        return atdata.open_store(web.endpoint)

    def fill(self, store, samples, prefix, **options):
        disk = atdata.LocalDiskStore(self.web.folder)
        return [
            self.web.url(os.path.relpath(url, disk.root))
            for url in disk.write_shards(samples, prefix=prefix, **options)
        ]

    def test_it_is_for_reading_only(self, store):
        for use in (
            lambda: store.write_shards(dataset_of(probes(1)), prefix="v1"),
            lambda: store.delete("v1"),
            lambda: list(store.list()),
        ):
            with pytest.raises(StoreError, match="web servers"):
                use()


class TestHttpDataStoreWithoutRanges(TestHttpDataStore):
    @pytest.fixture
    def store(self, web):
        self.web = web
        web.ranges = web.lengths = False
        return atdata.open_store(web.endpoint)


class MyStore:
    """A stranger's store: a folder, the real webdataset's writer, and URLs that nobody else understands."""

    def __init__(self, folder):
        self.folder = str(folder)

    def write_shards(self, ds, *, prefix, **options):
        if not prefix or len(prefix) > 200 or any(part in ("", ".", "..") for part in prefix.split("/")):
            raise ValueError(f"bad prefix {prefix!r}")
        if any(ord(c) < 32 or c == "\\" for c in prefix):
            raise ValueError(f"bad prefix {prefix!r}")
        urls = []
        # One flat folder for each prefix, so that no dataset lies within another.
        place = os.path.join(self.folder, prefix.replace("/", "@"))
        os.makedirs(place, exist_ok=True)
        pattern = os.path.join(place.replace("%", "%%"), "part-%04d.tar")
        done = lambda path: urls.append(  # noqa: E731
            "mine://box/" + quote(os.path.relpath(path, self.folder))
        )
        count = 0
        with webdataset.ShardWriter(pattern, post=done, verbose=0, **options) as sink:
            for key, sample in ds.keyed():
                sink.write({"__key__": key or f"sample{count:05d}", "msgpack": atdata.pack(sample)})
                count += 1
        if count == 0:
            raise ValueError("there is nothing to write")
        return urls

    def read_url(self, url):
        assert url.startswith("mine://box/")
        return os.path.join(self.folder, unquote(url.removeprefix("mine://box/")))

    def supports_streaming(self):
        return True


class TestStrangersStore(DataStoreSuite):
    overwrites = False
    deterministic = False  # webdataset stamps the time into every header

    @pytest.fixture
    def store(self, tmp_path):
        return MyStore(tmp_path)


def test_a_capability_that_is_missing_leaves_its_tests_out():
    assert TestStrangersStore.test_a_second_write_is_refused is None
    assert TestStrangersStore.test_maxcount_bounds_the_samples_of_a_shard is not None
    assert TestLocalDiskStore.test_a_second_write_is_refused is not None


def test_only_the_suites_need_pytest():
    program = (
        "import sys; sys.modules['pytest'] = None; import atdata, atdata.testing; atdata.testing.samples\n"
        "try: atdata.testing.DataStoreSuite\n"
        "except ImportError: print('as it should be')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "as it should be\n"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(atdata.testing, "Nothing")  # noqa: B009


def test_a_suite_without_a_store_says_what_is_missing(tmp_path):
    (tmp_path / "test_incomplete.py").write_text(
        "from atdata.testing import DataStoreSuite\nclass TestMine(DataStoreSuite): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "three_methods", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "a subclass of DataStoreSuite gives the fixture" in done.stdout


def test_the_default_root_is_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert atdata.LocalDiskStore().root == Path("/somewhere/.atdata/data")


def test_disk_stores_compare_by_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert atdata.LocalDiskStore("x") == atdata.LocalDiskStore(tmp_path / "x")
    assert len({atdata.LocalDiskStore("x"), atdata.LocalDiskStore(tmp_path / "x")}) == 1
    assert atdata.LocalDiskStore("x") != atdata.LocalDiskStore("y")
    assert repr(atdata.LocalDiskStore("x")) == f"LocalDiskStore('{tmp_path}/x')"
