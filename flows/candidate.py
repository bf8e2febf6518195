"""A new model on its way to production: trained, compared with the one in production, promoted or kept out."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

from clipcap.dataset.evaluation_set import evaluation_shards, leaked, split_of
from clipcap.errors import CheckFailed, DataError, StaleDecision
from clipcap.metrics.compare import can_compare, comparison_rows
from clipcap.storage.manifest import EntryIndex
from clipcap.storage.records import Decision, Entry
from clipcap.training.due import Due
from clipcap.training.gate import Ruling, judge
from clipcap.training.train_model import Shard
from flows.artifacts import show_table
from flows.caption import caption
from flows.compare import compare
from flows.embed import embed
from flows.evaluate import evaluate
from flows.events import emit
from flows.notify import notify
from flows.publish import publish
from flows.stages import RunContext, say
from flows.train import train, train_job

_ATTEMPTS = 3
"""Times that a candidate is compared anew because another model went into production meanwhile."""


def production_model(context: RunContext) -> Entry | None:
    """The model in production; None before the first promotion.

    Raises:
        DataError: its files are gone.
    """
    wanted = context.index.generation.production_model_id
    models = {entry.meta["model_id"]: entry for entry in context.index.of_stage("train")}
    if wanted and wanted not in models:
        raise DataError(
            f"{wanted} is in production and its files are not whole: bring lake's folder models/{wanted} back, or go "
            "to another model (`clipcap models rollback`, `clipcap models promote`)"
        )
    return models.get(wanted)


class Candidate:
    """A model to be trained on all that there is, and to be judged."""

    def __init__(
        self, context: RunContext, production: Entry | None, frozen: Entry | None, shards: list[Shard], due: Due
    ) -> None:
        self.context, self.production, self.frozen, self.shards, self.due = context, production, frozen, shards, due
        self.start = production if context.config.retrain.start == "warm" else None
        self.leave_out = leaked(context.lake, frozen, shards) if frozen else []
        self.job = train_job(context, shards, self.start, self.leave_out)
        self.model_id = self.job.id.partition("/")[2]
        judging = {"shuffled_control": False}
        if frozen:
            judging["split"] = split_of(self.context.config.gate.evaluation_set)  # type: ignore[assignment]
        self.judging = copy.copy(context)  # the same run, but for what is evaluated
        self.judging.config = context.config.model_copy(
            update={"evaluate": context.config.evaluate.model_copy(update=judging)}
        )

    def is_known(self) -> str:
        """Why training would make a model that was judged already; "" where it was not."""
        production = self.production.meta["model_id"] if self.production else ""
        if self.model_id == production:
            return f"{production}, in production, has learned from all that there is"
        limits = self.context.config.gate.model_dump()
        for decision in reversed(self.context.index.generation.decisions):
            about = (decision.candidate_model_id, decision.production_model_id, decision.evidence.get("limits"))
            if about == (self.model_id, production, limits):
                return f"{self.model_id} was {decision.verdict} by these limits already: {decision.reason}"
        return ""

    def run(self) -> tuple[Decision | None, str]:
        """Trains, judges and publishes.

        Returns:
            The decision and the report's path; None and "" where another run was faster with this very model.
        """
        context = self.context
        if self.leave_out:
            say("train", f"{len(self.leave_out):,} images of the evaluation set are left out of training")
        model = train(context, self.shards, self.start, self.leave_out)
        for attempt in range(1, _ATTEMPTS + 1):
            decision = self._decide(model)
            say("gate", f"{decision.verdict}: {decision.reason}")
            try:
                report = publish(context, decision)
            except CheckFailed as error:
                decision = self._refuse(decision, f"its captions do not pass the checks: {error}")
                report = publish(context, decision)
            except StaleDecision as error:
                if attempt == _ATTEMPTS:
                    raise
                say("gate", str(error))
                context.index = self.judging.index = EntryIndex(context.lake)
                self.production = production_model(context)
                if self.production and self.production.meta["model_id"] == self.model_id:
                    return None, ""
                continue
            break
        self._tell(decision, report)
        return decision, report

    def _decide(self, model: Entry) -> Decision:
        gate, rows = self.context.config.gate, []
        scores = self._score(model, self.shards) if self.frozen else None
        if self.production is None:
            ruling = Ruling(True, ("the first model of this lake",))
        else:
            assert self.frozen is not None
            baseline = self._score(self.production, self._shards_for(self.production))
            images = self.frozen.meta["images"]
            if scores is not None and baseline is not None and can_compare(scores, baseline):
                rows = [
                    dict(row) for row in comparison_rows(self.context.lake, compare(self.judging, scores, baseline))
                ]
                ruling = judge(rows, gate, images)
            else:
                captioned = [entry.meta["images"] if entry else 0 for entry in (scores, baseline)]
                ruling = Ruling(False, (
                    f"the two did not caption the same images: the candidate {captioned[0]:,} and production "
                    f"{captioned[1]:,} of the {images:,} that are frozen",))  # fmt: skip
        return Decision(
            decided_at=datetime.now(UTC),
            run_id=self.context.run_id,
            candidate_model_id=self.model_id,
            production_model_id=self.production.meta["model_id"] if self.production else "",
            verdict=ruling.verdict,
            reason=ruling.reason,
            evaluation_set=gate.evaluation_set if self.frozen else "",
            evidence={
                "comparison": [{**row, "created_at": str(row["created_at"])} for row in rows],
                "limits": gate.model_dump(),
                "images": self.frozen.meta["images"] if self.frozen else 0,
                "confidence": self.context.config.evaluate.confidence,
                "due": list(self.due.reasons),
                "batch_ids": sorted({shard.embed.meta["batch_id"] for shard in self.shards}),
            },
        )

    def _score(self, model: Entry, shards: list[Shard]) -> Entry | None:
        """Captions and scores the frozen images; whole shards are captioned, which a night then finds done."""
        assert self.frozen is not None
        if model not in self.context.used:
            self.context.used.append(model)
        held = evaluation_shards(self.context.lake, self.frozen, shards)
        return evaluate(self.judging, model, caption(self.context, held, model), held)

    def _shards_for(self, model: Entry) -> list[Shard]:
        """The same shards, embedded by the encoder that the model reads."""
        if model.meta["encoder"] == self.context.config.embed.encoder_name:
            return self.shards
        return embed(self.context, [shard.download for shard in self.shards], model.meta["encoder"])

    def _refuse(self, decision: Decision, reason: str) -> Decision:
        """What the candidate wrote cannot be published; that it was tried can."""
        say("gate", f"refused: {reason}")
        made = ("caption", "evaluate", "compare")
        self.context.used = [
            entry for entry in self.context.used
            if not (entry.stage in made and entry.meta.get("model_id") == self.model_id)
        ]  # fmt: skip
        return decision.model_copy(update={"verdict": "refused", "reason": " ".join(reason.split())})

    def _tell(self, decision: Decision, report: str) -> None:
        facts = {
            "model_id": self.model_id, "previous_model_id": decision.production_model_id, "reason": decision.reason,
            "run_id": self.context.run_id, "report": report,
        }  # fmt: skip
        show_table(
            "gate-decision", f"{self.model_id} {decision.verdict}: {decision.reason}",
            decision.evidence["comparison"] or [facts],
        )  # fmt: skip
        if decision.verdict == "promoted":
            emit("clipcap.model.promoted", self.model_id, {**facts, "by": "gate"})
        else:
            notify("refused", f"the new model {self.model_id} was kept out of production", facts)
