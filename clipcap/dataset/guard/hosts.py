"""What is remembered of each host: its addresses, who is being served, when it wants to be asked again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from queue import SimpleQueue

from clipcap.dataset.guard.errors import NotFetched
from clipcap.dataset.guard.policy import Policy

SILENT = 10
"""Failures in a row, none of them an HTTP answer, after which a host is left alone."""


class Deadline:
    """Until when one URL may take. Waiting for a turn, which is our own doing, moves it."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock, self._seconds, self._end = clock, seconds, clock() + seconds

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    def extend(self, seconds: float) -> None:
        self._end += seconds

    def check(self) -> float:
        """Seconds left.

        Raises:
            NotFetched: none.
        """
        if (left := self.left_s) <= 0:
            raise NotFetched(f"not finished within {self._seconds:g} s", is_transient=True, wait_s=inf)
        return left


@dataclass
class _Host:
    free: SimpleQueue[None]
    """One token for each connection. Unlike a semaphore it is no Python code, which threads would queue for."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_s: float = 0.0
    """When the rate allows the next request."""
    closed_until_s: float = 0.0
    """When the host itself wants to be asked again."""
    silent: int = 0


class Hosts:
    """Gives out turns. One object for each process."""

    def __init__(self, policy: Policy, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._policy, self._clock, self._sleep = policy, clock, sleep
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def _of(self, name: str) -> _Host:
        if (host := self._hosts.get(name)) is not None:
            return host
        with self._lock:
            if name not in self._hosts:
                host = _Host(SimpleQueue())
                for _ in range(self._policy.host_connections):
                    host.free.put(None)
                self._hosts[name] = host
            return self._hosts[name]

    @contextmanager
    def turn(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Waits for one of the host's connections, for its rate, and for as long as it asked to be left alone.

        Raises:
            NotFetched: it does not answer any more, or wants to be left alone for longer than the deadline.
        """
        host = self._of(name)
        asked = self._clock()
        host.free.get()
        try:
            deadline.extend(self._clock() - asked)
            if host.silent >= SILENT:
                raise NotFetched(f"its host did not answer {SILENT} times in a row", True, wait_s=inf)
            closed_s = host.closed_until_s - self._clock()
            if closed_s > deadline.left_s:
                raise NotFetched(f"its host asks to be left alone for {closed_s:.0f} s", True, wait_s=inf)
            if closed_s > 0:
                self._sleep(closed_s)
            if self._policy.host_rate:
                with host.lock:
                    now = self._clock()
                    wait_s = max(host.next_s - now, 0.0)
                    host.next_s = now + wait_s + 1 / self._policy.host_rate
                if wait_s:
                    self._sleep(wait_s)
                    deadline.extend(wait_s)
            yield
        finally:
            host.free.put(None)

    def answered(self, name: str) -> None:
        self._of(name).silent = 0

    def silent(self, name: str) -> None:
        host = self._of(name)
        with host.lock:
            host.silent += 1

    def close(self, name: str, seconds: float) -> None:
        """The host asked to be left alone."""
        host = self._of(name)
        host.closed_until_s = max(host.closed_until_s, self._clock() + seconds)
