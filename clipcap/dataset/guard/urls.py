"""Taking a URL apart, strictly: what is not plainly a web address is refused."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import quote, urljoin, urlsplit

from clipcap.dataset.guard.addresses import is_odd_spelling
from clipcap.dataset.guard.errors import Refused
from clipcap.dataset.guard.policy import Policy

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST = 8192
_PLAIN = "%/:=&?~#+!$,;'@()*[]|"
DEFAULT_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """Where a request goes."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query, percent-encoded."""
    served_at: tuple[str, int] | None = None
    """Where this run itself serves the host, if it does."""
    is_allowed: bool = False
    """Whether the configuration opens this host whatever its address is."""

    @property
    def netloc(self) -> str:
        """As the Host header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORT[self.scheme] else f"{host}:{self.port}"

    @property
    def site(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def is_inside(self) -> bool:
        return self.is_allowed or self.served_at is not None


def parse_target(url: str, policy: Policy) -> Target:
    """Checks all of a URL that can be checked without a look-up.

    Raises:
        Refused: it breaks a rule.
    """
    if len(url) > _LONGEST:
        raise Refused(f"a URL of more than {_LONGEST} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("not a URL that can be taken apart") from None
    if parts.scheme not in DEFAULT_PORT:
        raise Refused(f"scheme {parts.scheme[:20]!r}, expected http or https")
    if "@" in parts.netloc:
        raise Refused("user name or password in the URL")
    host = _host(parts.hostname or "")
    port = DEFAULT_PORT[parts.scheme] if port is None else port
    path = quote(parts.path or "/", safe=_PLAIN) + (f"?{quote(parts.query, safe=_PLAIN)}" if parts.query else "")
    named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    served = policy.served.get(named)
    if served and parts.scheme == "http":
        at, _, at_port = served.rpartition(":")
        return Target("http", host, port, path, served_at=(at, int(at_port)))
    is_allowed = named in policy.allow_hosts
    if not is_allowed and port not in policy.ports:
        raise Refused(f"port {port}, expected {', '.join(map(str, policy.ports))}")
    return Target(parts.scheme, host, port, path, is_allowed=is_allowed or host in policy.allow_hosts)


def _host(host: str) -> str:
    """Lower-case, in ASCII; an IPv6 address without its brackets."""
    if ":" in host:
        try:
            return str(IPv6Address("%" if "%" in host else host))  # a zone is no part of anybody else's address
        except ValueError:
            raise Refused("a host that is no address and no name") from None
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise Refused("a host name that cannot be written in ASCII") from None
    if is_odd_spelling(host.removesuffix(".")):
        raise Refused("an address in an unusual spelling")
    host = host.removesuffix(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise Refused("a host that is no address and no name" if host else "no host")
    return host


def follow(base: str, location: str) -> str:
    """The URL that a Location header names. Headers are read as Latin-1; most servers mean UTF-8."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urljoin(base, location.strip())
    except ValueError:
        raise Refused("redirected to what is not a URL") from None
