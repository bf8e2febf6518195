"""Which addresses and which spellings of URLs get as far as a connection."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcap.dataset.guard import Policy, Refused
from clipcap.dataset.guard.addresses import is_odd_spelling, why_forbidden, within
from clipcap.dataset.guard.urls import follow, parse_target

FORBIDDEN = {
    "127.0.0.1": "loopback", "127.255.0.9": "loopback", "0.0.0.0": "unspecified", "10.0.0.5": "private",
    "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private", "100.64.0.1": "private",
    "169.254.1.1": "link-local", "169.254.169.254": "metadata", "169.254.170.2": "metadata",
    "100.100.100.200": "metadata", "168.63.129.16": "metadata", "192.0.0.192": "metadata", "224.0.0.1": "multicast",
    "255.255.255.255": "reserved", "240.0.0.1": "reserved", "198.18.0.1": "reserved", "192.0.2.1": "reserved",
    "::1": "loopback", "::": "unspecified", "fc00::1": "private", "fd12:3456::1": "private", "fe80::1": "link-local",
    "fec0::1": "private", "ff02::1": "multicast", "fd00:ec2::254": "metadata", "2001:db8::1": "reserved",
    "100::1": "reserved", "4000::1": "reserved", "64:ff9b:1::a00:5": "private",
    "::ffff:10.0.0.5": "private address 10.0.0.5", "::ffff:169.254.169.254": "metadata service's address 169.254",
    "::10.0.0.5": "private address 10.0.0.5", "64:ff9b::7f00:1": "loopback address 127.0.0.1",
    "2002:0a00:0005::1": "private address 10.0.0.5", "2002:0808:0808::1": "reserved",
    "2001:0:0a00:5::1": "private address 10.0.0.5", "2001:0:808:808:0:0:f5ff:fffa": "private address 10.0.0.5",
    "2606:4700::5efe:10.0.0.5": "private address 10.0.0.5",
}  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_what_is_not_public_is_named(address: str):
    assert why_forbidden(address).startswith(FORBIDDEN[address])


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_passes(address: str):
    assert why_forbidden(address) == ""


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_nothing_passes_that_python_calls_private(address):
    """An independent list: the standard library's."""
    if not why_forbidden(str(address)):
        assert address.is_global


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([n for n in FORBIDDEN if "." in n and ":" not in n]), st.integers(0, 2**64 - 1))
def test_no_form_of_ipv6_hides_a_forbidden_one(inner: str, noise: int):
    number = int(ipaddress.IPv4Address(inner))
    hidden = [
        (0xFFFF << 32) | number,
        (0x64FF9B << 96) | number,
        (0x2002 << 112) | (number << 80) | noise,
        (0x20010000 << 96) | (number << 64) | noise,
        (0x20010000 << 96) | ((noise & 0xFFFFFFFF) << 64) | (number ^ 0xFFFFFFFF),
        (0x26064700 << 96) | (0x5EFE << 32) | number,
    ]
    for form in hidden:
        assert why_forbidden(str(ipaddress.IPv6Address(form)))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("ftp://a.com/x", "scheme 'ftp'"),
        ("data:image/png;base64,AAAA", "scheme 'data'"),
        ("guard:http://a.com/", "scheme 'guard'"),
        ("gopher://a.com:80/_x", "scheme 'gopher'"),
        ("http://user@a.com/", "user name or password"),
        ("https://user:secret@a.com/", "user name or password"),
        ("http://@a.com/", "user name or password"),
        ("http://a.com:22/", "port 22"),
        ("http://a.com:0/", "port 0"),
        ("http://a.com:99999/", "not a URL"),
        ("http://a.com:x/", "not a URL"),
        ("http:///x", "no host"),
        ("http://[::1", "not a URL"),
        ("http://[fe80::1%25eth0]/", "no address and no name"),
        ("http://2130706433/", "unusual spelling"),
        ("http://0x7f000001/", "unusual spelling"),
        ("http://0x7f.1/", "unusual spelling"),
        ("http://017700000001/", "unusual spelling"),
        ("http://0177.0.0.1/", "unusual spelling"),
        ("http://127.1/", "unusual spelling"),
        ("http://127.0.0.1./", ""),
        ("http://a b.com/", "no address and no name"),
        ("http://a.com%2f@b.com/", "user name or password"),
        ("http://a.com\\@b.com/", "user name or password"),
        ("http://-a.com/", "no address and no name"),
        (f"http://{'a' * 64}.com/", "no address and no name"),
        (f"http://a.com/{'x' * 9000}", "more than 8192 characters"),
        ("http://" + "ö" * 300 + ".com/", "cannot be written in ASCII"),
        ("http://１２７.0.0.1/", ""),
    ],
)
def test_urls_that_are_no_plain_web_address(url: str, reason: str):
    if reason:
        with pytest.raises(Refused, match=reason) as error:
            parse_target(url, Policy())
        assert "secret" not in str(error.value)
    else:  # full-width digits and a last dot are the same address, and that is judged as an address
        assert why_forbidden(parse_target(url, Policy()).host).startswith("loopback")


def test_what_stands_in_a_path_cannot_become_a_header():
    target = parse_target("http://Ex.COM/a b\r\nX: y/é?q=\n1 2#frag", Policy())
    assert (target.host, target.netloc) == ("ex.com", "ex.com")
    assert target.path.isascii() and not set(target.path) & set(" \r\n\t")
    assert parse_target("http://bücher.example/", Policy()).host == "xn--bcher-kva.example"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_target_or_refused(text: str):
    for url in (text, f"http://{text}", f"http://a.com/{text}"):
        try:
            target = parse_target(url, Policy())
        except Refused:
            continue
        assert target.path.isascii() and target.path.isprintable() and " " not in target.path
        assert target.host.isascii() and target.host.isprintable() and target.host


def test_odd_spellings_are_what_the_c_library_reads_as_addresses():
    for host in ("1", "0x1", "1.2", "01.2.3.4", "1.2.3"):
        assert is_odd_spelling(host) and socket.inet_aton(host)
    for host in ("1.2.3.4", "a.com", "1a.com", "::1"):
        assert not is_odd_spelling(host)


def test_a_location_that_is_utf8_or_relative():
    assert follow("http://a.com/x/y?z", "../b") == "http://a.com/b"
    assert follow("http://a.com/", "/ü".encode().decode("latin-1")) == "http://a.com/ü"


def test_a_name_service_that_hangs_is_left_behind():
    import threading

    end = threading.Event()
    with pytest.raises(TimeoutError):
        within(lambda name: [str(end.wait(20))], "a.test", 0.05)
    end.set()


def test_a_served_host_is_the_only_loopback():
    policy = Policy(served={"127.0.0.1:8765": "127.0.0.1:40000"}, ports=(80, 8765, 8766))
    assert parse_target("http://127.0.0.1:8765/a.jpg", policy).served_at == ("127.0.0.1", 40000)
    for url in ("http://127.0.0.1:8766/", "https://127.0.0.1:8765/", "http://127.0.0.2:8765/", "http://127.0.0.1/"):
        assert parse_target(url, policy).served_at is None
    named = parse_target("http://localhost:8765/", policy)
    assert named.served_at is None and not named.is_allowed
