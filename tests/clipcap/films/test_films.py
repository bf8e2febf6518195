"""Films with known cuts, made here: shots, the frames that stand for them, and what broken and hostile films cost."""

from __future__ import annotations

import tarfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clipcap.config import FilmConfig, parse_config
from clipcap.dataset.extract import extract
from clipcap.dataset.scenes import render, scene
from clipcap.dataset.sources import problem_of, read_source
from clipcap.films import decode
from clipcap.films.address import Span, frame_address, frame_location, parse_location
from clipcap.films.decode import grab_frames, scan_film

RATE, SIZE = 10, 96


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(number: int) -> np.ndarray:
    return np.asarray(render(scene(9_000 + number, seed=1, image_size=SIZE)))


def still(number: int, seconds: float) -> list[np.ndarray]:
    return [picture(number)] * round(seconds * RATE)


def moving(number: int, seconds: float, pixels: int = 2) -> list[np.ndarray]:
    """A camera that pans over a strip of scenes melted into each other: much changes, and nothing cuts."""
    small = Image.fromarray(np.concatenate([picture(number + n) for n in range(3)], axis=1)).resize((24, 8))
    strip = np.asarray(small.resize((3 * SIZE, SIZE), Image.Resampling.BICUBIC))
    return [strip[:, n * pixels :][:, :SIZE] for n in range(round(seconds * RATE))]


def fade(number: int, levels: np.ndarray) -> list[np.ndarray]:
    return [(picture(number) * level).astype(np.uint8) for level in levels]


DOWN, UP, BLACK = np.linspace(1, 0.02, 8), np.linspace(0.02, 1, 8), [np.zeros((SIZE, SIZE, 3), np.uint8)] * 5


def write(path: Path, frames: list[np.ndarray], times_ms: list[int] | None = None, rotation: int = 0) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1000 if times_ms else RATE)
        video.height, video.width = frames[0].shape[:2] if frames else (SIZE, SIZE)
        video.pix_fmt, video.gop_size = "yuv420p", 12
        if rotation:
            video.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times_ms:
                frame.time_base, frame.pts = Fraction(1, 1000), times_ms[number]
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        for _ in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def starts(film: Path, **settings: float) -> list[float]:
    return [round(span.start_s, 2) for span in scan_film(film, FilmConfig(**settings)).spans]


def test_every_cut_is_found_and_no_other(tmp_path: Path):
    """Precision and recall over one film with eight boundaries: six hard cuts (two of them into and out of a pan)
    and two fades through black; a flash, a pan and a long static take are none."""
    flash = [np.full((SIZE, SIZE, 3), 255, np.uint8)]
    shots = [
        still(0, 2), still(1, 1), moving(2, 4), still(5, 1.5),
        [*still(6, 1), *flash, *still(6, 1), *fade(6, DOWN), *BLACK], [*fade(7, UP), *still(7, 12)],
        still(8, 1), [*still(9, 2), *fade(9, DOWN), *BLACK], [*fade(10, UP), *still(10, 1)],
    ]  # fmt: skip
    truth = np.cumsum([len(shot) for shot in shots])[:-1] / RATE
    found = starts(write(tmp_path / "film.mp4", [frame for shot in shots for frame in shot]), max_gap_s=30.0)[1:]
    right = [cut for cut in truth if any(abs(cut - other) <= 0.3 for other in found)]
    precision, recall = len(right) / len(found), len(right) / len(truth)
    assert (precision, recall) == (1.0, 1.0), found


def test_a_long_take_has_a_frame_for_each_gap_only_where_something_changes(tmp_path: Path):
    assert starts(write(tmp_path / "static.mp4", still(0, 9)), max_gap_s=2.0) == [0.0]
    spans = scan_film(write(tmp_path / "pan.mp4", moving(0, 9)), FilmConfig(max_gap_s=2.0)).spans
    assert len(spans) == 5 and spans[0].start_s == 0.0 and spans[-1].end_s == pytest.approx(9.0)
    assert all(one.end_s == other.start_s for one, other in pairwise(spans))


def test_black_and_blurred_frames_stand_for_nothing(tmp_path: Path):
    soft = np.asarray(Image.fromarray(picture(0)).resize((32, 32)).resize((SIZE, SIZE)))
    film = write(tmp_path / "film.mp4", [*BLACK, *[soft] * 20, *still(0, 0.4), *[soft] * 20])
    [span] = scan_film(film, FilmConfig()).spans
    assert 2.5 <= span.time_s < 2.9 and span.start_s == pytest.approx(0.5)
    nothing = scan_film(write(tmp_path / "black.mp4", BLACK * 3), FilmConfig())
    assert nothing.spans == [] and "black or of one colour" in nothing.problem


def test_times_are_those_of_the_presentation_at_a_variable_rate(tmp_path: Path):
    times = [0, 40, 900, 1000, 1010, 3000, 3033, 4700]
    film = write(tmp_path / "film.mkv", [*[picture(0)] * 3, *[picture(1)] * 2, *[picture(2)] * 3], times)
    scan = scan_film(film, FilmConfig())
    assert [round(span.start_s, 3) for span in scan.spans] == [0.0, 1.0, 3.0]
    assert all(round(span.time_s * 1000) in times for span in scan.spans)


