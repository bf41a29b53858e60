"""What a person may write for a scene: synonyms, word order, articles, held-out phrasings."""

import random
from typing import Final

from models.scenes import Scene, Thing

COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "black": ("black",),
    "gray": ("gray", "grey"),
    "cyan": ("cyan", "turquoise"),
    "brown": ("brown",),
}
SHAPE_WORDS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "circle": (("circle", "circles"), ("circle", "circles"), ("disc", "discs"), ("dot", "dots"),
               ("ball", "balls")),
    "square": (("square", "squares"), ("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "ring": (("ring", "rings"), ("ring", "rings"), ("donut", "donuts"), ("hoop", "hoops")),
    "diamond": (("diamond", "diamonds"), ("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "cross": (("cross", "crosses"), ("plus", "pluses")),
}  # fmt: skip
SIZE_WORDS: Final = {
    "medium": ("", "", "", "", "medium"),
    "big": ("big", "large", "huge", "giant"),
    "small": ("small", "little", "tiny"),
}
NUMBER_WORDS: Final = {2: ("two", "2", "a pair of"), 3: ("three", "3"), 4: ("four", "4")}
POSITION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "center": ("", "", "", "", "in the middle", "in the center", "in the centre"),
    "left": ("on the left", "at the left", "on the left side", "to the left"),
    "right": ("on the right", "at the right", "on the right side", "to the right"),
    "top": ("at the top", "on top", "in the upper part"),
    "bottom": ("at the bottom", "on the bottom", "in the lower part"),
    "top left": ("in the top left corner", "at the top left", "in the upper left"),
    "top right": ("in the top right corner", "at the top right", "in the upper right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right"),
}
FORWARD_WORDS: Final = {
    "horizontal": ("to the left of", "left of", "on the left of", "next to", "beside", "and"),
    "vertical": ("above", "over", "on top of", "atop"),
}
BACKWARD_WORDS: Final = {
    "horizontal": ("to the right of", "right of", "on the right of"),
    "vertical": ("below", "under", "underneath", "beneath"),
}
LAND_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "hills": ("green hills", "hills", "the hills", "a meadow", "the countryside"),
    "mountains": ("mountains", "the mountains", "snowy peaks", "a mountain"),
    "sea": ("the sea", "the ocean", "the water"),
    "desert": ("a desert", "the desert", "sand dunes"),
    "city": ("a city", "the city", "a town", "a skyline", "skyscrapers"),
}
EXTRA_WORDS: Final = {
    "house": ("a house", "a cottage", "a home"),
    "tree": ("a tree",),
    "boat": ("a boat", "a ship", "a sailboat"),
}
TIME_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "day": ("", "", "by day", "during the day", "at noon", "in daylight"),
    "sunset": ("at sunset", "at dusk", "in the evening"),
    "night": ("at night", "by night", "at midnight"),
}
WEATHER_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "clear": ("", "", "", "with a clear sky"),
    "cloudy": ("with clouds", "under a cloudy sky", "in cloudy weather"),
    "rain": ("in the rain", "with rain", "in rainy weather"),
    "snow": ("in the snow", "with falling snow", "in snowy weather"),
}
OPENINGS: Final = (
    "", "", "", "", "", "a picture of", "a drawing of", "an image of", "a painting of", "draw",
    "show me", "there is", "please draw", "i want", "make",
)  # fmt: skip
HELD_OUT_OPENINGS: Final = ("please show me", "please make a picture of", "i want a drawing of")
_VOWELS: Final = "aeiou"


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in _VOWELS else 'a'} {phrase}"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _colour(rng: random.Random, name: str) -> str:
    return rng.choice(COLOUR_WORDS[name])


def _noun(rng: random.Random, thing: Thing, many: bool = False) -> str:
    return rng.choice(SHAPE_WORDS[thing.shape])[many]


def _named(rng: random.Random, thing: Thing, size: str = "") -> str:
    """One thing with its colour, its article mostly there."""
    colour, noun = _colour(rng, thing.colour), _noun(rng, thing)
    chance = rng.random()
    if chance < 0.08:
        return _join(article(_join(size, noun)), rng.choice(("in", "that is")), colour)
    phrase = _join(size, colour, noun)
    if chance < 0.25:
        return phrase
    if chance < 0.31:
        return f"the {phrase}"
    return article(phrase)


