"""Scenes of coloured shapes: what is in them, and how they look. Needs only NumPy and Pillow.

A scene is decided by (seed, index) alone, so scene 123 is the same whichever others are made. The words that
describe it are in ``scene_captions.py``.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS: dict[str, Colour] = {
    "red": (214, 39, 40),
    "orange": (250, 142, 30),
    "yellow": (247, 223, 60),
    "green": (34, 142, 62),
    "cyan": (70, 205, 214),
    "blue": (42, 74, 196),
    "purple": (128, 52, 158),
    "pink": (248, 150, 196),
}
TEXTURES = ("solid", "striped", "dotted")
RADII = {"large": 0.165, "small": 0.115}  # of the image's edge
# Backgrounds keep to greys and one pale sand colour, so that none is mistaken for an object's colour.
TONES: dict[str, Colour] = {"light grey": (214, 216, 218), "dark grey": (86, 90, 96), "beige": (222, 207, 180)}
PATTERNS = ("plain", "fading", "grainy", "checked", "cloudy")

_INK, _CHALK = (38, 38, 44), (250, 250, 246)  # stripes darken, dots lighten: neither changes the hue
_GAP = 0.03  # between objects and to the edge, of the image's edge
_OVERSAMPLING = 4  # shapes are drawn this much larger, then reduced: smooth edges


@dataclass(frozen=True)
class SceneObject:
    """One shape. Lengths are fractions of the image's edge, y points down, angle is in degrees."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    angle: float

    @property
    def radius(self) -> float:
        return RADII[self.size]


@dataclass(frozen=True)
class Scene:
    """Two or three objects, the largest and leftmost first, on a background."""

    seed: int
    index: int
    image_size: int
    objects: tuple[SceneObject, ...]
    tone: str
    pattern: str


def generator(scene_seed: int, index: int, purpose: int) -> np.random.Generator:
    """Random numbers for one purpose (0 content, 1 pixels, 2 words) of one scene, independent of all others."""
    return np.random.default_rng([scene_seed, index, purpose])


