"""Captioning now: each input gives one row, in order, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipcap import captioning
from clipcap.captioning import CaptionedImage, caption_images, expand, survey
from clipcap.config import CaptionConfig, LanguageModelConfig
from clipcap.embedding.decode import Preprocessing
from clipcap.errors import EmbeddingError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import build_mapper

CONFIG = CaptionConfig(beam_size=3, max_new_tokens=6, batch_size=2)


class MeanColour:
    """An encoder whose vector is the image's mean colour, so that every image has its own."""

    preprocessing = Preprocessing(8, 8, (0.0,) * 3, (1.0,) * 3, resize_mode="squash")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_with_features(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(pixels))
        embedding = pixels.mean(axis=(1, 2)).astype(np.float32) / 255
        return embedding, embedding


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    torch.manual_seed(0)
    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=16, vocab_size=280)
    model, tokenizer = new_language_model(sizes, ["a small dog runs", "a dog sits"] * 3, positions=32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    settings = CaptionerSettings(clip_dim=3, hidden_size=16, prefix_length=2, eos_id=tokenizer.eos_token_id)
    return Captioner(build_mapper(settings, 3, 16), model, tokenizer, settings).eval()


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    files = []
    for number, colour in enumerate(("red", "lime", "blue", "white", "orange")):
        files.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (20, 10), colour).save(files[-1])
    return files


def run(inputs: list[str], captioner: Captioner, encoder=None, **options) -> list[CaptionedImage]:
    return list(caption_images(inputs, captioner, encoder or MeanColour(), CONFIG, **options))


class Answers(BaseHTTPRequestHandler):
    """Serves one good image and several ways to fail."""

    image = b""

    def do_GET(self) -> None:
        if self.path == "/good.png":
            self.reply(200, self.image)
        elif self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "/good.png")
            self.end_headers()
        elif self.path == "/to-file.png":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path == "/inside.png":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()
        elif self.path == "/large.png":
            self.reply(200, b"\0" * 2000)
        elif self.path == "/nonsense.png":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
        elif self.path == "/short.png":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ffff\r\nshort")
        elif self.path == "/hangs-up.png":
            self.connection.close()
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        pass