def _behind(rng: random.Random, name: str) -> str:
    """The background, as a trailing phrase."""
    colour = _colour(rng, name)
    plain = f"{colour} background"
    return rng.choice(
        (
            f"on {article(plain)}",
            f"on {article(plain)}",
            f"on {article(plain)}",
            f"on {plain}",
            f"on {colour}",
            f"against {article(plain)}",
            f"with {article(plain)}",
            f"over {article(plain)}",
            f", {plain}",
            f"and the background is {colour}",
        )
    )


def _subject(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """(what is drawn, where), both without the background."""
    first = scene.things[0]
    if scene.kind == "single":
        size = rng.choice(SIZE_WORDS[scene.size])
        return _named(rng, first, size), rng.choice(POSITION_WORDS[scene.position])
    if scene.kind == "count":
        number = rng.choice(NUMBER_WORDS[len(scene.things)])
        return _join(number, _colour(rng, first.colour), _noun(rng, first, many=True)), ""
    one, two = scene.things
    if rng.random() < 0.5:
        middle = rng.choice(FORWARD_WORDS[scene.axis])
        return _join(_named(rng, one), middle, _named(rng, two)), ""
    middle = rng.choice(BACKWARD_WORDS[scene.axis])
    return _join(_named(rng, two), middle, _named(rng, one)), ""


def _landscape(rng: random.Random, scene: Scene, held_out: bool) -> str:
    land, time = rng.choice(LAND_WORDS[scene.land]), rng.choice(TIME_WORDS[scene.time])
    weather = rng.choice(WEATHER_WORDS[scene.weather])
    subject = land
    if scene.extra != "none":
        extra = rng.choice(EXTRA_WORDS[scene.extra])
        subject = rng.choice((f"{extra} on {land}", f"{land} with {extra}", f"{extra} and {land}"))
    if held_out:
        # Time and weather first: no training caption starts with them both.
        return _join(time, weather, rng.choice(("there is", ",")), subject)
    parts = [_join(subject, time, weather), _join(subject, weather, time)]
    if time:
        parts.append(_join(time, subject, weather))
    return _join(rng.choice(OPENINGS), rng.choice(parts))


def caption(rng: random.Random, scene: Scene) -> str:
    """A training caption of the scene, lower case."""
    if scene.kind == "landscape":
        return _landscape(rng, scene, held_out=False)
    subject, where = _subject(rng, scene)
    opening = rng.choice(OPENINGS)
    # A prompt that names no background gets a white one, as on paper.
    if scene.background == "white" and rng.random() < 0.5:
        return _join(opening, subject, where)
    chance = rng.random()
    back = _colour(rng, scene.background)
    if chance < 0.12:
        front = rng.choice((article(f"{back} background"), f"{back} background"))
        return _join(opening, front, "with", subject, where)
    if chance < 0.22 and scene.kind == "single":
        return _join(opening, subject, _behind(rng, scene.background), where)
    return _join(opening, subject, where, _behind(rng, scene.background))


def held_out_caption(rng: random.Random, scene: Scene) -> str:
    """A caption whose phrasing (not its words) no training caption has, lower case."""
    if scene.kind == "landscape":
        return _landscape(rng, scene, held_out=True)
    subject, where = _subject(rng, scene)
    back = article(f"{_colour(rng, scene.background)} background")
    choices = [
        _join("on", back, "there is", subject, where),
        _join("against", back, ",", subject, where),
        _join("the background is", _colour(rng, scene.background), "with", subject, where),
        _join(rng.choice(HELD_OUT_OPENINGS), subject, where, "on", back),
    ]
    return rng.choice(choices)


def words() -> list[str]:
    """Every word and sign a training caption may hold, sorted, lower case."""
    found: set[str] = {"a", "an", "the", "in", "that", "is", "background", "on", "and", "with",
                       "against", "over", ",", "there"}  # fmt: skip
    flat: list[str] = [*OPENINGS, *HELD_OUT_OPENINGS]
    for table in (COLOUR_WORDS, SIZE_WORDS, NUMBER_WORDS, POSITION_WORDS, FORWARD_WORDS,
                  BACKWARD_WORDS, LAND_WORDS, EXTRA_WORDS, TIME_WORDS, WEATHER_WORDS):  # fmt: skip
        for phrases in table.values():
            flat.extend(phrases)
    for forms in SHAPE_WORDS.values():
        for form in forms:
            flat.extend(form)
    for phrase in flat:
        found.update(phrase.split())
    return sorted(found)


def with_stranger(rng: random.Random, text: str) -> str:
    """The caption with one made-up word in it, so that unknown words come to mean nothing."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    word = "".join(rng.choice(letters) for _ in range(rng.randint(3, 7)))
    parts = text.split()
    parts.insert(rng.randint(0, len(parts)), word)
    return " ".join(parts)
