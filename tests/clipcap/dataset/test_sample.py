"""The sample's scenes look like what their captions say, and each is decided by its seed and index alone.

Checked with oracles of its own: a word-by-word reading of captions, and the pixels at an object's centre.
"""

import io
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from clipcap.config import SampleConfig
from clipcap.dataset.sample import TROUBLE, sample_rows, split_of, trouble_scene
from clipcap.dataset.scene_captions import captions, named_objects, true_objects
from clipcap.dataset.scenes import COLOURS, RADII, SHAPES, Scene, SceneObject, relation, render, render_jpeg, scene

MANY = [scene(index, seed=7) for index in range(400)]


def read_pairs(caption: str) -> set[tuple[str, str]]:
    """Colour and shape of each noun, found by walking over the words."""
    words = re.sub(r"[^a-z ]", "", caption.lower()).split()
    return {(words[k - 1], word) for k, word in enumerate(words) if word in SHAPES}


def read_relations(caption: str) -> set[tuple[tuple[str, str], str, tuple[str, str]]]:
    """What a caption states directly, "a red circle to the left of a blue star", a word of place between two nouns."""
    noun, sides = rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", {"under": "below"}
    place = r"(?:(?:is|sits) )?(?:to the )?(left|right|above|below|under)(?: of)? (?:an?|the) "
    found = re.findall(noun + " " + place + r"(?:(?:big|large|small|striped|dotted) )*" + noun, caption.lower())
    return {((c1, s1), sides.get(side, side), (c2, s2)) for c1, s1, side, c2, s2 in found}


def holds(one: Scene, stated: tuple[tuple[str, str], str, tuple[str, str]]) -> bool:
    place = {(item.colour, item.shape): (item.x, item.y) for item in one.objects}
    (ax, ay), (bx, by) = place[stated[0]], place[stated[2]]
    return {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}[stated[1]]


def identity(one: Scene) -> tuple:
    """Everything that a caption could tell apart."""
    return (
        one.tone,
        one.pattern,
        tuple((o.shape, o.colour, o.size, o.texture) for o in one.objects),
        tuple(relation(a, b) for a in one.objects for b in one.objects if a is not b),
    )


def test_same_seed_same_bytes_and_another_seed_other_bytes():
    assert render_jpeg(scene(5, seed=7)) == render_jpeg(scene(5, seed=7))
    assert captions(scene(5, seed=7)) == captions(scene(5, seed=7))
    assert render_jpeg(scene(5, seed=7)) != render_jpeg(scene(5, seed=8))
    assert scene(5, seed=7).objects != scene(5, seed=8).objects
    assert scene(5, seed=7).objects != scene(6, seed=7).objects


def test_the_content_does_not_depend_on_the_size_of_the_image():
    assert scene(5, 7, image_size=64).objects == scene(5, 7, image_size=256).objects
    assert render(scene(5, 7, image_size=64)).size == (64, 64)


def test_the_bytes_are_a_whole_jpeg_of_the_scene():
    image = Image.open(io.BytesIO(render_jpeg(scene(3, 7))))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 128))
    difference = np.abs(np.asarray(image, float) - np.asarray(render(scene(3, 7)), float))
    assert difference.mean() < 6


def test_objects_keep_apart_and_inside_and_are_named_unambiguously():
    for one in MANY:
        assert 2 <= len(one.objects) <= 3
        assert len(true_objects(one)) == len(one.objects)
        assert one.objects[0].size == "large"
        for item in one.objects:
            assert item.radius <= min(item.x, item.y, 1 - item.x, 1 - item.y)
        for a in one.objects:
            for b in one.objects:
                assert a is b or np.hypot(a.x - b.x, a.y - b.y) > RADII[a.size] + RADII[b.size]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "ring"])
def test_the_pixels_where_an_object_is_have_its_colour(colour, shape):
    item = SceneObject(shape, colour, "large", "solid", x=0.3, y=0.6, angle=5.0)
    image = np.asarray(render(Scene(1, 1, 128, (item,), "dark grey", "plain")), int)
    middle = image[round(0.6 * 128), round(0.3 * 128)]
    distances = {name: np.abs(middle - np.array(value)).sum() for name, value in COLOURS.items()}
    assert min(distances, key=distances.get) == colour
    assert distances[colour] <= 3


