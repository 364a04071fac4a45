"""The Shapes world: a deterministic renderer of small labelled scenes with captions.

A scene is one or two textured backgrounds ("stuff") under one to three coloured shapes ("things"),
drawn at 64 x 64 with numpy alone. It depends on nothing but its split and index: `render(split, i)`
gives the same bytes whichever scenes were drawn before. The splits are disjoint random streams:
"web" and "close" are what the world's CLIP teacher sees (image and caption; half are close-ups, of "close" up to 4.2
times as large), "train", "val" and "dev" are what a student sees.

Every pixel carries its class here; removing the labels of unseen classes is the data set's duty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 64
THINGS = (
    "circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow", "bolt",
)  # fmt: skip
STUFF = ("stripes", "dots", "checks", "bricks", "waves", "sand")
CLASSES = THINGS + STUFF
RENAMED = (
    "round", "quad", "wedge", "asterisk", "crux", "annulus", "cardioid", "sickle", "vane", "flash",
    "bands", "speckles", "gingham", "wall", "billows", "grit",
)  # fmt: skip
"""Words for the same classes, which no caption or training of a student has."""
UNSEEN = ("star", "ring", "dots", "bricks")
SEEN = tuple(name for name in CLASSES if name not in UNSEEN)
SPLITS = ("web", "train", "val", "dev", "close")
CLOSEST = 4.2  # zoom of the closest close-ups
MAX_TILT = 0.4  # radians; things stand upright, as most things in photos do
DRIFT, TURN = (
    2.5,
    0.12,
)  # the most that a thing moves in a frame of a clip: pixels each way, radians
MIN_AREA = 0.015  # a class smaller than this fraction of the frame is not named in the caption

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "green": (58, 168, 73),
    "blue": (56, 96, 218),
    "yellow": (242, 208, 54),
    "orange": (240, 138, 40),
    "purple": (142, 68, 190),
    "pink": (245, 130, 190),
    "turquoise": (60, 200, 195),
    "white": (245, 245, 245),
    "brown": (140, 92, 58),
}

FloatArray = NDArray[np.floating[Any]]
Distance = Callable[[FloatArray, FloatArray], FloatArray]  # x, y -> signed distance to a shape
Cover = Callable[[FloatArray, FloatArray, float, np.random.Generator], FloatArray]


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W], index into CLASSES of every pixel.
        instances: uint8 [H, W], 1 on the background, on things a number of their own: the k-th of a class that is
            drawn has the same whatever else is drawn.
        caption: one sentence naming what is visible.
        colours: colour word of each visible class; None for stuff and for a class in two colours.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    caption: str
    colours: dict[str, str | None]


def render(
    split: str,
    index: int,
    classes: Sequence[str] = CLASSES,
    *,
    zoom: float | None = None,
    size: int = SIZE,
    things: tuple[int, int] = (1, 3),
    time: float = 0.0,
) -> Scene:
    """Draw scene `index` of `split`, using only `classes` (at least one thing and one stuff class).

    Args:
        split, index: which scene.
        classes: those that may occur.
        zoom: how many times as large as usual all is drawn; default: as the split has it.
        size: side of the frame in pixels.
        things: the fewest and the most things in it.
        time: of a clip that begins with this scene, in frames: its things drift and turn.

    Raises:
        ValueError: unknown split, negative index, or classes without a thing or without stuff.
    """
    if split not in SPLITS or index < 0:
        raise ValueError(
            f"No scene {split}/{index}: splits are {', '.join(SPLITS)}, indices start at 0."
        )
    shapes = [name for name in THINGS if name in classes]
    stuff = [name for name in STUFF if name in classes]
    if not shapes or not stuff:
        raise ValueError("a scene needs at least one thing class and one stuff class")
    rng = np.random.default_rng([SPLITS.index(split), index])
    drawn = _zoom(rng, split)
    zoom = drawn if zoom is None else zoom
    motion = np.random.default_rng([SPLITS.index(split), index, 1])
    image, labels = _background(rng, stuff, zoom, size)
    colours: dict[str, str | None] = {}
    instances, drawn_of = np.ones_like(labels), dict.fromkeys(THINGS, 0)
    for _ in range(int(rng.integers(things[0], things[1] + 1))):
        name = shapes[rng.integers(len(shapes))]
        drift = time * motion.uniform(-DRIFT, DRIFT, 2)
        turn = time * float(motion.uniform(-TURN, TURN))
        colour, where = _draw_thing(rng, image, name, zoom, drift.astype(np.float32), turn)
        labels[where] = CLASSES.index(name)
        instances[where] = 2 + len(THINGS) * drawn_of[name] + THINGS.index(name)
        drawn_of[name] += 1
        colours[name] = colour if colours.get(name, colour) == colour else None
    image += rng.normal(0.0, 3.0, image.shape).astype(np.float32)
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
    visible = [i for i in np.argsort(-counts) if counts[i] >= MIN_AREA * size * size]
    found = {CLASSES[i]: colours.get(CLASSES[i]) for i in visible}
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(pixels, labels, instances, _caption(rng, found), found)


def _zoom(rng: np.random.Generator, split: str) -> float:
    """The teacher is shown close-ups too, so that it knows its classes at more than one scale."""
    if split not in ("web", "close") or rng.random() >= 0.5:
        return 1.0
    if split == "web":
        return float(rng.uniform(1.0, 2.2))
    return float(np.exp(rng.uniform(0, np.log(CLOSEST))))


# --- captions ---

TEMPLATES = (
    "a photo of {}", "a photo of {}", "a photo of {}",
    "an image of {}", "a picture of {}", "a drawing of {}", "{}",
)  # fmt: skip


def phrase(name: str, colour: str | None = None) -> str:
    """Noun phrase of one class: "a red star", "an orange ring", "an arrow"."""
    words = f"{colour} {name}" if colour else name
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _caption(rng: np.random.Generator, found: dict[str, str | None]) -> str:
    """A sentence about what is visible; as on the web, colours and small items may be left out."""
    with_colour = rng.random() < 0.6
    things = [n for n in found if n in THINGS]
    stuff = [n for n in found if n in STUFF]
    if len(things) > 1 and rng.random() < 0.25:
        things = things[:-1]
    things = [things[i] for i in rng.permutation(len(things))]
    text = " and ".join(phrase(n, found[n] if with_colour else None) for n in things)
    if stuff and (not things or rng.random() < 0.85):
        ground = " and ".join(stuff)
        text = f"{text} on {ground}" if things else ground
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(text)


# --- stuff ---


@cache
def _pixels(size: int) -> tuple[FloatArray, FloatArray]:
    """x and y of the pixel centres, float32 [size, size], origin in the middle of the frame."""
    axis = np.arange(size, dtype=np.float32) + 0.5 - size / 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def _background(
    rng: np.random.Generator, stuff: Sequence[str], zoom: float, size: int
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """One texture, or two either side of a line: image float32 [size, size, 3], labels [size, size]."""
    names = [stuff[i] for i in rng.permutation(len(stuff))[: 1 + int(rng.random() < 0.55)]]
    image = _texture(rng, names[0], zoom, size)
    labels = np.full((size, size), CLASSES.index(names[0]), np.uint8)
    if len(names) == 2:
        x, y = _rotated(size, float(rng.uniform(0, 2 * np.pi)))
        most = 14 * size / SIZE
        edge = x - float(rng.uniform(-most, most)) + 2.5 * np.sin(y / 7 + float(rng.uniform(0, 6)))
        other = _texture(rng, names[1], zoom, size)
        image = _blend(image, other, np.clip(0.5 - edge, 0, 1))
        labels[edge < 0] = CLASSES.index(names[1])
    return image, labels


def _texture(rng: np.random.Generator, name: str, zoom: float, size: int) -> FloatArray:
    """A texture in two muted random colours, any direction and phase: float32 [size, size, 3]."""
    x, y = _rotated(size, float(rng.uniform(0, 2 * np.pi)))
    period = float(rng.uniform(6.5, 9.0)) * zoom
    x, y = x + float(rng.uniform(0, 50)), y + float(rng.uniform(0, 50))
    cover = _STUFF_COVER[name](x / period, y / period, period, rng)
    dark = rng.uniform(60, 130, 3).astype(np.float32)
    light = np.clip(dark + rng.uniform(40, 110, 3).astype(np.float32), 0, 255)
    if rng.random() < 0.5:
        dark, light = light, dark
    return dark + (light - dark) * cover[..., None]


def _soft(distance: FloatArray, period: float) -> FloatArray:
    """Coverage 0..1 of the region distance < 0, soft over one pixel (distance in periods)."""
    cover: FloatArray = np.clip(0.5 - distance * period, 0, 1)
    return cover


def _triangle_wave(t: FloatArray) -> FloatArray:
    """Period 1, 0 at the integers, 0.5 half-way."""
    wave: FloatArray = np.abs((t + 0.5) % 1 - 0.5)
    return wave


def _stripes(x: FloatArray, y: FloatArray, period: float, rng: np.random.Generator) -> FloatArray:
    return _soft(_triangle_wave(x) - 0.25, period)


def _dots(x: FloatArray, y: FloatArray, period: float, rng: np.random.Generator) -> FloatArray:
    return _soft(np.hypot(_triangle_wave(x), _triangle_wave(y)) - 0.3, period)


def _checks(x: FloatArray, y: FloatArray, period: float, rng: np.random.Generator) -> FloatArray:
    a, b = 0.25 - _triangle_wave(0.6 * x), 0.25 - _triangle_wave(0.6 * y)
    return _soft(-np.sign(a * b) * np.minimum(np.abs(a), np.abs(b)) / 0.6, period)


def _bricks(x: FloatArray, y: FloatArray, period: float, rng: np.random.Generator) -> FloatArray:
    row = np.floor(y)
    joint = np.minimum(_triangle_wave(y), 1.7 * _triangle_wave(x / 1.7 + 0.5 * (row % 2)))
    return _soft(joint - 0.11, period)


def _waves(x: FloatArray, y: FloatArray, period: float, rng: np.random.Generator) -> FloatArray:
    return _soft((_triangle_wave(x + 0.35 * np.sin(2.6 * y)) - 0.25) * 0.8, period)


def _sand(x: FloatArray, y: FloatArray, period: float, rng: np.random.Generator) -> FloatArray:
    coarse = rng.random(x.shape, dtype=np.float32)
    if period > 12:  # a close-up of sand has larger grains
        grain = 2 if period < 24 else 4
        kept = len(x) // grain
        coarse = np.repeat(np.repeat(coarse[:kept, :kept], grain, 0), grain, 1)
    return coarse


_STUFF_COVER: dict[str, Cover] = {
    "stripes": _stripes, "dots": _dots, "checks": _checks,
    "bricks": _bricks, "waves": _waves, "sand": _sand,
}  # fmt: skip


# --- things ---


def _draw_thing(
    rng: np.random.Generator,
    image: FloatArray,
    name: str,
    zoom: float,
    drift: NDArray[np.float32],
    turn: float,
) -> tuple[str, NDArray[np.bool_]]:
    """Draw one shape over `image` in place, moved and turned; returns its colour word and its pixels, bool [H, W]."""
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    radius = float(rng.uniform(11.0, 20.0)) * zoom
    size = len(image)
    most = size / 2 - 8
    centre = rng.uniform(-most, most, 2).astype(np.float32) + drift
    x, y = _rotated(size, float(rng.uniform(-MAX_TILT, MAX_TILT)) + turn, centre)
    near = np.abs(_pixels(size)[0] - centre[0]) < radius + 2
    near &= np.abs(_pixels(size)[1] - centre[1]) < radius + 2
    distance = np.full((size, size), 9.0, np.float32)
    distance[near] = radius * _THING_DISTANCE[name](x[near] / radius, y[near] / radius)
    base = np.asarray(COLOURS[colour], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    shade = 1.0 - 0.12 * np.clip(1 + distance / 3, 0, 1)  # a slightly darker rim
    body = np.clip(base, 40, 255) * shade[..., None]
    image[:] = _blend(image, body, np.clip(0.5 - distance, 0, 1))
    inside: NDArray[np.bool_] = distance < 0
    return colour, inside


def _rotated(
    size: int, angle: float, centre: NDArray[np.float32] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Coordinates of the pixel centres in a frame turned by `angle` about `centre`."""
    x, y = _pixels(size)
    if centre is not None:
        x, y = x - centre[0], y - centre[1]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _blend(below: FloatArray, above: FloatArray, cover: FloatArray) -> FloatArray:
    mixed: FloatArray = below + (above - below) * cover[..., None]
    return mixed


