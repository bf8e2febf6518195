"""Retraining: a new model when enough new pairs landed or images drifted, and a gate before production."""

from __future__ import annotations

from typing import Any

from prefect import flow

from clipcap.config import Config, load_config
from clipcap.training.due import is_due
from clipcap.training.train_model import Shard
from flows.batches import downloaded, landed_batches
from flows.candidate import Candidate, production_model
from flows.embed import embed
from flows.estimate import StagePlan, add_stage, require_room
from flows.freeze import evaluation_set
from flows.names import run_name
from flows.notify import configure, tell
from flows.publish import newest_report
from flows.retrain_plan import adopted_elsewhere, plan_retraining
from flows.stages import RunContext, say


@flow(name="retrain", flow_run_name=run_name("retrain", "batch_id"), on_failure=[tell], on_crashed=[tell])
def retrain(
    config: str = "sample",
    overrides: list[str] | None = None,
    data_dir: str | None = None,
    batch_id: str = "",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Trains a candidate where one is due, compares it with production, and promotes it only if it is better.

    Batches are found in the lake, so a lost event loses nothing, and what lands while a run is under way is looked at
    before it ends. Nothing due is a short run that says so.

    Args:
        config: A .toml file or the name of a shipped one.
        overrides: Settings that go before the file's: section.key=value each.
        data_dir: The lake's root; else the config's, CLIPCAP_DATA_DIR, ./data.
        batch_id: The batch that landed, from the event; a hint for the run's name alone.
        force: Train although nothing is due, and even what does not fit on the disk by the estimate.
        dry_run: Only say what is due, and what would be done.
    """
    settings = load_config(config, overrides or [])
    configure(settings.notify)
    if dry_run:
        return plan_retraining(RunContext.of(settings, "retrain", data_dir))
    outcome = _once(settings, data_dir, force)
    is_promoted = outcome["verdict"] == "promoted"
    while outcome["verdict"]:
        say("retrain", "looking for what landed meanwhile")
        later = _once(settings, data_dir)
        if not later["verdict"]:
            break
        outcome, is_promoted = later, is_promoted or later["verdict"] == "promoted"
    if is_promoted and settings.retrain.recaption:
        from flows.nightly import caption_nightly

        caption_nightly(config=config, overrides=overrides, data_dir=data_dir)
    return outcome


def _once(settings: Config, data_dir: str | None, force: bool = False) -> dict[str, Any]:
    """One look at the lake, and a new model where one is due.

    Returns:
        run_id, production_model_id (until then), due, reasons, new_pairs, drift; model_id, verdict ("" where nothing
        was decided), reason and report.
    """
    context = RunContext.of(settings, "retrain", data_dir)
    production = production_model(context)
    shards = _embedded(context)
    due = is_due(context.lake, context.index.generation, production, shards, settings.retrain)
    say("retrain", due.reason)
    outcome: dict[str, Any] = {
        "run_id": context.run_id,
        "production_model_id": production.meta["model_id"] if production else "",
        "due": due.is_due,
        "reasons": list(due.reasons),
        "new_pairs": due.new_pairs,
        "drift": due.drift.value if due.drift else None,
        "model_id": "",
        "verdict": "",
        "reason": "no new model is due",
        "report": "",
    }
    if not due.is_due and not force:
        say("retrain", outcome["reason"])
        return outcome | {"report": newest_report(context)}
    frozen, problem = evaluation_set(context, shards)
    if production and frozen is None:
        say("retrain", f"not trained, because nothing could be judged: {problem}")
        return outcome | {"reason": problem}
    candidate = Candidate(context, production, frozen, shards, due)
    if known := candidate.is_known():
        say("retrain", known)
        return outcome | {"model_id": candidate.model_id, "reason": known}
    stages: list[StagePlan] = []
    add_stage(context, stages, "train", [candidate.job], 1, candidate.job.rows)
    require_room(context, stages, force)
    decision, report = candidate.run()
    if decision is None:
        known = {"model_id": candidate.model_id, "reason": "another run promoted the same model meanwhile"}
        return outcome | known | {"report": newest_report(context)}
    return outcome | {
        "production_model_id": decision.production_model_id,
        "model_id": candidate.model_id,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "report": report,
    }


def _embedded(context: RunContext) -> list[Shard]:
    """Every batch of the lake, downloaded and embedded by the configured encoder."""
    shards: list[Shard] = []
    for batch in landed_batches(context):
        if problem := adopted_elsewhere(context, batch):
            say("retrain", f"skipped: {problem}")
            continue
        context.used.append(batch)
        shards += embed(context, downloaded(context, batch))
    return shards
