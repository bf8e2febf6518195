"""Promotions by hand: what they check, what they replace, and what two at once leave."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tiny_lake import NEW, OLD

from clipcap.errors import ModelError, StaleDecision
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation, read_current
from clipcap.storage.records import Decision, Promotion
from clipcap.training.registry import production_line, promote, rollback
from clipcap.warehouse.queries import query

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def decision(candidate: str, production: str, verdict: str = "promoted") -> Decision:
    return Decision(
        decided_at=NOW, run_id="r", candidate_model_id=candidate, production_model_id=production, verdict=verdict,
        reason="better", evidence={"comparison": [{"metric": "cider", "low": 0.1}]}, evaluation_set="default",
    )  # fmt: skip


def test_a_promotion_names_what_it_replaces_and_a_rollback_takes_it_back(tiny):
    tiny.commit()
    assert promote(tiny.lake, OLD, " first ").previous_model_id == ""
    made = promote(tiny.lake, NEW, "reads better")
    assert (made.model_id, made.previous_model_id, made.reason) == (NEW, OLD, "reads better")
    back = rollback(tiny.lake)
    assert (back.model_id, back.previous_model_id, back.is_rollback) == (OLD, NEW, True)
    assert NEW in back.reason and read_current(tiny.lake).production_model_id == OLD
    number = read_current(tiny.lake).number
    with pytest.raises(ModelError, match=f"nothing to roll back to: {OLD} is in production"):
        rollback(tiny.lake)
    with pytest.raises(ModelError, match="is in production already"):
        promote(tiny.lake, OLD, "again")
    assert read_current(tiny.lake).number == number, "what is refused commits nothing"
    rows = query(tiny.lake, "select model_id, previous_model_id, is_rollback, is_current from promotions").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (OLD, None, False, False), (NEW, OLD, False, False), (OLD, NEW, True, True)
    ]  # fmt: skip


def test_rollbacks_go_down_the_line_and_not_in_a_circle():
    def moves(*names: str) -> list[Promotion]:
        return [Promotion(model_id=n.strip("-"), reason="", created_at=NOW, is_rollback="-" in n) for n in names]

    assert production_line(moves("a", "b", "c")) == ["a", "b", "c"]
    assert production_line(moves("a", "b", "c", "-b")) == ["a", "b"]
    assert production_line(moves("a", "b", "c", "-b", "-a")) == ["a"]
    assert production_line(moves("a", "b", "-a", "c", "a")) == ["a", "c", "a"]
    assert production_line([]) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_model_is_named_with_its_file(tiny, damage: str):
    tiny.commit()
    file = tiny.lake.model(NEW) / "training.jsonl"
    text = file.read_text()
    if damage == "missing":
        file.unlink()
    else:
        file.write_text(text[:-9] if damage == "cut" else text.replace("4.0", "5.0"))
    told = {"missing": "is missing", "cut": "bytes instead of", "changed": "other contents than were published"}
    with pytest.raises(ModelError, match=f"model {NEW} is damaged: .*training.jsonl .*{told[damage]}"):
        promote(tiny.lake, NEW, "why not")
    with pytest.raises(ModelError, match=r"no model 'gone'.*there are: "):
        promote(tiny.lake, "gone", "why not")
    with pytest.raises(ModelError, match="needs a reason"):
        promote(tiny.lake, OLD, "  ")
    assert read_current(tiny.lake).promotions == []


def promote_again_and_again(root: str, model_id: str, times: int) -> None:
    for number in range(times):
        commit_generation(Lake(root), promotion=Promotion(model_id=model_id, reason=str(number), created_at=NOW))


def test_promotions_at_the_same_time_all_stand_and_each_knows_the_one_before(tiny, forked):
    tiny.commit()
    processes = [forked(promote_again_and_again, str(tiny.lake.root), model, 12) for model in (OLD, NEW)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    promotions = read_current(tiny.lake).promotions
    assert [p.exitcode for p in processes] == [0, 0] and len(promotions) == 24
    before = ["", *(promotion.model_id for promotion in promotions)]
    assert [promotion.previous_model_id for promotion in promotions] == before[:-1]
    for model in (OLD, NEW):
        assert [p.reason for p in promotions if p.model_id == model] == [str(n) for n in range(12)]


def test_a_decision_about_another_production_model_is_not_published(tiny):
    tiny.commit()
    promote(tiny.lake, OLD, "first")
    number = read_current(tiny.lake).number
    with pytest.raises(StaleDecision, match=f"compared with no model, and by now {OLD} is in production"):
        commit_generation(tiny.lake, decision=decision(NEW, ""))
    assert read_current(tiny.lake).number == number
    commit_generation(tiny.lake, decision=decision(NEW, OLD, "refused"))
    [row] = query(
        tiny.lake,
        "select candidate_model_id, production_model_id, verdict, evaluation_set, "
        "(evidence -> 'comparison' -> 0 ->> 'low')::double as low from decisions",
    ).to_pylist()
    assert row == {
        "candidate_model_id": NEW, "production_model_id": OLD, "verdict": "refused", "evaluation_set": "default",
        "low": 0.1,
    }  # fmt: skip


def test_what_a_promotion_asks_of_a_generation_is_asked_of_the_one_that_it_follows(tiny):
    tiny.commit()
    seen = []

    def promotion(base):
        seen.append(base.production_model_id)
        if len(seen) == 1:  # while this commit is on its way, somebody else is faster
            commit_generation(tiny.lake, promotion=Promotion(model_id=NEW, reason="faster", created_at=NOW))
        return None if base.production_model_id else Promotion(model_id=OLD, reason="the first", created_at=NOW)

    commit_generation(tiny.lake, promotion=promotion)
    assert seen == ["", NEW] and [p.model_id for p in read_current(tiny.lake).promotions] == [NEW]
