"""Films from the command line: now, and through the lake to SQL and WebVTT, which another parser reads."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import webvtt

from clipcap.dataset.scenes import render, scene
from clipcap.films.vtt import Cue, to_vtt

LENGTHS = (2, 1.4, 3)


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three scenes with cuts between them, below a folder whose name is no plain one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "my films" / "été #1.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 96, 96, "yuv420p"
        for number, seconds in enumerate(LENGTHS):
            pixels = np.asarray(render(scene(9_000 + number, seed=1, image_size=96)))
            for _ in range(round(seconds * 10)):
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    return path


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def test_a_film_goes_through_the_lake_as_any_other_batch(clipcap, copied, small_run, film: Path, no_server):
    """Landed, downloaded, embedded, captioned, published: SQL has its captions by time, and lineage leads back."""
    (film.parent / "broken.mp4").write_bytes(b"no film")
    code, out, _ = clipcap("land", film.parent, "--dataset", "film", "--data-dir", copied.root, "--json")
    facts = json.loads(out)
    assert (code, facts["rows"]) == (0, {"ok": 3, "failed": 1})
    sets = [part for override in small_run.overrides for part in ("--set", override)]
    lake = ("--data-dir", copied.root, "--json")
    code, out, err = clipcap("nightly", "sample", *sets, "--batch", facts["batch_id"], *lake)
    assert code == 0, err
    rows = json.loads(clipcap("sql", "from film_captions order by start_s", *lake)[1])
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(0.0, 2.0), (2.0, 3.4), (3.4, 6.4)]
    assert {row["film"] for row in rows} == {film.as_uri()}
    assert all(row["start_s"] <= row["time_s"] < row["end_s"] and row["caption"] for row in rows)
    lineage = "select image_shard, embedding_file from lineage semi join film_captions using (sample_key, model_id)"
    found = json.loads(clipcap("sql", lineage, *lake)[1])
    assert len(found) == 3 and all(all(row.values()) for row in found)
    [lost] = json.loads(clipcap("sql", "select reason from ledger where reason like 'film: %'", *lake)[1])
    assert "cannot be read" in lost["reason"]

    target = film.parent / "out.vtt"
    code, _, _ = clipcap("film", "vtt", film, "--out", target, "--data-dir", copied.root)
    cues = list(webvtt.read(target))
    assert code == 0 and " ".join(cue.text for cue in cues).split() == " ".join(
        row["caption"] for number, row in enumerate(rows) if not number or row["caption"] != rows[number - 1]["caption"]
    ).split()
    code, _, err = clipcap("film", "vtt", "other.mp4", "--data-dir", copied.root)
    assert code == 1 and "captioned films: file:///" in err


def test_a_film_is_captioned_now(clipcap, small_run, film: Path, tmp_path: Path):
    code, out, _ = clipcap("film", "caption", film, "--dry-run", "--json")
    parts = json.loads(out)[0]["parts"]
    assert code == 0 and [part["start_s"] for part in parts] == [0.0, 2.0, 3.4] and not any(p["caption"] for p in parts)
    target = tmp_path / "film.vtt"
    code, out, err = clipcap("film", "caption", film, "--data-dir", small_run.lake.root, "--out", target, "--json")
    assert code == 0, err
    parts = json.loads(out)[0]["parts"]
    cues = list(webvtt.read(target))
    assert all(part["caption"] for part in parts)
    assert seconds(cues[0].start) == 0.0 and seconds(cues[-1].end) == 6.4
    for cue in cues:  # what stands there at any time is what was seen then
        middle = (seconds(cue.start) + seconds(cue.end)) / 2
        [seen] = [part["caption"] for part in parts if part["start_s"] <= middle < part["end_s"]]
        assert cue.text.split() == seen.split()
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    code, out, err = clipcap("film", "caption", tmp_path / "broken.mp4", "--data-dir", small_run.lake.root)
    assert code == 1 and "cannot be read" in err
    code, out, err = clipcap("film", "caption", tmp_path / "none.mp4")
    assert code == 1 and "there is no film" in err


def test_what_a_caption_may_hold_is_shown_and_not_obeyed(tmp_path: Path):
    """Merged where neighbours say the same; another parser reads back times, order and text."""
    cues = [
        Cue(3600.5, 3601.0, "last"), Cue(0.0, 1.0, "a <b>dog</b> & --> cat\n\nNOTE x\x00"), Cue(2.0, 3.0, "same"),
        Cue(3.0, 4.0, " same "), Cue(4.5, 5.0, "same"), Cue(6.0, 6.0, "no time"), Cue(7.0, 8.0, " "),
    ]  # fmt: skip
    (tmp_path / "x.vtt").write_text(to_vtt(cues, "a --> b\n\n1"), encoding="utf-8")
    raw = (tmp_path / "x.vtt").read_text(encoding="utf-8")
    back = [(cue.start, cue.end, cue.raw_text) for cue in webvtt.read(tmp_path / "x.vtt")]
    assert [(start, end) for start, end, _ in back] == [
        ("00:00:00.000", "00:00:01.000"), ("00:00:02.000", "00:00:04.000"), ("00:00:04.500", "00:00:05.000"),
        ("01:00:00.500", "01:00:01.000"),
    ]  # fmt: skip
    assert raw.count("-->") == 4 and "<" not in raw and "\x00" not in raw
    assert "a &lt;b&gt;dog&lt;/b&gt; &amp; --&gt; cat NOTE x" in raw
