"""Which addresses may be connected to: public ones, and nothing that hides another inside.

The table is our own rather than ``ipaddress.is_global``, whose answer differs between versions of Python.
Sources: the IANA registries of special-purpose IPv4 and IPv6 addresses (RFC 6890), and the clouds' manuals.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Resolver = Callable[[str], list[str]]
"""From a name to its addresses; raises OSError where there is none."""

_METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254", "169.254.170.2", "169.254.170.23",  # most clouds; containers and pods of AWS
            "100.100.100.200", "168.63.129.16", "192.0.0.192",  # Alibaba, Azure (a public address), Oracle
            "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",  # AWS, pods of AWS, Google
        ),
    )
)  # fmt: skip
_KINDS_4 = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"), ("10.0.0.0/8", "private"), ("100.64.0.0/10", "private"),
        ("127.0.0.0/8", "loopback"), ("169.254.0.0/16", "link-local"), ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"), ("192.0.2.0/24", "reserved"), ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"), ("198.18.0.0/15", "reserved"), ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"), ("224.0.0.0/4", "multicast"), ("240.0.0.0/4", "reserved"),
    )
)  # fmt: skip
_KINDS_6 = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"), ("::1/128", "loopback"), ("fc00::/7", "private"), ("fe80::/10", "link-local"),
        ("fec0::/10", "private"), ("ff00::/8", "multicast"), ("64:ff9b:1::/48", "private"),
        ("2001::/23", "reserved"), ("2001:db8::/32", "reserved"), ("2002::/16", "reserved"), ("3fff::/20", "reserved"),
    )
)  # fmt: skip
_GLOBAL_6, _NAT64 = IPv6Network("2000::/3"), IPv6Network("64:ff9b::/96")
_MAPPED, _COMPATIBLE = IPv6Network("::ffff:0:0/96"), IPv6Network("::/96")


def why_forbidden(text: str) -> str:
    """ "" for a public address, else what it is: "loopback address 127.0.0.1", with the form that it hides in."""
    address = ip_address(text)
    kind = _kind(address)
    if kind:
        return f"{kind} address {address}"
    if isinstance(address, IPv4Address):
        return ""
    inside = [(v4, kind) for v4 in _inside(address) if (kind := _kind(v4))]
    if inside:
        return f"{inside[0][1]} address {inside[0][0]} (as {address})"
    if address in _MAPPED or address in _NAT64:
        return ""  # of a public IPv4 address: a network without IPv4 reaches it like that
    found = next((kind for network, kind in _KINDS_6 if address in network), "")
    return f"{found or 'reserved'} address {address}" if found or address not in _GLOBAL_6 else ""


def _kind(address: Address) -> str:
    if address in _METADATA:
        return "metadata service's"
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _KINDS_4 if address in network), "")
    return {1: "loopback", 0: "unspecified"}.get(int(address), "")


def _inside(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address carries."""
    number, last = int(address), IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64 or (address in _COMPATIBLE and number > 1):
        return [last]
    if address.sixtofour:
        return [address.sixtofour]
    if address.teredo:
        return list(address.teredo)
    if (number >> 32) & 0xFFFFFFFF in (0x00005EFE, 0x02005EFE):  # ISATAP
        return [last]
    return []


def is_odd_spelling(host: str) -> bool:
    """Whether the C library would take the host for an IPv4 address that is not written as four decimal numbers."""
    try:
        ip_address(host)
    except ValueError:
        try:
            socket.inet_aton(host)
        except (OSError, ValueError):
            return False
        return True
    return False


def look_up(host: str) -> list[str]:
    """The system's answer: addresses without repetition, in its order."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in found))


def within(resolve: Resolver, host: str, timeout_s: float) -> list[str]:
    """Resolves in a thread of its own, since a name service that hangs can be stopped by nothing else.

    Raises:
        OSError: there is no such name.
        TimeoutError: no answer in time.
    """
    answer: list[list[str] | Exception] = []

    def ask() -> None:
        try:
            answer.append(resolve(host))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="clipcap-resolve")
    thread.start()
    thread.join(timeout_s)
    if not answer:
        raise TimeoutError
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]
