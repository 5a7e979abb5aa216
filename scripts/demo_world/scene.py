"""Scenes: two things, a relation, a background; families that differ in one detail; and how they are drawn."""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from world import BACKGROUNDS, CANVAS, COLOURS, COLOUR_NAMES, NOUN_NAMES, RECOLOURED, RELATIONS, SIZE_NAMES, SIZES

SPRITES = Path(__file__).resolve().parents[2] / "assets" / "demo" / "sprites"


@dataclass(frozen=True)
class Thing:
    noun: str
    size: str
    colour: str | None  # None: not recoloured


@dataclass(frozen=True)
class Scene:
    first: Thing
    relation: str  # first is left of, right of, above, below second
    second: Thing
    background: str

    @property
    def key(self) -> tuple:
        """Equal for scenes that look the same: a left of b is b right of a."""
        opposite = {"right": "left", "below": "above"}
        if self.relation in opposite:
            return (self.second, opposite[self.relation], self.first, self.background)
        return (self.first, self.relation, self.second, self.background)


def random_thing(rng: random.Random, noun: str | None = None) -> Thing:
    noun = noun or rng.choice(NOUN_NAMES)
    colour = rng.choice(COLOUR_NAMES) if noun in RECOLOURED else None
    return Thing(noun, rng.choice(SIZE_NAMES), colour)


def random_scene(rng: random.Random) -> Scene:
    first, second = rng.sample(NOUN_NAMES, 2)
    things = random_thing(rng, first), random_thing(rng, second)
    return Scene(things[0], rng.choice(RELATIONS), things[1], rng.choice(BACKGROUNDS))


def other(rng: random.Random, values: tuple, value: str) -> str:
    return rng.choice([candidate for candidate in values if candidate != value])


def change(rng: random.Random, scene: Scene) -> tuple[Scene, str]:
    """The scene with one detail changed, and which: "colour", "size" or "noun" and the thing, "relation" or "background"."""
    which = rng.choice(("first", "second"))
    thing: Thing = getattr(scene, which)
    details = ["size", "noun", "relation", "background"] + (["colour"] * 2 if thing.colour else [])
    detail = rng.choice(details)
    if detail == "relation":
        return replace(scene, relation=other(rng, RELATIONS, scene.relation)), detail
    if detail == "background":
        return replace(scene, background=other(rng, BACKGROUNDS, scene.background)), detail
    if detail == "noun":
        # A thing of the same kind, so that nothing else changes.
        taken = (scene.first.noun, scene.second.noun)
        kind = [noun for noun in NOUN_NAMES if (noun in RECOLOURED) == (thing.colour is not None) and noun not in taken]
        changed = replace(thing, noun=rng.choice(kind))
    elif detail == "colour":
        changed = replace(thing, colour=other(rng, COLOUR_NAMES, thing.colour))
    else:
        changed = replace(thing, size=other(rng, SIZE_NAMES, thing.size))
    return replace(scene, **{which: changed}), f"{detail} {which}"


def random_family(rng: random.Random, taken: set) -> tuple[list[Scene], set[str]]:
    """Three scenes, the second and third each one detail away from the first, none of them in `taken` (they are added), and the
    details that tell them apart."""
    while True:
        scenes, details = [random_scene(rng)], set()
        while len(scenes) < 3:
            scene, detail = change(rng, scenes[0])
            scenes.append(scene)
            details.add(detail)
        keys = {scene.key for scene in scenes}
        if len(keys) == 3 and not keys & taken:
            taken |= keys
            return scenes, details


@lru_cache(maxsize=None)
def sprite(noun: str, colour: str | None) -> Image.Image:
    image = Image.open(SPRITES / f"{noun}.png").convert("RGBA")
    if colour is None:
        return image
    pixels = np.asarray(image).astype(np.float32) / 255
    value = pixels[..., :3].max(-1)
    saturation = (value - pixels[..., :3].min(-1)) / np.maximum(value, 1e-6)
    pure = np.array(colorsys.hsv_to_rgb(COLOURS[colour], 1.0, 1.0), np.float32)
    strength = np.clip(saturation * 1.3, 0, 1)[..., None]
    bright = np.clip(value * 1.05, 0, 1)[..., None]
    tinted = bright * (1 - strength + strength * pure)
    return Image.fromarray((np.concatenate([tinted, pixels[..., 3:]], -1) * 255).astype(np.uint8), "RGBA")