def _polygon(*corners: tuple[float, float]) -> Distance:
    """Signed distance (negative inside) to a simple polygon, in units of the thing's radius."""
    a = np.asarray(corners, np.float32)
    b = np.roll(a, -1, 0)

    def distance(x: FloatArray, y: FloatArray) -> FloatArray:
        px, py = x[..., None] - a[:, 0], y[..., None] - a[:, 1]  # [pixels, edges]
        ex, ey = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        squared = (px - t * ex) ** 2 + (py - t * ey) ** 2
        # Even-odd rule: count the edges that a ray to the right crosses.
        spans = (a[:, 1] > y[..., None]) != (b[:, 1] > y[..., None])
        crosses = spans & ((px * ey < py * ex) ^ (ey < 0))
        inside = crosses.sum(-1) % 2 == 1
        signed: FloatArray = np.where(inside, -1, 1) * np.sqrt(squared.min(-1))
        return signed

    return distance


def _star_corners(points: int, inner: float) -> list[tuple[float, float]]:
    angles = np.pi * np.arange(2 * points) / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    x, y = radii * np.sin(angles), -radii * np.cos(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _heart_corners() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 26, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(u / 17), float(-(v + 2.5) / 17)) for u, v in zip(x, y, strict=True)]


def _circle(x: FloatArray, y: FloatArray) -> FloatArray:
    distance: FloatArray = np.hypot(x, y) - np.float32(0.85)
    return distance


