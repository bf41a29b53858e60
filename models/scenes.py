"""Procedural scenes: what a picture holds, how it is drawn, which combinations are held out."""

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE: Final = 64
"""Width and height of a picture in pixels."""

# Any two colours lie at least 100 apart (Euclidean, 0..255 RGB), so that a checker can name them.
COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 30, 36),
    "orange": (245, 122, 16),
    "yellow": (250, 222, 40),
    "green": (24, 160, 60),
    "blue": (30, 70, 220),
    "purple": (128, 32, 176),
    "pink": (255, 130, 190),
    "white": (246, 246, 246),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "cyan": (60, 210, 230),
    "brown": (120, 66, 26),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "ring", "diamond", "cross")
SIZES: Final = ("medium", "big", "small")
POSITIONS: Final[dict[str, tuple[int, int]]] = {
    "center": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
AXES: Final = ("horizontal", "vertical")
TIMES: Final = ("day", "sunset", "night")
WEATHERS: Final = ("clear", "cloudy", "rain", "snow")
LANDS: Final = ("hills", "mountains", "sea", "desert", "city")
EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "hills": ("none", "house", "tree"),
    "mountains": ("none",),
    "sea": ("none", "boat"),
    "desert": ("none",),
    "city": ("none",),
}

Kind = Literal["single", "count", "relation", "landscape"]
KINDS: Final[tuple[Kind, ...]] = ("single", "count", "relation", "landscape")
SHARES: Final = (0.40, 0.15, 0.30, 0.15)
"""How often each of `KINDS` is drawn for training."""

HELD_OUT_PAIRS: Final = frozenset(
    {("star", "purple"), ("diamond", "brown"), ("cross", "cyan"), ("triangle", "pink")}
)
"""(shape, colour) pairs that no training picture shows, in any kind of scene."""

Picture = NDArray[np.uint8]
Point = tuple[float, float]


@dataclass(frozen=True)
class Thing:
    """One shape; centre and radius in pixels of the 64 × 64 picture."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One picture's content; `things` go left to right, or top to bottom."""

    kind: Kind
    things: tuple[Thing, ...] = ()
    background: str = "none"
    size: str = "medium"
    position: str = "center"
    axis: str = "none"
    time: str = "none"
    weather: str = "none"
    land: str = "none"
    extra: str = "none"
    shift: tuple[int, int] = (0, 0)


def _bucket(*words: str) -> float:
    """A number in [0, 1) fixed by the words, the same on every machine."""
    digest = hashlib.sha256("|".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's combination is kept from training, for the generalisation test."""
    if scene.kind == "landscape":
        return _bucket("land", scene.land, scene.extra, scene.time, scene.weather) < 0.08
    if any((t.shape, t.colour) in HELD_OUT_PAIRS for t in scene.things):
        return True
    if scene.kind == "relation":
        a, b = scene.things
        return _bucket("pair", a.shape, a.colour, b.shape, b.colour) < 0.08
    first = scene.things[0]
    return _bucket(first.shape, first.colour, scene.background) < 0.08


def _other(rng: random.Random, *taken: str) -> str:
    return rng.choice([c for c in COLOURS if c not in taken])


def _jitter(rng: random.Random, wobble: int) -> int:
    # Few distinct offsets: a small network then learns straight edges instead of averaging them.
    return rng.choice((-wobble, 0, wobble))


def draw_scene(rng: random.Random, kind: Kind, wobble: int = 2) -> Scene:
    """A random scene of this kind, held-out combinations included.

    Things lie up to `wobble` pixels off their usual place, each way.
    """
    if kind == "landscape":
        land = rng.choice(LANDS)
        return Scene(
            kind,
            time=rng.choice(TIMES),
            weather=rng.choice(WEATHERS),
            land=land,
            extra=rng.choice(EXTRAS[land]),
            shift=(_jitter(rng, wobble), _jitter(rng, wobble)),
        )
    back = rng.choice(list(COLOURS))
    colour, shape = _other(rng, back), rng.choice(SHAPES)
    dx, dy = _jitter(rng, wobble), _jitter(rng, wobble)
    if kind == "single":
        size = rng.choices(SIZES, (0.6, 0.2, 0.2))[0]
        position = "center" if rng.random() < 0.6 else rng.choice(list(POSITIONS))
        right, down = POSITIONS[position]
        if position == "center":
            radius = {"medium": 17, "big": 25, "small": 9}[size]
            reach = 0
        else:
            radius = {"medium": 13, "big": 16, "small": 8}[size]
            reach = 29 - radius
        thing = Thing(shape, colour, 32 + reach * right + dx, 32 + reach * down + dy, radius)
        return Scene(kind, (thing,), back, size, position)
    if kind == "count":
        places: list[Point] = rng.choice(
            [
                [(18, 32), (46, 32)],
                [(32, 18), (17, 45), (47, 45)],
                [(18, 18), (46, 18), (18, 46), (46, 46)],
            ]
        )
        radius = 11 if len(places) == 2 else 10
        dx, dy = dx // 2, dy // 2
        group = tuple(Thing(shape, colour, x + dx, y + dy, radius) for x, y in places)
        return Scene(kind, group, back)
    second, other = rng.choice(SHAPES), _other(rng, back, colour)
    axis = rng.choice(AXES)
    if axis == "horizontal":
        ends: list[Point] = [(18, 32), (46, 32)]
    else:
        ends = [(32, 18), (32, 46)]
    dx, dy = dx // 2, dy // 2
    (ax, ay), (bx, by) = ends
    one = Thing(shape, colour, ax + dx, ay + dy, 11)
    two = Thing(second, other, bx + dx, by + dy, 11)
    return Scene("relation", (one, two), back, axis=axis)


def draw_training_scene(rng: random.Random, wobble: int = 2) -> Scene:
    """A random scene by `SHARES` whose combination is not held out."""
    kind = rng.choices(KINDS, SHARES)[0]
    while True:
        scene = draw_scene(rng, kind, wobble)
        if not is_held_out(scene):
            return scene


def outline(shape: str, x: float, y: float, r: float) -> list[Point]:
    """The corner points of a polygonal shape, same units as its centre and radius."""
    if shape == "square":
        s = 0.86 * r
        return [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)]
    if shape == "diamond":
        return [(x, y - r), (x + 0.72 * r, y), (x, y + r), (x - 0.72 * r, y)]
    if shape == "cross":
        a, b = 0.34 * r, 0.96 * r
        turns = [(a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b)]
        turns += [(-u, -v) for u, v in turns]
        return [(x + u, y + v) for u, v in turns]
    if shape == "star":
        corners: list[Point] = []
        for k in range(10):
            reach = r if k % 2 == 0 else 0.42 * r
            angle = math.pi * (k / 5 - 0.5)
            corners.append((x + reach * math.cos(angle), y + 0.05 * r + reach * math.sin(angle)))
        return corners
    if shape == "heart":
        points: list[Point] = []
        for k in range(40):
            t = 2 * math.pi * k / 40
            u = 16 * math.sin(t) ** 3
            v = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
            points.append((x + u * r / 17, y + (v - 2.5) * r / 17))
        return points
    raise ValueError(f"no outline for shape {shape!r}")