def gradient(top: tuple, bottom: tuple, height: int) -> np.ndarray:
    way = np.linspace(0, 1, max(height, 1))[:, None, None]
    rows = (1 - way) * np.array(top, np.float32) + way * np.array(bottom, np.float32)
    return np.broadcast_to(rows, (max(height, 1), CANVAS, 3))


def background(name: str, rng: random.Random) -> Image.Image:
    horizon = rng.randint(CANVAS // 2 - 8, CANVAS // 2 + 8)
    sky, ground = {
        "meadow": (((120, 190, 245), (190, 225, 250)), ((120, 190, 80), (70, 140, 50))),
        "beach": (((150, 210, 250), (60, 150, 200)), ((245, 225, 170), (225, 195, 130))),
        "night": (((10, 12, 45), (30, 35, 90)), ((25, 30, 60), (10, 12, 30))),
        "desert": (((250, 200, 130), (250, 225, 180)), ((225, 150, 80), (190, 110, 50))),
        "snow": (((200, 215, 230), (230, 238, 246)), ((250, 252, 255), (225, 235, 245))),
        "city": (((165, 170, 180), (200, 200, 205)), ((110, 110, 115), (75, 75, 80))),
    }[name]
    pixels = np.concatenate([gradient(*sky, horizon), gradient(*ground, CANVAS - horizon)])
    image = Image.fromarray(pixels.astype(np.uint8), "RGB")
    draw = ImageDraw.Draw(image)
    if name == "night":
        for _ in range(25):
            x, y = rng.randrange(CANVAS), rng.randrange(CANVAS)
            draw.point((x, y), (230, 230, 200))
    if name == "city":
        left = 0
        while left < CANVAS:
            width, height = rng.randint(12, 22), rng.randint(15, 40)
            shade = rng.randint(120, 150)
            draw.rectangle((left, horizon - height, left + width - 3, horizon), (shade, shade, shade + 10))
            left += width
    return image


def places(scene: Scene, rng: random.Random) -> list[tuple[Thing, tuple[int, int, int]]]:
    """Each thing with its left, top and side in pixels."""
    across = scene.relation in ("left", "right")
    order = (scene.first, scene.second) if scene.relation in ("left", "above") else (scene.second, scene.first)
    placed = []
    for thing, centre in zip(order, (CANVAS // 4 + 2, 3 * CANVAS // 4 - 2)):
        side = round(SIZES[thing.size] * rng.uniform(0.94, 1.06))
        x, y = (centre, CANVAS // 2) if across else (CANVAS // 2, centre)
        slack = (3, 14) if across else (14, 3)
        left = x - side // 2 + rng.randint(-slack[0], slack[0])
        top = y - side // 2 + rng.randint(-slack[1], slack[1])
        keep = CANVAS - side
        placed.append((thing, (min(max(left, 0), keep), min(max(top, 0), keep), side)))
    return placed


def draw(scene: Scene, rng: random.Random) -> tuple[Image.Image, list[tuple[Thing, Image.Image, tuple[int, int, int]]]]:
    """The picture [CANVAS, CANVAS] and, for labels, each thing with its mask and place."""
    image = background(scene.background, rng)
    drawn = []
    for thing, (left, top, side) in places(scene, rng):
        cut = sprite(thing.noun, thing.colour).resize((side, side), Image.Resampling.LANCZOS)
        image.paste(cut, (left, top), cut)
        drawn.append((thing, cut.getchannel("A"), (left, top, side)))
    light = rng.uniform(0.9, 1.1)
    return image.point(lambda value: min(255, round(value * light))), drawn