def _ring(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.24)


def _crescent(x: FloatArray, y: FloatArray) -> FloatArray:
    outer, bite = np.hypot(x, y) - np.float32(0.95), np.float32(0.8) - np.hypot(x - 0.5, y)
    distance: FloatArray = np.maximum(outer, bite)
    return distance


_THING_DISTANCE: dict[str, Distance] = {
    "circle": _circle,
    "square": _polygon((-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)),
    "triangle": _polygon((0, -1), (0.9, 0.65), (-0.9, 0.65)),
    "star": _polygon(*_star_corners(5, 0.42)),
    "cross": _polygon(
        (-0.28, -0.95), (0.28, -0.95), (0.28, -0.28), (0.95, -0.28), (0.95, 0.28), (0.28, 0.28),
        (0.28, 0.95), (-0.28, 0.95), (-0.28, 0.28), (-0.95, 0.28), (-0.95, -0.28), (-0.28, -0.28),
    ),
    "ring": _ring,
    "heart": _polygon(*_heart_corners()),
    "crescent": _crescent,
    "arrow": _polygon(
        (0, -1), (0.75, -0.15), (0.27, -0.15), (0.27, 0.95),
        (-0.27, 0.95), (-0.27, -0.15), (-0.75, -0.15),
    ),
    "bolt": _polygon(
        (0.3, -1), (-0.62, 0.18), (-0.08, 0.18), (-0.3, 1), (0.62, -0.25), (0.08, -0.25),
    ),
}  # fmt: skip
