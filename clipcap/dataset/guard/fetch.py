"""Fetches one URL at a time under a policy: checked, pinned, bounded; again after each redirect."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from math import inf
from urllib.parse import urlsplit

from clipcap.dataset.guard import robots, wire
from clipcap.dataset.guard.addresses import Resolver, look_up, why_forbidden, within
from clipcap.dataset.guard.errors import Filtered, GuardError, NotFetched, OptedOut, Refused
from clipcap.dataset.guard.headers import seconds_of, why_opted_out
from clipcap.dataset.guard.hosts import Deadline, Hosts
from clipcap.dataset.guard.policy import Policy
from clipcap.dataset.guard.urls import Target, follow, parse_target

_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_KEEP_ADDRESSES_S = 60.0
_FIRST_WAIT_S = 0.25


@dataclass(frozen=True)
class Answer:
    """What a URL gave."""

    url: str
    """After redirects."""
    data: bytes
    headers: Message


class Guard:
    """Shared by all threads of a process, so that what is known of a host is known to all.

    Args:
        resolve: answers for names; the system's by default.
        clock, sleep: seconds, as of :mod:`time`.
    """

    def __init__(
        self,
        policy: Policy,
        resolve: Resolver = look_up,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.policy, self._resolve, self._clock, self._sleep = policy, resolve, clock, sleep
        self._hosts = Hosts(policy, clock, sleep)
        self._lock = threading.Lock()
        self._addresses: dict[str, tuple[float, list[str] | GuardError]] = {}
        self._robots: dict[tuple[str, str, int], robots.Rules | NotFetched] = {}
        self._robots_asked: dict[tuple[str, str, int], Future[robots.Rules | NotFetched]] = {}

    def fetch(self, url: str) -> Answer:
        """Asks, and asks again where that may help and the deadline allows it.

        Raises:
            GuardError: why there is no answer.
        """
        if url.startswith("file:"):
            return self._read_file(url)
        deadline = Deadline(self.policy.deadline_s, self._clock)
        return self._persist(deadline, lambda: self._follow(url, deadline, self.policy.max_bytes))

    def _persist(self, deadline: Deadline, once: Callable[[], Answer]) -> Answer:
        tries = 0
        while True:
            tries += 1
            try:
                return once()
            except NotFetched as error:
                if not error.is_transient:
                    raise
                wait_s = _FIRST_WAIT_S * 2 ** (tries - 1) if error.wait_s is None else error.wait_s
                if tries > self.policy.retries or wait_s >= deadline.left_s:
                    times = f" (asked {tries} times)" if tries > 1 else ""
                    asked_s = f"; it asks to wait {error.wait_s:g} s" if error.wait_s not in (None, inf) else ""
                    raise NotFetched(f"{error.reason}{asked_s}{times}", True, status=error.status) from None
            self._sleep(wait_s)

    def _follow(self, url: str, deadline: Deadline, limit: int, is_robots: bool = False) -> Answer:
        before: Target | None = None
        for hop in range(self.policy.redirects + 1):
            try:
                target = parse_target(url, self.policy)
                if before is not None:
                    _check_step(before, target)
                addresses = self._addresses_of(target, deadline)
            except Refused as error:
                raise Refused(f"{str(error).removeprefix('refused: ')} (after a redirect)") if hop else error from None
            if self.policy.robots and not is_robots and not target.served_at:
                self._check_robots(target, deadline)
            found = self._request(target, addresses, deadline, limit, is_robots)
            if isinstance(found, Answer):
                return found
            url, before = follow(url, found), target
        raise Refused(f"redirected more than {self.policy.redirects} times")

    def _request(
        self, target: Target, addresses: list[str], deadline: Deadline, limit: int, is_robots: bool
    ) -> Answer | str:
        """The answer, or where it redirects to."""
        if target.served_at:  # our own server needs no protection from us
            return self._exchange(target, addresses, deadline, limit, is_robots)
        with self._hosts.turn(target.host, deadline):
            return self._exchange(target, addresses, deadline, limit, is_robots)

    def _exchange(
        self, target: Target, addresses: list[str], deadline: Deadline, limit: int, is_robots: bool
    ) -> Answer | str:
        timeout_s = self.policy.timeout_s
        with wire.in_our_words(deadline, timeout_s, lambda: self._hosts.silent(target.host)):
            stream = wire.connect(addresses, target, deadline, timeout_s)
            with stream:
                response = wire.ask(stream, target, self.policy.user_agent, deadline, timeout_s)
                self._hosts.answered(target.host)
                if response.status in _REDIRECTS:
                    location: str | None = response.headers.get("Location")
                    if not location:
                        raise NotFetched("redirected to nowhere")
                    return location
                self._check_status(response, target)
                if self.policy.opt_out_headers and not is_robots:
                    reason = why_opted_out(response.headers, self.policy.user_agent)
                    if reason:
                        raise OptedOut(reason)
                data = response.read(limit, is_cut=is_robots)
                url = f"{target.scheme}://{target.netloc}{target.path}"
                return Answer(url, data, response.headers)

    def _check_status(self, response: wire.Response, target: Target) -> None:
        status = response.status
        if status == 200:
            return
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown status"
        wait_s = seconds_of(response.headers.get("Retry-After")) if status in (429, 503) else None
        if wait_s is not None and not target.served_at:
            self._hosts.close(target.host, wait_s)
        raise NotFetched(f"HTTP Error {status}: {phrase}", status in _TRANSIENT, wait_s, status)

    def _addresses_of(self, target: Target, deadline: Deadline) -> list[str]:
        """Checked addresses of a target; none of them is looked up again before it is connected to."""
        if target.served_at:
            return [target.served_at[0]]
        now = self._clock()
        kept_at, found = self._addresses.get(target.host, (-_KEEP_ADDRESSES_S, None))
        if found is None or now - kept_at >= _KEEP_ADDRESSES_S:
            found = self._look_up(target.host, deadline)
            self._addresses[target.host] = (now, found)
        if isinstance(found, GuardError):
            raise found
        if not target.is_allowed:
            for address in found:
                if why := why_forbidden(address):
                    raise Refused(why)
        return found

    def _look_up(self, host: str, deadline: Deadline) -> list[str] | GuardError:
        if ":" in host or host.replace(".", "").isdigit():
            return [host]
        if host in self.policy.names:
            return list(self.policy.names[host])
        timeout_s = min(self.policy.timeout_s, deadline.check())
        try:
            return within(self._resolve, host, timeout_s) or NotFetched("its host has no address")
        except TimeoutError:
            return NotFetched(f"its host's name was not answered for within {timeout_s:.0f} s", is_transient=True)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:
                return NotFetched("its host's name is unknown")
            return NotFetched("its host's name cannot be looked up", is_transient=True)
        except (OSError, UnicodeError):
            return NotFetched("its host's name cannot be looked up", is_transient=True)

    def _check_robots(self, target: Target, deadline: Deadline) -> None:
        rules = self._robots.get(target.site) or self._ask_robots(target, deadline)
        if isinstance(rules, NotFetched):
            raise rules
        if not rules.allows(target.path):
            raise OptedOut(f"the robots.txt of {target.host} forbids it")

    def _ask_robots(self, target: Target, deadline: Deadline) -> robots.Rules | NotFetched:
        """One thread reads it for all, which wait meanwhile."""
        with self._lock:
            asked = self._robots_asked.get(target.site)
            is_first = asked is None
            if asked is None:
                asked = self._robots_asked[target.site] = Future()
        started = self._clock()
        if is_first:
            try:
                asked.set_result(self._read_robots(target))
            except BaseException as error:
                asked.set_exception(error)
                raise
        self._robots[target.site] = rules = asked.result()
        deadline.extend(self._clock() - started)
        return rules

    def _read_robots(self, target: Target) -> robots.Rules | NotFetched:
        """RFC 9309, 2.3.1: a file that is not there forbids nothing, one that cannot be read forbids everything."""
        deadline = Deadline(min(self.policy.deadline_s, 3 * self.policy.timeout_s), self._clock)
        url = f"{target.scheme}://{target.netloc}/robots.txt"
        try:
            found = self._persist(deadline, lambda: self._follow(url, deadline, robots.MAX_BYTES, is_robots=True))
        except NotFetched as error:
            if 400 <= error.status < 500 and error.status != 429:
                return robots.Rules()
            return NotFetched(f"its robots.txt cannot be read: {error.reason}", True, wait_s=inf)
        except GuardError:  # redirected to where nobody may be sent
            return robots.Rules()
        return robots.parse(found.data, self.policy.user_agent.partition("/")[0].partition(" ")[0])

    def _read_file(self, url: str) -> Answer:
        """A file of this machine that landing named itself; lists, redirects and users' URLs cannot name any."""
        path = urllib.request.url2pathname(urlsplit(url).path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as stream:
                facts = os.fstat(descriptor)
                if not stat.S_ISREG(facts.st_mode):
                    raise Refused("not a regular file")
                if facts.st_size > self.policy.max_bytes:
                    raise Filtered(f"{facts.st_size:,} bytes, above the maximum of {self.policy.max_bytes:,}")
                return Answer(url, stream.read(self.policy.max_bytes), Message())
        except (OSError, ValueError) as error:
            raise NotFetched(getattr(error, "strerror", None) or "not a file's name") from None


def _check_step(before: Target, after: Target) -> None:
    """Whether one may redirect to the other.

    Raises:
        Refused: from https to http elsewhere, or from outside to what only the list may name.
    """
    if before.scheme == "https" and after.scheme == "http" and before.host != after.host:
        raise Refused("from https to http on another host")
    if after.is_inside and not before.is_inside:
        raise Refused(f"{after.host} is open to the list alone")
