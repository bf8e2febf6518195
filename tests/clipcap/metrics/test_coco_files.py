"""Each layout is read; everything else is refused in one line that names the file and the place."""

from __future__ import annotations

import json

import pytest

from clipcap.errors import DataError
from clipcap.metrics.coco_files import load_candidates, load_references


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "file.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_coco_annotations_group_by_image(write):
    annotations = [{"image_id": 7, "caption": "a"}, {"image_id": 3, "caption": "b"}, {"image_id": 7, "caption": "c"}]
    path = write({"images": [{"id": 7}, {"id": 3}], "annotations": annotations})
    assert load_references(path) == {"7": ["a", "c"], "3": ["b"]}


def test_karpathy_keys_are_cocoid_then_imgid_then_filename(write):
    sentences = [{"raw": "A dog.", "tokens": ["a", "dog"]}, {"raw": "A cat."}]
    images = [
        {"cocoid": 391895, "imgid": 0, "filename": "x.jpg", "sentences": sentences},
        {"imgid": 1, "filename": "y.jpg", "sentences": sentences[:1]},
        {"filename": "z.jpg", "sentences": sentences[:1]},
    ]
    references = load_references(write({"images": images, "dataset": "coco"}))
    assert references == {"391895": ["A dog.", "A cat."], "1": ["A dog."], "z.jpg": ["A dog."]}


def test_plain_objects(write):
    assert load_references(write({"a": ["x", "y"], "b": []})) == {"a": ["x", "y"], "b": []}
    assert load_candidates(write({"a": "x", "b": ""})) == {"a": "x", "b": ""}


def test_coco_results(write):
    path = write([{"image_id": 7, "caption": "a"}, {"image_id": "x", "caption": ""}])
    assert load_candidates(path) == {"7": "a", "x": ""}


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "x"}')
    assert load_candidates(path) == {"a": "x"}


BROKEN = [("{", "not valid JSON"), ("", "not valid JSON"), ("3", "number"), ("null", "null"), ("{}", "holds no")]


@pytest.mark.parametrize(("content", "message"), BROKEN)
@pytest.mark.parametrize("load", [load_references, load_candidates])
def test_what_is_no_json_or_holds_nothing(write, load, content, message):
    with pytest.raises(DataError, match=message) as error:
        load(write(content))
    assert "file.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_references, load_candidates])
def test_files_that_cannot_be_read(tmp_path, load):
    with pytest.raises(DataError, match=r"absent\.json cannot be read"):
        load(tmp_path / "absent.json")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(DataError, match="UTF-8"):
        load(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "caption": "a"}], "looks like candidates"),
        ({"annotations": {"1": "a"}}, "annotations is object, not an array"),
        ({"annotations": [{"image_id": 1, "caption": "a"}, 5]}, r"annotations\[1\] is number"),
        ({"annotations": [{"caption": "a"}]}, r"annotations\[0\] has no image_id"),
        ({"annotations": [{"image_id": True, "caption": "a"}]}, r"annotations\[0\] has no image_id"),
        ({"annotations": [{"image_id": 1, "caption": None}]}, r"annotations\[0\] has no 'caption'"),
        ({"annotations": []}, "holds no references"),
        ({"images": [{"imgid": 1}]}, r"images\[0\]\.sentences is null"),
        ({"images": [{"imgid": 1, "sentences": [{"tokens": []}]}]}, r"images\[0\]\.sentences\[0\] has no 'raw'"),
        ({"a": "one text"}, "references of 'a' are not a list"),
        ('{"a": ["x"], "a": ["y"]}', "'a' stands twice"),
    ],
)
def test_references_of_another_layout(write, content, message):
    with pytest.raises(DataError, match=message):
        load_references(write(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": [{"image_id": 1, "caption": "a"}]}, "looks like references"),
        (
            [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}],
            "entry 1 captions image '1' a second time",
        ),
        ([{"image_id": 1}], "entry 0 has no 'caption'"),
        ([{"id": 1, "caption": "a"}], "entry 0 has no image_id"),
        (["a"], r"\[0\] is text"),
        ([], "holds no candidates"),
        ({"a": ["x"]}, "candidate of 'a' is array"),
        ('{"a": "x", "a": "y"}', "'a' stands twice"),
    ],
)
def test_candidates_of_another_layout(write, content, message):
    with pytest.raises(DataError, match=message):
        load_candidates(write(content))
