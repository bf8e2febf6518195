"""The registry by hand: a model of the lake goes into production, or gives way to the one before it.

Promotions are rows of the manifest, so each is one commit: what is asked and what is replaced are looked up in the
very generation that the new one follows, whoever else commits at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from clipcap.errors import ModelError
from clipcap.storage.commit import sha256_of
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import commit_generation
from clipcap.storage.records import Entry, Generation, Promotion


def promote(lake: Lake, model_id: str, reason: str) -> Promotion:
    """Puts a model into production.

    Raises:
        ModelError: the lake has no such model, its files are damaged, no reason is given, or it is in production.
    """
    if not reason.strip():
        raise ModelError('a promotion needs a reason: clipcap models promote ID --reason "…"')

    def promotion(base: Generation) -> Promotion:
        model = find_model(base, model_id)
        if base.production_model_id == model_id:
            raise ModelError(f"{model_id} is in production already; nothing was changed")
        check_model(lake, model)
        return Promotion(model_id=model_id, reason=reason.strip(), created_at=datetime.now(UTC))

    return commit_generation(lake, promotion=promotion).promotions[-1]


def rollback(lake: Lake, reason: str = "") -> Promotion:
    """Puts the model before into production; again, the one before that.

    Raises:
        ModelError: there is none before it, or its files are gone or damaged.
    """

    def promotion(base: Generation) -> Promotion:
        target = model_before(base)
        check_model(lake, find_model(base, target))
        why = reason.strip() or f"rolled back from {base.production_model_id}"
        return Promotion(model_id=target, reason=why, created_at=datetime.now(UTC), is_rollback=True)

    return commit_generation(lake, promotion=promotion).promotions[-1]


def model_before(generation: Generation) -> str:
    """The model that a rollback goes to.

    Raises:
        ModelError: no model was in production before the one that is.
    """
    line = production_line(generation.promotions)
    if len(line) < 2:
        now = line[-1] if line else "no model"
        raise ModelError(f"there is nothing to roll back to: {now} is in production, and none was before it")
    return line[-2]


def production_line(promotions: Sequence[Promotion]) -> list[str]:
    """Models that were promoted one after another and not rolled back, the one in production last."""
    line: list[str] = []
    for promotion in promotions:
        if promotion.is_rollback:
            line.pop()
        else:
            line.append(promotion.model_id)
    return line


def find_model(generation: Generation, model_id: str) -> Entry:
    """The entry of a published model.

    Raises:
        ModelError: there is none of that name.
    """
    models = {entry.meta["model_id"]: entry for entry in generation.of_stage("train")}
    if model_id not in models:
        raise ModelError(f"there is no model {model_id!r} in the lake; there are: {', '.join(models) or 'none yet'}")
    return models[model_id]


def check_model(lake: Lake, model: Entry) -> None:
    """Reads every file of a model and compares it with the manifest.

    Raises:
        ModelError: one is missing, or is not what was published.
    """
    for file in model.files:
        size = lake.size_of(file.path)
        if size is None:
            problem = "is missing"
        elif size != file.size_bytes:
            problem = f"has {size:,} bytes instead of {file.size_bytes:,}"
        elif sha256_of(lake.absolute(file.path)) != file.sha256:
            problem = "has other contents than were published"
        else:
            continue
        raise ModelError(
            f"model {model.meta['model_id']} is damaged: {file.path} {problem}; bring that file back, or choose "
            "another model (`clipcap models list`)"
        )
