"""Captions and addresses that are SQL, HTML, terminal codes or formulas arrive as what they are: text."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from clipcap.config import Config, DatasetConfig
from clipcap.dataset.land import land, read_landing
from clipcap.errors import ConfigError
from clipcap.redaction import redact, redact_text, redact_url, shown_url, without_userinfo
from clipcap.storage.lake import Lake, resolve_data_dir
from clipcap.storage.manifest import commit_generation
from clipcap.warehouse.queries import query

CAPTIONS = [
    "'); drop table captions; --",
    '" or 1=1 --',
    "$name {{ 7*7 }} ${HOME} %s %(x)s {0}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b31m",
    "left \u202eright\u202c to left \u200f\u061c",
    "a\x00b",
    "=HYPERLINK(\"http://evil.test\",\"x\")",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1",
    "-1+1|cmd",
    "\t=1+1",
    "a\r\nb\nc,d;e\"f",
    "[bold red]markup[/] :boom: [link=http://evil.test]x[/link]",
    "\ufeffmark",
    "👩‍👩‍👧 \U0010ffff ẞ",
    "é" * 20_000,
    "null",
    "NaN",
]  # fmt: skip
QUERY = "select url, captions[1] as caption from source_urls order by sample_key"


def hostile_url(number: int) -> str:
    return f"http://a.test/{number}/%27;drop%20table/<b>\u202e\x1b[31m\"'"


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def lake(request, tmp_path_factory) -> Lake:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"url": hostile_url(n), "caption": text} for n, text in enumerate(CAPTIONS)]
    path = folder / f"list.{request.param}"
    if request.param == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    lake = Lake(folder / "lake")
    entry = land(lake, read_landing(Config(dataset=DatasetConfig(source=str(path), name="text"))))
    assert entry.rows == {"ok": len(CAPTIONS)}
    commit_generation(lake, [entry])
    return lake


def expected() -> list[str]:
    return [text.strip() for text in CAPTIONS]


def printed(lake: Lake, *options: str) -> str:
    from flows.cli import app

    done = CliRunner().invoke(app, ["sql", QUERY, "--data-dir", str(lake.root), *options])
    assert done.exit_code == 0, done.output
    return done.stdout_bytes.decode()  # .stdout would tidy its line ends


def test_the_catalog_holds_them_letter_by_letter(lake: Lake):
    rows = query(lake, QUERY).to_pylist()
    assert [row["caption"] for row in rows] == expected()
    assert [row["url"] for row in rows] == [hostile_url(n) for n in range(len(CAPTIONS))]


def test_they_are_values_of_a_query_too(lake: Lake):
    for text in expected():
        found = query(lake, "select count(*) as n from source_urls where captions[1] = $text", {"text": text})
        assert found.to_pylist() == [{"n": 1}]


def test_json_says_the_same_and_nothing_to_a_terminal(lake: Lake):
    text = printed(lake, "--json")
    assert [row["caption"] for row in json.loads(text)] == expected()
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert not set(text) & set("\u202e\u202c\u200f\u061c")


def test_csv_says_the_same(lake: Lake):
    rows = list(csv.DictReader(io.StringIO(printed(lake, "--csv"), newline="")))
    assert [row["caption"] for row in rows] == expected()


def test_a_table_obeys_nothing(lake: Lake):
    text = printed(lake)
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "[bold red]markup" in text and "\\x1b[31mred" in text


def test_a_spreadsheet_runs_no_formula(lake: Lake):
    from flows import console

    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        console.print_csv([{"caption": text} for text in CAPTIONS], ["caption"], is_spreadsheet=True)
    cells = [row["caption"] for row in csv.DictReader(io.StringIO(out.getvalue(), newline=""))]
    assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "+", "-", "@")]
    assert [cell.removeprefix("'") if before[:1] != "'" else cell for cell, before in zip(cells, CAPTIONS, strict=True)
            ] == CAPTIONS  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=6))
def test_any_text_goes_through_landing_unchanged(tmp_path_factory, texts: list[str]):
    folder = tmp_path_factory.mktemp("any")
    with (folder / "l.jsonl").open("w", encoding="utf-8") as stream:
        for number, text in enumerate(texts):
            stream.write(json.dumps({"url": f"http://a.test/{number}", "caption": text}) + "\n")
    landing = read_landing(Config(dataset=DatasetConfig(source=str(folder / "l.jsonl"))))
    lake = Lake(folder / "lake")
    land(lake, landing)
    stored = pq.read_table(lake.urls(landing.batch_id)).to_pylist()
    assert [row["captions"] for row in stored] == [[text.strip()] if text.strip() else [] for text in texts]


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path: Path):
    (tmp_path / "l.jsonl").write_text('{"url": "http://a.test/\\ud800", "caption": "\\udfff x"}\n')
    landing = read_landing(Config(dataset=DatasetConfig(source=str(tmp_path / "l.jsonl"))))
    assert landing.rows[0]["captions"] == ["? x"] and landing.rows[0]["url"] == "http://a.test/?"


class TestSecrets:
    """What is copied for another purpose lets nobody in."""

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("https://h.test/a.tar?X-Amz-Signature=s3cret&x=1", "https://h.test/a.tar?***"),
            (
                "no tar at s3://AKIAABCDEFGHIJKLMNOP:s3cret@bucket/x.tar to land",
                "no tar at s3://***@bucket/x.tar to land",
            ),
            ("https://hooks.slack.com/services/T0/B0/s3cret", "https://hooks.slack.com/***"),
            ("https://discord.com/api/webhooks/1/s3cret", "https://discord.com/api/webhooks/***"),
            ("https://h.test/#access_token=s3cret", "https://h.test/#***"),
            ("https://h.test/x.tar#member.jpg", "https://h.test/x.tar#member.jpg"),
            ("Authorization: Bearer s3cret", "Authorization: ***"),
            ("password='s3cret'", "password='***'"),
            ("a dog with a token, 12 tokens", "a dog with a token, 12 tokens"),
            ("/data/list.parquet", "/data/list.parquet"),
        ],
    )
    def test_texts(self, text: str, shown: str):
        assert redact_text(text) == shown
        assert redact_text(shown) == shown, "twice is once"

    def test_a_report_keeps_what_is_no_secret(self):
        assert shown_url("https://h.test/a.jpg?w=800&h=600") == "https://h.test/a.jpg?w=800&h=600"
        assert shown_url("https://h.test/a.jpg?w=800&sig=s3cret#x") == "https://h.test/a.jpg?w=800&sig=***#x"
        assert "s3cret" not in shown_url("https://me:s3cret@h.test/?X-Amz-Credential=s3cret;token=s3cret")
        assert shown_url(f"https://h.test/?x={'a1' * 20}") == "https://h.test/?x=***"

    def test_configurations(self):
        config = Config(dataset=DatasetConfig(source="https://me:pw@h.test/x.tar?sig=s3cret")).model_dump()
        copied = redact(config)
        assert copied["dataset"]["source"] == "https://***@h.test/x.tar?***"
        assert {k: v for k, v in copied.items() if k != "dataset"} == json.loads(
            json.dumps({k: v for k, v in config.items() if k != "dataset"})
        )

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=60))
    def test_any_text(self, text: str):
        for function in (redact_text, redact_url, shown_url, without_userinfo):
            assert isinstance(function(text), str)
        assert "s3cret" not in redact_text(f"https://u:s3cret@h.test/{text.replace('s3cret', '')}")

    def test_log_lines_and_messages_of_the_command_line(self, capsys):
        import logging

        from flows import console

        logger = logging.getLogger("clipcap")
        before = (logger.handlers, logger.level, logger.propagate)
        try:
            console.show_log()
            logging.getLogger("clipcap.flows").info("land %s", "https://h.test/x.tar?sig=s3cret\x1b[31m")
        finally:
            logger.handlers, logger.level, logger.propagate = before
        line = capsys.readouterr().err
        assert "https://h.test/x.tar?***" in line and "s3cret" not in line and "\x1b" not in line
        assert console.message(ValueError("no https://h.test/?k=s3cret\x1b[2J")) == "no https://h.test/?***"

    def test_errors_hold_none_wherever_they_are_written(self):
        import pickle

        from clipcap.errors import DataError

        error = DataError("https://h.test/x.tar?sig=s3cret cannot be read")
        assert str(error) == "https://h.test/x.tar?*** cannot be read" and "s3cret" not in repr(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error), "as it comes back from a worker"

    @pytest.mark.parametrize("logger", ["prefect.flow_runs", "prefect.task_runs"])
    def test_what_the_orchestrator_logs_of_a_failure_holds_none(self, logger: str, caplog):
        import logging

        import tasks.policies  # noqa: F401  (puts the filter there)

        with caplog.at_level(logging.ERROR, logger=logger):
            prefects = logging.getLogger(logger)
            prefects.addHandler(caplog.handler)
            try:
                raise ValueError("no https://me:s3cret@h.test/?sig=s3cret")
            except ValueError:
                prefects.exception("Encountered an exception of %s", "https://h.test/?k=s3cret")
            finally:
                prefects.removeHandler(caplog.handler)
        assert "Encountered an exception of https://h.test/?***" in caplog.text and "ValueError" in caplog.text
        assert "s3cret" not in caplog.text

    def test_a_lake_is_named_without_a_password(self):
        with pytest.raises(ConfigError, match=r"s3://\*\*\*@bucket/lake holds a password.*AWS_PROFILE") as refused:
            resolve_data_dir("s3://me:s3cret@bucket/lake")
        assert "s3cret" not in str(refused.value)
        for kept in ("sftp://me@h.test/lake", "abfs://lake@account.test/x", "s3://bucket/a:b@c"):
            assert resolve_data_dir(kept) == kept

    def test_landing_refuses_a_password_and_stores_it_nowhere(self, tmp_path: Path):
        (tmp_path / "l.csv").write_text("url,caption\nhttp://me:s3cret@a.test/1.jpg,x\nhttp://a.test/2.jpg,y\n")
        lake = Lake(tmp_path / "lake")
        landing = read_landing(Config(dataset=DatasetConfig(source=str(tmp_path / "l.csv"))))
        entry = land(lake, landing)
        assert entry.rows == {"ok": 1, "failed": 1}
        ledger = pq.read_table(lake.absolute(entry.file("ledger").path)).to_pylist()
        assert ledger[0]["image_url"] == "http://***@a.test/1.jpg" and "user name or password" in ledger[0]["reason"]
        stored = b"".join(p.read_bytes() for p in lake.root.rglob("*") if p.is_file())
        assert b"s3cret" not in stored

    def test_a_run_publishes_no_query_of_its_source(self, tmp_path: Path):
        from datetime import UTC, datetime

        from clipcap.storage.manifest import read_current
        from clipcap.warehouse.publish import publish

        (tmp_path / "l.csv").write_text("url,caption\nhttp://a.test/2.jpg?sig=data,y\n")
        config = Config(dataset=DatasetConfig(source=str(tmp_path / "l.csv")))
        lake = Lake(tmp_path / "lake")
        entry = land(lake, read_landing(config))
        asked = config.model_copy(update={"dataset": DatasetConfig(source="https://h.test/l.tar?sig=s3cret")})
        publish(lake, [entry], "20260101T000000Z-aaaaaa", "pipeline", datetime.now(UTC), asked.model_dump())
        [run] = read_current(lake).runs
        assert run.config["dataset"]["source"] == "https://h.test/l.tar?***"
        assert b"s3cret" not in b"".join(p.read_bytes() for p in lake.root.rglob("*") if p.is_file())
        assert query(lake, "select url from source_urls").to_pylist() == [{"url": "http://a.test/2.jpg?sig=data"}]
