"""A hostile site and a guard that lets its names through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hostile_site import Clock, Site

from clipcap.dataset.guard import Guard, Policy


@pytest.fixture
def site() -> Iterator[Site]:
    """At 127.0.0.1, which only ``allow_hosts`` opens."""
    made = Site("127.0.0.1")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def guard(site: Site) -> Callable[..., Guard]:
    """Makes a guard for which a.test and b.test are open and lead to the site; ``policy`` says what differs."""

    def make(resolve: Any = None, clock: Clock | None = None, **policy: Any) -> Guard:
        policy.setdefault("allow_hosts", (f"a.test:{site.port}", f"b.test:{site.port}"))
        policy.setdefault("robots", False)
        policy.setdefault("host_rate", 0.0)
        policy.setdefault("retries", 0)
        policy.setdefault("timeout_s", 5.0)
        clocks = {"clock": clock, "sleep": clock.sleep} if clock else {}
        return Guard(Policy(**policy), resolve or (lambda name: ["127.0.0.1"]), **clocks)

    return make
