"""``clipcap caption`` as its users meet it: going on, lists on standard input, pages, and what TAB offers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flows import caption_progress, captions

Cli = Callable[..., tuple[int, str, str]]


def test_the_same_command_goes_on(small_run, holiday: Path, tmp_path: Path, clipcap: Cli):
    out = tmp_path / "c.jsonl"
    command = ("caption", holiday, "--out", out, "--data-dir", small_run.lake.root, "--json")
    first, second = (json.loads(clipcap(*command)[1]) for _ in range(2))
    assert (first["captioned"], first["kept"]) == (3, 0) and (second["captioned"], second["kept"]) == (0, 3)
    code, _, err = clipcap(*command, "--beam-size", 1)
    assert code == 2 and "other weights or settings" in err and len(out.read_text().splitlines()) == 3


def test_ctrl_c_keeps_what_is_finished(small_run, holiday: Path, tmp_path: Path, clipcap: Cli, monkeypatch):
    def one_then_stop(*arguments, **options):
        yield next(real(*arguments, **options))
        raise KeyboardInterrupt

    real, out = captions.caption_images, tmp_path / "c.jsonl"
    command = ("caption", holiday, "--out", out, "--data-dir", small_run.lake.root)
    with monkeypatch.context() as stopped:
        stopped.setattr(captions, "caption_images", one_then_stop)
        code, _, err = clipcap(*command)
    assert code == 130 and "the same command goes on from there" in err
    assert len(out.read_text().splitlines()) == 1
    assert "2 captioned, 0 failed, 1 were there before" in clipcap(*command)[1]


def test_killed_in_the_middle_nothing_is_lost_and_nothing_twice(small_run, holiday: Path, tmp_path: Path):
    names = [tmp_path / f"{number}.png" for number in range(64 + 5)]  # one batch and the beginning of another
    for number, name in enumerate(names):
        os.link(holiday / f"{number % 3}.png", name)
    out = tmp_path / "c.jsonl"
    command = [sys.executable, "-m", "flows.cli", "caption", "-", "--out", out, "--data-dir", small_run.lake.root]
    lines = "".join(f"{name}\n" for name in names)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stdin
        running.stdin.write(lines)
        running.stdin.flush()  # and stays open: the second batch waits for more
        until = time.monotonic() + 120
        while (not out.exists() or out.read_bytes().count(b"\n") < 64) and time.monotonic() < until:
            time.sleep(0.1)
        running.kill()
    assert out.read_bytes().count(b"\n") == 64
    again = subprocess.run(command, input=lines, capture_output=True, text=True)
    assert "5 captioned, 0 failed, 64 were there before" in again.stdout, again.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == list(map(str, names)) and {row["status"] for row in rows} == {"ok"}


def test_a_list_on_standard_input(small_run, holiday: Path, clipcap: Cli):
    text = f"{holiday / '0.png'}\n\n/none.png\n"
    code, out, _ = clipcap("caption", "-", "--jsonl", "--data-dir", small_run.lake.root, stdin=text)
    assert code == 0 and [json.loads(line)["status"] for line in out.splitlines()] == ["ok", "failed"]


def test_many_rows_are_lines_in_order(small_run, holiday: Path, clipcap: Cli, monkeypatch):
    monkeypatch.setattr(captions, "TABLE_ROWS", 2)
    out = clipcap("caption", holiday, "--data-dir", small_run.lake.root)[1]
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(holiday / f"{n}.png") for n in range(3)]


def test_a_folder_says_how_far_it_is_and_what_it_leaves_out(small_run, holiday: Path, tmp_path: Path, clipcap: Cli,
                                                            monkeypatch):  # fmt: skip
    monkeypatch.setattr(caption_progress, "SAY_EVERY_S", 0.0)
    (holiday / "README").touch()
    command = ("caption", holiday, "--out", tmp_path / "c.jsonl", "--data-dir", small_run.lake.root)
    err = clipcap(*command)[2]
    assert err.count("left out") == 1 and "3 .txt, 1 without an ending" in err
    assert "1 of 3 images, 0 failed" in err and "3 of 3 images" in err and "0 s left" in err
    (holiday / "new.png").write_bytes((holiday / "0.png").read_bytes())
    assert "1 of 1 images" in clipcap(*command)[2], "what was there before is no work"
    err = clipcap("caption", "-", "--jsonl", "--data-dir", small_run.lake.root, stdin=f"{holiday}\n")[2]
    assert "4 images, 0 failed" in err and "left" not in err, "how long a list is shows at its end"


def test_a_contact_sheet_holds_pictures_reasons_and_no_markup(small_run, holiday: Path, tmp_path: Path, clipcap: Cli):
    from selectolax.lexbor import LexborHTMLParser

    (holiday / "<b>bad&.png").write_text("x")
    exif = Image.Exif()
    exif[0x010E] = "SECRETPLACE"
    Image.new("RGB", (900, 30), "red").save(holiday / "e.jpg", exif=exif)
    page = tmp_path / "o.html"
    assert clipcap("caption", holiday, "--html", page, "--data-dir", small_run.lake.root)[0] == 0
    tree = LexborHTMLParser(page.read_text())
    assert len(tree.css("figure")) == 5 and len(tree.css("img")) == 4 and not tree.css("b")
    assert len(tree.css(".failed")) == 1 and "no caption" in tree.css_first(".failed").text()
    for image in tree.css("img"):
        assert b"SECRETPLACE" not in base64.b64decode(image.attributes["src"].partition(",")[2])


@pytest.mark.parametrize("wrong", [("--method", "nonsense"), ("--rerank", 2)])
def test_wrong_use_is_told_before_anything_is_loaded(small_run, holiday: Path, clipcap: Cli, wrong: tuple[str, object]):
    code, out, err = clipcap("caption", holiday, *wrong, "--data-dir", small_run.lake.root)
    assert (code, out, err.count("\n")) == (2, "", 1) and wrong[0].removeprefix("--") in err and str(wrong[1]) in err


def test_a_device_that_is_not_there_names_those_that_are(small_run, holiday: Path, clipcap: Cli):
    for name in ("tpu", "xpu", "nonsense"):
        code, _, err = clipcap("caption", holiday, "--device", name, "--data-dir", small_run.lake.root)
        assert code == 1 and "this machine has: auto, cpu" in err


@pytest.mark.parametrize(
    "shell, variables",
    [("bash", {"COMP_WORDS": "clipcap caption --model sam", "COMP_CWORD": "3"}),
     ("zsh", {"_TYPER_COMPLETE_ARGS": "clipcap caption --model sam"}),
     ("fish", {"_TYPER_COMPLETE_ARGS": "clipcap caption --model sam", "_TYPER_COMPLETE_FISH_ACTION": "get-args"})],
)  # fmt: skip
def test_tab_offers_the_lakes_models(small_run, shell: str, variables: dict[str, str]):
    environment = {**os.environ, **variables, "_CLIPCAP_COMPLETE": f"complete_{shell}",
                   "CLIPCAP_DATA_DIR": str(small_run.lake.root)}  # fmt: skip
    program = (
        "import sys; sys.argv = ['clipcap']\n"
        "from flows.cli import app\n"
        "try: app(prog_name='clipcap')\n"
        "finally: assert not {'torch', 'duckdb', 'prefect'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert small_run.outcome["model_id"] in done.stdout, done.stderr
    assert "AssertionError" not in done.stderr
