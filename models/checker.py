"""Tells from a picture alone what it shows, and whether that is what a scene asked for."""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.scenes import (
    COLOURS,
    EXTRAS,
    LANDS,
    POSITIONS,
    SHAPES,
    SIZE,
    TIMES,
    WEATHERS,
    Picture,
    Scene,
    Thing,
    render,
)

_NAMES: Final = tuple(COLOURS)
_INKS: Final = np.array([COLOURS[n] for n in _NAMES], np.float32)
_CONTRAST: Final = 45.0  # RGB distance; the closest two colours lie 100 apart
_SMALLEST: Final = 14  # pixels; the smallest shape drawn, a small diamond, has about 70
_GRID: Final = 24
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """One thing seen: what it is, its middle (pixels), the longer side of its box, and its mask."""

    shape: str
    colour: str
    x: float
    y: float
    extent: int
    mask: Mask


@dataclass(frozen=True)
class Verdict:
    """What was asked for and found, part by part; a part that does not apply is None."""

    background: bool | None = None
    colour: bool | None = None
    shape: bool | None = None
    count: bool | None = None
    position: bool | None = None
    size: bool | None = None
    relation: bool | None = None
    time: bool | None = None
    weather: bool | None = None
    land: bool | None = None
    extra: bool | None = None

    @property
    def everything(self) -> bool:
        """Whether every part that applies is right."""
        return all(v is not False for v in vars(self).values())


def colour_name(rgb: NDArray[np.float32]) -> str:
    """The nearest known colour of one RGB value, 0..255."""
    return _NAMES[int(np.square(_INKS - rgb).sum(1).argmin())]


def background_of(picture: Picture) -> NDArray[np.float32]:
    """The median RGB of the outermost two pixels all round, float32 [3]."""
    p = picture
    rim = [p[:2].reshape(-1, 3), p[-2:].reshape(-1, 3), p[:, :2].reshape(-1, 3)]
    rim.append(p[:, -2:].reshape(-1, 3))
    return np.median(np.concatenate(rim).astype(np.float32), axis=0).astype(np.float32)


def components(mask: Mask) -> list[Mask]:
    """The 8-connected parts of a mask, largest first."""
    height, width = mask.shape
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        best = labels
        for dy, dx in itertools.product(range(3), range(3)):
            best = np.maximum(best, padded[dy : dy + height, dx : dx + width])
        best = np.where(mask, best, 0)
        if np.array_equal(best, labels):
            break
        labels = best
    parts = [labels == k for k in np.unique(labels) if k]
    return sorted(parts, key=lambda m: -int(m.sum()))


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a mask that is not empty; bottom and right exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _normalised(mask: Mask) -> Mask:
    """The mask's box stretched to 24 × 24."""
    top, bottom, left, right = _box(mask)
    rows = top + ((np.arange(_GRID) + 0.5) * (bottom - top) / _GRID).astype(int)
    columns = left + ((np.arange(_GRID) + 0.5) * (right - left) / _GRID).astype(int)
    cut: Mask = mask[np.ix_(rows, columns)]
    return cut


def _mask_of(picture: Picture) -> Mask:
    distance = np.linalg.norm(picture.astype(np.float32) - background_of(picture), axis=2)
    mask: Mask = distance > _CONTRAST
    return mask


def intersection_over_union(a: Mask, b: Mask) -> float:
    """Overlap of two masks, 0..1; two empty ones overlap fully."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


@cache
def _templates() -> tuple[tuple[str, float, Mask], ...]:
    """(shape, width over height, normalised mask) at the radii that scenes use."""
    made = []
    for shape, radius in itertools.product(SHAPES, (8, 10, 13, 17, 25)):
        thing = Thing(shape, "black", 32, 32, radius)
        mask = _mask_of(render(Scene("single", (thing,), "white")))
        top, bottom, left, right = _box(mask)
        made.append((shape, (right - left) / (bottom - top), _normalised(mask)))
    return tuple(made)


def shape_name(mask: Mask) -> str:
    """The shape whose template overlaps the mask best."""
    top, bottom, left, right = _box(mask)
    aspect = (right - left) / (bottom - top)
    cut = _normalised(mask)
    scores = {
        (shape, k): intersection_over_union(cut, template)
        - 0.3 * abs(np.log(aspect / template_aspect))
        for k, (shape, template_aspect, template) in enumerate(_templates())
    }
    return max(scores, key=lambda key: scores[key])[0]


def things_in(picture: Picture) -> list[Found]:
    """Every shape on the picture's even background, largest first."""
    plane = background_of(picture)
    distance = np.linalg.norm(picture.astype(np.float32) - plane, axis=2)
    found = []
    for part in components(distance > _CONTRAST):
        if part.sum() < _SMALLEST:
            continue
        # The edge is where the ink is half there, whatever its contrast.
        half = 0.5 * float(np.median(distance[part]))
        tight = part & (distance > half)
        inner = tight if tight.any() else part
        strong = part & (distance > 0.8 * 2 * half)
        ink = np.median(picture[strong if strong.any() else inner].astype(np.float32), axis=0)
        top, bottom, left, right = _box(inner)
        found.append(
            Found(
                shape_name(inner),
                colour_name(ink.astype(np.float32)),
                (left + right) / 2,
                (top + bottom) / 2,
                max(bottom - top, right - left),
                inner,
            )
        )
    return found