@pytest.fixture
def server(images: list[str]) -> Iterator[str]:
    Answers.image = Path(images[0]).read_bytes()
    with Quiet(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_image_gets_a_caption_of_its_own_in_order(images: list[str], captioner: Captioner):
    encoder = MeanColour()
    rows = run(images, captioner, encoder)
    assert [row.image for row in rows] == images
    assert all(row.status == "ok" and row.reason == "" and row.caption and row.log_probability < 0 for row in rows)
    assert encoder.batches == [2, 2, 1]
    alone = [run([image], captioner)[0] for image in images]
    assert [row.caption for row in rows] == [row.caption for row in alone]
    assert [row.log_probability for row in rows] == pytest.approx([row.log_probability for row in alone], abs=1e-4)
    assert len({row.log_probability for row in rows}) == 5, "the image decides"


def test_several_captions_best_first(images: list[str], captioner: Captioner):
    for row in run(images[:3], captioner, num_captions=3):
        assert 1 <= len(set(row.captions)) == len(row.captions) <= 3 and row.captions[0] == row.caption
    assert all(len(row.captions) == 1 for row in run(images[:3], captioner))


def test_what_fails_has_its_row_and_reason_and_stops_nothing(images: list[str], captioner: Captioner, tmp_path: Path):
    (tmp_path / "text.jpg").write_text("text under the name of an image")
    (tmp_path / "cut.png").write_bytes(Path(images[0]).read_bytes()[:40])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder").mkdir()
    bad = {
        str(tmp_path / "missing.jpg"): "there is no such file",
        str(tmp_path / "text.jpg"): "not an image",
        str(tmp_path / "cut.png"): "cannot be decoded",
        str(tmp_path / "empty.jpg"): "not an image",
        str(tmp_path / "folder"): "a folder without images",
        f"file://{images[0]}": "expected a file, a folder, or an http or https URL",
        "ftp://host/a.jpg": "expected a file, a folder, or an http or https URL",
        "http://[::1/a.jpg": "",
        "a\0b": "",
        "n" * 5000: "",
    }
    mixed = [name for pair in zip(bad, images * 2, strict=True) for name in pair]
    rows = run(mixed, captioner)
    assert [row.image for row in rows] == mixed
    for row in rows:
        if row.image in bad:
            assert row.status == "failed" and row.reason and bad[row.image] in row.reason
            assert row.caption == "" and row.captions == [] and row.log_probability is None
        else:
            assert row.status == "ok" and row.caption
    good = {row.image: row.caption for row in rows if row.status == "ok"}
    assert good == {row.image: row.caption for row in run(images, captioner)}


def test_only_failures(captioner: Captioner, tmp_path: Path):
    encoder = MeanColour()
    assert [row.status for row in run([str(tmp_path / "a"), str(tmp_path / "b")], captioner, encoder)] == ["failed"] * 2
    assert encoder.batches == []
    assert run([], captioner) == []


def test_urls(server: str, captioner: Captioner, images: list[str], monkeypatch):
    monkeypatch.setattr(captioning, "MAX_BYTES", 1000)
    names = ["good", "missing", "moved", "large", "nonsense", "short", "hangs-up", "to-file", "inside"]
    rows = dict(zip(names, run([f"{server}/{name}.png" for name in names], captioner), strict=True))
    assert {name for name, row in rows.items() if row.status == "ok"} == {"good", "moved"}
    assert rows["good"].caption == run(images[:1], captioner)[0].caption
    assert "404" in rows["missing"].reason
    assert "above the maximum of 1,000" in rows["large"].reason
    assert all(row.reason for name, row in rows.items() if row.status == "failed")
    assert rows["to-file"].reason.startswith("refused: scheme 'file'")
    assert rows["inside"].reason == "refused: metadata service's address 169.254.169.254 (after a redirect)"


def test_a_server_that_is_not_there(captioner: Captioner):
    [row] = run(["http://127.0.0.1:1/a.png"], captioner)
    assert row.status == "failed" and "refused" in row.reason.lower()


def test_an_encoder_of_another_dimension_is_an_error_not_a_row(images: list[str], captioner: Captioner, monkeypatch):
    ones = lambda self, pixels: (np.ones((len(pixels), 4), np.float32),) * 2  # noqa: E731
    monkeypatch.setattr(MeanColour, "encode_with_features", ones)
    with pytest.raises(EmbeddingError):
        run(images, captioner)


def test_folders_become_their_images(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "a.png", "deep/c.webp", "e.HEIC", "note.txt", "d.jpg.part", "._b.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "none").mkdir()
    inputs = [str(tmp_path), "x.jpg", "http://host/y", str(tmp_path / "none")]
    assert list(expand(inputs)) == [
        str(tmp_path / "a.png"), str(tmp_path / "b.JPG"), str(tmp_path / "deep" / "c.webp"),
        str(tmp_path / "e.HEIC"),
        "x.jpg", "http://host/y", str(tmp_path / "none"),
    ]  # fmt: skip


def test_a_survey_counts_what_comes_and_what_is_left_out(images: list[str], tmp_path: Path):
    for name in ("README", "notes.TXT", "raw.cr3", "b.txt", ".hidden.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.txt").touch()
    (tmp_path / "none").mkdir()
    inputs = [str(tmp_path), str(tmp_path / "none"), str(tmp_path / "b.txt"), "http://images.test/a.txt", images[0]]
    rows, left_out = survey(inputs)
    assert rows == len(list(expand(inputs))) == len(images) + 4
    assert left_out == {".txt": 3, "": 1, ".cr3": 1}
