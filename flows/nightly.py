"""Nightly captioning: every batch of the lake that the production model has not captioned yet."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefect import flow

from clipcap.config import load_config
from clipcap.errors import CheckFailed, ClipCapError, DataError, NightFailed
from clipcap.storage.records import Entry
from clipcap.training.train_model import Shard
from flows.artifacts import show_table
from flows.batches import downloaded, landed_batches
from flows.caption import caption
from flows.compare import compare_with_production
from flows.embed import embed
from flows.estimate import require_room
from flows.evaluate import evaluate
from flows.events import emit
from flows.landing import land_inbox
from flows.names import run_name
from flows.night_plan import BatchPlan, describe, plan_night, row_of
from flows.notify import tell
from flows.publish import newest_report, publish
from flows.stages import RunContext, say


@flow(
    name="caption-nightly",
    flow_run_name=run_name("nightly", "model_id", "batch_ids"),
    on_failure=[tell],
    on_crashed=[tell],
)
def caption_nightly(
    config: str = "sample",
    overrides: list[str] | None = None,
    data_dir: str | None = None,
    model_id: str = "",
    batch_ids: list[str] | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Lands the inbox; downloads, embeds, captions, scores where there are references, and publishes what is new.

    Batches are found in the lake, so a lost event loses nothing. One that fails stops no other: the rest is published,
    and the run ends failed with a summary.

    Args:
        config: A .toml file or the name of a shipped one.
        overrides: Settings that go before the file's: section.key=value each.
        data_dir: The lake's root; else the config's, CLIPCAP_DATA_DIR, ./data.
        model_id: Another model than the one in production.
        batch_ids: Only these batches (a backfill); all by default.
        dry_run: Only say what would be done, how long it would take and whether it fits on the disk.
        force: Begin even what does not fit on the disk by the estimate.

    Returns:
        run_id, model_id, new (outputs made), captions (images captioned), batches (counts by outcome), failed
        (batch_id and reason of each), inbox, report. Of a dry run its plan.
    """
    context = RunContext.of(load_config(config, overrides or []), "caption-nightly", data_dir)
    inbox = land_inbox(context.lake, context.config, context.run_id, dry_run)
    if any(row["batch_id"] for row in inbox):
        context = RunContext(context.config, context.lake, context.flow, context.run_id)  # sees what has landed
    model = _model(context, model_id)
    plans = plan_night(context, model, landed_batches(context, batch_ids or []))
    to_do = [plan for plan in plans if not plan.is_published and (not plan.problem or batch_ids)]
    say("nightly", f"{len(to_do)} of {len(plans)} batch(es) to do, model {model.meta['model_id']}")
    for plan in plans:
        if plan.problem and plan not in to_do:
            say("nightly", f"skipped: {plan.problem}")
    if dry_run:
        planned = describe(context, model, plans, () if batch_ids else inbox) | {"inbox": inbox}
        show_table("night-plan", f"what a night with {model.meta['model_id']} would do", planned["batches"])
        return planned
    require_room(context, [stage for plan in to_do for stage in plan.stages], force)
    night = Night(context, model, plans)
    night.run(to_do)
    return night.end(inbox)


