"""What a model's numbers say against it, in sentences. Each rests on a fact; where there is none, that is said."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
FEW_IMAGES = 1000
"""A scored split with fewer has intervals that hide differences between good models."""
FEW_CAPTIONS = 10_000


def limits_of(facts: Row, data: list[Row], scores: list[Row], words: Row | None) -> list[str]:
    """Sentences for the card, the most telling first."""
    return [*_data(data), *_words(words), *_people(words), *_scores(scores), *_unknown(facts, data, scores)]


def _data(data: list[Row]) -> list[str]:
    told = []
    if any(row["source"] == "builtin:sample" for row in data):
        told.append(
            "It learned from rendered scenes of coloured shapes. It says nothing meaningful about photographs, and its "
            "scores cannot be compared with those of models of photographs."
        )
    taught = [row for row in data if row["split"] in ("train", "restval")]
    captions = sum(row["captions"] for row in taught)
    if taught and captions < FEW_CAPTIONS:
        told.append(
            f"It learned from {captions:,} captions. That is little: what is rare in them it has hardly seen."
        )
    missing = sum(row["images"] - row["with_licence"] for row in taught if row["source"] != "builtin:sample")
    if missing:
        told.append(
            f"For {missing:,} of the {sum(row['images'] for row in taught):,} images in the training splits no licence "
            "is recorded. Clarify the rights before the model is published."
        )
    return told


def _words(words: Row | None) -> list[str]:
    if not words or not words["written_captions"]:
        return []
    longest, usual = words["written_longest"], words["learned_length"] or 0
    told = [
        f"Its captions use {words['written_words']:,} different words; the captions it learned from have "
        f"{words['learned_words']:,}. It cannot name what has no word there. Captions are "
        f"{words['written_length']:.1f} words long on average ({usual:.1f} in training), at most {longest}."
    ]
    for images, which in (("unseen", "did not teach it"), ("taught", "taught it")):
        if words[images]:
            told.append(
                f"Of its captions of the {words[images]:,} images that {which}, "
                f"{words[f'{images}_repeated'] / words[images]:.0%} stand word for word among the training captions."
            )
    if words["commonest_images"] and words["commonest_images"] > max(2, 0.01 * words["written_captions"]):
        told.append(
            f"It repeats itself: \u201c{words['commonest']}\u201d was written for {words['commonest_images']:,} images."
        )
    return told


def _people(words: Row | None) -> list[str]:
    if not words or not (words["learned_men"] or words["learned_women"]):
        return []
    men, women = words["learned_men"], words["learned_women"]
    told = [f"Training captions name men or boys {men:,} times and women or girls {women:,} times"]
    wrote = words["written_men"] + words["written_women"]
    if wrote:
        before, after = men / (men + women), words["written_men"] / wrote
        told.append(
            f"of those two, men are {before:.0%} in training and {after:.0%} in its captions"
            + (", so it makes the imbalance larger" if abs(after - 0.5) > abs(before - 0.5) + 0.02 else "")
        )
    return [": ".join(told) + ". It guesses genders from looks, and guesses wrong."]


def _scores(scores: list[Row]) -> list[str]:
    told = []
    row = next((row for row in scores if row["metric"] == "cider"), next(iter(scores), None))
    if row is None:
        return []
    if row["low"] is not None and row["value"]:
        width = (row["high"] - row["low"]) / abs(row["value"])
        few = f"{row['images']:,} images were scored"
        if row["images"] < FEW_IMAGES:
            told.append(
                f"Only {few}: the interval of {row['label']} is {width:.0%} of its value wide. Another model that "
                "differs by less may be no different."
            )
    if row["control"] is not None and row["value"]:
        share = row["control"] / row["value"]
        told.append(
            f"With embeddings exchanged between images {row['label']} is {row['control']:.3f} instead of "
            f"{row['value']:.3f}: {max(share, 0):.0%} of the score need no look at the image."
        )
    return told


def _unknown(facts: Row, data: list[Row], scores: list[Row]) -> list[str]:
    told = []
    if not scores:
        told.append("No score is known here: it was not evaluated, or this card was written before.")
    if not data:
        told.append("Its data is not described here; ask whoever trained it.")
    if not facts["is_own_language_model"] and not facts["language_model_licence"]:
        told.append(
            f"The files of the language model {facts['language_model']} that are at hand name no licence. Its licence "
            "binds this model too; look it up."
        )
    told.append("Scores compare words with references. Nobody has checked here whether captions harm, or whom.")
    return told
