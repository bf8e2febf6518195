"""A model's card: what it is, what it learned from, how well it does, and where it should not be trusted.

Two moments write one. Training stores ``MODEL_CARD.md`` with the model, with what is known then; like every file at its
final name it never changes. Later facts (scores, promotions) are the catalog's, so the card that tells of them is
rendered when it is asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipcap.cards.licences import licence_of
from clipcap.cards.limits import limits_of
from clipcap.cards.markdown import render
from clipcap.config import TrainConfig, changed_settings
from clipcap.redaction import redact, redact_text
from clipcap.storage.lake import Lake

Row = dict[str, Any]
EXAMPLES = 3
"""Captions that a card shows of the best, and as many of the worst."""
_META = dict.fromkeys(("parameters", "train_images", "train_captions", "val_images", "start_model_id"))
"""Facts of a training that a model from elsewhere, or of an older clipcap, does not have."""
_HUB_METRICS = {"bleu_1": "bleu", "bleu_4": "bleu", "rouge_l": "rouge", "cider": "cider", "meteor": "meteor",
                "spice": "spice", "clip_score": "clip_score"}  # fmt: skip


def model_facts(lake: Lake, model_id: str, licence: str = "") -> Row:
    """All that the card of a model in the catalog tells, as plain data.

    Args:
        licence: of the model, as the hub names it; its owner decides, so nothing is assumed where it is empty.

    Raises:
        ModelError: the lake has no such model.
    """
    from clipcap.report.summary import METRICS, open_reader
    from clipcap.storage.manifest import read_current
    from clipcap.training.registry import find_model

    entry = find_model(read_current(lake), model_id)
    with open_reader(lake) as reader:
        about = {"model_id": model_id}
        model = reader.row("card_model", **about) or {}
        scores = reader.rows("card_model_scores", **about)
        known = {row["metric"] for row in scores}
        ranked = next((metric for metric in ("cider", "clip_score") if metric in known), "")
        examples = reader.rows("card_model_examples", metric=ranked, k=EXAMPLES, **about) if ranked else []
        data, licences = reader.rows("card_model_data", **about), reader.rows("card_model_licences", **about)
        words = reader.row("card_model_words", **about)
    order = list(METRICS)
    for row in scores:
        row["label"], row["meaning"] = METRICS.get(row["metric"], (row["metric"], ""))
    scores.sort(key=lambda row: (row["split"], order.index(row["metric"]) if row["metric"] in order else len(order)))
    for row in data:
        row["source"] = redact_text(row["source"] or "")
    config = json.loads(model.get("config") or "{}")
    facts = _facts(entry.meta, config.get("train", {}), entry.duration_s, licence)
    folder = lake.at_hand(lake.model(model_id))
    return facts | {
        "settings": _settings(folder),
        "measured": _measured(folder),
        "created_at": f"{entry.created_at:%Y-%m-%d %H:%M} UTC",
        "is_production": bool(model.get("is_production")),
        "promotion_reason": model.get("promotion_reason"),
        "production_model_id": model.get("production_model_id"),
        "confidence": config.get("evaluate", {}).get("confidence", 0.95),
        "data": data,
        "licences": licences,
        "scores": scores,
        "ranked_by": METRICS[ranked][0] if ranked else "",
        "examples": examples,
        "words": words,
        "limits": limits_of(facts, data, scores, words),
    }


def folder_facts(folder: Path, licence: str = "") -> Row:
    """What a model's folder alone tells, where no lake knows the model.

    Raises:
        CheckpointError: it is no model folder.
    """
    from clipcap.model.checkpoint import read_settings

    settings = read_settings(folder)
    meta = {
        "model_id": settings.model_id or folder.name, "language_model": settings.language_model,
        "mapper": settings.mapper, "prefix_length": settings.prefix_length, "tuned": settings.tuned,
        "encoder": settings.encoder, "encoder_hash": settings.encoder_hash, "clip_dim": settings.clip_dim,
        "features": settings.features,
    }  # fmt: skip
    facts = _facts(meta, {}, None, licence)
    facts |= {"settings": _settings(folder), "measured": _measured(folder)}
    return facts | {"limits": limits_of(facts, [], [], None)}


def training_card(meta: Row, train: Row, folder: Path) -> str:
    """The card that training stores with the model, of what is known at its end."""
    facts = _facts(meta, train, None, "")
    facts |= {"settings": _settings(folder), "measured": _measured(folder)}
    return model_card(facts | {"limits": limits_of(facts, [], [], None)})


def model_card(facts: Row) -> str:
    """The card as Markdown with YAML before it, of facts as the functions above give them."""
    return render("model_card.md.j2", _front_matter(facts), facts)


def card_of(folder: Path, licence: str = "", lake: Lake | None = None) -> str:
    """The card of a model that is exported: the lake's facts where it is known there, else the folder's."""
    facts = None
    if lake is not None:
        from clipcap.storage.manifest import read_current

        known = {entry.meta["model_id"] for entry in read_current(lake).of_stage("train")}
        facts = model_facts(lake, folder.name, licence) if folder.name in known else None
    return model_card(facts or folder_facts(folder, licence))


def _facts(meta: Row, train: Row, duration_s: float | None, licence: str) -> Row:
    """What does not depend on the catalog; every name that the template reads has a value."""
    language_model = meta["language_model"]
    is_own = language_model in ("scratch", "lm")
    changed = changed_settings(redact(train), TrainConfig())
    if "language_model.name" in changed:
        changed["language_model.name"] = _shown_name(language_model)
    return {
        "model_id": meta["model_id"], "licence": licence, "version": meta.get("clipcap_version", ""),
        "meta": _META | meta, "mapper": meta["mapper"], "prefix_length": meta["prefix_length"],
        "encoder": _shown_name(meta.get("encoder", "")), "encoder_hash": meta.get("encoder_hash", ""),
        "clip_dim": meta.get("clip_dim"), "features": meta.get("features", "embedding"),
        "language_model": _shown_name(language_model), "is_own_language_model": is_own,
        "is_local_language_model": not is_own and _shown_name(language_model) != language_model,
        "language_model_licence": "" if is_own else licence_of(language_model),
        "is_tuned": bool(meta.get("tuned")), "has_adapters": bool(train.get("language_model", {}).get("lora_rank")),
        "run_id": meta.get("run_id", ""), "batch_ids": meta.get("batch_ids", []), "changed": changed,
        "seed": train.get("seed"), "duration_s": duration_s, "device": meta.get("device", ""),
        "energy": meta.get("energy"), "created_at": "", "is_production": None, "promotion_reason": None,
        "production_model_id": "", "confidence": 0.95, "data": [], "licences": [], "scores": [], "ranked_by": "",
        "examples": [], "words": None, "limits": [],
    }  # fmt: skip


def _shown_name(name: str) -> str:
    """Without the folders of this machine."""
    path = Path(name.removeprefix("local-dir:")).expanduser()
    is_here = name.startswith("local-dir:") or path.is_absolute() or name.startswith((".", "~")) or path.exists()
    return path.name if is_here and path.name else name


def _settings(folder: Path) -> Row:
    from clipcap.model.checkpoint import read_settings

    return read_settings(folder).model_dump(mode="json")


def _measured(folder: Path) -> Row | None:
    """What training wrote down of itself; an imported model has none of it."""
    try:
        found: Row = json.loads((folder / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _front_matter(facts: Row) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    datasets = sorted({row["dataset"] for row in facts["data"]})
    name = ", ".join(datasets) or "unknown"
    results = [
        EvalResult(
            task_type="image-to-text", task_name="Image captioning", dataset_type=name, dataset_name=name,
            dataset_split=row["split"], metric_type=_HUB_METRICS[row["metric"]], metric_name=row["label"],
            metric_value=round(row["value"], 4),
        )
        for row in facts["scores"]
        if row["metric"] in _HUB_METRICS
    ]  # fmt: skip
    is_on_hub = not facts["is_own_language_model"] and not facts["is_local_language_model"]
    data = ModelCardData(
        license=facts["licence"].lower() or "unknown",
        library_name="clipcap",
        pipeline_tag="image-to-text",
        tags=["clipcap", "image-captioning", *(["lora"] if facts["has_adapters"] else [])],
        base_model=facts["language_model"] if is_on_hub else None,
        datasets=datasets or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=facts["model_id"],
        eval_results=results or None,
    )
    return data.to_yaml()
