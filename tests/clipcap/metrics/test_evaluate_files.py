"""Scoring and comparing files: what is asked for, what is missing, and how images are found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcap.errors import ConfigError, DataError
from clipcap.metrics.coco_files import load_candidate_lists, load_file_names
from clipcap.metrics.evaluate import DEFAULT, score
from clipcap.metrics.evaluate_files import compare_files, evaluate_files, find_images

REFERENCES = {"1": ["a red ball", "the ball"], "2": ["two dogs play", "dogs"], "3": ["a cat sits on a mat"]}
CANDIDATES = {"1": "a red ball", "2": "a dog plays", "3": "a cat on a mat"}
SEVERAL = {key: [caption, caption + " outside", "something else"] for key, caption in CANDIDATES.items()}


@pytest.fixture
def written(tmp_path: Path):
    def write(name: str, content: object) -> Path:
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return write


def test_files_score_as_their_captions_do(written):
    found = evaluate_files(written("r.json", REFERENCES), written("c.json", CANDIDATES))
    assert found.corpus == score(CANDIDATES, REFERENCES).corpus and tuple(found.corpus) == DEFAULT


def test_of_several_captions_the_first_is_scored_and_all_are_compared(written):
    references = written("r.json", REFERENCES)
    for content in (SEVERAL, [{"image_id": int(key), "captions": texts} for key, texts in SEVERAL.items()]):
        found = evaluate_files(references, written("c.json", content))
        assert list(found.corpus) == [*DEFAULT, "self_cider"]
        assert {name: found.corpus[name] for name in DEFAULT} == score(CANDIDATES, REFERENCES).corpus
        assert 0 < found.corpus["self_cider"] < 1
        assert set(found.per_image["self_cider"]) == set(SEVERAL)
        assert set(found.intervals(20)) == set(found.corpus)


def test_metrics_come_in_the_order_in_which_they_were_asked_for(written):
    metrics = ["self_cider", "vocabulary", "cider"]
    found = evaluate_files(written("r.json", REFERENCES), written("c.json", SEVERAL), metrics)
    assert list(found.corpus) == metrics


@pytest.mark.parametrize(
    ("metrics", "images", "encoder", "message"),
    [
        (["blue_4"], None, "", r"unknown metric 'blue_4': known are bleu_1.*meteor.*clip_score.*self_cider"),
        (["clip_score"], None, "", r"clip_score need the images and their encoder: --images DIR --encoder NAME"),
        ([], ".", "", r"--images needs --encoder NAME"),
    ],
)
def test_what_cannot_be_computed_from_what_was_given(written, metrics, images, encoder, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_files(Path("r.json"), Path("c.json"), metrics, images and Path(images), encoder)


def test_self_cider_of_single_captions_is_refused(written):
    candidates = written("c.json", {**SEVERAL, "2": "only one"})
    with pytest.raises(DataError, match=r"self_cider needs several captions .* 1 of 3 have one, first '2'"):
        evaluate_files(written("r.json", REFERENCES), candidates, ["self_cider"])
    assert "self_cider" not in evaluate_files(written("r.json", REFERENCES), candidates).corpus


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1": []}, "the candidate of '1' is not a list of texts"),
        ({"1": ["a", 3]}, "the candidate of '1' is not a list of texts"),
        ([{"image_id": 1, "captions": "a"}], "entry 0: 'captions' is not a list of texts"),
        ([{"image_id": 1, "captions": ["a"]}, {"image_id": 1, "caption": "b"}], 'a second time; .* "captions"'),
    ],
)
def test_lists_of_captions_of_another_layout(written, content, message):
    with pytest.raises(DataError, match=message):
        load_candidate_lists(written("c.json", content))


# Images


def test_images_are_found_by_the_name_in_the_references_by_id_and_as_coco_names_them(tmp_path, written):
    folder = tmp_path / "images"
    for name in ("val/COCO_val2014_000000000007.jpg", "000000000008.png", "x.webp", "9.jpg", "train_9.jpg", "p_q.webp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    names = load_file_names(
        written("r.json", {"images": [{"id": 3, "file_name": "val/x.webp"}, {"imgid": 4, "filename": "p_q.jpg"}]})
    )
    assert names == {"3": "val/x.webp", "4": "p_q.jpg"}
    found = find_images(folder, ["7", "8", "9", "3", "4", "x.webp"], names)
    assert [file.name for file in found] == [
        "COCO_val2014_000000000007.jpg", "000000000008.png", "9.jpg", "x.webp", "p_q.webp", "x.webp",
    ]  # fmt: skip
    assert load_file_names(written("r.json", REFERENCES)) == {}


def test_images_that_are_missing_or_ambiguous_are_named(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.jpg", "1.png"):
        (folder / name).touch()
    with pytest.raises(DataError, match=r"3 of 3 images have no file in .*\(2, 3, 4\)"):
        find_images(folder, ["2", "3", "4"], {})
    with pytest.raises(DataError, match=r"image '1' could be .*1\.jpg or .*1\.png"):
        find_images(folder, ["1"], {})
    with pytest.raises(DataError, match="there is no folder"):
        find_images(tmp_path / "gone", ["1"], {})


def test_clip_scores_of_files_tell_their_captions_from_others(written, tmp_path):
    from clipcap.dataset.scene_captions import captions
    from clipcap.dataset.scenes import render, scene

    folder = tmp_path / "images"
    folder.mkdir()
    pictures = {str(number): scene(9_000 + number, seed=1) for number in range(6)}
    for key, picture in pictures.items():
        render(picture).save(folder / f"{key}.png")
    texts = {key: captions(picture) for key, picture in pictures.items()}
    references = written("r.json", {key: each[1:] for key, each in texts.items()})
    ours = {key: each[0] for key, each in texts.items()}
    exchanged = dict(zip(ours, [*list(ours.values())[1:], ours["0"]], strict=True))
    scores = [
        evaluate_files(references, written("c.json", each), (), folder, "builtin:sample", "cpu").corpus
        for each in (ours, exchanged)
    ]
    for metric in ("clip_score", "ref_clip_score"):
        assert scores[0][metric] > 1.5 * scores[1][metric] > 0
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        evaluate_files(references, written("c.json", ours), (), folder, "builtin:sample", "cpu")


# Two files


def test_two_files_are_compared_on_the_same_images(written):
    better = {key: texts[0] for key, texts in REFERENCES.items()}
    files = written("a.json", better), written("b.json", CANDIDATES)
    rows = {row["metric"]: row for row in compare_files(written("r.json", REFERENCES), *files, resamples=50)}
    assert {"cider", "bleu_4", "rouge_l", "vocabulary"} <= set(rows)
    assert rows["bleu_1"]["difference"] > 0 and rows["bleu_1"]["images"] == 3
    assert (rows["rouge_l"]["wins"], rows["rouge_l"]["ties"], rows["rouge_l"]["losses"]) == (2, 1, 0)
    back = {row["metric"]: row for row in compare_files(written("r.json", REFERENCES), *files[::-1], resamples=50)}
    assert all(row["difference"] == -back[name]["difference"] for name, row in rows.items())


def test_files_of_different_images_are_not_compared(written):
    files = written("a.json", CANDIDATES), written("b.json", {"1": "x", "9": "y"})
    with pytest.raises(DataError, match=r"a\.json and .*b\.json caption different images: 3 .*\(2, 3, 9\)"):
        compare_files(written("r.json", REFERENCES), *files)
