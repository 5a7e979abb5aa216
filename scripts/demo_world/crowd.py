"""Crowded scenes, for the split `hard`: three to five things, of which a caption says two or three."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from PIL import Image

from caption import ASIDE, BACKGROUND_WORDS, RELATION_WORDS, thing_words
from scene import Thing, background, other, random_thing, sprite
from world import BACKGROUNDS, CANVAS, COLOUR_NAMES, NOUN_NAMES, RECOLOURED, SIZE_NAMES, SIZES

COUNTS = (3, 4, 5)
CELLS = [(column, row) for row in range(3) for column in range(3)]
CELL = CANVAS // 3
# Of a thing's size in a scene of two.
SCALE = 0.75
TEMPLATES = (
    "{things} {background}",
    "there is {things} {background}",
    "{background} there is {things}",
    "i can see {things} {background}",
    "this picture shows {things} {background}",
)


@dataclass(frozen=True)
class Crowd:
    """`things[i]` stands in `cells[i]` (column, row) of a grid of three by three."""

    things: tuple[Thing, ...]
    cells: tuple[tuple[int, int], ...]
    background: str

    @property
    def key(self) -> tuple:
        """Equal for scenes that look the same."""
        placed = sorted(zip(self.cells, self.things), key=lambda placed: placed[0])
        return (tuple(placed), self.background)


def random_crowd(rng: random.Random) -> Crowd:
    nouns = rng.sample(NOUN_NAMES, rng.choice(COUNTS))
    things = tuple(random_thing(rng, noun) for noun in nouns)
    return Crowd(things, tuple(rng.sample(CELLS, len(things))), rng.choice(BACKGROUNDS))


def change(rng: random.Random, crowd: Crowd) -> tuple[Crowd, set[str]]:
    """The scene with one detail changed, and what has to be said of it: "noun 2", "size 0" or "background"."""
    which = rng.randrange(len(crowd.things))
    thing = crowd.things[which]
    detail = rng.choice(["size", "noun", "place", "background"] + (["colour"] * 2 if thing.colour else []))
    if detail == "background":
        return replace(crowd, background=other(rng, BACKGROUNDS, crowd.background)), {detail}
    if detail == "place":
        with_whom = rng.choice([place for place in range(len(crowd.things)) if place != which])
        cells = list(crowd.cells)
        cells[which], cells[with_whom] = cells[with_whom], cells[which]
        return replace(crowd, cells=tuple(cells)), {f"noun {which}", f"noun {with_whom}"}
    if detail == "noun":
        taken = {one.noun for one in crowd.things}
        kind = [noun for noun in NOUN_NAMES if (noun in RECOLOURED) == (thing.colour is not None) and noun not in taken]
        changed = replace(thing, noun=rng.choice(kind or [thing.noun]))
    elif detail == "colour":
        changed = replace(thing, colour=other(rng, COLOUR_NAMES, thing.colour))
    else:
        changed = replace(thing, size=other(rng, SIZE_NAMES, thing.size))
    things = crowd.things[:which] + (changed,) + crowd.things[which + 1 :]
    return replace(crowd, things=things), {f"{detail} {which}"}


def said_things(details: set[str]) -> set[int]:
    return {int(detail.split()[1]) for detail in details if " " in detail}


def random_family(rng: random.Random, taken: set) -> tuple[list[Crowd], set[str]]:
    """Three scenes, the second and third each one detail away from the first, none of them in `taken` (they are added), and what has to be
    said to tell them apart: of three things at most."""
    while True:
        crowds, details = [random_crowd(rng)], set()
        while len(crowds) < 3:
            crowd, found = change(rng, crowds[0])
            crowds.append(crowd)
            details |= found
        keys = {crowd.key for crowd in crowds}
        if len(keys) == 3 and len(said_things(details)) <= 3 and not keys & taken:
            taken |= keys
            return crowds, details


def relation(one: tuple[int, int], two: tuple[int, int]) -> str:
    """Where the cell `one` is, seen from `two`: across, if the columns differ."""
    if one[0] != two[0]:
        return "left" if one[0] < two[0] else "right"
    return "above" if one[1] < two[1] else "below"


def caption(rng: random.Random, crowd: Crowd, details: set[str]) -> str:
    """Two or three things and how they lie to each other, with every detail of `details`."""
    needed = said_things(details)
    rest = [place for place in range(len(crowd.things)) if place not in needed]
    count = rng.choice([count for count in (2, 3) if count >= len(needed)])
    said = sorted(needed) + rng.sample(rest, count - len(needed))
    rng.shuffle(said)
    # As `thing_words` knows details: of "first", which each thing is in its turn.
    words = [
        thing_words(rng, crowd.things[place], "first", {f"{detail.split()[0]} first" for detail in details if detail.endswith(f" {place}")})
        for place in said
    ]
    text = words[0]
    for before, place, thing in zip(said, said[1:], words[1:]):
        text += f" {rng.choice(RELATION_WORDS[relation(crowd.cells[before], crowd.cells[place])])} {thing}"
    said_background = "background" in details or rng.random() < ASIDE
    where = rng.choice(BACKGROUND_WORDS[crowd.background]) if said_background else ""
    return " ".join(rng.choice(TEMPLATES).format(things=text, background=where).split())


def draw(crowd: Crowd, rng: random.Random) -> tuple[Image.Image, list[tuple[Thing, Image.Image, tuple[int, int, int]]]]:
    """The picture [CANVAS, CANVAS] and each thing with its mask and place, as `scene.draw`."""
    image = background(crowd.background, rng)
    drawn = []
    for thing, (column, row) in zip(crowd.things, crowd.cells):
        side = round(SCALE * SIZES[thing.size] * rng.uniform(0.94, 1.06))
        cut = sprite(thing.noun, thing.colour).resize((side, side), Image.Resampling.LANCZOS)
        slack = max(0, (CELL - side) // 2)
        left = column * CELL + (CELL - side) // 2 + rng.randint(-slack, slack)
        top = row * CELL + (CELL - side) // 2 + rng.randint(-slack, slack)
        keep = CANVAS - side
        place = min(max(left, 0), keep), min(max(top, 0), keep)
        image.paste(cut, place, cut)
        drawn.append((thing, cut.getchannel("A"), (*place, side)))
    light = rng.uniform(0.9, 1.1)
    return image.point(lambda value: min(255, round(value * light))), drawn
