"""``clipcap evaluate`` and ``clipcap metrics diff``, and the comparison that a run makes by itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipcap.metrics.ptb_tokenizer import tokenize
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.warehouse.queries import query

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, object], Path]:
    def write(name: str, content: object) -> Path:
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return write


REFERENCES = {"1": ["a red ball"], "2": ["two dogs", "dogs play"], "3": ["a cat on a mat"]}
CANDIDATES = [{"image_id": 1, "caption": "a red ball"}, {"image_id": 2, "caption": "two dogs play"},
              {"image_id": 3, "caption": "a dog"}]  # fmt: skip

# clipcap evaluate


def test_evaluate_prints_one_flat_object_and_the_intervals(clipcap: Cli, written: Any) -> None:
    references, candidates = written("refs.json", REFERENCES), written("cands.json", CANDIDATES[:1])
    arguments = ("--references", references, "--candidates", candidates, "--json")
    code, out, _ = clipcap("evaluate", *arguments)
    scores = json.loads(out)
    assert code == 0 and scores["rouge_l"] == pytest.approx(1) and scores["bleu_1"] == pytest.approx(1)
    assert scores["intervals"]["rouge_l"] == [1.0, 1.0]
    assert list(scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "intervals"]
    assert list(json.loads(clipcap("evaluate", *arguments, "--metric", "cider")[1])) == ["cider", "intervals"]
    code, _, err = clipcap("evaluate", *arguments, "--metric", "blue_4")
    assert code == 2 and "blue_4" in err and "bleu_4" in err
    written("cands.json", [{"image_id": 7, "caption": "x"}])
    code, _, err = clipcap("evaluate", *arguments)
    assert code == 1 and "7" in err


def test_tab_offers_metrics(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from clipcap.metrics.evaluate_files import FILE_METRICS
    from flows.cli import app

    def offered(typed: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", f"clipcap evaluate --metric {typed}")
        monkeypatch.setenv("COMP_CWORD", "3")
        monkeypatch.setenv("_CLIPCAP_COMPLETE", "complete_bash")
        with pytest.raises(SystemExit):
            app(prog_name="clipcap")
        return capsys.readouterr().out.split()

    assert offered("bleu") == ["bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    assert offered("") == list(FILE_METRICS) and {"cider", "clip_score"} <= set(offered("")) and offered("x") == []


def test_counts_are_whole_numbers_in_tables(clipcap: Cli, written: Any) -> None:
    references, candidates = written("refs.json", REFERENCES), written("cands.json", CANDIDATES)
    files = ("--references", references, "--candidates", candidates)
    out = clipcap("evaluate", *files, "--metric", "vocabulary", "--metric", "cider")[1]
    [vocabulary] = [line for line in out.splitlines() if "vocabulary" in line]
    assert [cell.strip() for cell in vocabulary.split("│")][2] == "7", "a red ball two dogs play dog"
    assert re.search(r"cider +│ \d\.\d{4} ", out)


def test_intervals_follow_from_the_seed_the_confidence_and_the_resamples(clipcap: Cli, written: Any) -> None:
    files = ("--references", written("r.json", REFERENCES), "--candidates", written("c.json", CANDIDATES))

    def ends(*more: object) -> list[float]:
        return json.loads(clipcap("evaluate", *files, "--json", *more)[1])["intervals"]["cider"]

    assert ends() == ends("--resamples", 1000, "--seed", 0, "--confidence", 0.95)
    low, high = ends("--confidence", 0.5)
    assert ends()[0] <= low < high <= ends()[1]
    assert json.loads(clipcap("evaluate", *files, "--json", "--resamples", 0)[1])["intervals"] == {}
    assert clipcap("evaluate", *files, "--confidence", 2)[0] == 2
    _, table, _ = clipcap("evaluate", *files)
    assert "low" in table and "high" in table
    assert "low" not in clipcap("evaluate", *files, "--resamples", 0)[1]


def test_clip_score_needs_its_images_and_their_encoder(clipcap: Cli, written: Any) -> None:
    files = ("--references", written("r.json", REFERENCES), "--candidates", written("c.json", CANDIDATES))
    code, _, err = clipcap("evaluate", *files, "--metric", "clip_score")
    assert code == 2 and "--images DIR --encoder NAME" in err


# clipcap metrics diff, of files


def test_two_files_are_compared(clipcap: Cli, written: Any) -> None:
    better = written("a.json", {key: texts[0] for key, texts in REFERENCES.items()})
    worse, references = written("b.json", CANDIDATES), written("r.json", REFERENCES)
    command = ("metrics", "diff", better, worse, "--references", references)
    code, out, _ = clipcap(*command, "--json")
    rows = {row["metric"]: row for row in json.loads(out)}
    assert code == 0 and rows["rouge_l"]["difference"] > 0
    assert (rows["rouge_l"]["wins"], rows["rouge_l"]["ties"], rows["rouge_l"]["losses"]) == (2, 1, 0)
    _, table, _ = clipcap(*command)
    assert "3 images" in table and "rouge_l" in table and "interval" in table
    code, _, err = clipcap("metrics", "diff", better, worse)
    assert code == 2 and "--references" in err
    code, _, err = clipcap("metrics", "diff", better, "gone.json")
    assert code == 1 and "there is no file gone.json" in err, "and not that no model of that name was evaluated"


# Of models, on lakes of small runs


@pytest.fixture(scope="module")
def rival(small_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, dict[str, Any]]:
    """The small lake after a run that trained another model, and what that run gave."""
    root = tmp_path_factory.mktemp("rival") / "lake"
    shutil.copytree(small_run.lake.root, root)
    lake = Lake(root)
    return lake, small_run.again(lake, "train.epochs=2")


def test_a_run_compares_its_model_with_the_one_in_production(small_run: Any, rival: Any, clipcap: Cli) -> None:
    lake, outcome = rival
    ours, theirs = outcome["model_id"], small_run.outcome["model_id"]
    assert not [entry for entry in small_run.entries().values() if entry.stage == "compare"], "the first had no rival"
    [entry] = [entry for entry in read_current(lake).entries.values() if entry.stage == "compare"]
    assert (entry.meta["model_id"], entry.meta["baseline_model_id"]) == (ours, theirs)
    rows = {row["metric"]: row for row in query(lake, "from comparisons").to_pylist()}
    assert {(row["candidate_model_id"], row["baseline_model_id"]) for row in rows.values()} == {(ours, theirs)}
    assert set(rows) == {name for name in outcome["metrics"] if not name.endswith("_shuffled")}
    values = {(r["model_id"], r["metric"]): r["value"] for r in query(lake, "from metrics").to_pylist()}
    for name, row in rows.items():
        assert row["difference"] == values[ours, name] - values[theirs, name]
        assert row["images"] == small_run.scenes // 10
    code, out, _ = clipcap("metrics", "diff", ours, theirs, "--data-dir", lake.root, "--json")
    fields = ("difference", "low", "high", "wins", "ties", "losses")
    assert code == 0
    assert {r["metric"]: [r[f] for f in fields] for r in json.loads(out)} == {
        name: [row[f] for f in fields] for name, row in rows.items()
    }
    code, out, _ = clipcap("metrics", "diff", theirs, ours, "--data-dir", lake.root, "--json")
    assert {row["metric"]: -row["difference"] for row in json.loads(out)} == {
        name: row["difference"] for name, row in rows.items()
    }


def test_a_comparison_that_stands_is_not_made_again(small_run: Any, rival: Any) -> None:
    lake, outcome = rival
    before = read_current(lake)
    again = small_run.again(lake, "train.epochs=2")
    assert read_current(lake) == before and again["intervals"] == outcome["intervals"]


def test_models_that_were_not_evaluated_are_named(small_run: Any, clipcap: Cli) -> None:
    known = small_run.outcome["model_id"]
    command = ("metrics", "diff", known, "gone-1", "--data-dir", small_run.lake.root)
    code, _, err = clipcap(*command)
    assert code == 1 and "'gone-1'" in err and known in err
    code, _, err = clipcap("metrics", "diff", known, known, "--split", "val", "--data-dir", small_run.lake.root)
    assert code == 1 and "never evaluated on the same images of split val" in err


# What a run scores


def test_captions_and_images_have_their_clip_scores(small_run: Any) -> None:
    lake = small_run.lake
    captions = query(lake, "select sample_key, clip_score from captions").to_pylist()
    assert all(0 <= row["clip_score"] <= 2.5 for row in captions)
    of = {row["sample_key"]: row["clip_score"] for row in captions}
    each = query(lake, "select sample_key, metric, value from metrics_per_image where metric like '%clip_score'")
    found = {(row["metric"], row["sample_key"]): row["value"] for row in each.to_pylist()}
    assert len(found) == 2 * (small_run.scenes // 10)
    for (metric, sample_key), value in found.items():
        if metric == "clip_score":
            assert value == pytest.approx(of[sample_key], abs=1e-5)
    metrics = small_run.outcome["metrics"]
    mean = sum(value for (metric, _), value in found.items() if metric == "clip_score") / (small_run.scenes // 10)
    assert metrics["clip_score"] == pytest.approx(mean)
    assert {"ref_clip_score", "clip_score_shuffled", "novel_share"} <= set(metrics)
    intervals = small_run.outcome["intervals"]
    assert {"bleu_4", "clip_score", "novel_share", "cider_shuffled"} <= set(intervals)
    for name in ("rouge_l", "cider", "clip_score", "ref_clip_score", "clip_score_shuffled"):
        assert intervals[name][0] <= metrics[name] <= intervals[name][1], name


def test_the_share_of_novel_captions_is_that_of_the_files(small_run: Any) -> None:
    lake = small_run.lake
    shards = [row for file in lake.root.glob("batches/*/shards/*.parquet") for row in pq.read_table(file).to_pylist()]
    learned = set(
        tokenize([text for row in shards if row["split"] in ("train", "restval") for text in row["captions"]])
    )
    tests = query(lake, "select caption from captions where split = 'test'").column("caption").to_pylist()
    share = sum(text not in learned for text in tokenize(tests)) / len(tests)
    assert small_run.outcome["metrics"]["novel_share"] == pytest.approx(share)


def test_scores_that_are_not_wanted_are_left_out(small_run: Any, copied: Lake) -> None:
    outcome = small_run.again(copied, "caption.clip_score=false", "evaluate.clip_score=false", "evaluate.resamples=0")
    assert not any("clip" in name for name in outcome["metrics"]) and outcome["intervals"] == {}
    run = f"where run_id = '{outcome['run_id']}'"
    assert query(copied, f"select count(clip_score) as n from captions {run}").to_pylist() == [{"n": 0}]
    assert query(copied, f"select count(low) as n from metrics {run}").to_pylist() == [{"n": 0}]