_SCALE: Final = 4  # drawn larger, then averaged down: anti-aliased edges


def draw_thing(
    pen: ImageDraw.ImageDraw, thing: Thing, ink: tuple[int, int, int], hole: tuple[int, int, int]
) -> None:
    """Draw one shape on a canvas `_SCALE` times the picture; `hole` fills a ring's middle."""
    x, y, r = thing.x * _SCALE, thing.y * _SCALE, thing.radius * _SCALE
    if thing.shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        if thing.shape == "ring":
            q = 0.55 * r
            pen.ellipse((x - q, y - q, x + q, y + q), fill=hole)
    else:
        pen.polygon(outline(thing.shape, x, y, r), fill=ink)


def render(scene: Scene) -> Picture:
    """The scene as an RGB picture, uint8 [64, 64, 3]."""
    if scene.kind == "landscape":
        canvas = _landscape(scene)
    else:
        back = COLOURS[scene.background]
        canvas = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), back)
        pen = ImageDraw.Draw(canvas)
        for thing in scene.things:
            draw_thing(pen, thing, COLOURS[thing.colour], back)
    return np.asarray(canvas.reduce(_SCALE), dtype=np.uint8)


# Sky (top, bottom), sun or moon, cloud; then how far the land is darkened.
_SKIES: Final = {
    "day": ((70, 150, 240), (190, 225, 250), (255, 220, 60), (250, 250, 252), 1.0),
    "sunset": ((110, 60, 140), (250, 150, 70), (255, 110, 40), (245, 180, 160), 0.75),
    "night": ((8, 12, 40), (30, 40, 90), (240, 236, 210), (90, 95, 120), 0.42),
}


def _dim(colour: tuple[int, int, int], light: float) -> tuple[int, int, int]:
    return (int(colour[0] * light), int(colour[1] * light), int(colour[2] * light))


