"""Comparison: a model and the one in production, on the same images."""

from __future__ import annotations

from clipcap.metrics.compare import can_compare, compare_key, comparison_id
from clipcap.storage.records import Entry
from flows.stages import Job, RunContext, run_jobs, say


def compare_job(context: RunContext, candidate: Entry, baseline: Entry) -> Job:
    """Of two entries of the evaluate stage."""
    config = context.config.evaluate
    key = compare_key(candidate, baseline, config)

    def task():  # type: ignore[no-untyped-def]
        from tasks.compare import compare_models

        return compare_models

    return Job(
        comparison_id(candidate, baseline, key), key, candidate.meta["images"], task,
        lambda: {"candidate": candidate, "baseline": baseline, "config": config, "run_id": context.run_id},
    )  # fmt: skip


def compare(context: RunContext, candidate: Entry, baseline: Entry) -> Entry:
    """A paired bootstrap of two evaluations of the same images."""
    return run_jobs(context, "compare", [compare_job(context, candidate, baseline)])[0]


def production_scores(context: RunContext, candidate: Entry) -> Entry | None:
    """The newest evaluation of the production model on the candidate's images; None where there is none.

    None, too, where the candidate is the production model.
    """
    production = context.index.generation.production_model_id
    if production in ("", candidate.meta["model_id"]):
        return None
    entries = [*context.index.of_stage("evaluate"), *(e for e in context.used if e.stage == "evaluate")]
    fitting = [e for e in entries if e.meta["model_id"] == production and can_compare(candidate, e)]
    return max(fitting, key=lambda entry: entry.created_at, default=None)


def compare_with_production(context: RunContext, scores: Entry | None) -> Entry | None:
    """Compares an evaluated model with the one in production, if that one is another and saw the same images."""
    production = context.index.generation.production_model_id
    if scores is None or production in ("", scores.meta["model_id"]):
        return None
    baseline = production_scores(context, scores)
    if baseline is None:
        say("compare", f"skipped: {production}, in production, was not evaluated on these images")
        return None
    return compare(context, scores, baseline)
