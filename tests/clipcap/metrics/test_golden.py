"""Against the reference implementation: our own sentences (tests/golden), and the COCO example where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap.metrics.coco_files import load_candidates, load_references
from clipcap.metrics.evaluate import DEFAULT, score
from clipcap.metrics.ptb_tokenizer import tokenize

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CAPTIONS = json.loads((GOLDEN / "captions.json").read_text())
EXPECTED = json.loads((GOLDEN / "golden.json").read_text())
IMAGES = CAPTIONS["images"]


@pytest.fixture(scope="module")
def scores():
    return score(
        {key: image["candidate"] for key, image in IMAGES.items()},
        {key: image["references"] for key, image in IMAGES.items()},
    )


@pytest.mark.parametrize("metric", DEFAULT)
def test_scores_equal_the_reference_implementation(scores, metric):
    assert scores.corpus[metric] == pytest.approx(EXPECTED["corpus"][metric], abs=1e-12)
    assert scores.per_image[metric] == pytest.approx(EXPECTED["per_image"][metric], abs=1e-12)
    assert list(scores.per_image[metric]) == list(IMAGES)


@pytest.mark.parametrize("key", IMAGES)
def test_captions_are_tokenized_as_by_the_reference_implementation(key):
    expected = EXPECTED["tokens"][key]
    assert tokenize([IMAGES[key]["candidate"]]) == [expected["candidate"]]
    assert tokenize(IMAGES[key]["references"]) == expected["references"]


@pytest.mark.parametrize(("text", "tokens"), zip(CAPTIONS["strings"], EXPECTED["strings"], strict=True))
def test_strings_are_tokenized_as_by_the_reference_implementation(text, tokens):
    assert tokenize([text]) == [tokens]


# The reference implementation's values on its own example, from raw text.
COCO_EXAMPLE = {
    "bleu_1": 0.5793995754573356,
    "bleu_2": 0.40439129741018104,
    "bleu_3": 0.2785363856619147,
    "bleu_4": 0.1908290437674253,
    "rouge_l": 0.39625269357570847,
    "cider": 0.5997905185184199,
}


def test_coco_example_scores_as_published(shared):
    folder = shared / "fixtures" / "coco_example"
    scores = score(load_candidates(folder / "candidates.json"), load_references(folder / "references.json"))
    assert scores.corpus == pytest.approx(COCO_EXAMPLE, abs=1e-9)


def coco_example(shared):
    folder = shared / "fixtures" / "coco_example"
    return load_candidates(folder / "candidates.json"), load_references(folder / "references.json")


@pytest.mark.parametrize("metric", DEFAULT)
def test_each_image_of_the_coco_example_scores_as_by_the_reference_implementation(shared, metric):
    """The reference's values as they were on the day of the golden set, with ten digits, in the candidates' order."""
    expected = json.loads((GOLDEN / "coco_example_per_image.json").read_text())[metric]
    candidates, references = coco_example(shared)
    found = score(candidates, references, [metric]).per_image[metric]
    assert list(found) == list(candidates)
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_each_image_of_the_coco_example_scores_as_by_the_reference_that_is_installed(shared):
    """From its own tokens, so that it needs no Java."""
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    folder = shared / "fixtures" / "coco_example"
    candidates, references = coco_example(shared)
    ours = score(candidates, references)
    gts, res = (json.loads((folder / f"{name}_ptb.json").read_text()) for name in ("references", "candidates"))
    gts, res = {key: gts[key] for key in candidates}, {key: res[key] for key in candidates}
    theirs = dict(zip(DEFAULT, bleu.Bleu(4).compute_score(gts, res, verbose=0)[1], strict=False))
    theirs |= {"rouge_l": rouge.Rouge().compute_score(gts, res)[1], "cider": cider.Cider().compute_score(gts, res)[1]}
    for metric in DEFAULT:
        assert list(ours.per_image[metric].values()) == pytest.approx(list(theirs[metric]), abs=1e-9), metric


@pytest.mark.parametrize("name", ["candidates", "references"])
def test_coco_example_is_tokenized_as_by_the_reference_implementation(shared, name):
    folder = shared / "fixtures" / "coco_example"
    if name == "candidates":
        raw = {key: [caption] for key, caption in load_candidates(folder / "candidates.json").items()}
    else:
        raw = load_references(folder / "references.json")
    expected = json.loads((folder / f"{name}_ptb.json").read_text())
    assert {key: tokenize(captions) for key, captions in raw.items()} == expected