def _landscape(scene: Scene) -> Image.Image:
    top, low, disc, cloud, light = _SKIES[scene.time]
    grey = 0.0 if scene.weather == "clear" else 0.45
    mist = (150, 155, 165) if scene.time == "day" else (80, 80, 95)
    if scene.time == "night":
        mist = (30, 34, 48)
    edge = SIZE * _SCALE
    ramp = np.linspace(0, 1, edge, dtype=np.float32)[:, None]
    sky = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(low, np.float32) * ramp
    sky = sky * (1 - grey) + np.asarray(mist, np.float32) * grey
    board = np.repeat(sky[:, None, :], edge, axis=1).astype(np.uint8)
    canvas = Image.fromarray(board)
    pen = ImageDraw.Draw(canvas)
    dx, dy = scene.shift

    def polygon(points: list[Point], ink: tuple[int, int, int], moved: bool = False) -> None:
        ox = dx if moved else 0
        pen.polygon([((x + ox) * _SCALE, y * _SCALE) for x, y in points], fill=ink)

    def ellipse(x: float, y: float, rx: float, ry: float, ink: tuple[int, int, int]) -> None:
        box = ((x - rx) * _SCALE, (y - ry) * _SCALE, (x + rx) * _SCALE, (y + ry) * _SCALE)
        pen.ellipse(box, fill=ink)

    if scene.time == "night" and scene.weather == "clear":
        for x, y in ((6, 8), (15, 20), (24, 6), (34, 14), (30, 26), (58, 24), (60, 6), (8, 30)):
            ellipse(x, y, 0.8, 0.8, (255, 255, 255))
    if scene.weather == "clear":
        sun = {"day": (48, 13), "sunset": (32, 30), "night": (48, 13)}[scene.time]
        ellipse(sun[0] + dx, sun[1] + dy, 6.5, 6.5, disc)
    else:
        for x, y in ((14, 12), (44, 9)):
            ellipse(x + dx, y, 9, 4.5, cloud)
            ellipse(x - 6 + dx, y + 2, 6, 3.5, cloud)
            ellipse(x + 6 + dx, y + 1, 7, 4, cloud)
    white = scene.weather == "snow"
    if scene.land == "hills":
        far, near = ((225, 232, 240), (240, 244, 250)) if white else ((70, 150, 60), (90, 180, 70))
        ellipse(14, 70, 34, 28, _dim(far, light))
        ellipse(48, 72, 36, 26, _dim(near, light))
    elif scene.land == "mountains":
        rock, cap = _dim((120, 120, 140), light), _dim((245, 248, 255), max(light, 0.6))
        for x, y, w in ((18, 22, 22), (46, 17, 26)):
            polygon([(x, y), (x + w, 66), (x - w, 66)], rock)
            t = 10 / (66 - y)
            polygon([(x, y), (x + w * t, y + 10), (x, y + 7), (x - w * t, y + 10)], cap)
        ground = (240, 244, 250) if white else (80, 140, 70)
        polygon([(0, 54), (64, 54), (64, 64), (0, 64)], _dim(ground, light))
    elif scene.land == "sea":
        polygon([(0, 38), (64, 38), (64, 64), (0, 64)], _dim((30, 100, 180), light))
        for y in (44, 52, 60):
            polygon([(0, y), (64, y), (64, y + 1), (0, y + 1)], _dim((110, 170, 225), light))
    elif scene.land == "desert":
        sand = ((236, 226, 205), (246, 240, 226)) if white else ((220, 170, 90), (240, 195, 110))
        polygon([(0, 44), (20, 38), (40, 46), (64, 40), (64, 64), (0, 64)], _dim(sand[0], light))
        polygon([(0, 54), (30, 48), (64, 56), (64, 64), (0, 64)], _dim(sand[1], light))
    else:
        wall = _dim((110, 110, 125), light)
        pane = (255, 225, 110) if scene.time != "day" else (200, 220, 240)
        for x, w, y in ((1, 13, 34), (16, 10, 24), (28, 14, 38), (44, 9, 20), (55, 9, 36)):
            polygon([(x, y), (x + w, y), (x + w, 58), (x, 58)], wall)
            for row in range(y + 3, 55, 6):
                for col in range(x + 2, x + w - 2, 4):
                    polygon([(col, row), (col + 2, row), (col + 2, row + 3), (col, row + 3)], pane)
        street = (235, 240, 246) if white else (70, 70, 75)
        polygon([(0, 58), (64, 58), (64, 64), (0, 64)], _dim(street, light))
    glow = max(light, 0.6)
    if scene.extra == "house":
        polygon([(20, 40), (42, 40), (42, 57), (20, 57)], _dim((225, 200, 160), glow), True)
        polygon([(17, 41), (31, 28), (45, 41)], _dim((190, 45, 40), glow), True)
        polygon([(28, 47), (34, 47), (34, 57), (28, 57)], _dim((110, 65, 30), glow), True)
    elif scene.extra == "tree":
        polygon([(29, 42), (34, 42), (34, 58), (29, 58)], _dim((110, 65, 30), glow), True)
        ellipse(31.5 + dx, 34, 11, 11, _dim((20, 110, 40), glow))
    elif scene.extra == "boat":
        polygon([(18, 46), (46, 46), (41, 54), (23, 54)], _dim((150, 80, 35), glow), True)
        polygon([(31, 22), (31, 44), (46, 44)], _dim((245, 245, 245), glow), True)
        polygon([(28, 26), (28, 44), (20, 44)], _dim((230, 90, 80), glow), True)
    if scene.weather in ("rain", "snow"):
        for k in range(40):
            x, y = (k * 23 + 5 * dx) % 64, (k * 37 + k // 3 + 5 * dy) % 64
            if scene.weather == "rain":
                line = [(x, y), (x - 1.5, y + 5)]
                pen.line([(u * _SCALE, v * _SCALE) for u, v in line], fill=(170, 195, 230), width=3)
            else:
                ellipse(x, y, 1.0, 1.0, (255, 255, 255))
    return canvas
