"""Which images stand on the contact sheet, in which groups and order, and what is told of each."""

from __future__ import annotations

from tiny_lake import NEW, OLD, RUN, SHARDS, key

from clipcap.config import ReportConfig
from clipcap.report.cards import read_cards
from clipcap.report.summary import open_reader, read_summary


def sheet(tiny, **config):
    tiny.commit()
    with open_reader(tiny.lake) as reader:
        return read_cards(tiny.lake, reader, read_summary(reader, RUN), ReportConfig(**config))


def group(cards, name: str) -> list[str]:
    """Keys of a group in the order of their ranks."""
    return [c["sample_key"] for c in sorted((c for c in cards if name in c["ranks"]), key=lambda c: c["ranks"][name])]


def test_best_and_worst_are_the_ends_of_the_ranking(many):
    cards, metric = sheet(many, images=20)
    assert metric == "cider"
    assert group(cards, "best") == [key(n) for n in (139, 138, 137, 136)]
    assert group(cards, "worst") == [key(n) for n in (1, 0, 100, 101)]


def test_most_changed_are_those_with_the_fewest_words_in_common(many):
    cards, _ = sheet(many, images=20)
    assert group(cards, "changed") == [key(n) for n in (139, 138, 137, 136)]
    change = {card["sample_key"]: card["change"] for card in cards}
    assert change[key(139)] == 1 - 1 / 79  # 39 of 40 words differ: one of 79 is in both
    assert sheet(many, images=0)[0] == []


def test_an_image_is_there_once_with_all_its_groups(many):
    cards, _ = sheet(many, images=20)
    keys = [card["sample_key"] for card in cards]
    assert len(keys) == len(set(keys)) <= 20
    twice = next(card for card in cards if card["sample_key"] == key(139))
    assert {"best": 1, "changed": 1}.items() <= twice["ranks"].items() and twice["home"] == "changed"


def test_the_random_sample_fills_what_is_left_whatever_else_an_image_is(many):
    cards, _ = sheet(many, images=20)
    taken = {card["sample_key"] for card in cards if set(card["ranks"]) & {"best", "worst", "changed"}}
    ranks = sorted(card["ranks"]["random"] for card in cards if "random" in card["ranks"])
    assert ranks == list(range(1, 20 - len(taken) + 1))
    assert all(card["score"] is not None for card in cards)  # 42 images have a score, two have none
    assert group(cards, "random") != group(sheet(many, images=20, seed=1)[0], "random")


def test_equal_captions_are_not_changed(many):
    for shard in SHARDS:
        for row, before in zip(
            many.rows(f"captions/{NEW}/{RUN}/{shard}"), many.rows(f"captions/{OLD}/{RUN}/{shard}"), strict=True
        ):
            row["caption"] = before["caption"].upper() + "."
    cards, _ = sheet(many, images=20)
    assert group(cards, "changed") == [] and {card["change"] for card in cards} == {0.0}


def test_without_references_the_captions_own_clip_scores_rank(many):
    many.entries = {name: entry for name, entry in many.entries.items() if entry["stage"] != "evaluate"}
    for shard in SHARDS:
        for row in many.rows(f"captions/{NEW}/{RUN}/{shard}"):
            row["clip_score"] = int(row["sample_key"][-3:]) / 1000
    cards, metric = sheet(many, images=20)
    assert metric == "clip_score" and group(cards, "best")[0] == key(139) and group(cards, "worst")[0] == key(0)
    assert [s["label"] for s in cards[0]["scores"]] == ["CLIPScore"]


def test_without_any_score_there_is_only_the_random_sample_and_what_changed(many):
    many.entries = {name: entry for name, entry in many.entries.items() if entry["stage"] != "evaluate"}
    cards, metric = sheet(many, images=20)
    assert metric == "" and {name for card in cards for name in card["ranks"]} == {"random", "changed"}


def test_a_score_that_is_no_number_ranks_nothing(many):
    for row in many.rows(f"metrics/{NEW}/{RUN}/per_image"):
        if row["sample_key"] == key(139):
            row["value"] = float("nan")
    cards, _ = sheet(many, images=20)
    assert group(cards, "best")[0] == key(138) and key(139) not in group(cards, "worst")


def test_a_card_shows_what_differs(promoted):
    cards, _ = sheet(promoted, images=5)
    card = next(card for card in cards if card["sample_key"] == key(0))
    assert card["pieces"] == [("new", True), (" caption 0", False)]
    assert card["before_pieces"] == [("old", True), (" caption 0", False)]


def test_scores_of_both_models_stand_side_by_side(promoted):
    for row in promoted.rows(f"metrics/{OLD}/{RUN}/per_image"):
        row["value"] /= 2
    cards, _ = sheet(promoted, images=5)
    card = next(card for card in cards if card["sample_key"] == key(0))
    assert [(s["label"], s["value"], s["baseline_value"]) for s in card["scores"]] == [("CIDEr", 1.0, 0.5)]


def test_only_plain_web_addresses_are_links(tiny):
    addresses = ["https://a.test/1.jpg", "javascript:alert(1)", "http://a.test/\x1b", "file:///etc/passwd"]
    rows = [row for shard in SHARDS for row in tiny.rows(f"shards/{shard}")]
    for row, address in zip(rows, addresses, strict=False):
        row["image_url"] = address
    cards, _ = sheet(tiny, images=10)
    assert {card["url"]: card["is_link"] for card in cards} == dict(
        zip(addresses, [True, False, False, False], strict=True)
    )
