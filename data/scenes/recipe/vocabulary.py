"""What a scene may hold: things, places, times of day, colours, seasons and styles, and how captions name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """Something that can be put into a scene.

    Args:
        code: hexadecimal code points of its emoji.
        home: where it belongs: "ground", "air" (it floats in the sky) or "water" (it swims where there is water).
        natural: the colour it has by itself, if one word says it.
        tint: whether it may be given another colour and still be known.
        mirror: whether its mirror image looks right.
        plural: the word for several.
    """

    code: str
    home: str = "ground"
    natural: str | None = None
    tint: bool = True
    mirror: bool = True
    plural: str = ""


THINGS: dict[str, Thing] = {
    "owl": Thing("1f989", natural="brown"),
    "cat": Thing("1f431"),
    "dog": Thing("1f436"),
    "rabbit": Thing("1f430"),
    "fox": Thing("1f98a", natural="orange", plural="foxes"),
    "panda": Thing("1f43c", tint=False),
    "lion": Thing("1f981"),
    "frog": Thing("1f438", natural="green"),
    "unicorn": Thing("1f984", natural="white", tint=False),
    "bear": Thing("1f43b", natural="brown"),
    "elephant": Thing("1f418"),
    "giraffe": Thing("1f992"),
    "sheep": Thing("1f411", natural="white", plural="sheep"),
    "penguin": Thing("1f427"),
    "duck": Thing("1f986", "water"),
    "flamingo": Thing("1f9a9", natural="pink"),
    "parrot": Thing("1f99c"),
    "turtle": Thing("1f422", natural="green"),
    "snail": Thing("1f40c"),
    "dinosaur": Thing("1f996", natural="green"),
    "butterfly": Thing("1f98b", "air", plural="butterflies"),
    "octopus": Thing("1f419", "water", plural="octopuses"),
    "crab": Thing("1f980", natural="red"),
    "whale": Thing("1f433", "water", natural="blue"),
    "fish": Thing("1f420", "water", plural="fish"),
    "bee": Thing("1f41d", "air", tint=False),
    "apple": Thing("1f34e", natural="red"),
    "banana": Thing("1f34c", natural="yellow"),
    "strawberry": Thing("1f353", natural="red", plural="strawberries"),
    "watermelon": Thing("1f349", tint=False),
    "pumpkin": Thing("1f383", natural="orange"),
    "mushroom": Thing("1f344", natural="red"),
    "sunflower": Thing("1f33b", natural="yellow", tint=False),
    "rose": Thing("1f339", natural="red"),
    "cactus": Thing("1f335", natural="green", plural="cacti"),
    "pizza": Thing("1f355", tint=False),
    "hamburger": Thing("1f354", tint=False),
    "ice cream": Thing("1f366", plural="ice creams"),
    "birthday cake": Thing("1f382"),
    "balloon": Thing("1f388", "air", natural="red"),
    "umbrella": Thing("2602", "air", natural="purple"),
    "teddy bear": Thing("1f9f8", natural="brown"),
    "robot": Thing("1f916"),
    "snowman": Thing("26c4", natural="white", tint=False, plural="snowmen"),
    "rocket": Thing("1f680", "air"),
    "sailboat": Thing("26f5", "water"),
    "car": Thing("1f697", natural="red"),
    "bus": Thing("1f68c", plural="buses"),
    "tent": Thing("26fa"),
    "guitar": Thing("1f3b8"),
    "crown": Thing("1f451", natural="yellow"),
}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 38, 38),
    "orange": (245, 136, 24),
    "yellow": (250, 208, 36),
    "green": (54, 164, 58),
    "turquoise": (40, 196, 196),
    "blue": (44, 96, 224),
    "purple": (138, 62, 204),
    "pink": (248, 130, 186),
    "brown": (132, 80, 44),
    "black": (44, 44, 50),
    "white": (244, 244, 246),
}


@dataclass(frozen=True)
class Place:
    """Where a scene is set.

    Args:
        at: how a caption puts a thing there, such as "in a meadow".
        name: how a caption names it alone, such as "a meadow".
        seasons: what its trees may be, beside what they are by themselves.
        indoors: whether time of day is only seen through a window.
    """

    at: str
    name: str
    seasons: tuple[str, ...] = ()
    indoors: bool = False
    moods: tuple[str, ...] = ("quiet", "peaceful", "beautiful")


PLACES: dict[str, Place] = {
    "meadow": Place("in a meadow", "a meadow", ("blossom", "autumn")),
    "desert": Place("in the desert", "a desert", moods=("hot", "wide", "quiet")),
    "snowy hill": Place("on a snowy hill", "a snowy hill", moods=("cold", "quiet", "peaceful")),
    "sea": Place("at sea", "the sea", moods=("wide", "calm", "open")),
    "lake": Place("by a lake", "a lake", ("blossom", "autumn"), moods=("calm", "quiet", "serene")),
    "beach": Place("on a beach", "a beach", moods=("sunny", "wide", "beautiful")),
    "city street": Place("in a city street", "a city street", moods=("busy", "wide", "quiet")),
    "room": Place("in a room", "a room", indoors=True, moods=("cosy", "bright", "quiet")),
    "table": Place("on a table", "a table", indoors=True, moods=("wooden", "large", "simple")),
    "japanese garden": Place(
        "in a japanese garden",
        "a japanese garden",
        ("blossom", "blossom", "autumn"),
        moods=("serene", "serene", "peaceful", "quiet"),
    ),
    "forest": Place("in a forest", "a forest", ("blossom", "autumn", "winter"), moods=("deep", "quiet", "green")),
    "mountains": Place("in the mountains", "mountains", moods=("high", "snowy", "beautiful")),
    "castle": Place("in front of a castle", "a castle", ("autumn",), moods=("old", "great", "beautiful")),
    "village": Place("in a village", "a village", ("blossom", "autumn", "winter"), moods=("small", "cosy", "quiet")),
    "volcano": Place("in front of a volcano", "a volcano", moods=("hot", "great", "dark")),
    "flower field": Place("in a flower field", "a flower field", moods=("bright", "colourful", "wide")),
}

TIMES: dict[str, tuple[str, ...]] = {
    "day": ("by day", "on a sunny day", "in daylight"),
    "sunset": ("at sunset", "in the evening", "at dusk"),
    "night": ("at night", "at night", "under the stars", "in moonlight"),
    "fog": ("in fog", "in the mist", "on a foggy morning"),
}

SEASONS: dict[str, tuple[str, ...]] = {
    "blossom": ("with cherry blossoms", "with cherry blossoms", "with blossoming trees", "in spring"),
    "autumn": ("in autumn", "with autumn trees", "with red leaves"),
    "winter": ("in winter", "with snow", "covered in snow"),
}

DETAILS: dict[str, str] = {
    "bridge": "with a red bridge",
    "lantern": "with a stone lantern",
    "torii": "with a torii gate",
    "pagoda": "with a pagoda",
}

STYLES: dict[str, tuple[str, ...]] = {
    "3d": ("3d style", "soft 3d style"),
    "flat": ("flat style", "flat illustration"),
    "painted": ("painted style", "oil painting"),
}

NUMBERS = {1: "one", 2: "two", 3: "three"}
SIDES = {"left": "on the left", "right": "on the right"}


def plural(name: str) -> str:
    """Return the word for several things called `name`."""
    return THINGS[name].plural or f"{name}s"


def with_article(words: str) -> str:
    """Return `words` after "a" or "an", as their sound asks."""
    return f"{'an' if words[0] in 'aeio' or words.startswith('umbrella') else 'a'} {words}"
