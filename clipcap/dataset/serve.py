"""Web servers on 127.0.0.1 for what is fetched from this machine: a folder of images, or the rendered sample.

Both listen only while their context is open. URLs carry the preferred port, whoever else has taken it: the context
yields a host map that says where to connect instead, and that belongs to no cache key.
"""

from __future__ import annotations

import io
import mimetypes
import re
import shutil
import socketserver
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from clipcap.config import SampleConfig
from clipcap.dataset.sample import SLOW_S, TINY_EDGE, TROUBLE, trouble_scene
from clipcap.dataset.scenes import render, render_jpeg, scene
from clipcap.errors import SourceError

_HOST = "127.0.0.1"
_TYPES = {".webp": "image/webp", ".avif": "image/avif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_SCENE = re.compile(r"/scenes/(\d{6})\.jpg")


@contextmanager
def serve_folder(folder: Path, port: int) -> Iterator[dict[str, str]]:
    """Serves the files below ``folder``, read only: no listings, nothing outside it, links out of it included.

    Args:
        folder: what is served at ``/``.
        port: the preferred port; another one is taken where it is in use.

    Yields:
        {"127.0.0.1:<port>": "127.0.0.1:<port in use>"}: the only address of this machine that the guard lets through.

    Raises:
        SourceError: there is no such folder.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise SourceError(f"nothing to serve: {folder} is not a folder (serve.folder in the configuration)")

    class Handler(_FolderHandler):
        pass

    Handler.root = root
    with _serve(Handler, port) as host_map:
        yield host_map


@contextmanager
def serve_sample(config: SampleConfig, port: int) -> Iterator[dict[str, str]]:
    """Serves the sample's scenes, rendered on request, and misbehaves where ``sample.TROUBLE`` says so.

    Args and yields as in ``serve_folder``. A URL that is to fail twice does so anew in each context.
    """

    class Handler(_SampleHandler):
        requests: Counter[str] = Counter()
        lock = threading.Lock()

    Handler.config = config
    with _serve(Handler, port) as host_map:
        yield host_map


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a downloader opens its connections all at once

    def server_bind(self) -> None:
        # http.server asks the name service for the host's name here, which can take seconds and is not needed.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is its own affair."""


@contextmanager
def _serve(handler: type[BaseHTTPRequestHandler], port: int) -> Iterator[dict[str, str]]:
    try:
        server = _Server((_HOST, port), handler)
    except OSError:
        server = _Server((_HOST, 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="clipcap-serve")
    thread.start()
    try:
        yield {f"{_HOST}:{port}": f"{_HOST}:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD, keep-alive, no log, and no version of anything in the headers."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def version_string(self) -> str:
        return "clipcap"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(unquote(urlsplit(self.path).path))

    do_HEAD = do_GET

    @abstractmethod
    def answer(self, path: str) -> None:
        """Answers one request for a decoded path."""

    def refuse(self, status: HTTPStatus) -> None:
        self.send(io.BytesIO(f"{status.phrase}\n".encode()), len(status.phrase) + 1, "text/plain", status)

    def send(
        self,
        body: BinaryIO,
        size: int,
        content_type: str,
        status: HTTPStatus = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(size))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            shutil.copyfileobj(body, self.wfile)


class _FolderHandler(_Handler):
    root: Path

    def answer(self, path: str) -> None:
        try:
            file = (self.root / path.lstrip("/")).resolve()
            if not file.is_relative_to(self.root) or not file.is_file():
                return self.refuse(HTTPStatus.NOT_FOUND)
            body = file.open("rb")
        except (OSError, ValueError):  # unreadable, or a name that no file can have
            return self.refuse(HTTPStatus.NOT_FOUND)
        kind = _TYPES.get(file.suffix.lower()) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        with body:
            self.send(body, file.stat().st_size, kind)


class _SampleHandler(_Handler):
    config: SampleConfig
    requests: Counter[str]
    lock: threading.Lock

    def answer(self, path: str) -> None:
        found = _SCENE.fullmatch(path)
        if found and int(found[1]) < self.config.scenes:
            return self.send_image(self.jpeg(int(found[1])))
        name = path.removeprefix("/trouble/")
        if path == f"/trouble/{name}" and name in TROUBLE:
            return self.misbehave(name)
        self.refuse(HTTPStatus.NOT_FOUND)

    def misbehave(self, name: str) -> None:
        with self.lock:
            self.requests[name] += 1
            count = self.requests[name]
        if name == "missing.jpg":
            return self.refuse(HTTPStatus.NOT_FOUND)
        if name == "unavailable.jpg" and count <= 2:
            return self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        if name == "text.jpg":
            return self.send_image(b"This is a text file. Its name says otherwise.\n")
        if name == "slow.jpg":
            time.sleep(SLOW_S)
        index = trouble_scene(name, self.config)
        if name == "tiny.jpg":
            buffer = io.BytesIO()
            render(scene(index, self.config.seed, TINY_EDGE)).save(buffer, "JPEG")
            return self.send_image(buffer.getvalue())
        jpeg = self.jpeg(index)
        if name == "truncated.jpg":
            jpeg = jpeg[: len(jpeg) // 2]
        self.send_image(jpeg, {"X-Robots-Tag": "noai"} if name == "opted_out.jpg" else None)

    def jpeg(self, index: int) -> bytes:
        return render_jpeg(scene(index, self.config.seed, self.config.image_size))

    def send_image(self, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send(io.BytesIO(content), len(content), "image/jpeg", headers=headers)
