"""The contact sheet: which images it shows, and all that is told of each."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from clipcap.config import ReportConfig
from clipcap.redaction import shown_url
from clipcap.report.summary import METRICS, Reader, Summary
from clipcap.report.text import differences, shortened
from clipcap.report.thumbnails import thumbnails
from clipcap.storage.lake import Lake

Row = dict[str, Any]

GROUPS = ("random", "changed", "best", "worst")
"""In the order of the sheet."""
_HOMES = ("changed", "worst", "best", "random")
"""An image of several groups stands in the first of these; the others name it."""
MOST_REFERENCES = 10
_ON_EDGE = ("cider", "clip_score")
"""Scores that stand beside the number of a card; all are in its large view."""
NOWHERE: Row = {"training_run_id": None, "embedding_file": None}


def read_cards(lake: Lake, reader: Reader, summary: Summary, config: ReportConfig) -> tuple[list[Row], str]:
    """Chooses the images: a fifth for the best, for the worst and for the most changed, the rest at random.

    Returns:
        The cards in the order of the sheet, each image once, and the metric that the best and the worst are chosen
        by: "cider", "clip_score" where nothing has references, or "" where there is neither.
    """
    share = config.images // 5
    run_id, about = summary.run["run_id"], {"model_id": summary.model_id, "baseline_id": summary.baseline_id}
    for metric in ("cider", "clip_score", ""):
        rows = reader.rows(
            "run_captions", run_id=run_id, metric=metric, images=config.images, extreme=share, changed=share,
            seed=config.seed, **about,
        )  # fmt: skip
        if not rows or any(row["score"] is not None for row in rows):
            break
    keys = [row["sample_key"] for row in rows]
    scores: dict[str, list[Row]] = {}
    for score in reader.rows("run_card_scores", run_id=run_id, keys=keys, **about):
        scores.setdefault(score["sample_key"], []).append(score)
    lineage = {row["sample_key"]: row for row in reader.rows("run_card_lineage", keys=keys, model_id=summary.model_id)}
    pictures = thumbnails(lake, [(row["tar"], row["member"]) for row in rows])
    cards = [_card(row, scores.get(row["sample_key"], []), lineage.get(row["sample_key"], NOWHERE)) for row in rows]
    for card in cards:
        card["thumbnail"] = pictures[card["tar"], card["member"]]
    cards.sort(key=lambda card: (GROUPS.index(card["home"]), card["ranks"][card["home"]]))
    return cards, metric


def _card(row: Row, scores: list[Row], lineage: Row) -> Row:
    ranks = {name: row[f"{name}_rank"] for name in GROUPS if row[f"{name}_rank"] is not None}
    caption, before = shortened(row["caption"]), row["baseline_caption"]
    pieces = [(caption, False)]
    before_pieces = None
    if before is not None:
        before_pieces, pieces = differences(shortened(before), caption)
    url = shown_url(row["image_url"] or "")  # a report is handed on: a signed address would let everybody in
    is_whole = url == row["image_url"]
    references = row["reference_captions"] or []
    found = _scores(row, scores)
    numbers = {score["metric"]: score["value"] for score in found}
    numbers |= {"change": row["change"]} if row["change"] is not None else {}
    return row | {
        "data": json.dumps(
            {
                "key": row["sample_key"],
                "split": row["split"] or "",
                "batch": row["batch_id"],
                "ranks": ranks,
                "scores": numbers,
            }
        ),
        "ranks": ranks,
        "home": next(name for name in _HOMES if name in ranks),
        "pieces": pieces,
        "before_pieces": before_pieces,
        "is_same": before is not None and not any(marked for _, marked in [*pieces, *(before_pieces or [])]),
        "references": [shortened(text) for text in references[:MOST_REFERENCES]],
        "more_references": max(len(references) - MOST_REFERENCES, 0),
        "scores": found,
        "edge_scores": [score for score in found if score["metric"] in _ON_EDGE] or found[:2],
        "url": shortened(url),
        "is_link": is_whole and url.startswith(("http://", "https://")) and len(url) <= 4_000 and url.isprintable(),
        "lineage": lineage,
    }


def _scores(row: Row, scores: list[Row]) -> list[Row]:
    """Scores of the image in the order of the metric table; the caption's own CLIPScore where evaluation has none."""
    found = {score["metric"]: score for score in scores}
    if row["clip_score"] is not None and "clip_score" not in found:
        found["clip_score"] = {
            "metric": "clip_score", "value": row["clip_score"], "baseline_value": row["baseline_clip_score"]
        }  # fmt: skip
    order = {metric: position for position, metric in enumerate(METRICS)}
    return [
        score | {"label": METRICS.get(metric, (metric, ""))[0]}
        for metric, score in sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
        if score["value"] is not None and math.isfinite(score["value"])
    ]


def facets(cards: list[Row], ranked_by: str) -> Row:
    """What the filters offer: groups with their sizes, splits, batches and scores that the cards have."""
    names = {score["metric"]: score["label"] for card in cards for score in card["scores"]}
    names = {metric: names[metric] for metric in [*METRICS, *sorted(names)] if metric in names}
    if any(card["change"] is not None for card in cards):
        names["change"] = "words not in both"
    return {
        "group_sizes": Counter(name for card in cards for name in card["ranks"]),
        "home_sizes": Counter(card["home"] for card in cards),
        "splits": sorted({card["split"] or "" for card in cards}),
        "batch_ids": sorted({card["batch_id"] for card in cards}),
        "score_names": names,
        "ranked_name": METRICS[ranked_by][0] if ranked_by else "",
    }
