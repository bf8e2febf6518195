"""img2dataset itself, behind the guard: what it cannot do without it, and what the ledger says of hostile rows."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_site import Site, answer, redirect, reset
from PIL import Image

from clipcap.config import DownloadConfig
from clipcap.dataset.download import download_key, download_shard
from clipcap.dataset.land import URLS_SCHEMA, plan_shards
from clipcap.storage.lake import Lake

BATCH = "hostile-0a1b2c3d"
QUIET = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}


def picture(colour: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (colour % 256, colour // 256 % 256, 9)).save(stream, "PNG")
    return stream.getvalue()


def downloaded(lake: Lake, urls: list[str], config: DownloadConfig, served: dict[str, str]) -> dict[str, tuple]:
    """Each URL with its status and reason."""
    rows = [
        {"sample_key": f"0a1b2c3d-{n:07d}", "url": url, "captions": [], "split": "", "source_row": n}
        for n, url in enumerate(urls)
    ]
    lake.urls(BATCH).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=URLS_SCHEMA), lake.urls(BATCH))
    found = {}
    for job in plan_shards(BATCH, len(urls), config.shard_size):
        entry = download_shard(lake, job, config, download_key(lake, job, config), "run", served)
        for row in pq.read_table(lake.absolute(entry.file("ledger").path)).to_pylist():
            found[row["image_url"]] = (row["status"], row["reason"])
    return found


def test_hostile_rows_end_in_the_ledger_and_reach_nothing(site: Site, tmp_path: Path):
    inner = Site("127.0.0.1")
    inner.start()
    here = f"127.0.0.1:{site.port}"
    site.routes |= {
        "/good.png": answer(picture()),
        "/moved.png": redirect("/good.png"),
        "/inside.png": redirect(f"http://127.0.0.1:{inner.port}/"),
        "/loop.png": redirect("/loop.png"),
        "/reset.png": reset,
        "/hang.png": site.hang,
        "/long.png": site.for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        "/noai.png": answer(picture(), "200 OK", "X-Robots-Tag: noai"),
        "/text.png": answer(b"<html>", "200 OK", "Content-Type: image/png"),
        "/typed.png": answer(picture(7), "200 OK", "Content-Type: text/html"),
        "/eps.png": answer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n(/etc/passwd) (r) file\n"),
    }
    urls = [site.url(path, "127.0.0.1") for path in site.routes]
    urls += [f"http://127.0.0.1:{inner.port}/", "http://localhost/", "http://169.254.169.254/latest/meta-data/",
             "http://2130706433/", "http://10.1.2.3/x?token=s3cret", f"http://me:pw@{here}/good.png", "file:///dev/zero",
             f"http://127.0.0.1:{site.port}/none.png"]  # fmt: skip
    config = DownloadConfig(threads=8, timeout_s=1, deadline_s=5, retries=0, max_image_bytes=10**6)
    found = downloaded(Lake(tmp_path), urls, config, {here: here})
    short = {url.removeprefix(f"http://{here}"): outcome for url, outcome in found.items()}
    assert len(found) == len(urls) and inner.asked == []
    good = ("ok", "")
    assert short["/good.png"] == short["/moved.png"] == short["/typed.png"] == good
    assert short["/inside.png"] == ("failed", "refused: port " + f"{inner.port}, expected 80, 443, 8080, 8443"
                                    " (after a redirect)")  # fmt: skip
    assert short["/loop.png"] == ("failed", "refused: redirected more than 5 times")
    assert short["/reset.png"] == ("failed", "not downloaded, may heal: the connection broke off")
    assert short["/hang.png"] == ("failed", "not downloaded, may heal: no answer within 1 s")
    assert short["/long.png"] == ("filtered", "more than the maximum of 1,000,000 bytes")
    assert short["/noai.png"] == ("opted_out", "the server's X-Robots-Tag header forbids this use")
    assert short["/none.png"] == ("failed", "not downloaded: HTTP Error 404: Not Found")
    assert short["/text.png"][1].startswith("not an image of a known kind")
    assert short["/eps.png"][1].startswith("not an image of a known kind")
    assert found["http://localhost/"][1].startswith("refused: loopback address")
    assert found["http://169.254.169.254/latest/meta-data/"][1] == "refused: metadata service's address 169.254.169.254"
    assert found["http://2130706433/"][1] == "refused: an address in an unusual spelling"
    assert found["http://10.1.2.3/x?token=s3cret"][1] == "refused: private address 10.1.2.3"
    assert found[f"http://me:pw@{here}/good.png"][1] == "refused: user name or password in the URL"
    assert found["file:///dev/zero"][1] == "refused: not a regular file"
    inner.stop()


def test_without_the_guard_img2dataset_cannot_open_its_urls():
    """What it would do where our handler is missing: nothing."""
    code = (
        "from img2dataset.downloader import download_image\n"
        "print(download_image((0, 'guard:http://127.0.0.1/'), 1, None, None)[2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=QUIET)
    assert "unknown url type: guard" in done.stdout


def test_the_downloader_carries_the_guard_to_whichever_process_unpickles_it(site: Site, tmp_path: Path, monkeypatch):
    """As Ray and Spark do: another process, which was told nothing, gets the object alone."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    from clipcap.dataset.guard import Policy
    from clipcap.dataset.guard.worker import GuardedDownloader

    site.routes["/x"] = answer(b"image")
    here = f"127.0.0.1:{site.port}"
    downloader = GuardedDownloader.__new__(GuardedDownloader)
    downloader.policy = Policy(served={here: here}, timeout_s=2, retries=0).dumps()
    (tmp_path / "downloader").write_bytes(pickle.dumps(downloader))
    code = f"""
import pickle, urllib.request
downloader = pickle.load(open({str(tmp_path / "downloader")!r}, "rb"))
try:
    downloader.download_shard((0, "memory://nothing"))
except Exception as error:
    print(type(error).__name__)
for url in ("guard:http://{here}/x", "guard:http://127.0.0.1:22/", "http://{here}/x", "file:///etc/passwd", "data:,x"):
    try:
        print(urllib.request.urlopen(url).read())
    except Exception as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=QUIET)
    lines = done.stdout.splitlines()
    assert lines[0] == "FileNotFoundError", "it began its work"
    assert lines[1] == "b'image'"
    assert lines[2].startswith("refused: port 22")
    assert all("unknown url type" in line for line in lines[3:]), "nothing else is open any more"
    assert site.asked == ["/x"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_urls_of_which_thirty_percent_fail(tmp_path: Path, capsys):
    """Every row accounted for with the outcome that its fault must have; prints the throughput."""
    site = Site("127.0.0.1")
    site.start()
    here = f"127.0.0.1:{site.port}"
    rng, expected = random.Random(0), {}
    image = picture(1)

    faults = {
        "missing": (answer(b"", "404 X"), "failed", "HTTP Error 404"),
        "reset": (reset, "failed", "broke off"),
        "short": (answer(image, length=len(image) + 9), "failed", "ended 9 bytes early"),
        "long": (site.for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), "filtered", "more than the maximum"),
        "text": (answer(b"nothing"), "failed", "not an image"),
        "noai": (answer(image, "200 OK", "X-Robots-Tag: noai"), "opted_out", "X-Robots-Tag"),
        "loop": (redirect("/loop/0"), "failed", "redirected more than"),
        "inside": (redirect("http://10.0.0.5/"), "failed", "refused: private address 10.0.0.5"),
        "hang": (site.hang, "failed", "no answer within 1 s"),
        "drip": (site.drip(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 9999), "failed", "not finished within 3 s"),
        "busy": (answer(b"", "429 X", "Retry-After: 60"), "failed", "429"),
    }
    rare = {"hang", "drip"}
    common = [name for name in faults if name not in rare]
    for number in range(10_000):
        name = "good"
        if rng.random() < 0.3:
            name = rng.choice(sorted(rare)) if rng.random() < 0.02 else rng.choice(common)
        path = f"/{name}/{number}"
        route, status, reason = faults.get(name, (answer(image), "ok", ""))
        site.routes[path] = route
        expected[site.url(path, "127.0.0.1")] = (status, reason)
    site.routes["/loop/0"] = redirect("/loop/0")
    config = DownloadConfig(
        threads=32, timeout_s=1, deadline_s=3, retries=1, max_image_bytes=10**6, shard_size=5000, host_rate=0
    )
    started = time.monotonic()
    found = downloaded(Lake(tmp_path), list(expected), config, {here: here})
    seconds = time.monotonic() - started
    site.stop()
    with capsys.disabled():
        outcomes = Counter(status for status, _ in found.values())
        print(f"\n10,000 URLs, 30 % faults: {seconds:.0f} s, {10_000 / seconds:.0f} URLs/s; {dict(outcomes)}")
    assert found.keys() == expected.keys()
    wrong = {u: (found[u], e) for u, e in expected.items() if found[u][0] != e[0] or e[1] not in found[u][1]}
    assert wrong == {}


def test_the_opener_of_a_plain_process_is_not_ours():
    """The guard changes urllib in img2dataset's processes alone."""
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        urllib.request.urlopen("guard:http://a.test/")
