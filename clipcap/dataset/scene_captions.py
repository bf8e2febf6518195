"""Five differently worded captions for a scene, and the reading that checks whether a caption is true.

The words are few and regular on purpose: a small language model learns them in a minute, and anyone can measure
whether a generated caption names an object that is there with its right colour (``named_objects``, ``true_objects``).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from clipcap.dataset.scenes import COLOURS, SHAPES, Scene, SceneObject, generator, relation

Pair = tuple[str, str]
"""(colour, shape)."""

_PAIR = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
_PHRASES = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below", "under"),
}


def true_objects(scene: Scene) -> set[Pair]:
    """The (colour, shape) pairs that are in the scene."""
    return {(item.colour, item.shape) for item in scene.objects}


def named_objects(caption: str) -> set[Pair]:
    """The (colour, shape) pairs that a caption names: a colour directly followed by a shape."""
    return set(_PAIR.findall(caption.lower()))


def captions(scene: Scene) -> list[str]:
    """Five different captions, all true: they name objects with their colours, most a relation or the background."""
    rng = generator(scene.seed, scene.index, 2)
    chosen = rng.permutation(len(_TEMPLATES))[:5]
    return [_sentence(_TEMPLATES[k](scene, rng)) for k in chosen]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _brief(item: SceneObject) -> str:
    return f"{item.colour} {item.shape}"


def _sized(item: SceneObject, rng: np.random.Generator) -> str:
    size = rng.choice(("large", "big")) if item.size == "large" else "small"
    return f"{size} {_brief(item)}"


def _textured(item: SceneObject) -> str:
    return _brief(item) if item.texture == "solid" else f"{item.texture} {_brief(item)}"


def _full(item: SceneObject, rng: np.random.Generator) -> str:
    size, rest = _sized(item, rng).split(" ", 1)
    return f"{size} {rest}" if item.texture == "solid" else f"{size} {item.texture} {rest}"


def _where(one: SceneObject, other: SceneObject, rng: np.random.Generator) -> str:
    return str(rng.choice(_PHRASES[relation(one, other)]))


def _ground(scene: Scene) -> str:
    return f"{_a(f'{scene.pattern} {scene.tone}')} background"


def _listed(items: list[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _relation_first(scene: Scene, rng: np.random.Generator) -> str:
    a, b, *rest = scene.objects
    text = f"{_a(_full(a, rng))} {_where(a, b, rng)} {_a(_textured(b))}"
    return text + "".join(f", with {_a(_brief(c))} {_where(c, a, rng)} the {_brief(a)}" for c in rest)


def _list_on_ground(scene: Scene, rng: np.random.Generator) -> str:
    return f"{_listed([_a(_brief(item)) for item in scene.objects])} on {_ground(scene)}"


def _there_is(scene: Scene, rng: np.random.Generator) -> str:
    a, b, *_ = scene.objects
    return f"there is {_a(_sized(a, rng))} on {_ground(scene)}, with {_a(_brief(b))} {_where(b, a, rng)} it"


def _textures(scene: Scene, rng: np.random.Generator) -> str:
    return _listed([_a(_textured(item)) for item in scene.objects])


def _is_where(scene: Scene, rng: np.random.Generator) -> str:
    a, b, *rest = scene.objects
    text = f"the {_sized(a, rng)} is {_where(a, b, rng)} the {_brief(b)}"
    return text + "".join(f" and the {_brief(c)} is {_where(c, b, rng)} the {_brief(b)}" for c in rest)


def _counted(scene: Scene, rng: np.random.Generator) -> str:
    number = {2: "two", 3: "three"}[len(scene.objects)]
    return f"{number} shapes on {_ground(scene)}: {_listed([_a(_brief(item)) for item in scene.objects])}"


def _second_first(scene: Scene, rng: np.random.Generator) -> str:
    a, b, *_ = scene.objects
    return f"{_a(_sized(b, rng))} sits {_where(b, a, rng)} {_a(_full(a, rng))}"


def _picture_of(scene: Scene, rng: np.random.Generator) -> str:
    a, *rest = scene.objects
    return f"a picture of {_a(_full(a, rng))} and {_listed_rest(rest)} in front of {_ground(scene)}"


def _listed_rest(rest: list[SceneObject]) -> str:
    return " and ".join(_a(_brief(item)) for item in rest)


_TEMPLATES: tuple[Callable[[Scene, np.random.Generator], str], ...] = (
    _relation_first,
    _list_on_ground,
    _there_is,
    _textures,
    _is_where,
    _counted,
    _second_first,
    _picture_of,
)