def test_a_ring_is_open_and_shapes_differ_in_area():
    def covered(shape: str) -> np.ndarray:
        item = SceneObject(shape, "red", "large", "solid", x=0.5, y=0.5, angle=0.0)
        image = np.asarray(render(Scene(1, 1, 128, (item,), "light grey", "plain")), int)
        return np.abs(image - np.array(COLOURS["red"])).sum(axis=2) < 40

    assert not covered("ring")[64, 64] and covered("circle")[64, 64]
    areas = {shape: covered(shape).sum() for shape in SHAPES}
    assert len({int(area) // 20 for area in areas.values()}) == len(SHAPES)


def test_every_caption_names_only_what_is_there():
    for one in MANY:
        truth = {(item.colour, item.shape) for item in one.objects}
        for caption in captions(one):
            assert read_pairs(caption), caption
            assert read_pairs(caption) <= truth, caption
            assert named_objects(caption) == read_pairs(caption)


def test_captions_state_relations_that_hold_in_pixels():
    stated = 0
    for one in MANY:
        for caption in captions(one):
            for statement in read_relations(caption):
                assert holds(one, statement), caption
                stated += 1
    assert stated > len(MANY)


def test_a_false_caption_is_found_out():
    one = Scene(
        1,
        1,
        128,
        (
            SceneObject("circle", "red", "large", "solid", 0.2, 0.5, 0.0),
            SceneObject("star", "blue", "small", "dotted", 0.8, 0.5, 0.0),
        ),
        "beige",
        "plain",
    )
    assert true_objects(one) == {("red", "circle"), ("blue", "star")}
    assert not named_objects("A blue circle and a red star.") & true_objects(one)
    [true] = read_relations("A red circle left of a dotted blue star.")
    [false] = read_relations("The red circle is to the right of the blue star.")
    assert holds(one, true) and not holds(one, false)


def test_five_differently_worded_captions_from_a_small_vocabulary():
    words: Counter[str] = Counter()
    for one in MANY:
        five = captions(one)
        assert len(set(five)) == 5
        assert len({re.sub("|".join([*COLOURS, *SHAPES, "large", "big", "small"]), "", text) for text in five}) == 5
        for text in five:
            assert text[0].isupper() and text.endswith(".")
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text.lower()), text
            words.update(re.findall("[a-z]+", text.lower()))
    assert set(COLOURS) | set(SHAPES) <= set(words)
    assert len(words) < 150


def test_rows_stand_in_order_with_splits_of_80_10_10_and_trouble_between():
    config = SampleConfig()
    rows = sample_rows(config, port=8765)
    assert len(rows) == config.scenes + len(TROUBLE) + 1
    scenes = [row for row in rows if "/scenes/" in row["url"]]
    planted = {row["url"].rsplit("/", 1)[1]: at for at, row in enumerate(rows) if "/trouble/" in row["url"]}
    assert set(planted) == set(TROUBLE)
    gaps = np.diff(sorted([*planted.values(), 0, len(rows)]))
    assert gaps.max() < 3 * gaps.min()

    repeated = [url for url, times in Counter(row["url"] for row in rows).items() if times > 1]
    assert repeated == ["http://127.0.0.1:8765/scenes/000000.jpg"]
    originals = list({row["url"]: row for row in scenes}.values())
    assert [row["url"][-10:-4] for row in originals] == [f"{index:06d}" for index in range(config.scenes)]
    assert Counter(row["split"] for row in originals) == {"train": 1280, "val": 160, "test": 160}
    assert all(row["split"] == "train" for row in rows if "/trouble/" in row["url"])
    assert all(len(row["captions"]) == 5 and all(row["captions"]) for row in rows)


def test_rows_depend_on_the_seed_and_not_on_how_many_there_are():
    few, more, other = (sample_rows(SampleConfig(scenes=n, seed=s), 8765) for n, s in ((20, 7), (40, 7), (20, 8)))
    by_url = {row["url"]: row for row in more}
    for row in few:
        if "/scenes/" in row["url"]:
            assert by_url[row["url"]] == row
    assert [row["captions"] for row in few] != [row["captions"] for row in other]


def test_no_scene_of_test_occurs_in_train():
    config = SampleConfig()
    by_split: dict[str, set] = {"train": set(), "val": set(), "test": set()}
    for index in range(config.scenes):
        by_split[split_of(index)].add(identity(scene(index, config.seed)))
    for name in TROUBLE:
        by_split["train"].add(identity(scene(trouble_scene(name, config), config.seed)))
    assert not by_split["test"] & by_split["train"]
    assert not by_split["test"] & by_split["val"]
    assert len(by_split["test"]) == 160
