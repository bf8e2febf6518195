"""The registry as its users meet it: what commands print, change and refuse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_lake import BATCH, NEW, OLD

from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.records import Decision

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lake(tiny: Any) -> Path:
    """The tiny lake with two models, both promoted by nobody yet, and a decision about one of them."""
    tiny.commit()
    decision = Decision(
        decided_at=tiny.now, run_id="r", candidate_model_id=NEW, production_model_id="", verdict="refused",
        reason="cider did not rise", evidence={"images": 2},
    )  # fmt: skip
    commit_generation(tiny.lake, decision=decision)
    return Path(tiny.lake.root)


@pytest.mark.usefixtures("no_server")
def test_promoting_and_going_back(lake: Path, clipcap: Cli, tiny: Any) -> None:
    code, out, err = clipcap("models", "promote", OLD, "--reason", "a start", "--data-dir", lake)
    assert (code, out) == (0, f"in production: {OLD}\n") and "no event was emitted" in err
    code, out, _ = clipcap("models", "promote", NEW, "--reason", "reads better", "--data-dir", lake, "--json")
    assert code == 0 and json.loads(out) == {
        "model_id": NEW, "previous_model_id": OLD, "reason": "reads better", "is_rollback": False,
        "event_emitted": False,
    }  # fmt: skip
    shown = json.loads(clipcap("models", "list", "--data-dir", lake, "--json")[1])
    assert {row["model_id"]: row["is_production"] for row in shown} == {OLD: False, NEW: True}
    code, out, err = clipcap("models", "rollback", "--data-dir", lake)
    assert (code, out) == (0, f"in production: {OLD}; before it {NEW}\n")
    assert "goes back" not in err, "none was before it"
    code, _, err = clipcap("models", "rollback", "--data-dir", lake)
    assert code == 1 and err.count("\n") == 1 and "nothing to roll back to" in err
    assert [p.model_id for p in read_current(tiny.lake).promotions] == [OLD, NEW, OLD]
    _, _, err = clipcap("models", "promote", NEW, "--reason", "once more", "--data-dir", lake)
    assert "`clipcap models rollback` goes back" in err


def test_events_say_what_was_promoted_by_hand(lake: Path, clipcap: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import events

    sent = []
    monkeypatch.setattr(events, "emit", lambda name, about, payload: sent.append((name, about, payload)) or True)
    _, out, err = clipcap("models", "promote", NEW, "--reason", "why", "--data-dir", lake, "--json")
    assert json.loads(out)["event_emitted"] and "no event" not in err
    facts = {"model_id": NEW, "previous_model_id": "", "reason": "why", "is_rollback": False, "by": "hand"}
    assert sent == [("clipcap.model.promoted", NEW, facts)]


def test_wrong_and_damaged_models_are_one_clear_line(lake: Path, clipcap: Cli, tiny: Any) -> None:
    code, _, err = clipcap("models", "promote", "gone", "--reason", "why", "--data-dir", lake)
    assert code == 1 and err.count("\n") == 1 and "'gone'" in err and OLD in err
    assert clipcap("models", "promote", OLD, "--data-dir", lake)[0] == 2, "a reason has to be given"
    (tiny.lake.model(OLD) / "training.jsonl").write_text("damaged")
    code, _, err = clipcap("models", "promote", OLD, "--reason", "why", "--data-dir", lake)
    assert code == 1 and err.count("\n") == 1 and f"model {OLD} is damaged" in err
    assert read_current(tiny.lake).promotions == []


def test_a_model_is_shown_with_its_scores_decisions_and_promotions(lake: Path, clipcap: Cli) -> None:
    clipcap("models", "promote", NEW, "--reason", "all the same", "--data-dir", lake)
    found = json.loads(clipcap("models", "show", NEW, "--data-dir", lake, "--json")[1])
    assert found["model_id"] == NEW and found["mapper"] == "mlp" and found["is_production"]
    scores = {(row["split"], row["metric"]): (row["value"], row["low"]) for row in found["scores"]}
    assert scores["test", "cider"] == (0.75, None)
    [decision] = found["decisions"]
    assert (decision["verdict"], decision["evidence"]) == ("refused", {"images": 2})
    [promotion] = found["promotions"]
    assert promotion["reason"] == "all the same"
    other = json.loads(clipcap("models", "show", OLD, "--data-dir", lake, "--json")[1])
    assert other["decisions"] == other["promotions"] == []
    _, out, _ = clipcap("models", "show", NEW, "--data-dir", lake)
    for text in ("Scores", "cider", "0.7500", "cider did not rise", "all the same"):
        assert text in out
    times = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\S*)", out)
    assert times and not any(times), "to the second"


def test_freezing_a_set_once(lake: Path, clipcap: Cli) -> None:
    command = ("models", "freeze", "--name", "autumn", "--data-dir", lake)
    code, out, _ = clipcap(*command, "--batch", BATCH, "--json")
    assert code == 0 and json.loads(out) == {
        "name": "autumn", "images": 2, "references": 4, "source_split": "test", "batch_ids": [BATCH]
    }  # fmt: skip
    code, _, err = clipcap(*command)
    assert code == 1 and "'autumn' already (2 images" in err and "sets never change" in err
    code, out, _ = clipcap("sql", "select count(*) as images from evaluation_sets", "--data-dir", lake, "--json")
    assert json.loads(out) == [{"images": 2}]
    assert clipcap("models", "freeze", "--name", "../x", "--data-dir", lake)[0] == 2
    assert clipcap("models", "freeze", "--name", "other", "--batch", "gone", "--data-dir", lake)[0] == 1


def test_a_later_model_of_a_run_says_that_it_is_not_in_production(
    lake: Path, clipcap: Cli, tiny: Any, capsys: Any
) -> None:
    from flows.results import print_run

    clipcap("models", "promote", OLD, "--reason", "a start", "--data-dir", lake)
    outcome = {"model_id": NEW, "split": "test", "images": 2, "metrics": {}, "intervals": {}, "report": "/report.html"}
    print_run(tiny.lake, outcome)
    lines = capsys.readouterr().out.splitlines()
    assert f"{NEW} is not in production ({OLD} is); `clipcap models promote {NEW} --reason …`" in "\n".join(lines)
    assert lines[-1] == "/report.html"
    print_run(tiny.lake, {**outcome, "model_id": OLD})
    assert "not in production" not in capsys.readouterr().out


def test_retraining_is_a_command(lake: Path, tmp_path: Path, clipcap: Cli) -> None:
    code, _, err = clipcap("retrain", "sample", "--data-dir", tmp_path / "no_lake")
    assert code == 1 and "there is no lake" in err
    code, _, err = clipcap("retrain", "sample", "--set", "retrain.start=tepid", "--data-dir", lake)
    assert code == 2 and "retrain.start" in err


def test_only_a_whole_model_is_added(small_run: Any, clipcap: Cli, tmp_path: Path) -> None:
    """Refused at once is what a night could not use; the lake is not even begun."""
    folder = next(small_run.lake.root.glob("models/*"))
    new = tmp_path / "new"

    def refused(model: Path, *more: str) -> str:
        code, out, err = clipcap("models", "add", model, "--data-dir", new, *more)
        assert code == 1 and not out and not (new / "CURRENT").exists()
        return err

    assert "config.json is missing" in refused(tmp_path)
    assert "give a --name of a-z" in refused(folder, "--name", "My Model!")
    blind = Path(shutil.copytree(folder, tmp_path / "blind"))
    settings = json.loads((blind / "config.json").read_text())
    (blind / "config.json").write_text(json.dumps(settings | {"encoder": ""}))
    assert "which encoder it reads" in refused(blind) and "--encoder NAME" in refused(blind)
    (blind / "config.json").write_text(json.dumps(settings | {"prefix_length": 99}))
    assert "mapping.safetensors" in refused(blind)

    code, out, _ = clipcap("models", "add", folder, "--name", "brought", "--data-dir", new, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["is_new"] and facts["model_id"].startswith("brought-")
    assert read_current(Lake(new)).production_model_id == "", "a person promotes it"
