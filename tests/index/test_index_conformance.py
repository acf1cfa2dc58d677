"""The conformance suites of indexes, over each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from atdata.testing import LocalIndexSuite


class TestSqlite(LocalIndexSuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "index.db")


class TestPostgres(LocalIndexSuite):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestRedis(LocalIndexSuite):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url
