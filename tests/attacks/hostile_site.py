"""Servers that misbehave byte by byte, on loopback, and names that lead to them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Route = Callable[[socket.socket], None]


def answer(body: bytes = b"", status: str = "200 OK", *headers: str, length: int | None = None) -> Route:
    """A well-formed answer; ``length`` is what Content-Length claims."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return lambda stream: stream.sendall(head + body)


def redirect(location: str, status: str = "302 Found") -> Route:
    return answer(b"", status, f"Location: {location}")


@dataclass
class Site:
    """One server: what it was asked, and what it does for each path."""

    address: str
    port: int = 0
    routes: dict[str, Route] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    most_at_once: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    _now: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def start(self, tls: Any = None) -> None:
        self._tls = tls
        self._listener = socket.create_server((self.address, self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts
        self._listener.close()

    def url(self, path: str, host: str = "a.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self._tls:
                stream = self._tls.wrap_socket(stream, server_side=True)
            with stream:
                request = b""
                while b"\r\n\r\n" not in request:
                    block = stream.recv(65536)
                    if not block:
                        return
                    request += block
                path = request.split(b" ", 2)[1].decode()
                with self._lock:
                    self.asked.append(path)
                    self.requests.append(request)
                self.routes.get(path, answer(b"gone", "404 Not Found"))(stream)
        except OSError:
            pass
        finally:
            with self._lock:
                self._now -= 1

    def drip(self, data: bytes) -> Route:
        """A byte every 20 ms, until whoever reads has hung up."""

        def route(stream: socket.socket) -> None:
            for byte in data:
                stream.sendall(bytes([byte]))
                self.stopped.wait(0.02)

        return route

    def hang(self, stream: socket.socket) -> None:
        self.stopped.wait(30)

    def for_ever(self, first: bytes, block: bytes) -> Route:
        def route(stream: socket.socket) -> None:
            stream.sendall(first)
            while not self.stopped.is_set():
                stream.sendall(block)

        return route


def reset(stream: socket.socket) -> None:
    """Hangs up with RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds
