"""The guard against servers and names that mean harm, over real sockets on loopback.

A name leads where a resolver of the test says; everything behind it (look-up, checks, connection, HTTP) is the guard's.
"""

from __future__ import annotations

import gzip
import os
import ssl
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hostile_site import Clock, Site, answer, redirect, reset

from clipcap.dataset.guard import Filtered, Guard, GuardError, NotFetched, OptedOut, Refused, wire
from clipcap.dataset.guard import fetch as module
from clipcap.dataset.guard.hosts import SILENT

Make = Callable[..., Guard]


def refusal(guard: Guard, url: str) -> str:
    with pytest.raises(GuardError) as error:
        guard.fetch(url)
    return str(error.value)


class TestAddresses:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
    def test_loopback_is_refused_in_every_form(self, site: Site, guard: Make, host: str):
        site.routes["/x"] = answer(b"secret")
        resolve = {"localhost": ["127.0.0.1", "::1"]}.__getitem__
        assert "refused: " in refusal(guard(resolve, ports=(site.port,), allow_hosts=()), site.url("/x", host))
        assert site.asked == []

    @pytest.mark.parametrize(
        ("answers", "reason"),
        [
            (["10.0.0.5"], "refused: private address 10.0.0.5"),
            (["169.254.169.254"], "refused: metadata service's address 169.254.169.254"),
            (["8.8.8.8", "127.0.0.1"], "refused: loopback address 127.0.0.1"),
            (["::ffff:127.0.0.1"], "refused: loopback address 127.0.0.1"),
        ],
    )
    def test_names_are_judged_by_all_their_addresses(self, site: Site, guard: Make, answers: list[str], reason: str):
        made = guard(lambda name: answers, allow_hosts=(), ports=(site.port,))
        assert reason in refusal(made, site.url("/x", "evil.test"))
        assert site.asked == []

    def test_a_name_that_changes_its_answer_gains_nothing(self, guard: Make, monkeypatch):
        """127.0.0.2 plays a public address here; what may not be reached listens on 127.0.0.1."""
        public, secret = Site("127.0.0.2"), Site("127.0.0.1")
        public.start()
        secret.port = public.port
        secret.start()
        public.routes["/x"], secret.routes["/x"] = answer(b"public"), answer(b"secret")
        real = module.why_forbidden
        monkeypatch.setattr(module, "why_forbidden", lambda a: "" if a == "127.0.0.2" else real(a))
        answers = iter([["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])
        clock = Clock()
        made = guard(lambda name: next(answers), clock, allow_hosts=(), ports=(public.port,))
        url = public.url("/x", "rebinding.test")
        assert made.fetch(url).data == b"public"
        assert made.fetch(url).data == b"public", "known for a while"
        clock.now += 61
        assert refusal(made, url) == "refused: loopback address 127.0.0.1"
        assert (len(public.asked), secret.asked) == (2, [])
        public.stop()
        secret.stop()

    def test_names_that_are_unknown_or_not_answered(self, site: Site, guard: Make):
        import socket

        def unknown(name: str) -> list[str]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        def down(name: str) -> list[str]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

        assert refusal(guard(unknown), site.url("/x")) == "its host's name is unknown"
        assert refusal(guard(down), site.url("/x")) == "may heal: its host's name cannot be looked up"
        assert refusal(guard(lambda name: []), site.url("/x")) == "its host has no address"

    def test_the_next_address_is_tried_where_one_does_not_answer(self, site: Site, guard: Make):
        site.routes["/x"] = answer(b"image")
        assert guard(lambda name: ["127.0.0.9", "127.0.0.1"]).fetch(site.url("/x")).data == b"image"


class TestRedirects:
    def test_a_few_are_followed(self, site: Site, guard: Make):
        site.routes |= {"/1": redirect("/2"), "/2": redirect(site.url("/3", "b.test"), "308 Permanent Redirect")}
        site.routes["/3"] = answer(b"image")
        assert guard().fetch(site.url("/1")).data == b"image"

    def test_not_for_ever(self, site: Site, guard: Make):
        site.routes["/x"] = redirect("/x")
        assert refusal(guard(redirects=3), site.url("/x")) == "refused: redirected more than 3 times"
        assert len(site.asked) == 4

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("http://10.0.0.5/", "refused: private address 10.0.0.5 (after a redirect)"),
            ("http://169.254.169.254/latest/meta-data/", "refused: metadata service's address"),
            ("http://inner.test/", "refused: private address 192.168.0.7 (after a redirect)"),
            ("http://0x7f000001/", "refused: an address in an unusual spelling"),
            ("//127.0.0.1/", "refused: loopback address 127.0.0.1"),
            ("file:///etc/passwd", "refused: scheme 'file'"),
            ("ftp://a.test/x", "refused: scheme 'ftp'"),
            ("data:image/png;base64,AA", "refused: scheme 'data'"),
            ("http://me:secret@a.test/", "refused: user name or password"),
            ("http://a.test:22/", "refused: port 22"),
            ("http://[", "refused: redirected to what is not a URL"),
            ("", "redirected to nowhere"),
        ],
    )
    def test_each_is_checked_like_the_url_itself(self, site: Site, guard: Make, location: str, reason: str):
        site.routes["/x"] = redirect(location)
        names = {"inner.test": ["192.168.0.7"]}
        found = refusal(guard(lambda name: names.get(name, ["127.0.0.1"])), site.url("/x"))
        assert reason in found and "secret" not in found
        assert len(site.asked) == 1

    def test_from_outside_to_what_only_the_list_may_name(self, site: Site, guard: Make, monkeypatch):
        inner = Site("127.0.0.1")
        inner.start()
        inner.routes["/x"] = answer(b"of this machine")
        site.routes["/x"] = redirect(f"http://127.0.0.1:{inner.port}/x")
        served = {f"127.0.0.1:{inner.port}": f"127.0.0.1:{inner.port}"}
        monkeypatch.setattr(module, "why_forbidden", lambda address: "")  # the first site plays a public one
        made = guard(allow_hosts=(), served=served, ports=(site.port,))
        assert refusal(made, site.url("/x")) == "refused: 127.0.0.1 is open to the list alone (after a redirect)"
        assert inner.asked == []
        assert made.fetch(f"http://127.0.0.1:{inner.port}/x").data == b"of this machine"
        inner.stop()


class TestTime:
    def test_headers_byte_by_byte(self, site: Site, guard: Make):
        site.routes["/x"] = site.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + b"X: y\r\n" * 99 + b"\r\nabc")
        assert refusal(guard(deadline_s=0.3), site.url("/x")) == "may heal: not finished within 0.3 s"

    def test_a_body_byte_by_byte(self, site: Site, guard: Make):
        site.routes["/x"] = site.drip(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
        assert refusal(guard(deadline_s=0.6), site.url("/x")) == "may heal: not finished within 0.6 s"

    def test_a_server_that_hangs(self, site: Site, guard: Make):
        site.routes["/x"] = site.hang
        assert refusal(guard(timeout_s=0.2), site.url("/x")) == "may heal: no answer within 0.2 s"
        assert refusal(guard(timeout_s=0.1, retries=2), site.url("/x")).endswith("(asked 3 times)")

    def test_one_that_redirects_slowly_has_one_deadline_for_all(self, site: Site, guard: Make):
        site.routes["/x"] = site.drip(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")
        assert refusal(guard(deadline_s=1.5, redirects=99), site.url("/x")) == "may heal: not finished within 1.5 s"

    def test_one_that_hangs_up(self, site: Site, guard: Make):
        site.routes |= {"/reset": reset, "/close": lambda stream: None}
        assert refusal(guard(), site.url("/reset")) == "may heal: the connection broke off"
        assert refusal(guard(), site.url("/close")) == "may heal: the connection broke off"

    def test_one_that_is_not_there(self, site: Site, guard: Make):
        made = guard()
        site.stop()
        assert refusal(made, site.url("/x")) == "may heal: the connection was refused"

    def test_a_host_that_never_answers_is_left_alone(self, site: Site, guard: Make):
        site.routes["/x"] = reset
        made = guard()
        for _ in range(SILENT):
            assert "broke off" in refusal(made, site.url("/x"))
        assert refusal(made, site.url("/x")) == f"may heal: its host did not answer {SILENT} times in a row"
        assert len(site.asked) == SILENT
        site.routes["/y"] = answer(b"image")
        assert made.fetch(site.url("/y", "b.test")).data == b"image", "another name is another host"


class TestBytes:
    def test_a_body_without_end(self, site: Site, guard: Make):
        site.routes["/x"] = site.for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)
        assert refusal(guard(max_bytes=10**6), site.url("/x")) == "filtered: more than the maximum of 1,000,000 bytes"

    def test_chunks_without_end(self, site: Site, guard: Make):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        site.routes["/x"] = site.for_ever(head, b"1000\r\n" + b"x" * 4096 + b"\r\n")
        with pytest.raises(Filtered):
            guard(max_bytes=10**6).fetch(site.url("/x"))

    @pytest.mark.parametrize("block", [b"X: y\r\n", b"X" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n"])
    def test_headers_without_end(self, site: Site, guard: Make, block: bytes):
        site.routes["/x"] = site.for_ever(b"HTTP/1.1 100 Continue\r\n" if block.startswith(b"X: ") else b"", block)
        with pytest.raises(NotFetched) as error:
            guard().fetch(site.url("/x"))
        assert not error.value.is_transient

    def test_a_length_that_is_a_lie(self, site: Site, guard: Make):
        site.routes |= {"/more": answer(b"12345", length=9), "/less": answer(b"12345", length=3)}
        site.routes["/claims"] = answer(b"1", length=10**15)
        site.routes["/negative"] = answer(b"12345", length=-1)
        assert refusal(guard(), site.url("/more")) == "may heal: ended 4 bytes early"
        assert guard().fetch(site.url("/less")).data == b"123"
        assert refusal(guard(max_bytes=9), site.url("/claims")).startswith("filtered: 1,000,000,000,000,000 bytes")
        assert guard().fetch(site.url("/negative")).data == b"12345"

    def test_compressed_bodies(self, site: Site, guard: Make):
        image = os.urandom(100_000)
        site.routes["/gzip"] = answer(gzip.compress(image), "200 OK", "Content-Encoding: gzip")
        site.routes["/deflate"] = answer(zlib.compress(image), "200 OK", "Content-Encoding: deflate")
        site.routes["/br"] = answer(b"...", "200 OK", "Content-Encoding: br")
        site.routes["/damaged"] = answer(b"\x1f\x8b damaged", "200 OK", "Content-Encoding: gzip")
        site.routes["/cut"] = answer(gzip.compress(image)[:-9], "200 OK", "Content-Encoding: gzip")
        assert guard().fetch(site.url("/gzip")).data == guard().fetch(site.url("/deflate")).data == image
        assert refusal(guard(), site.url("/br")) == "compressed in a way that was not asked for"
        assert refusal(guard(), site.url("/damaged")) == "compressed data that is damaged"
        assert refusal(guard(), site.url("/cut")) == "may heal: compressed data that ends early"

    def test_a_gzip_bomb_is_stopped_where_the_limit_is(self, site: Site, guard: Make):
        bomb = gzip.compress(bytes(200 * 10**6), 9)
        assert len(bomb) < 200_000
        site.routes["/x"] = answer(bomb, "200 OK", "Content-Encoding: gzip")
        import tracemalloc

        tracemalloc.start()
        assert refusal(guard(max_bytes=10**6), site.url("/x")) == "filtered: more than the maximum of 1,000,000 bytes"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 10**6

    def test_no_http_at_all(self, site: Site, guard: Make):
        site.routes["/x"] = lambda stream: stream.sendall(b"220 mail.inner ESMTP \x1b[31mready\r\n")
        assert refusal(guard(), site.url("/x")) == "the answer is no HTTP that can be read"

    def test_a_status_phrase_is_not_repeated(self, site: Site, guard: Make):
        site.routes["/x"] = answer(b"", "404 <script>alert(1)</script>\x1b[2J")
        site.routes["/y"] = answer(b"", "799 Whatever")
        assert refusal(guard(), site.url("/x")) == "HTTP Error 404: Not Found"
        assert refusal(guard(), site.url("/y")) == "HTTP Error 799: unknown status"

    def test_the_request_says_what_it_must_and_no_more(self, site: Site, guard: Make):
        site.routes["/x"] = answer(b"image")
        guard(user_agent="somebody/1.0 (+http://s.test)").fetch(site.url("/x"))
        [request] = site.requests
        lines = request.decode().splitlines()
        assert lines[0] == "GET /x HTTP/1.1" and f"Host: a.test:{site.port}" in lines
        assert "User-Agent: somebody/1.0 (+http://s.test)" in lines
        assert {line.partition(":")[0] for line in lines[1:-1]} == {
            "Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"
        }  # fmt: skip


class TestRetries:
    def test_what_may_heal_is_asked_again_and_what_may_not_is_not(self, site: Site, guard: Make):
        site.routes |= {"/500": answer(b"", "500 X"), "/403": answer(b"", "403 X"), "/404": answer(b"", "404 X")}
        clock = Clock()
        found = refusal(guard(clock=clock, retries=2), site.url("/500"))
        assert found == "may heal: HTTP Error 500: Internal Server Error (asked 3 times)"
        assert clock.slept == [0.25, 0.5]
        refusal(guard(retries=2), site.url("/403"))
        refusal(guard(retries=2), site.url("/404"))
        assert site.asked == ["/500"] * 3 + ["/403", "/404"]

    @pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
    def test_retry_after_is_waited_for(self, site: Site, guard: Make, status: str):
        answers = iter([answer(b"", status, "Retry-After: 7"), answer(b"image")])
        site.routes["/x"] = lambda stream: next(answers)(stream)
        clock = Clock()
        assert guard(clock=clock, retries=1).fetch(site.url("/x")).data == b"image"
        assert sum(clock.slept) == pytest.approx(7)

    def test_retry_after_as_a_date(self, site: Site, guard: Make):
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        answers = iter([answer(b"", "503 X", f"Retry-After: {later}"), answer(b"image")])
        site.routes["/x"] = lambda stream: next(answers)(stream)
        clock = Clock()
        assert guard(clock=clock, retries=1).fetch(site.url("/x")).data == b"image"
        assert 20 < sum(clock.slept) <= 30

    def test_not_beyond_the_deadline_and_the_whole_host_is_left_alone(self, site: Site, guard: Make):
        site.routes |= {"/x": answer(b"", "429 X", "Retry-After: 3600"), "/y": answer(b"image")}
        clock = Clock()
        made = guard(clock=clock, retries=5, deadline_s=60)
        assert refusal(made, site.url("/x")) == "may heal: HTTP Error 429: Too Many Requests; it asks to wait 3600 s"
        assert refusal(made, site.url("/y")) == "may heal: its host asks to be left alone for 3600 s"
        assert site.asked == ["/x"] and clock.slept == []
        clock.now += 3600
        assert made.fetch(site.url("/y")).data == b"image"

    def test_a_retry_after_that_is_no_time(self, site: Site, guard: Make):
        site.routes["/x"] = answer(b"", "503 X", "Retry-After: soon, \x1b[0m")
        assert "503" in refusal(guard(), site.url("/x"))


class TestCourtesy:
    def test_connections_of_a_host_are_bounded(self, site: Site, guard: Make):
        gate = threading.Event()

        def slow(stream):
            gate.wait(5)
            answer(b"image")(stream)

        site.routes["/x"] = slow
        made = guard(host_connections=3)
        with ThreadPoolExecutor(12) as pool:
            results = [pool.submit(made.fetch, site.url("/x")) for _ in range(12)]
            while len(site.asked) < 3:
                gate.wait(0.01)
            gate.set()
            assert {result.result().data for result in results} == {b"image"}
        assert site.most_at_once == 3

    def test_the_rate_of_a_host_is_bounded(self, site: Site, guard: Make):
        site.routes["/x"] = answer(b"image")
        clock = Clock()
        made = guard(clock=clock, host_rate=4.0)
        for _ in range(9):
            made.fetch(site.url("/x"))
        assert clock.now - 1000 == pytest.approx(8 / 4)
        made.fetch(site.url("/x", "b.test"))
        assert clock.now - 1000 == pytest.approx(8 / 4), "another host has a rate of its own"

    def test_what_robots_txt_forbids_is_not_asked_for(self, site: Site, guard: Make):
        site.routes["/robots.txt"] = answer(b"User-agent: *\nDisallow: /private/\nAllow: /private/open.jpg\n")
        site.routes |= {"/a": answer(b"image"), "/private/open.jpg": answer(b"image")}
        made = guard(robots=True)
        with pytest.raises(OptedOut, match=r"the robots.txt of a.test forbids it"):
            made.fetch(site.url("/private/b"))
        assert made.fetch(site.url("/private/open.jpg")).data == made.fetch(site.url("/a")).data == b"image"
        assert site.asked == ["/robots.txt", "/private/open.jpg", "/a"]

    def test_robots_txt_is_read_once_for_all_threads(self, site: Site, guard: Make):
        site.routes |= {"/robots.txt": answer(b"User-agent: *\nDisallow: /x"), "/y": answer(b"image")}
        made = guard(robots=True)
        with ThreadPoolExecutor(8) as pool:
            assert {a.data for a in pool.map(lambda _: made.fetch(site.url("/y")), range(24))} == {b"image"}
        assert site.asked.count("/robots.txt") == 1

    @pytest.mark.parametrize("status", ["404 X", "403 X", "410 X"])
    def test_no_robots_txt_forbids_nothing(self, site: Site, guard: Make, status: str):
        site.routes |= {"/robots.txt": answer(b"", status), "/y": answer(b"image")}
        assert guard(robots=True).fetch(site.url("/y")).data == b"image"

    def test_a_robots_txt_that_cannot_be_read_forbids_everything(self, site: Site, guard: Make):
        site.routes |= {"/robots.txt": answer(b"", "500 X"), "/y": answer(b"image")}
        found = refusal(guard(robots=True, retries=0), site.url("/y"))
        assert found == "may heal: its robots.txt cannot be read: HTTP Error 500: Internal Server Error"
        assert site.asked == ["/robots.txt"]

    def test_a_robots_txt_without_end_is_read_to_its_limit(self, site: Site, guard: Make):
        site.routes["/robots.txt"] = site.for_ever(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /x\n", b"#" * 9999)
        site.routes |= {"/x": answer(b"image"), "/y": answer(b"image")}
        made = guard(robots=True)
        assert made.fetch(site.url("/y")).data == b"image"
        with pytest.raises(OptedOut):
            made.fetch(site.url("/x"))

    def test_a_robots_txt_that_leads_inside_forbids_nothing_and_reaches_nothing(self, site: Site, guard: Make):
        site.routes |= {"/robots.txt": redirect("http://10.0.0.5/"), "/y": answer(b"image")}
        assert guard(robots=True).fetch(site.url("/y")).data == b"image"

    def test_a_redirect_asks_the_other_hosts_robots_txt(self, site: Site, guard: Make):
        def robots(stream):
            is_b = b"Host: b.test" in site.requests[-1]
            answer(b"User-agent: clipcap\nDisallow: /" if is_b else b"")(stream)

        site.routes |= {"/robots.txt": robots, "/x": redirect(site.url("/y", "b.test")), "/y": answer(b"image")}
        with pytest.raises(OptedOut, match=r"of b\.test"):
            guard(robots=True).fetch(site.url("/x"))
        assert "/y" not in site.asked

    @pytest.mark.parametrize(
        ("header", "is_ours"),
        [
            ("X-Robots-Tag: noai", True),
            ("X-Robots-Tag: max-snippet:5, NoImageAI", True),
            ("X-Robots-Tag: clipcap: noai", True),
            ("X-Robots-Tag: otherbot: noai", False),
            ("X-Robots-Tag: otherbot: noai, clipcap: noindex", True),
            ("X-Robots-Tag: unavailable_after: 25 Jun 2010 15:00:00 PST", False),
            ("X-Robots-Tag: all", False),
            ("TDM-Reservation: 1", True),
            ("TDM-Reservation: 0", False),
        ],
    )
    def test_headers_that_opt_out_are_obeyed_before_the_body(self, site: Site, guard: Make, header: str, is_ours: bool):
        site.routes["/x"] = answer(b"image", "200 OK", header)
        if not is_ours:
            assert guard().fetch(site.url("/x")).data == b"image"
            return
        site.routes["/long"] = site.for_ever(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode(), b"x" * 999)
        with pytest.raises(OptedOut, match="forbids this use"):
            guard().fetch(site.url("/long"))
        assert guard(opt_out_headers=False).fetch(site.url("/x")).data == b"image"


class TestEncrypted:
    @pytest.fixture
    def secure(self, tmp_path: Path, monkeypatch) -> Site:
        """https with a certificate of a.test that this test's guard trusts."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
        start = datetime.now(UTC) - timedelta(days=1)
        made = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=9))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=True)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        pem = tmp_path / "a.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        theirs.load_cert_chain(pem)
        ours = ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
        monkeypatch.setattr(wire, "tls", lambda: ours)
        site = Site("127.0.0.1")
        site.start(tls=theirs)
        return site

    def test_the_pinned_address_must_show_the_names_certificate(self, secure: Site, guard: Make):
        secure.routes |= {"/x": answer(b"image"), "/down": redirect(f"http://b.test:{secure.port}/x")}
        open_hosts = tuple(f"{name}.test:{secure.port}" for name in "ab")
        made = guard(allow_hosts=open_hosts)
        assert made.fetch(f"https://a.test:{secure.port}/x").data == b"image"
        assert refusal(made, f"https://b.test:{secure.port}/x").startswith("its certificate is not valid (Hostname")
        assert "from https to http on another host" in refusal(made, f"https://a.test:{secure.port}/down")
        secure.stop()

    def test_a_certificate_of_nobody_known(self, secure: Site, guard: Make, monkeypatch):
        monkeypatch.setattr(wire, "tls", ssl.create_default_context)
        made = guard(allow_hosts=(f"a.test:{secure.port}",))
        assert refusal(made, f"https://a.test:{secure.port}/x").startswith("its certificate is not valid (self")
        secure.stop()


class TestFiles:
    def test_regular_files_only_and_not_larger_than_allowed(self, tmp_path: Path, guard: Make):
        (tmp_path / "a.png").write_bytes(b"12345")
        os.mkfifo(tmp_path / "pipe.png")
        made = guard(max_bytes=5)
        assert made.fetch((tmp_path / "a.png").as_uri()).data == b"12345"
        assert refusal(guard(max_bytes=4), (tmp_path / "a.png").as_uri()).startswith("filtered: 5 bytes, above")
        assert refusal(made, (tmp_path / "pipe.png").as_uri()) == "refused: not a regular file"
        assert refusal(made, "file:///dev/zero") == "refused: not a regular file"
        assert refusal(made, tmp_path.as_uri()) in ("refused: not a regular file", "Is a directory")
        assert refusal(made, "file:///none/here.png") == "No such file or directory"


def test_reasons_never_hold_a_query(site: Site, guard: Make):
    """Tokens of signed URLs stay where the URL is stored."""
    site.routes["/x?token=s3cret"] = redirect("http://10.0.0.5/?token=s3cret")
    site.routes["/y?token=s3cret"] = reset
    for path in ("/x", "/y", "/z"):
        assert "s3cret" not in refusal(guard(), site.url(f"{path}?token=s3cret"))
    assert isinstance(Refused("x"), GuardError)