def check(picture: Picture, scene: Scene) -> Verdict:
    """Compare a picture, uint8 [64, 64, 3], with what the scene asked for."""
    if scene.kind == "landscape":
        seen = landscape_in(picture)
        return Verdict(
            time=seen.time == scene.time,
            weather=seen.weather == scene.weather,
            land=seen.land == scene.land,
            extra=seen.extra == scene.extra,
        )
    back = colour_name(background_of(picture)) == scene.background
    found = things_in(picture)
    count = len(found) == len(scene.things)
    if scene.kind == "relation":
        return _check_relation(scene, found, back, count)
    first = scene.things[0]
    colour = bool(found) and all(f.colour == first.colour for f in found)
    shape = bool(found) and all(f.shape == first.shape for f in found)
    if scene.kind == "count":
        return Verdict(back, colour, shape, count)
    if not found:
        return Verdict(back, False, False, False, False, False)
    main = found[0]
    right, down = POSITIONS[scene.position]
    position = _side(main.x) == right and _side(main.y) == down
    if scene.position == "center":
        low, high = {"medium": (23, 40), "big": (39, 64), "small": (8, 23)}[scene.size]
    else:
        low, high = {"medium": (18, 30), "big": (25, 42), "small": (8, 20)}[scene.size]
    return Verdict(back, colour, shape, count, position, low <= main.extent <= high)


def _side(where: float) -> int:
    """-1, 0 or 1: the first, middle or last third of the picture, pixels."""
    return 0 if abs(where - SIZE / 2) <= 7 else (1 if where > SIZE / 2 else -1)


def _check_relation(scene: Scene, found: list[Found], back: bool, count: bool) -> Verdict:
    one, two = scene.things
    ordered = sorted(found[:2], key=lambda f: f.x if scene.axis == "horizontal" else f.y)
    if len(ordered) < 2:
        return Verdict(back, False, False, False, relation=False)
    a, b = ordered
    if scene.axis == "horizontal":
        apart = b.x - a.x > 12 and abs(b.y - a.y) < 12
    else:
        apart = b.y - a.y > 12 and abs(b.x - a.x) < 12
    colours = (a.colour, b.colour) == (one.colour, two.colour)
    shapes = (a.shape, b.shape) == (one.shape, two.shape)
    # The relation alone: the two inks lie as asked, whatever the shapes.
    return Verdict(back, colours, shapes, count, relation=apart and colours)


@cache
def _views() -> tuple[list[Scene], NDArray[np.float32]]:
    """Every landscape at its shifts, and the pictures at half size, float32 [N, 32, 32, 3]."""
    scenes = [
        Scene("landscape", time=t, weather=w, land=land, extra=e, shift=(dx, dy))
        for t, w, land in itertools.product(TIMES, WEATHERS, LANDS)
        for e in EXTRAS[land]
        for dx, dy in itertools.product((-2, 0, 2), (-2, 0, 2))
    ]
    return scenes, np.stack([_coarse(render(s)) for s in scenes])


def _coarse(picture: Picture) -> NDArray[np.float32]:
    half = picture.astype(np.float32).reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean((1, 3))
    coarse: NDArray[np.float32] = half.astype(np.float32)
    return coarse


def landscape_in(picture: Picture) -> Scene:
    """The landscape whose drawing is nearest to the picture."""
    scenes, views = _views()
    return scenes[int(np.square(views - _coarse(picture)).mean((1, 2, 3)).argmin())]


def edge_quality(picture: Picture, scene: Scene) -> float:
    """Overlap (0..1) of a single scene's shape with its perfect drawing, best over small shifts.

    The prompt fixes the place only to some pixels, so the drawing may move by up to 4 and grow or
    shrink by up to 2 pixels to fit; what is left is how true the outline is.
    """
    found = things_in(picture)
    if scene.kind != "single" or not found:
        return 0.0
    seen, want = found[0].mask, scene.things[0]
    best = 0.0
    for grow in (-2, -1, 0, 1, 2):
        drawn = _ideal(want.shape, want.radius + grow)
        top, bottom, left, right = _box(drawn)
        y, x = round(found[0].y - (top + bottom) / 2), round(found[0].x - (left + right) / 2)
        for dy, dx in itertools.product((-1, 0, 1), (-1, 0, 1)):
            best = max(best, intersection_over_union(seen, _moved(drawn, y + dy, x + dx)))
    return best


@cache
def _ideal(shape: str, radius: float) -> Mask:
    drawn = render(Scene("single", (Thing(shape, "black", 32, 32, radius),), "white"))
    mask: Mask = drawn[:, :, 0] < 128
    return mask


def _moved(mask: Mask, dy: int, dx: int) -> Mask:
    """The mask shifted, empty where nothing comes in."""
    out = np.zeros_like(mask)
    h, w = mask.shape
    out[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = mask[
        max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
    ]
    return out