@pytest.mark.parametrize("kind", ["mp4", "ts"])
def test_a_frame_is_found_again_by_its_time(tmp_path: Path, kind: str):
    """In any container, after a jump too: each second shows another grey, which the JPEG must have."""
    levels = [20 * n + 20 for n in range(10)]
    noise = np.random.default_rng(0).integers(-15, 16, (8, 8, 1)).repeat(12, 0).repeat(12, 1).repeat(3, 2)
    frames = [np.clip(noise + level, 0, 255).astype(np.uint8) for level in levels for _ in range(RATE)]
    film = write(tmp_path / f"film.{kind}", frames)
    spans = scan_film(film, FilmConfig(max_gap_s=1.0)).spans
    assert len(spans) == 10
    files = grab_frames(film, [span.time_s for span in spans], tmp_path)
    shown = [np.asarray(Image.open(file)).mean() for file in files]
    assert np.abs(np.array(shown) - noise.mean() - levels).max() < 4


def test_a_phone_that_was_held_upright(tmp_path: Path):
    pixels = np.full((64, 96, 3), 128, np.uint8)
    pixels[:, :48] = (220, 30, 30)  # left as stored: below, once it is turned counter-clockwise
    film = write(tmp_path / "film.mp4", [pixels] * 10, rotation=90)
    [span] = scan_film(film, FilmConfig()).spans
    [file] = grab_frames(film, [span.time_s], tmp_path)
    image = Image.open(file)
    assert image.size == (64, 96)
    assert image.getpixel((32, 90))[0] > 180 > image.getpixel((32, 5))[0]


def test_broken_films_cost_their_rows_and_no_others(tmp_path: Path):
    """The playlist names a good film beside it: nothing that a film says is opened."""
    good = write(tmp_path / "good.mp4", still(0, 3))
    write_sound(tmp_path / "sound.mp4")
    for name, data in {
        "empty": b"", "text": b"no film at all " * 50, "cut": good.read_bytes()[: good.stat().st_size // 2],
        "list": b"#EXTM3U\n#EXTINF:3,\ngood.mp4\n#EXT-X-ENDLIST\n",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.mp4").write_bytes(data)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "picture.mp4", "WEBP")
    rows = read_source(parse_config({"dataset": {"source": str(tmp_path)}}, "test"))
    assert [row.url.partition("#")[0] for row in rows if not problem_of(row)] == [good.as_uri()]
    lost = {Path(row.url).stem: problem_of(row) for row in rows if problem_of(row)}
    assert sorted(lost) == ["cut", "empty", "list", "picture", "sound", "text"]
    assert "it is an image (WEBP), not a film; `clipcap caption` captions" in lost.pop("picture")
    assert "no pictures" in lost.pop("sound")
    assert all("cannot be read" in reason and "expected MP4" in reason for reason in lost.values()), lost


def test_a_film_that_ends_early_keeps_what_there_is(tmp_path: Path):
    whole = write(tmp_path / "whole.mkv", [frame for n in range(8) for frame in moving(n, 2)]).read_bytes()
    short = tmp_path / "short.mkv"
    short.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "whole.mkv").unlink()
    rows = read_source(parse_config({"dataset": {"source": str(short)}}, "test"))
    assert sum(not problem_of(row) for row in rows) >= 2
    assert [row.problem for row in rows if row.problem] and "ends at" in rows[-1].problem


def test_a_decoder_that_dies_or_hangs_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    film = write(tmp_path / "film.mp4", still(0, 1))
    real = decode.subprocess.Popen
    dies, hangs = "import os; os.kill(os.getpid(), 11)", "import time; time.sleep(60)"
    for program, reason in ((dies, "by SIGSEGV"), (hangs, "given up")):
        monkeypatch.setattr(
            decode.subprocess, "Popen", lambda command, _p=program, **kw: real([command[0], "-c", _p], **kw)
        )
        assert reason in scan_film(film, FilmConfig(timeout_s=1.0)).problem


def test_the_second_look_is_remembered_until_the_film_or_the_settings_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    film = write(tmp_path / "film.mp4", [*still(0, 2), *still(1, 2)])
    first = scan_film(film, FilmConfig())
    looked: list[object] = []
    work = decode._work
    monkeypatch.setattr(decode, "_work", lambda *a: looked.append(a) or work(*a))
    assert scan_film(film, FilmConfig()) == first and looked == []
    scan_film(film, FilmConfig(max_gap_s=1.0))
    assert len(looked) == 1
    for file in (cache / "clipcap" / "films").iterdir():
        file.write_text("{")
    assert scan_film(film, FilmConfig()) == first and len(looked) == 2


def test_an_address_of_a_frame(tmp_path: Path):
    span = Span(12.48, 10.0, 20.0)
    assert frame_address("file:///a%20b.mp4", span) == "file:///a%20b.mp4#t=12.480&span=10.000,20.000"
    assert parse_location(frame_location("file:///a%20b.mp4", span)) == ("file:///a%20b.mp4", 12.48)
    assert parse_location("file:///shard.tar#a/t%3D1.000.jpg") is None


def test_frames_are_taken_at_the_download_and_lost_ones_say_why(tmp_path: Path):
    film = write(tmp_path / "a film.mp4", [*still(0, 1), *still(1, 1)])
    url, gone = film.as_uri(), (tmp_path / "gone.mp4").as_uri()
    places = [f"{url}#t=0.400", f"{url}#t=1.500", f"{url}#t=9.000", f"{gone}#t=0.000"]
    rows = pa.table({"sample_key": ["k0", "k1", "k2", "k3"], "location": places})
    fetched = extract(rows, tmp_path / "00000.tar", 2**20)
    assert fetched["k0"].is_ok and fetched["k1"].is_ok
    assert "no frame at this time" in fetched["k2"].error and "not there any more" in fetched["k3"].error
    with tarfile.open(tmp_path / "00000.tar") as archive:
        images = {m.name: np.asarray(Image.open(archive.extractfile(m)).convert("RGB"), int) for m in archive}
    for name, number in (("k0.image", 0), ("k1.image", 1)):
        assert np.abs(images[name] - picture(number)).mean() < 8
