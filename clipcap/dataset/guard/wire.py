"""One request over one connection, to an address that was checked: bounded in time, in headers and in bytes."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from clipcap.dataset.guard.errors import Filtered, NotFetched
from clipcap.dataset.guard.hosts import Deadline
from clipcap.dataset.guard.urls import Target

MAX_HEADER_BYTES = 64 * 1024
_BLOCK = 64 * 1024
_ADDRESSES = 3
"""Addresses of a name that are tried."""


@cache
def tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def connect(addresses: Sequence[str], target: Target, deadline: Deadline, timeout_s: float) -> socket.socket:
    """A connection to the first of the addresses that takes it, encrypted for ``https``. No name is looked up here.

    Raises:
        OSError: none does.
    """
    port = target.served_at[1] if target.served_at else target.port
    for number, address in enumerate(addresses[:_ADDRESSES], start=1):
        stream = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            stream.settimeout(min(timeout_s, deadline.check()))
            stream.connect((address, port))
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "https":
                stream.settimeout(min(timeout_s, deadline.check()))
                return tls().wrap_socket(stream, server_hostname=target.host)
            return stream
        except ssl.SSLError:
            stream.close()
            raise
        except OSError:
            stream.close()
            if number == len(addresses[:_ADDRESSES]):
                raise
        except BaseException:
            stream.close()
            raise
    raise OSError("no address")


def ask(stream: socket.socket, target: Target, user_agent: str, deadline: Deadline, timeout_s: float) -> Response:
    """Sends a GET and reads the headers of the answer."""
    request = (
        f"GET {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nUser-Agent: {user_agent}\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    stream.settimeout(min(timeout_s, deadline.check()))
    stream.sendall(request.encode("ascii"))
    return Response(stream, deadline, timeout_s)


class _Bytes(io.RawIOBase):
    """A socket's bytes: each read within the deadline, and only so many before the headers have ended."""

    def __init__(self, stream: socket.socket, deadline: Deadline, timeout_s: float) -> None:
        self._stream, self._deadline, self._timeout_s = stream, deadline, timeout_s
        self.room: int | None = MAX_HEADER_BYTES + io.DEFAULT_BUFFER_SIZE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.room is not None and self.room <= 0:
            raise NotFetched(f"more than {MAX_HEADER_BYTES >> 10} KiB of headers")
        self._stream.settimeout(min(self._timeout_s, self._deadline.check()))
        count = self._stream.recv_into(buffer)
        if self.room is not None:
            self.room -= count
        return count


class Response:
    """An answer whose headers were read and whose body was not yet."""

    def __init__(self, stream: socket.socket, deadline: Deadline, timeout_s: float) -> None:
        self._bytes = _Bytes(stream, deadline, timeout_s)
        self._http = http.client.HTTPResponse(self, method="GET")  # type: ignore[arg-type]
        self._http.begin()
        self._bytes.room = None
        self.status, self.headers = self._http.status, self._http.headers

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        return io.BufferedReader(self._bytes)

    def read(self, limit: int, is_cut: bool = False) -> bytes:
        """The body, decompressed where it is compressed.

        Args:
            limit: bytes, also after decompression.
            is_cut: return the first ``limit`` bytes of a longer one.

        Raises:
            Filtered: it is longer.
            NotFetched: it ends before its Content-Length, or is encoded in an unknown way.
        """
        if not is_cut and (self._http.length or 0) > limit and not self._is_packed:
            raise Filtered(f"{self._http.length:,} bytes, above the maximum of {limit:,}")
        parts, size = [], 0
        for block in self._unpacked():
            parts.append(block)
            size += len(block)
            if size > limit:
                if is_cut:
                    return b"".join(parts)[:limit]
                raise Filtered(f"more than the maximum of {limit:,} bytes")
        if self._http.length:  # what was announced and did not come
            raise NotFetched(f"ended {self._http.length:,} bytes early", is_transient=True)
        return b"".join(parts)

    @property
    def _is_packed(self) -> bool:
        return self.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")

    def _blocks(self) -> Iterator[bytes]:
        while block := self._http.read(_BLOCK):
            yield block

    def _unpacked(self) -> Iterator[bytes]:
        if not self._is_packed:
            yield from self._blocks()
            return
        if self.headers["Content-Encoding"].strip().lower() not in ("gzip", "x-gzip", "deflate"):
            raise NotFetched("compressed in a way that was not asked for")
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib
        try:
            for block in self._blocks():
                yield unpacker.decompress(block, _BLOCK)
                while unpacker.unconsumed_tail and not unpacker.eof:
                    yield unpacker.decompress(unpacker.unconsumed_tail, _BLOCK)
        except zlib.error:
            raise NotFetched("compressed data that is damaged") from None
        if not unpacker.eof:
            raise NotFetched("compressed data that ends early", is_transient=True)


@contextmanager
def in_our_words(deadline: Deadline, timeout_s: float, on_silence: Callable[[], None]) -> Iterator[None]:
    """Turns what sockets, TLS and http.client raise into a reason: none of the server's own words is in it."""
    try:
        yield
    except TimeoutError:
        on_silence()
        deadline.check()
        raise NotFetched(f"no answer within {timeout_s:g} s", is_transient=True) from None
    except ssl.SSLCertVerificationError as error:
        raise NotFetched(f"its certificate is not valid ({error.verify_message})") from None
    except ssl.SSLError:
        on_silence()
        raise NotFetched("no encrypted connection could be agreed on", is_transient=True) from None
    except ConnectionError as error:  # http.client.RemoteDisconnected is one too
        on_silence()
        how = "was refused" if isinstance(error, ConnectionRefusedError) else "broke off"
        raise NotFetched(f"the connection {how}", is_transient=True) from None
    except OSError as error:
        on_silence()
        raise NotFetched(f"no connection ({error.strerror or type(error).__name__})", is_transient=True) from None
    except http.client.IncompleteRead:
        raise NotFetched("ended early", is_transient=True) from None
    except (http.client.HTTPException, ValueError):
        raise NotFetched("the answer is no HTTP that can be read") from None