def scene(index: int, seed: int, image_size: int = 128) -> Scene:
    """Scene number ``index`` of the series ``seed``; its content does not depend on ``image_size`` (pixels)."""
    rng = generator(seed, index, 0)
    count = 2 if rng.random() < 0.6 else 3
    # The pairs of colour and shape differ, so "the red circle" always means one object.
    pairs = rng.choice(len(COLOURS) * len(SHAPES), size=count, replace=False)
    sizes = ["large"] + ["large" if rng.random() < 0.3 else "small" for _ in range(count - 1)]
    colours = list(COLOURS)
    objects = [
        SceneObject(
            shape=SHAPES[pair % len(SHAPES)],
            colour=colours[pair // len(SHAPES)],
            size=size,
            texture=TEXTURES[rng.choice(3, p=(0.5, 0.25, 0.25))],
            x=x,
            y=y,
            angle=float(rng.uniform(-12, 12)),
        )
        for pair, size, (x, y) in zip(pairs.tolist(), sizes, _positions(rng, sizes), strict=True)
    ]
    objects.sort(key=lambda item: (-item.radius, item.x))
    tone, pattern = list(TONES)[rng.integers(len(TONES))], PATTERNS[rng.integers(len(PATTERNS))]
    return Scene(seed, index, image_size, tuple(objects), tone, pattern)


def _positions(rng: np.random.Generator, sizes: list[str]) -> list[tuple[float, float]]:
    """Centres of discs that neither overlap nor touch the edge; tried anew until they fit."""
    radii = [RADII[size] for size in sizes]
    while True:
        centres = [tuple(rng.uniform(r + _GAP, 1 - r - _GAP, size=2).tolist()) for r in radii]
        if all(
            math.dist(centres[i], centres[j]) >= radii[i] + radii[j] + _GAP for i in range(len(radii)) for j in range(i)
        ):
            return centres


def relation(one: SceneObject, other: SceneObject) -> str:
    """Where ``one`` lies as seen from ``other``: "left", "right", "above" or "below", along the longer distance."""
    dx, dy = one.x - other.x, one.y - other.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of ``image_size`` x ``image_size`` pixels."""
    rng = generator(scene.seed, scene.index, 1)
    image = _background(scene, rng)
    for item in scene.objects:
        _draw(image, item)
    return image


def render_jpeg(scene: Scene, quality: int = 92) -> bytes:
    """The scene as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    render(scene).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A field of brightness around 0, in grey levels, is added to the tone, which varies a little too."""
    edge = scene.image_size
    field: np.ndarray = np.zeros((edge, edge))
    if scene.pattern == "fading":
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[-1 : 1 : edge * 1j, -1 : 1 : edge * 1j]
        field = 34 * (x * math.cos(angle) + y * math.sin(angle))
    elif scene.pattern == "grainy":
        field = rng.normal(0, 15, (edge, edge))
    elif scene.pattern == "checked":
        cell = max(2, round(edge * rng.uniform(0.09, 0.14)))
        y, x = np.mgrid[:edge, :edge] // cell
        field = np.where((x + y) % 2 == 0, 13.0, -13.0)
    elif scene.pattern == "cloudy":
        coarse = Image.fromarray(rng.normal(0, 18, (6, 6)).astype(np.float32))
        field = np.asarray(coarse.resize((edge, edge), Image.Resampling.BICUBIC))
    tone = np.asarray(TONES[scene.tone], np.float32) + rng.uniform(-8, 8)
    return Image.fromarray(np.clip(field[:, :, None] + tone, 0, 255).astype(np.uint8))


def _draw(image: Image.Image, item: SceneObject) -> None:
    """Pastes one object with its texture and a soft shadow."""
    radius = round(item.radius * image.width * _OVERSAMPLING)
    edge = 2 * radius + (-2 * radius) % _OVERSAMPLING
    mask = Image.new("L", (edge, edge))
    _outline(ImageDraw.Draw(mask), item, radius)
    small_mask = mask.reduce(_OVERSAMPLING)
    fill = _fill(item, edge, radius).reduce(_OVERSAMPLING)
    corner = [round(centre * image.width - edge / 2 / _OVERSAMPLING) for centre in (item.x, item.y)]
    offset = max(1, round(0.015 * image.width))
    image.paste((30, 30, 36), (corner[0] + offset, corner[1] + offset), small_mask.point(lambda level: level * 3 // 10))
    image.paste(fill, (corner[0], corner[1]), small_mask)


def _outline(draw: ImageDraw.ImageDraw, item: SceneObject, radius: int) -> None:
    """The shape in white, around (radius, radius), inside a circle of that radius."""
    if item.shape in ("circle", "ring"):
        inset = 0.06 * radius
        draw.ellipse((inset, inset, 2 * radius - inset, 2 * radius - inset), fill=255)
        if item.shape == "ring":
            hole = 0.46 * radius
            draw.ellipse((radius - hole, radius - hole, radius + hole, radius + hole), fill=0)
        return
    draw.polygon(_corners(item.shape, radius, item.angle), fill=255)


def _corners(shape: str, radius: int, angle: float) -> list[tuple[float, float]]:
    """Corners in pixels. Degrees count clockwise from the top; distances are shares of the radius."""
    if shape == "square":
        polar: list[tuple[float, float]] = [(45 + 90 * k, 1.0) for k in range(4)]
    elif shape == "triangle":
        polar = [(120 * k, 1.0) for k in range(3)]
    elif shape == "star":
        polar = [(36 * k, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
    else:  # a cross with arms 0.56 of the radius wide: two outer corners and one inner corner in each quarter
        half = math.degrees(math.asin(0.28))
        polar = [
            corner for k in range(4) for corner in ((90 * k - half, 1.0), (90 * k + half, 1.0), (90 * k + 45, 0.396))
        ]
    turned = [(math.radians(degrees + angle), distance * radius) for degrees, distance in polar]
    return [(radius + distance * math.sin(a), radius - distance * math.cos(a)) for a, distance in turned]


def _fill(item: SceneObject, edge: int, radius: int) -> Image.Image:
    fill = Image.new("RGB", (edge, edge), COLOURS[item.colour])
    draw = ImageDraw.Draw(fill)
    if item.texture == "striped":
        step = radius / 2.2
        for k in range(-5, 5):
            start = radius + k * step
            draw.line((start, 0, start + edge * 0.6, edge), fill=_INK, width=round(step * 0.34))
    elif item.texture == "dotted":
        step, dot = radius / 2.1, radius * 0.12
        for row in range(6):
            for column in range(6):
                x, y = (column + 0.5 * (row % 2)) * step, row * step
                draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=_CHALK)
    return fill
