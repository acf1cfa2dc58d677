"""Hypothesis profiles: `ci` wherever CI is set, `dev` elsewhere; --hypothesis-profile chooses another."""

import os

from hypothesis import HealthCheck, settings

# rgw, bucket, own_rgw, fault_proxy, make_proxy, atproto, own_atproto, web: the fixtures of tests/servers/fixtures.py.
pytest_plugins = ["servers.fixtures"]

# No deadlines: on a loaded machine they measure the neighbours, and pytest-timeout catches what hangs.
settings.register_profile(
    "ci", max_examples=200, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
