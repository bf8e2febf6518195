"""Messages about runs: what goes out, to whom, and that none of it can fail a run or give an address away."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from clipcap.config import NotifyConfig, parse_config
from clipcap.errors import ConfigError
from flows import notify as module
from flows.notify import configure, notify

SECRET = "T0KEN-of-the-webhook"


class Listener:
    """A webhook on 127.0.0.1 that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.messages.append(json.loads(body) | {"path": self.path, "type": self.headers["Content-Type"]})
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/{SECRET}"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("MY_HOOK", listener.address)
    monkeypatch.delenv(module.DEFAULT_VARIABLE, raising=False)
    yield listener
    configure(NotifyConfig())
    listener.server.shutdown()
    listener.server.server_close()
    thread.join()


MINE = NotifyConfig(webhook_env="MY_HOOK")


def test_a_message_is_one_json_object_that_slack_shows_too(listener: Listener) -> None:
    assert notify("refused", "m2 was not promoted", {"model": "m2", "reason": "cider fell", "left_out": ""}, MINE)
    [message] = listener.messages
    assert message["type"] == "application/json" and message["path"] == f"/{SECRET}"
    assert (message["kind"], message["title"]) == ("refused", "m2 was not promoted")
    assert message["facts"]["reason"] == "cider fell"
    assert message["text"] == "m2 was not promoted\nmodel: m2\nreason: cider fell"


def test_a_run_says_once_where_its_messages_go(listener: Listener) -> None:
    configure(MINE)
    assert notify("failed", "a night failed", {})
    assert len(listener.messages) == 1


def test_the_default_variable_is_enough(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notify("failed", "nobody listens", {})
    monkeypatch.setenv(module.DEFAULT_VARIABLE, listener.address)
    assert notify("failed", "somebody listens", {})
    assert [message["title"] for message in listener.messages] == ["somebody listens"]


@pytest.mark.parametrize("broken", ["500", "gone", "no address"])
def test_what_cannot_be_told_fails_nothing_and_gives_no_address_away(
    listener: Listener, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    listener.status = 500
    if broken == "gone":
        monkeypatch.setenv("MY_HOOK", f"http://127.0.0.1:9/{SECRET}")
    if broken == "no address":
        monkeypatch.setenv("MY_HOOK", f"gopher:{SECRET}")
    assert notify("failed", "x", {}, MINE) is False
    assert "nobody was told by webhook" in caplog.text
    assert SECRET not in caplog.text


def test_an_address_in_a_fact_is_struck_out(listener: Listener) -> None:
    notify("failed", f"cannot reach {listener.address}", {"reason": f"POST {listener.address}: 500"}, MINE)
    text = json.dumps({k: v for k, v in listener.messages[0].items() if k != "path"})
    assert SECRET not in text and "POST ***: 500" in text


def test_no_secret_is_told(listener: Listener) -> None:
    facts = {"reason": "s3://k:s3cret@bucket is gone", "batches": {"x": ["https://h.test/?sig=s3cret"]}}
    notify("failed", "no https://h.test/?token=s3cret", facts, MINE)
    text = json.dumps(listener.messages[0])
    assert "s3cret" not in text and "no https://h.test/?***" in text and "s3://***@bucket is gone" in text


def test_a_variable_that_is_not_set_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert not notify("failed", "x", {}, NotifyConfig(webhook_env="NOT_THERE"))
    assert "NOT_THERE" in caplog.text


def test_an_address_in_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"notify.webhook_env"):
        parse_config({"notify": {"webhook_env": "https://hooks.test/secret"}})


@pytest.mark.usefixtures("prefect_harness")
def test_a_flow_that_fails_tells_it_with_its_reason(listener: Listener, tmp_path: Any) -> None:
    from clipcap.errors import DataError
    from flows.nightly import caption_nightly

    with pytest.raises(DataError):
        caption_nightly("sample", ['notify.webhook_env="MY_HOOK"'], str(tmp_path / "lake"))
    [message] = listener.messages
    assert message["kind"] == "failed" and message["facts"]["flow"] == "caption-nightly"
    assert "no model in production" in message["facts"]["reason"]
    assert message["facts"]["run"].startswith("nightly sample 2")


@pytest.mark.usefixtures("prefect_harness")
def test_a_block_hears_too(listener: Listener) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    CustomWebhookNotificationBlock(
        name="mine",
        url=listener.address,
        method="POST",
        json_data={"text": "{{body}}", "subject": "{{subject}}"},
        allow_private_urls=True,
    ).save("mine", overwrite=True)
    config = NotifyConfig(block="custom-webhook/mine")
    assert notify("failed", "a night failed", {"why": "x"}, config)
    [message] = listener.messages
    assert message["subject"] == "a night failed" and message["text"].endswith("why: x")
