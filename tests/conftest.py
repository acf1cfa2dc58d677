"""Hypothesis profiles: `ci` wherever CI is set, `dev` elsewhere; --hypothesis-profile chooses another."""

import os
import threading
from collections.abc import Iterator

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings

from atdata.lenses.network import registered

# rgw, bucket, own_rgw, fault_proxy, make_proxy, atproto, own_atproto, web: the fixtures of tests/servers/fixtures.py.
pytest_plugins = ["servers.fixtures"]

# No deadlines: on a loaded machine they measure the neighbours, and pytest-timeout catches what hangs.
settings.register_profile(
    "ci", max_examples=200, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _free_coverage() -> None:
    """Give a forked process a lock of its own for coverage's data: a thread of its parent may have held the old one."""
    measuring = Coverage.current()
    if measuring is not None and measuring._collector is not None and measuring._collector.data_lock is not None:
        measuring._collector.data_lock = threading.Lock()


os.register_at_fork(after_in_child=_free_coverage)


@pytest.fixture(autouse=True)
def only_lenses_of_its_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test finds no lens that another module of tests registered: which were imported differs from run to run."""
    known = {key: lens for key, ref in registered._known.items() if (lens := ref()) is not None}
    own = {
        key: registered._known[key]
        for key, lens in known.items()
        if not lens.__module__.startswith("test_") or lens.__module__ == request.module.__name__
    }
    # Not the fixture `monkeypatch`, which would then be undone after all others instead of before.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registered, "_known", own)
        yield