class Night:
    """What became of each batch so far."""

    def __init__(self, context: RunContext, model: Entry, plans: list[BatchPlan]) -> None:
        self.context, self.model, self.plans = context, model, plans
        self.done: dict[str, list[Entry]] = {}
        """What each finished batch used, by its id."""
        self.failed: dict[str, Exception] = {}
        """By batch, or by the stage that is about all of them."""
        self.report = ""

    def run(self, to_do: list[BatchPlan]) -> None:
        for plan in to_do:
            self._caption(plan)
        while self.done:
            self.context.used = [self.model, *(entry for used in self.done.values() for entry in used)]
            self._evaluate()
            try:
                self.report = publish(self.context)
                return
            except CheckFailed as error:  # whose rows it names is left out, and the others are tried again
                guilty = [batch_id for batch_id in self.done if _names(error, batch_id)]
                for batch_id in guilty:
                    self._fail(batch_id, error)
                if not guilty:
                    raise

    def _caption(self, plan: BatchPlan) -> None:
        context, model = self.context, self.model
        start = len(context.used)  # batches of one night know each other: near-duplicates are sought in what is used
        context.used.append(plan.batch)
        try:
            plan.shards = embed(context, downloaded(context, plan.batch), model.meta["encoder"])
            plan.captions = caption(context, plan.shards, model)
        except Exception as error:
            del context.used[start:]  # a batch is published as a whole or not at all; finished shards stay recorded
            self._fail(plan.batch_id, error)
        else:
            self.done[plan.batch_id] = context.used[start:]

    def _evaluate(self) -> None:
        """Scores all that stands, the batches of earlier nights included."""
        self.failed.pop("evaluate", None)
        whole = [plan for plan in self.plans if plan.captions and plan.batch_id not in self.failed]
        captions: list[Entry] = [entry for plan in whole for entry in plan.captions]
        shards: list[Shard] = [shard for plan in whole for shard in plan.shards]
        try:
            compare_with_production(self.context, evaluate(self.context, self.model, captions, shards))
        except Exception as error:
            self._fail("evaluate", error)

    def _fail(self, what: str, error: Exception) -> None:
        self.failed[what] = error
        self.done.pop(what, None)
        say("nightly", f"FAILED {what}: {_reason(error)}")

    def end(self, inbox: list[dict[str, Any]]) -> dict[str, Any]:
        """Says what was done, tells whoever listens, and fails where something failed."""
        context = self.context
        used = context.used if self.done else []
        made = [entry for entry in used if entry.run_id == context.run_id]
        new = [entry for entry in used if entry.stage == "caption" and not context.index.is_published(entry)]
        rows = [self._row(plan) for plan in self.plans]
        counts = Counter(row["status"] for row in rows)
        summary: dict[str, Any] = {
            "run_id": context.run_id,
            "model_id": self.model.meta["model_id"],
            "new": len(made),
            "captions": sum(entry.rows.get("ok", 0) for entry in new),
            "batches": {"all": len(rows), **{name: counts[name] for name in ("ok", "failed", "skipped")}},
            "failed": [{"what": what, "reason": _reason(error)} for what, error in self.failed.items()],
            "inbox": inbox,
            "report": self.report or newest_report(context),
        }
        if self.report and new:
            facts = {name: summary[name] for name in ("run_id", "model_id", "captions", "batches", "report")}
            emit("clipcap.captions.published", context.run_id, {**facts, "batch_ids": list(self.done)})
        if not self.done and not self.failed:
            say("nightly", "nothing new: every batch is captioned by this model already")
        text = " · ".join(f"{count} {name}" for name, count in summary["batches"].items())
        say("nightly", f"{text} · {summary['captions']:,} captions")
        show_table("night", f"night of {context.started_at:%Y-%m-%d %H:%M} UTC: {text}", rows)
        problems = summary["failed"] + [
            {"what": row["name"], "reason": row["reason"]} for row in inbox if row["status"] == "failed"
        ]
        if problems:
            if len(rows) == 1 and self.failed:  # a backfill of one batch: its own error says it best
                raise next(iter(self.failed.values()))
            named = "; ".join(f"{problem['what']}: {problem['reason']}" for problem in problems)
            raise NightFailed(f"batches: {text}; the others are published. {named}", summary)
        return summary

    def _row(self, plan: BatchPlan) -> dict[str, Any]:
        row = row_of(plan)
        if plan.batch_id in self.failed:
            return row | {"status": "failed", "reason": _reason(self.failed[plan.batch_id])}
        return row | {"status": "ok"} if plan.batch_id in self.done else row


def _names(error: CheckFailed, batch_id: str) -> bool:
    """Whether a row that the check found belongs to the batch, by its id or by a key that begins as its keys do."""
    start = batch_id.rpartition("-")[2] + "-"
    return any(
        row.get("batch_id") == batch_id
        or str(row.get("sample_key", "")).startswith(start)
        or f"/{batch_id}" in str(row.get("entry_id", ""))
        for row in error.rows
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ClipCapError) else f"{type(error).__name__}: {text}"


def _model(context: RunContext, model_id: str) -> Entry:
    """The asked-for model, else the one in production.

    Raises:
        DataError: there is none.
    """
    wanted = model_id or context.index.generation.production_model_id
    models = {entry.meta["model_id"]: entry for entry in context.index.of_stage("train")}
    if not wanted:
        raise DataError(
            f"the lake {context.lake.address} has no model in production: `clipcap run` trains the first one, "
            "`clipcap models add` brings one that was made elsewhere"
        )
    if wanted not in models:
        raise DataError(f"there is no model {wanted!r} in the lake; there are: {', '.join(models) or 'none'}")
    return models[wanted]
