"""A file of captions: what is finished stays, is not done again, and belongs to one model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from clipcap.caption_file import CaptionFile
from clipcap.captioning import CaptionedImage
from clipcap.errors import ConfigError, DataError


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"x" * number)
    return [str(tmp_path / f"{number}.png") for number in range(4)]


def opened(path: Path, made_by: str = "m1") -> CaptionFile:
    return CaptionFile(path, "tiny", made_by)


def fill(path: Path, images: list[str]) -> list[str]:
    """Captions what is missing; names what it captioned."""
    with closing(opened(path)) as file:
        new = list(file.missing(images))
        file.append(CaptionedImage(image, caption="a\nline", captions=["a\nline"]) for image in new)
    return new


def test_what_is_there_is_skipped_until_it_changes(images: list[str], tmp_path: Path):
    out = tmp_path / "c.jsonl"
    assert fill(out, [*images, images[0]]) == images
    assert fill(out, images) == []
    Path(images[2]).write_bytes(b"other")
    os.utime(images[3], ns=(1, 1))
    assert fill(out, images) == images[2:]
    assert len(out.read_bytes().splitlines()) == 6


def test_a_failed_image_is_tried_again_and_said_once(images: list[str], tmp_path: Path):
    out = tmp_path / "c.jsonl"
    for reason in ("no", "no", "another"):
        with closing(opened(out)) as file:
            assert list(file.missing(images[:1])) == images[:1]
            file.append([CaptionedImage(images[0], "failed", reason)])
    assert [json.loads(line)["reason"] for line in out.read_text().splitlines()] == ["no", "another"]


def test_a_torn_last_line_is_done_again(images: list[str], tmp_path: Path):
    out = tmp_path / "c.jsonl"
    fill(out, images)
    whole = out.read_bytes()
    out.write_bytes(whole[:-7])
    assert fill(out, images) == images[3:]
    assert out.read_bytes() == whole


def test_a_killed_writer_leaves_only_whole_rows(tmp_path: Path):
    out = tmp_path / "c.jsonl"
    program = (
        "import sys; from pathlib import Path; from itertools import count\n"
        "from clipcap.caption_file import CaptionFile; from clipcap.captioning import CaptionedImage\n"
        "file = CaptionFile(Path(sys.argv[1]), 'tiny', 'm1')\n"
        "def rows():\n"
        "    for n in count():\n"
        "        if n == 300: print('go', flush=True)\n"
        "        yield CaptionedImage(f'{n}.png', caption='x' * 5000)\n"
        "file.append(rows())"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    with closing(opened(out)) as file:
        assert file.kept >= 300
    names = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert names == [f"{number}.png" for number in range(file.kept)]


def test_another_model_another_file_and_a_second_writer_are_refused(images: list[str], tmp_path: Path):
    out = tmp_path / "c.jsonl"
    fill(out, images)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match="name another file with --out"):
        opened(out, "m2")
    with closing(opened(out)), pytest.raises(DataError, match="another command writes"):
        opened(out)
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        opened(tmp_path / "c.parquet")
    with pytest.raises(DataError, match="cannot be written"):
        opened(tmp_path / "none" / "c.jsonl")
    (tmp_path / "theirs.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="line 1 of"):
        opened(tmp_path / "theirs.jsonl")
    assert out.read_bytes() == before and (tmp_path / "theirs.jsonl").read_text() == '{"a": 1}\n'


def test_a_name_that_is_no_utf_8_comes_back(tmp_path: Path):
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff\x1b[31m.png")
    Path(name).write_bytes(b"x")
    assert fill(tmp_path / "c.jsonl", [name]) == [name]
    assert b"\x1b" not in (tmp_path / "c.jsonl").read_bytes()
    assert fill(tmp_path / "c.jsonl", [name]) == []
