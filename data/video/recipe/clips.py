"""What a clip may show: one thing in one motion, where it is in each frame, and the caption that says so."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

FRAMES = 8
FRESH = 2**33  # seeds from here on are never used in training

# Name to the code points of its emoji. The name is the caption's word; every one is a word of the CLIP that judges.
THINGS = {
    "red apple": "1f34e",
    "blue heart": "1f499",
    "banana": "1f34c",
    "mushroom": "1f344",
    "owl": "1f989",
    "pear": "1f350",
    "penguin": "1f427",
    "sailboat": "26f5",
    "snail": "1f40c",
    "umbrella": "2614",
}


@dataclass(frozen=True)
class Pose:
    """Where the thing is in one frame: its middle in a picture of 1 by 1, its longer side, and how far it is turned.

    Args:
        x: from left (0) to right (1).
        y: from top (0) to bottom (1).
        size: longer side, 1 being that of the picture.
        degrees: turned clockwise by.
    """

    x: float
    y: float
    size: float
    degrees: float = 0.0


@dataclass(frozen=True)
class MovingClip:
    """One clip: a thing, a motion, and what its seed draws.

    Args:
        place: how far it is from where the motion usually takes place, -1 to 1.
        way: -1 or 1: from right to left or from left to right, anticlockwise or clockwise.
    """

    thing: str
    motion: str
    place: float = 0.0
    way: int = 1


def _falls(clip: MovingClip, t: float) -> Pose:
    return Pose(0.5 + 0.2 * clip.place, 0.2 + 0.58 * t * t, 0.54)


def _crosses(clip: MovingClip, t: float) -> Pose:
    along = 0.14 + 0.72 * t
    return Pose(along if clip.way > 0 else 1 - along, 0.52 + 0.1 * clip.place, 0.56)


def _bounces(clip: MovingClip, t: float) -> Pose:
    return Pose(0.5 + 0.2 * clip.place, 0.72 - 0.46 * abs(math.sin(2 * math.pi * t)), 0.52)


def _turns(clip: MovingClip, t: float) -> Pose:
    return Pose(0.5 + 0.06 * clip.place, 0.5, 0.66, clip.way * 360 * (t - 4 / 7))  # upright in the middle frame


def _grows(clip: MovingClip, t: float) -> Pose:
    return Pose(0.5 + 0.06 * clip.place, 0.52, 0.14 + 0.76 * t)


# Verb of the caption to the pose at a share t of the clip, 0 in the first frame and 1 in the last.
MOTIONS: dict[str, Callable[[MovingClip, float], Pose]] = {
    "falls": _falls,
    "crosses": _crosses,
    "bounces": _bounces,
    "turns": _turns,
    "grows": _grows,
}

# Pairs that no training clip shows: one motion of each thing, two things of each motion.
HELD_OUT = tuple((thing, list(MOTIONS)[i % len(MOTIONS)]) for i, thing in enumerate(THINGS))
LEARNT = tuple((thing, motion) for thing in THINGS for motion in MOTIONS if (thing, motion) not in HELD_OUT)


def caption(thing: str, motion: str) -> str:
    """Return the sentence that says what moves, and how."""
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing} {motion}"


def clip_of(thing: str, motion: str, seed: int) -> MovingClip:
    """Return the clip of a thing and a motion that a seed draws."""
    rng = random.Random(seed)
    return MovingClip(thing, motion, rng.uniform(-1, 1), rng.choice((-1, 1)))


def training_clip(seed: int) -> MovingClip:
    """Return the clip of one seed, of a pair that is not held out."""
    return clip_of(*LEARNT[random.Random(seed).randrange(len(LEARNT))], seed)


def poses(clip: MovingClip, frames: int = FRAMES) -> list[Pose]:
    """Return where the thing is in each frame."""
    return [MOTIONS[clip.motion](clip, i / (frames - 1)) for i in range(frames)]
