"""Both servers, over real HTTP: what they serve, what they refuse, and each planted trouble."""

import http.client
import io
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from clipcap.config import SampleConfig
from clipcap.dataset.sample import sample_rows
from clipcap.dataset.scenes import render_jpeg, scene
from clipcap.dataset.serve import serve_folder, serve_sample
from clipcap.errors import SourceError

CONFIG = SampleConfig(scenes=12, image_size=64)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def here(port: int) -> dict[str, str]:
    """The map of a server that got the port that it preferred."""
    return {f"127.0.0.1:{port}": f"127.0.0.1:{port}"}


def fetch(url: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def raw_get(port: int, path: str) -> int:
    """The path exactly as written: urllib and browsers would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture
def sample_url():
    port = free_port()
    with serve_sample(CONFIG, port) as host_map:
        assert host_map == here(port)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("outside")
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(root / "a b.png")
    Image.new("RGB", (8, 8), "red").save(root / "sub" / "c.webp")
    (root / "d.JPG").write_bytes(b"\xff\xd8")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


def test_every_scene_of_the_rows_is_served_as_rendered(sample_url):
    port = int(sample_url.rsplit(":", 1)[1])
    urls = {row["url"] for row in sample_rows(CONFIG, port) if "/scenes/" in row["url"]}
    assert len(urls) == CONFIG.scenes
    for url in urls:
        status, body, headers = fetch(url)
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert body == render_jpeg(scene(int(url[-10:-4]), CONFIG.seed, CONFIG.image_size))
    assert fetch(f"{sample_url}/scenes/000012.jpg")[0] == 404


def test_missing_is_404(sample_url):
    assert fetch(f"{sample_url}/trouble/missing.jpg")[0] == 404


def test_slow_takes_seconds_and_succeeds_within_the_default_timeout(sample_url):
    started = time.monotonic()
    status, body, _ = fetch(f"{sample_url}/trouble/slow.jpg")
    assert 1.5 < time.monotonic() - started < 9
    assert status == 200
    Image.open(io.BytesIO(body)).load()


def test_truncated_is_whole_to_http_and_broken_to_a_decoder(sample_url):
    status, body, headers = fetch(f"{sample_url}/trouble/truncated.jpg")
    assert status == 200 and len(body) == int(headers["Content-Length"])
    image = Image.open(io.BytesIO(body))
    assert image.size == (64, 64)
    with pytest.raises(OSError):
        image.load()


def test_tiny_is_a_good_image_under_the_minimum_size(sample_url):
    image = Image.open(io.BytesIO(fetch(f"{sample_url}/trouble/tiny.jpg")[1]))
    image.load()
    assert max(image.size) < 32


def test_opted_out_says_so_in_a_header_that_other_images_lack(sample_url):
    status, body, headers = fetch(f"{sample_url}/trouble/opted_out.jpg")
    assert status == 200 and headers["X-Robots-Tag"] == "noai"
    Image.open(io.BytesIO(body)).load()
    assert "X-Robots-Tag" not in fetch(f"{sample_url}/scenes/000001.jpg")[2]


def test_unavailable_heals_on_the_third_request_and_anew_for_each_server(sample_url):
    url = f"{sample_url}/trouble/unavailable.jpg"
    assert [fetch(url)[0] for _ in range(4)] == [503, 503, 200, 200]
    with serve_sample(CONFIG, free := free_port()):
        assert fetch(f"http://127.0.0.1:{free}/trouble/unavailable.jpg")[0] == 503


def test_text_is_no_image(sample_url):
    status, body, _ = fetch(f"{sample_url}/trouble/text.jpg")
    assert status == 200
    with pytest.raises(OSError):
        Image.open(io.BytesIO(body))


def test_good_planted_images_repeat_no_scene(sample_url):
    scenes = {fetch(f"{sample_url}/scenes/{index:06d}.jpg")[1] for index in range(CONFIG.scenes)}
    planted = [fetch(f"{sample_url}/trouble/{name}.jpg")[1] for name in ("slow", "opted_out", "truncated")]
    assert len({*scenes, *planted}) == CONFIG.scenes + len(planted)


def test_where_the_port_is_taken_a_host_map_tells_the_other():
    with serve_sample(CONFIG, port := free_port()) as first, serve_sample(CONFIG, port) as second:
        assert first == here(port)
        assert list(second) == [f"127.0.0.1:{port}"]
        other = second[f"127.0.0.1:{port}"]
        assert other != f"127.0.0.1:{port}"
        assert fetch(f"http://{other}/scenes/000000.jpg")[0] == 200


def test_on_exit_the_port_is_free_and_no_thread_is_left():
    before = {thread.name for thread in threading.enumerate()}
    port = free_port()
    with pytest.raises(KeyError), serve_sample(CONFIG, port):
        raise KeyError("also when the caller fails")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "clipcap-serve" not in {thread.name for thread in threading.enumerate()} - before
    with serve_sample(CONFIG, port) as host_map:
        assert host_map == here(port)


def test_many_connections_at_once(sample_url):
    urls = [f"{sample_url}/scenes/{index % CONFIG.scenes:06d}.jpg" for index in range(96)]
    with ThreadPoolExecutor(32) as pool:
        assert {status for status, _, _ in pool.map(fetch, urls)} == {200}


def test_a_folder_is_served_with_its_content_types(folder):
    with serve_folder(folder, port := free_port()) as host_map:
        assert host_map == here(port)
        base = f"http://127.0.0.1:{port}"
        assert fetch(f"{base}/a%20b.png") == (200, (folder / "a b.png").read_bytes(), fetch(f"{base}/a%20b.png")[2])
        assert fetch(f"{base}/a%20b.png")[2]["Content-Type"] == "image/png"
        assert fetch(f"{base}/sub/c.webp?size=1")[2]["Content-Type"] == "image/webp"
        assert fetch(f"{base}/d.JPG")[2]["Content-Type"] == "image/jpeg"


def test_a_folder_lists_nothing_and_lets_nothing_out(folder):
    with serve_folder(folder, port := free_port()):
        for path in ("/", "/sub", "/sub/", "/none.jpg", "/%00", "/" + "x" * 5000):
            assert raw_get(port, path) == 404, path
        for path in (
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/sub/..%2f..%2fsecret.txt",
            f"/{folder.parent}/secret.txt",
            f"//{folder.parent}/secret.txt",
            "/link.txt",
        ):
            assert raw_get(port, path) == 404, path
        assert raw_get(port, "/sub/../a%20b.png") == 200


def test_a_folder_is_read_only(folder):
    before = sorted(folder.rglob("*"))
    with serve_folder(folder, port := free_port()):
        for method in ("PUT", "POST", "DELETE"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request(method, "/d.JPG", body=b"x")
            assert connection.getresponse().status == 501
            connection.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("HEAD", "/d.JPG")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "2", b"")
        connection.close()
    assert sorted(folder.rglob("*")) == before


def test_no_folder_is_one_clear_line(tmp_path):
    with pytest.raises(SourceError, match="is not a folder") as error, serve_folder(tmp_path / "none", 0):
        pass
    assert "\n" not in str(error.value)
